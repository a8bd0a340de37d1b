"""The DICOM port says success for what is on disk, and nothing else."""

import errno
import json
import logging
import random
import socket
import ssl
import struct
import subprocess
import time
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from listen_samples import PATIENT, as_bytes, mammogram
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

import densityclip.deliver.durable as durable
from densityclip.deliver.exams import hashed
from densityclip.deliver.limits import Limits
from densityclip.deliver.listener import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    REPORT_CLASSES,
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Listener,
    Port,
    Tls,
)
from densityclip.deliver.store import Store
from densityclip.dicom.modality import DM_FOR_PRESENTATION
from densityclip.errors import UserError

ROOMY = Limits(reserve_bytes=0)
STORESCU = Path("/usr/bin/storescu")


class Open:
    """A listener that is open for one test."""

    def __init__(self, folder: Path, **settings) -> None:
        self.store = Store(folder / "store", limits=settings.get("limits", ROOMY))
        self.listener = Listener(self.store, Port(port=0, **{"limits": ROOMY} | settings))
        self.port = self.listener.port

    def close(self) -> None:
        self.listener.stop()
        self.store.close()

    def files(self) -> list[Path]:
        return sorted((self.store.folder / "instances").rglob("*.dcm"))


@pytest.fixture
def opened(tmp_path):
    made = []

    def make(**settings) -> Open:
        made.append(Open(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def associate(port: int, *, title="SENDER", called="DENSITYCLIP", tls=None, syntaxes=None):
    ae = AE(ae_title=title)
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(DM_FOR_PRESENTATION, syntaxes or list(TRANSFER_SYNTAXES[:1]))
    return ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls)


def test_an_echo_is_answered(opened):
    association = associate(opened().port)
    assert association.send_c_echo().Status == 0
    association.release()


def test_the_file_on_disk_holds_the_bytes_that_were_sent(opened):
    here = opened()
    image = mammogram("1.2.3")
    association = associate(here.port)
    assert association.send_c_store(image).Status == 0
    association.release()
    (path,) = here.files()
    assert path.name == f"{hashed(image.SOPInstanceUID)}.dcm"
    stored = pydicom.dcmread(path)
    assert stored == image
    whole, sent = path.read_bytes(), as_bytes(image)
    # Behind the file meta information, which each end writes for itself, every byte is the same.
    start = sent.index(struct.pack("<HH", 0x0008, 0x0016))
    assert whole.endswith(sent[start:])


def with_reports(port: int):
    ae = AE(ae_title="SENDER")
    for sop_class in (DM_FOR_PRESENTATION, *REPORT_CLASSES):
        ae.add_requested_context(sop_class, list(TRANSFER_SYNTAXES[:1]))
    return ae.associate("127.0.0.1", port, ae_title="DENSITYCLIP")


def report() -> pydicom.Dataset:
    found = mammogram("1.2.3.9")
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    del found.PixelData
    return found


def test_reports_of_a_whole_study_are_dropped_with_success_where_that_is_wanted(opened):
    here = opened(discard_reports=True)
    association = with_reports(here.port)
    assert len(association.accepted_contexts) == 1 + len(REPORT_CLASSES)
    assert association.send_c_store(report()).Status == 0
    assert not here.files()
    assert sum(here.store.states().values()) == 0, "no exam waits for an answer because of a report"
    assert association.send_c_store(mammogram("1.2.3")).Status == 0
    association.release()
    assert len(here.files()) == 1


def test_an_image_that_comes_in_the_context_of_a_report_is_refused_and_not_dropped(opened):
    here = opened(discard_reports=True)
    association = with_reports(here.port)
    (context,) = (c for c in association.accepted_contexts if c.abstract_syntax == report().SOPClassUID)
    image = mammogram("1.2.3")
    # A sender that mixes up its contexts: the message names an image, the context a report.
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    request.DataSet = BytesIO(encode(image, is_implicit_vr=False, is_little_endian=True))
    # The association's own thread would take the answer.
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    assert answer.Status == CANNOT_UNDERSTAND
    assert not here.files()
    association.release()


def test_reports_are_refused_where_nobody_asked_to_drop_them(opened):
    association = with_reports(opened().port)
    assert [one.abstract_syntax for one in association.accepted_contexts] == [DM_FOR_PRESENTATION]
    association.release()


@pytest.mark.parametrize(("title", "called"), [("STRANGER", "DENSITYCLIP"), ("SENDER", "OTHER")])
def test_an_association_of_a_stranger_or_for_another_is_rejected(opened, title, called):
    here = opened(allowed_titles=("SENDER", "SECOND"))
    assert associate(here.port, title=title, called=called).is_rejected
    association = associate(here.port)
    assert association.is_established
    association.release()


def test_an_association_from_an_address_outside_the_list_is_rejected(opened):
    here = opened(allowed_addresses=("10.1.0.0/16",))
    assert associate(here.port).is_rejected


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("10.2.0.1", False), ("fe80::1%eth0", False)],
)
def test_addresses_are_compared_as_networks(address, allowed):
    assert Port(allowed_addresses=("10.1.0.0/16",)).allows(address) is allowed


def test_one_association_more_than_the_limit_is_rejected_for_the_moment(opened):
    here = opened(limits=Limits(associations=1, reserve_bytes=0))
    first = associate(here.port)
    second = associate(here.port)
    assert first.is_established
    assert second.is_rejected
    assert second.acceptor.primitive.result == 0x02
    first.release()


def test_a_full_disk_is_said_with_the_status_out_of_resources(opened, monkeypatch):
    here = opened()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    association = associate(here.port)
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", full)
        assert association.send_c_store(mammogram("1.2.3")).Status == OUT_OF_RESOURCES
    assert not here.files()
    assert association.send_c_store(mammogram("1.2.3")).Status == 0, "the port goes on when there is room again"
    association.release()


def test_an_image_that_would_use_up_the_reserve_is_refused(opened):
    here = opened(limits=Limits(reserve_bytes=1 << 60))
    association = associate(here.port)
    assert association.send_c_store(mammogram("1.2.3")).Status == OUT_OF_RESOURCES
    association.release()


def test_a_message_larger_than_the_limit_ends_its_association_and_no_other(opened):
    here = opened(limits=Limits(instance_bytes=1 << 20, reserve_bytes=0))
    other = associate(here.port)
    large = associate(here.port)
    large.dimse_timeout = 5
    status = large.send_c_store(mammogram("1.2.3", pixels=1500))
    assert "Status" not in status
    assert other.send_c_store(mammogram("1.2.4")).Status == 0
    other.release()
    assert len(here.files()) == 1


def test_a_head_that_claims_gigabytes_is_not_believed(opened):
    here = opened()
    with socket.create_connection(("127.0.0.1", here.port), timeout=10) as connection:
        connection.sendall(struct.pack(">BBL", 0x01, 0, 0xFFFFFFF0))
        try:
            said = connection.recv(100)
        except ConnectionError:
            said = b""
        assert said == b"", "the connection is closed at once, not read from"
    association = associate(here.port)
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_data_set_without_a_study_is_refused_as_not_understood(opened):
    here = opened()
    image = mammogram("1.2.3")
    del image.StudyInstanceUID
    association = associate(here.port)
    assert association.send_c_store(image).Status == CANNOT_UNDERSTAND
    association.release()
    assert not here.files()


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_every_transfer_syntax_that_can_be_decoded_is_accepted(opened, syntax):
    association = associate(opened().port, syntaxes=[syntax])
    accepted = {str(context.transfer_syntax[0]) for context in association.accepted_contexts}
    association.release()
    assert str(syntax) in accepted


def test_every_storage_class_is_accepted_and_no_other(opened):
    ae = AE()
    asked = [*STORAGE_CLASSES, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.1.1"]
    for sop_class in asked:
        ae.add_requested_context(sop_class)
    association = ae.associate("127.0.0.1", opened().port, ae_title="DENSITYCLIP")
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    association.release()
    assert accepted == set(STORAGE_CLASSES)


def test_the_log_has_neither_name_nor_uid(opened, caplog):
    here = opened()
    with caplog.at_level(logging.DEBUG):
        association = associate(here.port)
        image = mammogram("1.2.3.4.5.6.7")
        association.send_c_store(image)
        odd = mammogram("1.2.3.4.5.6.7", number=1)
        odd.StudyInstanceUID = ""
        association.send_c_store(odd)
        association.release()
    lines = [record for record in caplog.records if record.name == "densityclip.audit"]
    events = [json.loads(record.getMessage()) for record in lines]
    assert {"event": "accepted", "new": 1, "sender": "SENDER", "study": hashed("1.2.3.4.5.6.7")} in events
    assert [event["event"] for event in events].count("refused") == 1
    for secret in (PATIENT, "ID-4711", "1.2.3.4.5.6.7", str(image.SOPInstanceUID)):
        assert not [record for record in caplog.records if secret in record.getMessage()]


def test_a_rejected_association_is_in_the_audit_log_with_the_reason(opened, caplog):
    here = opened(allowed_titles=("SENDER",), limits=Limits(associations=1, reserve_bytes=0))
    with caplog.at_level(logging.INFO, "densityclip.audit"):
        associate(here.port, called="OTHER")
        associate(here.port, title="STRANGER")
        # Those that were rejected count until the port has seen that their connections are closed.
        until = time.monotonic() + 20
        while not (first := associate(here.port)).is_established and time.monotonic() < until:
            time.sleep(0.1)
        associate(here.port)
        first.release()
    events = [json.loads(record.getMessage()) for record in caplog.records if record.name == "densityclip.audit"]
    rejected = [(event["sender"], event["why"]) for event in events if event["event"] == "rejected"]
    assert list(dict.fromkeys(rejected)) == [
        ("SENDER", "called as OTHER"),
        ("STRANGER", "AE title"),
        ("SENDER", "too many associations"),
    ]


def test_noise_on_the_port_leaves_it_open(opened):
    here, dice = opened(), random.Random(7)
    for number in range(20):
        kind = dice.choice([0x01, 0x02, 0x04, 0x05, 0x07, 0x63])
        body = dice.randbytes(dice.choice([0, 4, 68, 500]))
        with socket.create_connection(("127.0.0.1", here.port), timeout=5) as connection:
            honest = number % 2
            connection.sendall(struct.pack(">BBL", kind, 0, len(body) if honest else dice.randrange(1 << 32)) + body)
    # The noise counts as associations until the port has seen that its connections are closed.
    until = time.monotonic() + 20
    while not (association := associate(here.port)).is_established and time.monotonic() < until:
        time.sleep(0.5)
    assert association.send_c_store(mammogram("1.2.3")).Status == 0
    association.release()


def test_a_port_that_is_taken_is_said_in_words(opened, tmp_path):
    here = opened()
    with pytest.raises(UserError, match="cannot listen"):
        Listener(here.store, Port(port=here.port))


@pytest.mark.parametrize("title", ["", "SEVENTEEN-LETTERS", "BACK\\SLASH", "ÄE"])
def test_an_ae_title_that_is_none_is_refused(title):
    with pytest.raises(UserError, match="no AE title"):
        Port(ae_title=title)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    done = subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"],
            "-keyout",
            key,
            "-out",
            cert,
        ],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("openssl cannot make a certificate here")
    return cert, key


def test_tls_by_flag_and_a_client_without_a_certificate_is_turned_away(opened, certificate):
    cert, key = certificate
    here = opened(tls=Tls(cert, key, client_authority=cert))
    client = ssl.create_default_context(cafile=cert)
    client.check_hostname = False
    nobody = associate(here.port, tls=(client, "localhost"))
    assert not nobody.is_established
    plain = associate(here.port)
    assert not plain.is_established
    client.load_cert_chain(cert, key)
    association = associate(here.port, tls=(client, "localhost"))
    assert association.send_c_store(mammogram("1.2.3")).Status == 0
    association.release()


@pytest.mark.pacs
@pytest.mark.skipif(not STORESCU.is_file(), reason="dcmtk's storescu is not installed")
def test_dcmtk_sends_to_it(opened, tmp_path):
    here = opened()
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(as_bytes(mammogram("1.2.3", number=number)))
    done = subprocess.run(
        [STORESCU, "-aet", "DCMTK", "-aec", "DENSITYCLIP", "127.0.0.1", str(here.port), *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(here.files()) == 3
