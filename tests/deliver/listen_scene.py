"""A listener in a process, a PACS that records, and a sender that goes on until it hears success."""

import contextlib
import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

from listen_samples import STANDIN_CLASS
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from densityclip.dicom.modality import DM_FOR_PRESENTATION

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TestProcess:
    """A program beside the tests, which says `open` when it works."""

    __test__ = False

    def __init__(self, script: str, *arguments: object) -> None:
        self._arguments = [sys.executable, str(HERE / script), *map(str, arguments)]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._arguments, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "open\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class ListenProcess(TestProcess):
    def __init__(
        self, store: Path, port: int, quiet: float, *peers: str, workers: int = 1, queue: str | None = None
    ) -> None:
        super().__init__("listen_process.py", store, port, quiet, workers, queue or "", *peers)


class WorkProcess(TestProcess):
    def __init__(self, store: Path, seconds: float) -> None:
        super().__init__("work_process.py", store, seconds)


class RecordingPeer:
    """A Storage SCP that remembers what it got: object -> the different bytes under its UID, and how often."""

    def __init__(self, port: int, *, status: int = 0x0000) -> None:
        self.port, self.status = port, status
        self.contents: dict[str, set[str]] = defaultdict(set)
        self.times: dict[str, int] = defaultdict(int)
        self.objects: dict[str, object] = {}
        self._server = None

    @property
    def address(self) -> str:
        return f"dicom://PACS@127.0.0.1:{self.port}"

    def start(self) -> None:
        ae = AE(ae_title="PACS")
        ae.add_supported_context(STANDIN_CLASS)
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._got)]
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _got(self, event) -> int:
        if self.status == 0x0000:
            uid = str(event.request.AffectedSOPInstanceUID)
            self.contents[uid].add(hashlib.sha256(event.encoded_dataset()).hexdigest())
            self.times[uid] += 1
            self.objects[uid] = event.dataset
        return self.status


def send_until_success(port: int, images, *, until: float) -> None:
    """Send images in order, each again and again until success is heard: what a PACS does."""
    waiting = list(images)
    while waiting and time.monotonic() < until:
        ae = AE(ae_title="SENDER")
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        ae.add_requested_context(DM_FOR_PRESENTATION, "1.2.840.10008.1.2.1")
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", port, ae_title="DENSITYCLIP")
        with contextlib.suppress(RuntimeError):
            while waiting and association.is_established:
                if association.send_c_store(waiting[0]).get("Status") != 0x0000:
                    break
                waiting.pop(0)
        if association.is_established:
            association.release()
        if waiting:
            time.sleep(0.05)
    assert not waiting, f"{len(waiting)} images were never accepted"


def in_background(function, *arguments, **named) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, kwargs=named, daemon=True)
    thread.start()
    return thread


def wait_until(true, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
