"""Studies are fetched from configured servers only, and a server that lies fills neither disk nor memory."""

import json
import resource
import sys
from pathlib import Path

import pytest
from listen_samples import PATIENT, as_bytes, mammogram
from listen_scene import free_port
from wado_server import (
    breaks_off,
    cut_off,
    endless_header,
    endless_part,
    many_parts,
    redirects_to,
    says,
    says_html,
    sends_a_page_as_a_part,
    sends_a_picture_as_a_part,
    sends_nothing,
    serving,
)

from densityclip.deliver.durable import DiskFullError
from densityclip.deliver.incoming import Upload
from densityclip.deliver.limits import Limits
from densityclip.deliver.receive import UploadLimits
from densityclip.deliver.retrieve import Retrieval, parse_servers, retrieved
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused

STUDY = "1.2.840.4711"
SMALL = UploadLimits(upload_bytes=50 << 20, files=5)


def fetch(folder: Path, url: str, *, named: str = "pacs", disk: Limits | None = None) -> list[bytes]:
    incoming, work = folder / "incoming", folder / "work"
    incoming.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    upload = Upload(incoming)
    upload.refer(named, STUDY)
    retrieval = Retrieval({"pacs": url}, SMALL, disk or Limits(reserve_bytes=0))
    with retrieved(next(upload.folder.iterdir()), retrieval, within=work) as found:
        return [path.read_bytes() for path in sorted(found.iterdir())]


def test_the_objects_arrive_as_they_are_and_the_server_is_asked_for_them_as_they_are_stored(tmp_path):
    images = [as_bytes(mammogram(STUDY, number=number)) for number in range(3)]
    with serving(*images) as server:
        assert fetch(tmp_path, server.url) == images
    ((path, accept),) = server.asked
    assert path == f"/dicom-web/studies/{STUDY}"
    assert accept == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert not list((tmp_path / "work").iterdir()), "nothing stays when it is no longer needed"


@pytest.mark.parametrize(
    ("lie", "reason", "said"),
    [
        (endless_part, Reason.TOO_MUCH, "the study has more than 50 MB"),
        (endless_header, Reason.NOT_RETRIEVED, "pacs broke off, or sent a damaged answer"),
        (many_parts, Reason.TOO_MUCH, "the study has more than 5 objects"),
        (cut_off, Reason.NOT_RETRIEVED, "pacs broke off, or sent a damaged answer"),
        (breaks_off, Reason.NOT_RETRIEVED, "pacs cannot be reached, or broke off (ChunkedEncodingError)"),
        (says_html, Reason.NOT_RETRIEVED, "pacs sent something else than DICOM objects"),
        (sends_a_page_as_a_part, Reason.NOT_RETRIEVED, "pacs sent something else than DICOM objects"),
        (sends_a_picture_as_a_part, Reason.NOT_RETRIEVED, "pacs sent something else than DICOM objects"),
        (sends_nothing, Reason.NOT_RETRIEVED, "pacs sent no DICOM objects"),
        (says(404), Reason.NOT_RETRIEVED, "pacs has no such study"),
        (says(401), Reason.NOT_RETRIEVED, "pacs does not let this service in (HTTP 401)"),
        (says(500), Reason.NOT_RETRIEVED, "pacs answered with HTTP 500"),
        (says(204), Reason.NOT_RETRIEVED, "pacs answered with HTTP 204"),
    ],
)
def test_a_server_that_lies_is_refused_with_the_fact_and_leaves_nothing(tmp_path, lie, reason, said):
    with serving(lie=lie) as server, pytest.raises(Refused) as refused:
        fetch(tmp_path, server.url)
    assert (refused.value.reason, refused.value.detail) == (reason, said)
    assert not list((tmp_path / "work").iterdir())


def test_an_endless_body_takes_no_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(lie=endless_part) as server, pytest.raises(Refused):
        fetch(tmp_path, server.url)
    kilobytes = 1 if sys.platform == "linux" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / kilobytes < 20 << 10


def test_a_redirect_is_not_followed(tmp_path):
    with serving(as_bytes(mammogram(STUDY))) as inner, serving(lie=redirects_to(inner.url)) as server:
        with pytest.raises(Refused, match="points to another address"):
            fetch(tmp_path, server.url)
        assert not inner.asked


def test_a_server_that_is_down_or_was_taken_away_is_said(tmp_path):
    with pytest.raises(Refused, match=r"pacs cannot be reached, or broke off \(ConnectionError\)") as refused:
        fetch(tmp_path, f"http://127.0.0.1:{free_port()}/dicom-web")
    assert STUDY not in str(refused.value)
    with pytest.raises(Refused, match="other is no longer a server"):
        fetch(tmp_path, "http://127.0.0.1:1", named="other")


def test_a_disk_that_fills_up_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("densityclip.deliver.retrieve._BETWEEN_LOOKS", 1 << 20)
    with serving(lie=endless_part) as server, pytest.raises(DiskFullError):
        fetch(tmp_path, server.url, disk=Limits(reserve_bytes=1 << 60))
    assert not list((tmp_path / "work").iterdir())


def test_servers_are_read_from_the_command_line():
    assert parse_servers(["pacs=http://10.0.0.5:8042/dicom-web/", "b=https://b"]) == {
        "pacs": "http://10.0.0.5:8042/dicom-web",
        "b": "https://b",
    }


@pytest.mark.parametrize(
    "texts",
    [
        ["http://10.0.0.5"],
        ["a b=http://x"],
        ["x=file:///etc/passwd"],
        ["x=http://"],
        ["x=http://h/?q=1"],
        ["x=http://h/#f"],
        ["x=http://a", "x=http://b"],
        ["x=http://[::1"],
        ["../x=http://a"],
    ],
)
def test_what_is_no_server_is_refused(texts):
    with pytest.raises(UserError, match="DICOMweb server"):
        parse_servers(texts)


def test_a_password_in_an_address_is_refused_without_being_repeated():
    with pytest.raises(UserError, match="netrc") as refused:
        parse_servers(["pacs=https://me:secret@host/dicom-web"])
    assert "secret" not in str(refused.value)


def test_the_reference_is_all_that_is_kept_of_a_request(tmp_path):
    upload = Upload(tmp_path)
    upload.refer("pacs", STUDY)
    (path,) = upload.folder.iterdir()
    assert json.loads(path.read_text()) == {"server": "pacs", "study": STUDY}
    assert PATIENT not in path.read_text()
