"""The audit's page: every number that the audit holds, one file that fetches nothing, whatever is missing."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from densityclip.artifacts import conform
from densityclip.datasets.audit import audit
from densityclip.report.audit_report import lay_out, write_audit

NASTY = "<script>alert('x')</script>"


def content(images: int = 200, excluded: int = 20, site: str = "north", note: str = "Grouped by study.") -> dict:
    rows = [
        {
            "image_id": f"SECRET{n}", "path": "/SECRET", "patient_id": f"SECRET{n // 2}", "exam_id": f"SECRET{n // 2}",
            "laterality": "LR"[n % 2], "view": "CC", "modality": "DM" if n % 5 else "s2D", "site": site,
            "density": [*"BBBC", None][n % 5 - 1], "age": 40.0 + n % 30, "vendor": "Hologic",
        }
        for n in range(images)
    ]  # fmt: skip
    index = conform(pl.DataFrame(rows, infer_schema_length=None), "index")
    out = [row | {"reason": ("implant", "male")[n % 2], "detail": "x"} for n, row in enumerate(rows[:excluded])]
    return audit(index, conform(pl.DataFrame(out, infer_schema_length=None), "excluded"), notes=[note])


def words(page: str) -> str:
    visible = re.sub(r"<style>.*?</style>|<head>.*?</head>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", visible)).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    audited = content(site=NASTY, note=f"Note {NASTY}")
    return write_audit(tmp_path_factory.mktemp("audit") / "audit.html", audited).read_text()


def test_every_total_limit_note_and_exclusion_is_on_the_page(page: str) -> None:
    said, audited = words(page), content(site=NASTY, note=f"Note {NASTY}")
    for limit in audited["limits"]:
        assert limit["sentence"] in said
    assert f"Note {NASTY}" in said
    for item in audited["excluded"]:
        assert item["sentence"] in said
    assert "220 images found 200 images indexed 20 images left out" in said
    assert "Exams whose breasts differ" in said


def test_a_remedy_is_shown_where_there_is_one() -> None:
    implant, male = lay_out(content()).excluded
    assert (implant.name, male.name) == ("implant", "male")
    assert implant.detail.startswith("What you can do: Use the views with the implant displaced")
    assert "What you can do" not in male.detail


def test_the_page_fetches_nothing_runs_nothing_and_names_nobody(page: str) -> None:
    assert "<script" not in page
    assert "http" not in page
    assert "SECRET" not in page
    assert 'name="viewport"' in page


def test_the_table_of_cells_shows_patients_and_marks_what_is_empty_or_thin() -> None:
    audited = content()
    by_name = dict(lay_out(audited).heat)
    patients = audited["density_by_modality"]["patients"]
    for modality, cells in by_name.items():
        assert [cell.main for cell in cells] == [str(number) for number in patients[modality].values()]
    assert [cell.kind for cell in by_name["DM"]] == ["empty", "filled", "filled", "empty", "unlabelled"]
    assert [cell.strength for cell in by_name["DM"]][1] == 1.0


@pytest.mark.parametrize("images", [0, 1, 200])
def test_bars_are_parts_of_a_whole(images: int) -> None:
    view = lay_out(content(images=images, excluded=min(images, 7)))
    assert (view.whole is None) == (images == 0)
    stacked = [bar for bar in (view.whole, *view.sites) if bar is not None and bar.pieces]
    for bar in stacked:
        assert sum(piece[1] for piece in bar.pieces) == pytest.approx(100, abs=0.05)
    for bar in (*view.excluded, *(bar for _, bars in view.counts for bar in bars)):
        assert 0 < sum(piece[1] for piece in bar.pieces) <= 100.05


def test_of_many_values_the_page_shows_the_first_and_adds_up_the_rest() -> None:
    rows = [{"value": f"M{n}", "images": 10, "images_labelled": 4, "patients": 2} for n in range(30)]
    ((_, bars),) = lay_out({"counts": {"machine": rows}}).counts
    assert len(bars) == 13
    assert (bars[-1].name, bars[-1].numbers) == ("18 more, in audit.json", ("180", "–"))
    assert [piece[1] for piece in bars[0].pieces] == [40.0, 60.0]


def test_a_value_that_all_images_share_is_a_word_and_not_a_bar() -> None:
    view = lay_out(content())
    assert ("Vendor", "Hologic") in view.same
    assert "Vendor" not in [name for name, _ in view.counts]


@pytest.mark.parametrize(
    "missing", ["totals", "limits", "density_by_modality", "density_by_site", "excluded", "counts"]
)
def test_an_audit_without_one_of_its_parts_is_still_a_page(missing: str, tmp_path: Path) -> None:
    audited: dict[str, Any] = {name: value for name, value in content().items() if name != missing}
    assert "Cohort audit" in write_audit(tmp_path / "a.html", audited).read_text()


def test_what_the_page_does_not_know_is_shown_as_it_comes(tmp_path: Path) -> None:
    page = write_audit(tmp_path / "a.html", content() | {"of_a_later_version": {"odd things": 12345}}).read_text()
    assert "12,345" in page
    assert "Of a later version" in page
