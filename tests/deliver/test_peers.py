"""Answers wait for a peer that is down, are sent again to one that refuses, and go to each peer on its own."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from listen_samples import answer_uid, as_bytes, mammogram, next_job, stand_in_answer
from listen_scene import RecordingPeer, free_port, wait_until

from densityclip.deliver.exams import State
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.peers import Deliveries, DicomPeer, PeerError, WebPeer, parse_peer
from densityclip.deliver.store import Store
from densityclip.errors import UserError

SOON = Pauses(first=0.1, factor=1, longest=0.1)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store", limits=Limits(reserve_bytes=0))
    yield opened
    opened.close()


@pytest.fixture
def peer():
    made = RecordingPeer(free_port())
    yield made
    made.stop()


@pytest.fixture
def run(store):
    made = []

    def start(*peers):
        made.append(Deliveries(store.outbox, peers, peer_pauses=SOON, object_pauses=SOON))
        made[-1].start()

    yield start
    for deliveries in made:
        deliveries.stop()


def put_answer(store: Store, study: str, *peers) -> str:
    image = mammogram(study)
    store.accept([as_bytes(image)], sop_instance_uid=image.SOPInstanceUID, sender="SENDER")
    job = next_job(store, 0)
    (store.work / job.study).mkdir()
    (path,) = stand_in_answer(job.files, store.work / job.study, ())
    store.outbox.deliver_to([peer.name for peer in peers])
    store.answered(job, [(answer_uid([image.SOPInstanceUID]), path)])
    return job.study


def dicom_peer(peer: RecordingPeer) -> DicomPeer:
    return parse_peer(peer.address, calling="DENSITYCLIP")


def test_a_peer_that_is_down_gets_it_when_it_is_up(store, run, peer):
    study = put_answer(store, "1.2.3", dicom_peer(peer))
    with pytest.raises(PeerError):
        dicom_peer(peer).send(next(store.outbox.due(peer.address)).objects)
    run(dicom_peer(peer))
    peer.start()
    wait_until(lambda: store.state_of(study)[0] is State.DELIVERED)
    (found,) = peer.objects.values()
    assert found.StudyInstanceUID == "1.2.3"


def test_a_peer_that_refuses_an_object_is_asked_again_and_other_exams_go_on(store, run, peer):
    peer.status = 0xA700
    peer.start()
    first = put_answer(store, "1.2.3", dicom_peer(peer))
    run(dicom_peer(peer))
    wait_until(lambda: store.table.one("SELECT failures FROM deliveries")[0] > 1)
    assert store.state_of(first)[0] is State.ANSWERED
    peer.status = 0x0000
    second = put_answer(store, "1.2.4", dicom_peer(peer))
    wait_until(lambda: {store.state_of(study)[0] for study in (first, second)} == {State.DELIVERED})


def test_a_warning_of_the_peer_means_that_it_has_the_object(store, run, peer):
    peer.status = 0xB000
    peer.start()
    study = put_answer(store, "1.2.3", dicom_peer(peer))
    run(dicom_peer(peer))
    wait_until(lambda: store.state_of(study)[0] is State.DELIVERED)


def said(caplog) -> list[str]:
    """Why objects were not taken, as the audit log has it."""
    events = [json.loads(one.getMessage()) for one in caplog.records if one.name == "densityclip.audit"]
    return [event["why"] for event in events if event["event"] == "object not taken"]


def test_why_a_peer_does_not_take_an_object_is_in_the_audit_log(store, peer, caplog):
    peer.status = 0xA900
    peer.start()
    put_answer(store, "1.2.3", dicom_peer(peer))
    with caplog.at_level(logging.INFO, "densityclip.audit"):
        assert dicom_peer(peer).send(next(store.outbox.due(peer.address)).objects) == []
    assert said(caplog) == ["status 0xA900"]


def test_a_name_that_is_not_known_is_a_peer_that_is_down_and_no_fault_of_the_object(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(as_bytes(mammogram("1.2.3")))
    with pytest.raises(PeerError, match="its name cannot be resolved"):
        parse_peer("dicom://PACS@no-such-host.invalid:104", calling="X").send([path])


def test_an_address_without_an_ae_title_names_itself():
    with pytest.raises(UserError, match="names no AE title"):
        parse_peer("dicom://127.0.0.1:104", calling="X")


def test_a_peer_that_does_not_know_the_kind_of_object_leaves_it_waiting(peer, tmp_path, caplog):
    from pynetdicom import AE

    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", free_port()), block=False)
    port = server.server_address[1]
    path = tmp_path / "image.dcm"
    path.write_bytes(as_bytes(mammogram("1.2.3")))
    try:
        with caplog.at_level(logging.INFO, "densityclip.audit"):
            assert parse_peer(f"dicom://PACS@127.0.0.1:{port}", calling="X").send([path]) == []
        assert said(caplog) == ["it does not accept Digital Mammography X-Ray Image Storage - For Presentation"]
    finally:
        server.shutdown()


def test_one_peer_that_is_down_holds_up_no_other(store, run, peer):
    down = parse_peer(f"dicom://DOWN@127.0.0.1:{free_port()}", calling="X")
    study = put_answer(store, "1.2.3", down, dicom_peer(peer))
    peer.start()
    run(down, dicom_peer(peer))
    wait_until(lambda: store.outbox.waiting_for() == {down.name: 1})
    assert len(peer.contents) == 1
    assert store.state_of(study)[0] is State.ANSWERED


def test_a_file_that_is_gone_holds_up_no_other_exam(store, run, peer):
    lost = put_answer(store, "1.2.3", dicom_peer(peer))
    kept = put_answer(store, "1.2.4", dicom_peer(peer))
    next((store.folder / "results" / lost).iterdir()).unlink()
    peer.start()
    run(dicom_peer(peer))
    wait_until(lambda: store.state_of(kept)[0] is State.DELIVERED)
    assert store.state_of(lost)[0] is State.ANSWERED


class Web:
    """A STOW-RS service that answers as it is told."""

    def __init__(self) -> None:
        self.status, self.answer, self.bodies = 200, b'{"00081190": {"vr": "UR", "Value": ["x"]}}', []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"


@pytest.fixture
def web():
    made = Web()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def answer(tmp_path) -> Path:
    source = tmp_path / "image.dcm"
    source.write_bytes(as_bytes(mammogram("1.2.3")))
    return stand_in_answer([source], tmp_path, ())[0]


def test_stow_posts_the_object_to_the_studies(web, answer):
    assert WebPeer(web.url).send([answer]) == [answer]
    ((path, body),) = web.bodies
    assert path == "/dicom-web/studies"
    assert str(pydicom.dcmread(answer).SOPInstanceUID).encode() in body


@pytest.mark.parametrize("status", [400, 409, 503])
def test_stow_that_is_refused_confirms_nothing(web, answer, status):
    web.status = status
    assert WebPeer(web.url).send([answer]) == []


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_address_or_password_is_of_the_peer_and_of_no_object(web, answer, status):
    web.status = status
    with pytest.raises(PeerError, match="look at its address"):
        WebPeer(web.url).send([answer])


def test_stow_whose_answer_names_a_failure_confirms_nothing(web, answer):
    web.status = 202
    web.answer = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [43264]}}]}}'
    assert WebPeer(web.url).send([answer]) == []


def test_stow_whose_answer_names_no_failure_among_the_failures_is_confirmed(web, answer):
    # What Orthanc says of an object that it has already, as after a kill between sending and noting it.
    web.answer = b'{"00081198": {"vr": "SQ"}, "00081190": {"vr": "UR", "Value": ["x"]}}'
    assert WebPeer(web.url).send([answer]) == [answer]


def test_a_web_peer_that_is_down_is_said_to_be_down(answer):
    with pytest.raises(PeerError):
        WebPeer(f"http://127.0.0.1:{free_port()}/dicom-web").send([answer])


@pytest.mark.parametrize(
    ("text", "title", "host", "port", "tls"),
    [
        ("dicom://PACS@10.0.0.5:104", "PACS", "10.0.0.5", 104, False),
        ("dicoms://ARCHIVE%201@pacs.example:2762", "ARCHIVE 1", "pacs.example", 2762, True),
    ],
)
def test_the_address_of_a_dicom_peer_is_read(text, title, host, port, tls):
    peer = parse_peer(text, calling="US")
    assert (peer.title, peer.host, peer.port, peer.tls, peer.calling) == (title, host, port, tls, "US")


@pytest.mark.parametrize(
    "text", ["pacs", "dicom://10.0.0.5:104", "dicom://PACS@10.0.0.5", "ftp://host/x", "dicom://A@b:99999", "https://"]
)
def test_what_is_no_peer_is_refused_with_a_hint(text):
    with pytest.raises(UserError, match=r"dicom://|no AE title"):
        parse_peer(text, calling="US")


def test_a_password_in_an_address_is_refused_without_being_repeated():
    with pytest.raises(UserError, match="password") as error:
        parse_peer("https://me:secret@host/dicom-web", calling="US")
    assert "secret" not in str(error.value)
