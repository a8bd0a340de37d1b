"""A worker process that may be killed: decoding and the model never run in the service itself."""

import contextlib
import json
import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from densityclip.deliver.exams import Job
from densityclip.deliver.limits import Limits
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused
from densityclip.worker_pool import end_with_parent

Answer = Callable[[Sequence[Path], Path, Sequence[Path]], list[Path]]
"""One exam to its objects: (files, folder to write to, objects of earlier answers) -> the files written.

The same files give the same objects, byte for byte. `Refused` says that no answer can be had from these files.
"""

MakeAnswer = Callable[[], Answer]
"""Opens the model, in the worker process; must be importable by name there."""

_OPENING_SECONDS = 600.0
_BREATH = 5.0


class JobFailed(Exception):
    """An exam was not answered.

    Attributes:
        reason: The stable code.
        detail: The fact, without names of patients.
        for_good: Whether the same files would fail again for certain.
    """

    def __init__(self, reason: Reason, detail: str, *, for_good: bool = False) -> None:
        self.reason, self.detail, self.for_good = reason, detail, for_good
        super().__init__(f"{reason.value}: {detail}")


class Worker:
    """A process that answers one exam at a time, keeps the model open between them, and can be killed."""

    def __init__(self, make: MakeAnswer, limits: Limits) -> None:
        self._make, self._limits = make, limits
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._ended = False

    def start(self) -> None:
        """Start the process and wait until its model is open; nothing happens where it runs.

        Raises:
            UserError: The model cannot be opened.
        """
        with self._lock:
            if self._ended or (self._process is not None and self._process.is_alive()):
                return
            # Not a fork: this process has threads, which hold locks.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_work, args=(theirs, self._make, self._limits.job_bytes), daemon=True, name="densityclip-worker"
            )
            self._process.start()
            theirs.close()
        said = self._hear(_OPENING_SECONDS)
        if said is None or said["said"] != "ready":
            self._kill()
            fact = "its process ended" if said is None else said["detail"]
            raise UserError(f"the model cannot be opened: {fact}", "try it with `densityclip predict`")

    def answer(self, job: Job, out: Path) -> list[Path]:
        """Answer an exam.

        Args:
            job: The exam.
            out: Empty folder for the objects.

        Raises:
            JobFailed: The process took too long, needed too much memory, died, or says why it has no answer.
            UserError: The model cannot be opened.
        """
        self.start()
        connection = self._connection
        if connection is None:
            raise JobFailed(Reason.CRASHED, "the service stops")
        asked = {"files": [*map(str, job.files)], "out": str(out), "earlier": [*map(str, job.earlier)]}
        with contextlib.suppress(OSError):  # it died meanwhile: `_hear` says so
            connection.send_bytes(json.dumps(asked).encode())
        said = self._hear(self._limits.job_seconds)
        if said is None:
            code = None if self._process is None else self._process.exitcode
            self._kill()
            if code is None:
                raise JobFailed(Reason.TIMEOUT, f"more than {self._limits.job_seconds:g} s")
            raise JobFailed(Reason.CRASHED, f"the worker ended with exit code {code}")
        if said["said"] == "refused":
            raise JobFailed(Reason[said["reason"]], said["detail"], for_good=True)
        if said["said"] != "answered":
            # Its memory may be in pieces.
            self._kill()
            raise JobFailed(Reason.CRASHED, said["detail"])
        return [_inside(out, path) for path in said["objects"]]

    def stop(self) -> None:
        """Kill the process for good; what it was doing stays undone."""
        self._ended = True
        self._kill()

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        """What the process says next; None if it says nothing in time, or has ended: then it has an exit code."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            return None
        try:
            if not wait([connection, process.sentinel], seconds):
                return None
            # JSON, not pickle: whatever took hold of a decoder must not take hold of the service.
            said = json.loads(connection.recv_bytes(1 << 20))
        except (EOFError, OSError, ValueError):
            process.join(_BREATH)
            return None
        return said if isinstance(said, dict) else None

    def _kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.join(_BREATH)
            if self._connection is not None:
                self._connection.close()
            self._process = self._connection = None


def _inside(folder: Path, path: str) -> Path:
    found = Path(path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise JobFailed(Reason.CRASHED, "an object lies outside of its folder")
    return found


def _work(connection: Connection, make: MakeAnswer, most_bytes: int) -> None:
    """What the process does: open the model, then answer exam after exam."""
    _limit_itself(most_bytes)
    try:
        answer = make()
    except UserError as error:
        _say(connection, said="unusable", detail=error.fact)
        return
    _say(connection, said="ready")
    while True:
        try:
            asked = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        _say(connection, **_answered(answer, asked))


def _answered(answer: Answer, asked: dict[str, Any]) -> dict[str, Any]:
    files, earlier = [Path(path) for path in asked["files"]], [Path(path) for path in asked["earlier"]]
    try:
        objects = answer(files, Path(asked["out"]), earlier)
    except Refused as refused:
        return {"said": "refused", "reason": refused.reason.name, "detail": refused.detail}
    except MemoryError:
        return {"said": "failed", "detail": "the memory limit was reached"}
    except Exception as error:  # noqa: BLE001 - any failure is of this exam; the words may quote the patient
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = "" if where is None else f" at {Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
        return {"said": "failed", "detail": f"{type(error).__name__}{place}"}
    return {"said": "answered", "objects": [str(path) for path in objects]}


def _say(connection: Connection, **what: Any) -> None:
    connection.send_bytes(json.dumps(what).encode())


def _limit_itself(most_bytes: int) -> None:
    # Ctrl-C is for the service, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        # Not RLIMIT_AS: CUDA and memory-mapped weights take address space without using memory.
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    with contextlib.suppress(OSError):
        # Where the whole machine has too little memory, the kernel shall end a worker and not the service.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    end_with_parent()
