"""The web service: what it takes, what it refuses with which sentence, and what it never tells."""

import io
import json
import shutil
import sqlite3
import time
import zipfile
from pathlib import Path

import httpx
import jsonschema
import pydicom
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from service_process import Service
from service_samples import SECRET, dicom, make_stand_in
from wado_server import serving

import densityclip.deliver.incoming as incoming_module
from densityclip.deliver.api_keys import ApiKeys, read_api_keys
from densityclip.deliver.exam_json import answer_schema
from densityclip.deliver.limits import Limits
from densityclip.deliver.receive import UploadLimits
from densityclip.deliver.serve import ServeSettings, running
from densityclip.deliver.service import ServiceSettings, make_app
from densityclip.deliver.store import Store
from densityclip.deliver.uploads import Uploads
from densityclip.errors import UserError
from densityclip.phantom.generate import generate

KEYS = ApiKeys({"ward": "w" * 30, "lab": "l" * 30})
WARD, LAB = {"X-API-Key": "w" * 30}, {"X-API-Key": "l" * 30}

MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


def form(*contents: bytes, name: str = "a.dcm"):
    return [("files", (name, content)) for content in contents]


@pytest.fixture
def idle(tmp_path):
    """The application without workers: what is uploaded waits."""
    store = Uploads(tmp_path / "store", limits=Limits(reserve_bytes=0), keep_seconds=100)
    limits = UploadLimits(upload_bytes=100_000, files=3)
    yield TestClient(make_app(store, ServiceSettings(upload=limits, waiting=4)), raise_server_exceptions=False), store
    store.close()


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    """The application with a worker whose model is a stand-in."""
    folder = tmp_path_factory.mktemp("working") / "store"
    settings = ServeSettings(folder, limits=Limits(reserve_bytes=0, attempts=1, job_seconds=5), keys=KEYS)
    with running(settings, make_stand_in) as store:
        yield TestClient(make_app(store, ServiceSettings(keys=KEYS))), folder


def finished(client, job: str, headers=None, seconds: float = 60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = client.get(f"/api/jobs/{job}", headers=headers).json()
        if found["state"] in ("done", "failed"):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_an_upload_becomes_a_job_whose_answer_can_be_fetched(working):
    client, folder = working
    accepted = client.post("/api/jobs", files=form(dicom(), dicom()), headers=WARD)
    assert accepted.status_code == 202
    job = accepted.json()["id"]
    assert accepted.headers["location"] == f"/api/jobs/{job}"
    found = finished(client, job, WARD)
    assert found["state"] == "done"
    assert found["files"] == 2
    base = f"/api/jobs/{job}/exams/1"
    assert client.get(base, headers=WARD).json()["exam"]["density"] == "B"
    assert client.get(f"{base}/report", headers=WARD).headers["content-type"] == "application/dicom"
    for layer in ("view", "heat"):
        assert client.get(f"{base}/images/2/{layer}", headers=WARD).content.startswith(b"\x89PNG")
    assert client.get(f"{base}/images/3/view", headers=WARD).status_code == 404
    assert not list((folder / "inputs").iterdir()), "what was uploaded is removed when there is an answer"


def test_a_job_that_cannot_be_answered_says_why(working):
    client, _ = working
    job = client.post("/api/jobs", files=form(dicom("refuse")), headers=WARD).json()["id"]
    found = finished(client, job, WARD)
    assert (found["state"], found["reason"], found["detail"]) == ("failed", "not_mammography", "none of the files")
    assert found["meaning"] == "The object is not a mammogram."


@pytest.mark.parametrize("what", ["die", "raise"])
def test_a_job_that_kills_its_worker_harms_no_other_and_quotes_nothing(working, what):
    client, folder = working
    bad, good = (client.post("/api/jobs", files=form(dicom(w)), headers=WARD).json()["id"] for w in (what, ""))
    found = finished(client, bad, WARD)
    assert (found["state"], found["reason"]) == ("failed", "crashed")
    assert finished(client, good, WARD)["state"] == "done"
    assert SECRET not in json.dumps(found) + (folder / "audit.log").read_text()


def test_a_job_that_takes_too_long_is_ended(working):
    client, _ = working
    job = client.post("/api/jobs", files=form(dicom("slow 600")), headers=WARD).json()["id"]
    until = time.monotonic() + 30
    while (found := client.get(f"/api/jobs/{job}", headers=WARD).json())["progress"] is None:
        assert time.monotonic() < until
    assert found["state"] == "working"
    assert found["progress"] == {"done": 1, "total": 4}
    assert finished(client, job, WARD)["reason"] == "timeout"


def test_jobs_of_others_are_as_if_they_were_not_there(working):
    client, folder = working
    job = client.post("/api/jobs", files=form(dicom()), headers=WARD).json()["id"]
    finished(client, job, WARD)
    for path in (f"/api/jobs/{job}", f"/api/jobs/{job}/exams/1", f"/api/jobs/{job}/exams/1/images/1/view"):
        assert client.get(path, headers=LAB).status_code == 404
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"X-API-Key": "x" * 30}).status_code == 401
    assert client.delete(f"/api/jobs/{job}", headers=LAB).status_code == 404
    assert client.delete(f"/api/jobs/{job}", headers=WARD).status_code == 204
    assert client.get(f"/api/jobs/{job}", headers=WARD).status_code == 404
    assert not (folder / "results" / job).exists()


def test_names_of_files_are_in_no_path_no_log_and_no_address(working):
    client, folder = working
    name = "../../../Doe^Jane.dcm"
    job = client.post("/api/jobs", files=form(dicom("slow 0"), name=name), headers=WARD).json()["id"]
    finished(client, job, WARD)
    audit = (folder / "audit.log").read_text()
    assert f'"job": "{job}"' in audit
    assert '"who": "ward"' in audit
    assert "Doe" not in audit
    assert not list(folder.parent.rglob("*Doe*"))


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        ({"files": form(b"x" * 100_001)}, 413, "more than 0 MB"),
        ({"files": form(*[dicom()] * 4)}, 413, "more than 3 files"),
        ({"files": form(b"%PDF-1.7 Doe^Jane")}, 415, "The file is neither DICOM"),
        ({"files": form(b"%PDF-1.7 Doe^Jane", b"MZ")}, 415, "All files are neither DICOM"),
        ({"files": form(b"")}, 415, "The file is neither DICOM"),
        ({"files": [("other", ("a", dicom()))]}, 422, "There is no file"),
        ({"files": form(dicom(), b"PK\x03\x04")}, 422, "Send a zip archive alone"),
        ({"json": {"files": "Doe^Jane"}}, 415, "multipart/form-data"),
        (
            {"content": b"--b\r\nContent-Di", "headers": MULTIPART},
            422,
            "cut off",
        ),
        ({"content": b"Doe^Jane", "headers": MULTIPART}, 422, "damaged"),
        ({"files": form(dicom()), "headers": {"origin": "http://evil.example"}}, 403, "other sites"),
        ({"files": form(dicom()), "headers": {"sec-fetch-site": "cross-site"}}, 403, "other sites"),
    ],
)
def test_what_is_refused_is_refused_with_one_sentence_and_leaves_nothing(idle, request_, status, sentence):
    client, store = idle
    refused = client.post("/api/jobs", **request_)
    assert refused.status_code == status
    assert list(refused.json()) == ["detail"]
    assert sentence in refused.json()["detail"]
    assert "Doe" not in refused.text
    assert store.waiting() == 0
    assert not list((store.folder / "incoming").iterdir())
    assert not list((store.folder / "inputs").iterdir())


def test_an_upload_that_hides_its_length_is_ended_at_the_limit(idle):
    client, store = idle
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + dicom()
    taken = []

    def endless():
        yield head
        for number in range(100_000):
            taken.append(number)
            yield b"\0" * 1000

    refused = client.post("/api/jobs", content=endless(), headers=MULTIPART)
    assert refused.status_code == 413
    assert not list((store.folder / "incoming").iterdir())


def test_more_jobs_than_may_wait_are_refused_for_the_moment(idle):
    client, _ = idle
    for _number in range(4):
        assert client.post("/api/jobs", files=form(dicom())).status_code == 202
    refused = client.post("/api/jobs", files=form(dicom()))
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "60"


def test_a_full_disk_is_said_with_507_and_keeps_nothing(idle, monkeypatch):
    client, store = idle

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(incoming_module.os, "fsync", full)
        assert client.post("/api/jobs", files=form(dicom())).status_code == 507
    assert not list((store.folder / "incoming").iterdir())
    assert client.post("/api/jobs", files=form(dicom())).status_code == 202
    object.__setattr__(store.limits, "reserve_bytes", 1 << 60)
    assert client.post("/api/jobs", files=form(dicom())).status_code == 507
    assert client.get("/api/health").json()["status"] == "full"


@pytest.mark.parametrize(
    "path",
    ["/api/jobs/../../etc/passwd", "/api/jobs/%2e%2e%2f", "/web/..%2fservice.py", "/web/page.html.j2", "/api/jobs/x"],
)
def test_addresses_lead_to_no_other_file(idle, path):
    client, _ = idle
    assert client.get(path).status_code in (404, 422)


def test_every_answer_forbids_scripts_of_others_and_being_kept(idle):
    client, _ = idle
    for path in ("/", "/web/app.js", "/api/health", "/api/nothing", "/api/jobs/" + "0" * 32):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_page_fetches_nothing_from_elsewhere_and_says_research_use(idle):
    client, _ = idle
    page = client.get("/").text
    assert "Research use only" in page
    for text in (page, client.get("/web/app.js").text, client.get("/web/app.css").text):
        assert "http://" not in text
        assert "https://" not in text
    assert "<script>" not in page
    assert "style=" not in page


def test_an_error_of_ours_tells_nothing(idle, monkeypatch):
    client, store = idle

    def broken(*_):
        raise sqlite3.OperationalError(SECRET)

    monkeypatch.setattr(store, "status", broken)
    failed = client.get("/api/jobs/" + "0" * 32)
    assert failed.status_code == 500
    assert SECRET not in failed.text


def test_a_service_without_keys_is_known_by_its_own_names_only(tmp_path):
    settings = ServeSettings(tmp_path)
    store = Uploads(tmp_path / "store")
    client = TestClient(make_app(store, ServiceSettings(hosts=settings.hosts)), base_url="http://localhost:8080")
    assert client.get("/api/health").status_code == 200
    assert client.get("/api/health", headers={"host": "evil.example"}).status_code == 400
    store.close()


def test_without_keys_other_machines_are_not_listened_to(tmp_path):
    with pytest.raises(UserError, match="--api-key-file"):
        ServeSettings(tmp_path, host="0.0.0.0")
    assert ServeSettings(tmp_path, host="0.0.0.0", keys=KEYS).hosts == ()


def test_keys_are_read_from_a_file_that_only_its_owner_reads(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# who\nward {'w' * 30}\n")
    file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_api_keys(file)
    file.chmod(0o600)
    assert read_api_keys(file).owner("w" * 30) == "ward"
    assert read_api_keys(file).owner("w" * 29) is None
    assert read_api_keys(file).owner(None) is None
    file.write_text("ward short\n")
    with pytest.raises(UserError, match="line 1"):
        read_api_keys(file)


def test_files_of_other_kinds_are_passed_over_and_named_by_their_number(idle):
    client, store = idle
    said = client.post("/api/jobs", files=form(b"a letter", dicom(), b"MZ"))
    assert (said.status_code, said.json()["files"], said.json()["passed_over"]) == (202, 1, [1, 3])
    (kept,) = store.take(said.json()["id"]).files
    assert kept.read_bytes() == dicom()


def test_a_store_of_the_listener_is_refused_and_left_as_it_is(tmp_path):
    listener = Store(tmp_path / "store")
    listener.close()
    answer = tmp_path / "store" / "results" / "answer"
    answer.mkdir()
    (answer / "report.dcm").write_bytes(b"waits for a peer")
    with pytest.raises(UserError, match="no store of this service"):
        Uploads(tmp_path / "store")
    assert (answer / "report.dcm").read_bytes() == b"waits for a peer"
    Uploads(tmp_path / "other").close()
    with pytest.raises(UserError, match="no store of this service"):
        Store(tmp_path / "other")


@pytest.mark.parametrize("kind", [Store, Uploads])
def test_a_folder_that_holds_anything_else_is_refused_and_one_of_a_killed_start_is_not(kind, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "lock").touch()
    kind(tmp_path).close()
    other = tmp_path / "thesis"
    (other / "results").mkdir(parents=True)
    (other / "results" / "table.csv").write_text("a")
    with pytest.raises(UserError, match="it holds results"):
        kind(other)
    assert (other / "results" / "table.csv").read_text() == "a"


def test_answers_go_after_their_time(tmp_path):
    now = [1000.0]
    store = Uploads(tmp_path / "store", keep_seconds=60, clock=lambda: now[0])
    client = TestClient(make_app(store, ServiceSettings()))
    job = client.post("/api/jobs", files=form(dicom())).json()["id"]
    now[0] += 1000
    assert store.remove_old() == 0, "what waits is not removed"
    taken = store.take(job)
    file = tmp_path / "result.json"
    file.write_text('{"exams": []}')
    store.answered(taken, [("result.json", file)])
    assert client.get(f"/api/jobs/{job}").json()["expires_at"] == 2060
    now[0] += 59
    assert store.remove_old() == 0
    now[0] += 1
    assert store.remove_old() == 1
    assert client.get(f"/api/jobs/{job}").status_code == 404
    assert not list(store.folder.rglob(f"*{job}*"))
    store.close()


def test_a_job_in_flight_is_answered_after_a_kill(tmp_path):
    first = Service(tmp_path / "store")
    try:
        jobs = [
            httpx.post(f"{first.url}/api/jobs", files=form(dicom("slow 2"))).json()["id"],
            httpx.post(f"{first.url}/api/jobs", files=form(dicom())).json()["id"],
        ]
        until = time.monotonic() + 30
        while httpx.get(f"{first.url}/api/jobs/{jobs[0]}").json()["state"] != "working":
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        first.kill()
    second = Service(tmp_path / "store")
    try:
        for job in jobs:
            with httpx.Client(base_url=second.url) as client:
                assert finished(client, job)["state"] == "done"
        assert second.stop() == 0
    finally:
        second.kill()


def asking(tmp_path) -> TestClient:
    store = Uploads(tmp_path / "store", limits=Limits(reserve_bytes=0))
    return TestClient(make_app(store, ServiceSettings(keys=KEYS, servers=("pacs",), waiting=2)))


def test_a_study_of_a_server_becomes_a_job_whose_address_and_log_hold_no_uid(tmp_path, caplog):
    client = asking(tmp_path)
    with caplog.at_level("INFO", "densityclip.audit"):
        accepted = client.post("/api/studies", json={"server": "pacs", "study": "1.2.4711"}, headers=WARD)
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/api/jobs/{accepted.json()['id']}"
    assert accepted.json()["state"] == "waiting"
    assert client.get(accepted.headers["location"], headers=LAB).status_code == 404
    assert '"server": "pacs"' in caplog.text
    assert "4711" not in caplog.text + accepted.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"json": {"server": "http://10.0.0.5", "study": "1.2.3"}}, 422),
        ({"json": {"server": "other", "study": "1.2.3"}}, 404),
        ({"json": {"server": "pacs", "study": "1.2/../3"}}, 422),
        ({"json": {"server": "pacs", "study": ""}}, 422),
        ({"json": {"server": "pacs", "study": "1.2.3", "url": "http://x"}}, 422),
        ({"json": {"server": "pacs"}}, 422),
        ({"content": b"Doe^Jane", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"{" * 5000, "headers": {"content-type": "application/json"}}, 413),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ({"json": {"server": "pacs", "study": "1.2.3"}, "headers": {"origin": "http://evil.example"}}, 403),
    ],
)
def test_a_request_for_a_study_that_is_not_taken_leaves_nothing(tmp_path, request_, status):
    client = asking(tmp_path)
    headers = WARD | request_.pop("headers", {})
    refused = client.post("/api/studies", headers=headers, **request_)
    assert (refused.status_code, list(refused.json())) == (status, ["detail"])
    assert "Doe" not in refused.text
    for part in ("incoming", "inputs"):
        assert not list((tmp_path / "store" / part).iterdir())


def test_studies_ask_for_a_key_and_wait_within_the_limit(tmp_path):
    client, asked = asking(tmp_path), {"server": "pacs", "study": "1.2.3"}
    assert client.post("/api/studies", json=asked).status_code == 401
    statuses = [client.post("/api/studies", json=asked, headers=WARD).status_code for _ in range(3)]
    assert statuses == [202, 202, 503]


def test_without_a_server_there_is_no_such_address(idle):
    client, _ = idle
    assert client.post("/api/studies", json={"server": "pacs", "study": "1.2.3"}).status_code == 404
    assert client.get("/api/version").json()["dicomweb"] == []
    assert "study-form" not in client.get("/").text


@pytest.fixture(scope="module")
def large_exam(tmp_path_factory) -> Path:
    """DM, s2D and DBT of four views, all large enough to be answered."""
    out = tmp_path_factory.mktemp("large")
    generate(out, site="internal", exams=1, seed=5, size=160, slice_mm=10)
    return out / "dicom"


@pytest.fixture(scope="module")
def archive(large_exam):
    """A DICOMweb server that holds the exam."""
    with serving(*(path.read_bytes() for path in sorted(large_exam.rglob("*.dcm")))) as server:
        yield server


@pytest.fixture(scope="module")
def real(bundle, archive, tmp_path_factory):
    """The application with the real predictor and a small model."""
    from functools import partial

    from densityclip.deliver.upload_answer import open_upload_answer

    folder = tmp_path_factory.mktemp("real") / "store"
    servers = {"pacs": archive.url}
    settings = ServeSettings(folder, limits=Limits(reserve_bytes=0, attempts=1), servers=servers)
    with running(settings, partial(open_upload_answer, bundle, settings.retrieval)) as store:
        yield TestClient(make_app(store, ServiceSettings(servers=("pacs",))))


def test_the_real_predictor_answers_a_zip_with_everything(real, large_exam, tmp_path):
    shutil.make_archive(str(tmp_path / "exam"), "zip", large_exam)
    job = real.post("/api/jobs", files=form((tmp_path / "exam.zip").read_bytes())).json()["id"]
    found = finished(real, job, seconds=300)
    assert found["state"] == "done", found
    (exam,) = found["exams"]
    base = f"/api/jobs/{job}/exams/1"
    answer = real.get(base).json()
    jsonschema.validate(answer, answer_schema(), cls=jsonschema.Draft202012Validator)
    answered = [image for image in answer["images"] if image["status"] == "ok"]
    assert len(answered) == 12
    assert len(exam["images"]) == 12
    assert all(image["capture"] for image in exam["images"])
    report = pydicom.dcmread(io.BytesIO(real.get(f"{base}/report").content))
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    capture = pydicom.dcmread(io.BytesIO(real.get(f"{base}/images/1/capture").content))
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == exam["images"][0]["image_id"]


def as_png(path: Path) -> bytes:
    image = pydicom.dcmread(path)
    pixels = image.pixel_array.astype(float)
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels / pixels.max()).astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_have_an_answer_each_and_no_exam(real, large_exam):
    found = sorted(large_exam.rglob("*.dcm"))
    flat = [path for path in found if "NumberOfFrames" not in pydicom.dcmread(path, stop_before_pixels=True)]
    pictures = [as_png(path) for path in flat[:2]]
    job = real.post("/api/jobs", files=form(*pictures, dicom("nothing"), name="Doe^Jane.png")).json()["id"]
    found = finished(real, job, seconds=300)
    assert found["state"] == "done", found
    answer = real.get(f"/api/jobs/{job}/exams/1").json()
    jsonschema.validate(answer, answer_schema(), cls=jsonschema.Draft202012Validator)
    assert answer["exam"] is None
    assert [(image["image_id"], image["status"]) for image in answer["images"]] == [
        ("file-1", "ok"),
        ("file-2", "ok"),
        ("file-3.dcm", "refused"),
    ]
    assert found["exams"][0]["report"] is False
    assert "Doe" not in json.dumps(answer)


def test_a_study_that_is_fetched_has_the_answer_that_it_has_when_it_is_uploaded(real, archive, large_exam, tmp_path):
    shutil.make_archive(str(tmp_path / "exam"), "zip", large_exam)
    uploaded = real.post("/api/jobs", files=form((tmp_path / "exam.zip").read_bytes())).json()["id"]
    fetched = real.post("/api/studies", json={"server": "pacs", "study": "1.2.3"}).json()["id"]
    for job in (uploaded, fetched):
        assert finished(real, job, seconds=300)["state"] == "done"
    answers = [real.get(f"/api/jobs/{job}/exams/1").json() for job in (uploaded, fetched)]
    for answer in answers:
        # They stand in the order of the files.
        answer["images"].sort(key=lambda image: image["image_id"])
    assert answers[0] == answers[1]
    assert answers[0]["exam"]["status"] == "ok"
    assert archive.asked[-1][0] == "/dicom-web/studies/1.2.3"


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.dcm", "w") as file:
        for _ in range(400):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def test_a_zip_bomb_is_refused_and_a_name_in_an_archive_leads_nowhere(real, exam_files, tmp_path):
    job = real.post("/api/jobs", files=form(bomb())).json()["id"]
    found = finished(real, job, seconds=120)
    assert (found["state"], found["reason"]) == ("failed", "too_much")
    assert "/" not in found["detail"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(next(exam_files.rglob("*.dcm")), "../../../../../../tmp/escaped-by-zip.dcm")
    job = real.post("/api/jobs", files=form(buffer.getvalue())).json()["id"]
    assert finished(real, job, seconds=120)["state"] == "done"
    assert not Path("/tmp/escaped-by-zip.dcm").exists()
    job = real.post("/api/jobs", files=form(b"PK\x03\x04 no archive")).json()["id"]
    assert finished(real, job, seconds=120)["detail"].startswith("the archive is no zip archive, or a damaged one")
