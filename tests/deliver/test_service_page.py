"""The page in real Chromium: files in, answers seen, faded, downloaded, by mouse and by keyboard."""

import os
import shutil
import time
from pathlib import Path

import pytest
from service_process import Service
from service_samples import dicom

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("page") / "store")
    yield service.url
    service.stop()


@pytest.fixture(params=[(1280, 900), (375, 720)], ids=["large", "small"])
def page(browser, url, request):
    """A page on a large or a small screen; it must neither complain nor ask others for anything."""
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(url)
    yield opened
    assert not [text for text in said if "status of 4" not in text]
    assert all(one.startswith((url, f"blob:{url}")) for one in asked)
    opened.close()


def drop(page, *contents: bytes) -> None:
    page.evaluate(
        """(files) => {
            const carried = new DataTransfer();
            files.forEach((bytes, k) => carried.items.add(new File([new Uint8Array(bytes)], `Doe^Jane ${k}.dcm`)));
            document.getElementById("drop").dispatchEvent(
                new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
        }""",
        [list(content) for content in contents],
    )


def wait_until(true, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def seen(page, name: str) -> None:
    folder = os.environ.get("DENSITYCLIP_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}-{page.viewport_size['width']}.png", full_page=True)


def test_dropped_files_are_answered_and_the_overlay_fades(page):
    seen(page, "start")
    drop(page, dicom("slow 2"), dicom())
    page.get_by_text("Reading and answering the images.").wait_for()
    assert page.locator("progress").get_attribute("value") == "1"
    page.get_by_text("Both breasts together").wait_for(timeout=30_000)
    whole = page.locator(".whole")
    assert "B: scattered areas of fibroglandular density (not dense)" in whole.inner_text()
    assert page.locator(".whole meter").evaluate_all("all => all.map((one) => one.value)") == [0.1, 0.6, 0.2, 0.1]
    assert page.locator(".breasts").inner_text().count("breast") == 2
    refusals = page.locator(".refusals").inner_text()
    assert "An implant is in view." in refusals
    assert "the table states an implant" in refusals
    # Not wait_for_function: the page forbids eval, which that needs.
    widths = "all => all.map((one) => one.naturalWidth)"
    wait_until(lambda: page.locator(".frame img").evaluate_all(widths) == [60] * 4)
    heat = page.locator(".frame img").nth(1)
    assert heat.evaluate("one => one.style.opacity") == "0.6"
    page.get_by_label("Overlay").fill("0")
    assert heat.evaluate("one => getComputedStyle(one).opacity") == "0"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the side"
    seen(page, "answer")


def test_everything_works_by_keyboard(page, tmp_path):
    file = tmp_path / "image.dcm"
    file.write_bytes(dicom())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    chosen = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))

    def opens() -> bool:
        # Chromium opens none while it still lays out a page that was just opened, and says nothing of it.
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        return bool(chosen)

    wait_until(opens)
    chosen[0].set_files(file)
    page.get_by_text("Both breasts together").wait_for(timeout=30_000)
    assert page.evaluate("document.activeElement.id") == "answers"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Download JSON"
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == "density-1.json"
    page.keyboard.press("Tab")
    with page.expect_download() as saved:
        page.keyboard.press("Space")
    assert Path(saved.value.path()).read_bytes()[128:] == b"DICM"
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert page.locator(".fade output").inner_text() == "100%"


def test_files_of_other_kinds_are_passed_over_and_named(page):
    files = [
        {"name": "letter.txt", "mimeType": "", "buffer": b"Dear colleague"},
        {"name": "a.dcm", "mimeType": "", "buffer": dicom()},
    ]
    page.set_input_files("input[type=file]", files)
    page.get_by_text("Both breasts together").wait_for(timeout=30_000)
    assert page.locator("#said").inner_text().endswith("nor a zip archive: letter.txt.")
    seen(page, "passed-over")


def test_what_is_refused_is_said_and_can_be_tried_again(page):
    drop(page, b"%PDF-1.7")
    page.get_by_role("alert").get_by_text("neither DICOM nor a picture").wait_for()
    drop(page, dicom("refuse"))
    page.get_by_role("alert").get_by_text("The object is not a mammogram.").wait_for(timeout=30_000)
    seen(page, "refused")
    drop(page, dicom())
    page.get_by_text("Both breasts together").wait_for(timeout=30_000)
    page.get_by_role("button", name="Answer other images").click()
    assert page.locator("#drop").is_visible()
    assert page.locator(".exam").count() == 0


def test_a_study_of_an_archive_is_asked_for_by_its_uid(page):
    study = page.get_by_label("Study Instance UID")
    study.fill("no UID")
    page.get_by_role("button", name="Fetch and answer").click()
    assert study.evaluate("one => one.validity.patternMismatch")
    study.fill("1.2.840.4711")
    seen(page, "study")
    with page.expect_request("**/api/studies") as asked:
        study.press("Enter")
    assert asked.value.post_data_json == {"server": "pacs", "study": "1.2.840.4711"}
    page.get_by_role("alert").get_by_text("pacs has no such study").wait_for(timeout=30_000)
    assert "4711" not in page.url
