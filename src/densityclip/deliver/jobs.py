"""Jobs are taken from a store and answered by worker processes.

A queue (`job_queue`) says to whoever is free which job is next; the table of the store says whether that is so. Taking
a job and noting who works on it is one transaction of the table (`claims`), so that a kill loses nothing. A time limit
of the queue could not end a decoder that hangs in C: that takes a process that is killed from outside.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from densityclip.deliver.audit_log import audit
from densityclip.deliver.claims import Claims
from densityclip.deliver.exams import Job
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.worker import JobFailed, MakeAnswer, Worker
from densityclip.errors import UserError
from densityclip.reasons import Reason

if TYPE_CHECKING:
    from densityclip.deliver.job_queue import JobQueue

_BREATH, _POLL_SECONDS = 5.0, 0.1

_log = logging.getLogger(__name__)


class JobStore(Protocol):
    """Where jobs come from and answers go: `store.Store` of the listener, `uploads.Uploads` of the web service."""

    @property
    def limits(self) -> Limits:
        """What a job may use."""

    @property
    def claims(self) -> Claims:
        """Where this process writes, by `claims.folder`."""

    @property
    def folder(self) -> Path:
        """Where everything lies."""

    def due(self, quiet_seconds: float | None) -> list[str]:
        """Names of the jobs on which nobody works, in the order in which they are to be done.

        Their input has been complete for so long; None leaves that to another process.
        """

    def take(self, name: str) -> Job | None:
        """Take a job; None where it is not due, or another process has it."""

    def answered(self, job: Job, objects: Sequence[tuple[str, Path]]) -> bool:
        """Keep an answer; False where the job is another one meanwhile."""

    def failed(
        self, job: Job, reason: Reason, detail: str, *, pause: Callable[[int], float], for_good: bool = False
    ) -> int:
        """Note a failure; returns how many there were."""

    def release(self, job: Job) -> None:
        """Give a job back, answered or not."""


class Jobs:
    """Threads that take exams from the store and have them answered, one worker process each."""

    def __init__(
        self,
        store: JobStore,
        make: MakeAnswer,
        *,
        name: Callable[[Path], str] | None = None,
        quiet_seconds: float | None = 30.0,
        look_seconds: float | None = None,
        workers: int = 1,
        pauses: Pauses | None = None,
        queue: str | None = None,
        noun: str = "study",
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the workers; `open`, then `start`.

        Args:
            store: Whose exams.
            make: Opens the model in a worker.
            name: A file of an answer to its name in the store; without it, SOP Instance UIDs of DICOM files.
            quiet_seconds: An exam is complete when no image came for so long; None where another process says which
                are.
            look_seconds: Between looks at what is due; by default a quarter of the quiet time, and at most one second.
            workers: Processes; none where others work in the same store.
            pauses: Between attempts at an exam whose worker fails.
            queue: URL of a Redis server; None for a file in the store.
            noun: What the audit log calls a job.
            answered: Called when there is something to deliver.
        """
        self._store, self._quiet, self._answered = store, quiet_seconds, answered
        self._name = name or _uid_of
        self._noun = noun
        self._pauses = pauses or Pauses(first=10, factor=4, longest=600)
        self._look = look_seconds or min(1.0, 1.0 if quiet_seconds is None else quiet_seconds / 4)
        self._url = queue
        self._queue: JobQueue | None = None
        self._workers = [Worker(make, store.limits) for _ in range(workers)]
        steps = [self._offer, *(partial(self._work, worker) for worker in self._workers)]
        self._threads = [threading.Thread(target=self._until_ended, args=(step,), daemon=True) for step in steps]
        self._ended = threading.Event()

    def open(self) -> None:
        """Open the queue, and see that the model can be opened; without workers there is none to open.

        Raises:
            UserError: One of them cannot be used.
        """
        from densityclip.deliver.job_queue import JobQueue

        self._queue = JobQueue(self._store.folder, self._url)
        for worker in self._workers[:1]:
            worker.start()

    def start(self) -> None:
        """Begin to take exams."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the workers at once; their exams are answered after the next start."""
        self._ended.set()
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_BREATH)
        if self._queue is not None:
            self._queue.close()

    def _until_ended(self, step: Callable[["JobQueue"], float]) -> None:
        """Take one step after the other; a step returns the seconds until the next."""
        if self._queue is None:
            raise RuntimeError("jobs are opened before they are started")
        trouble = ""
        while not self._ended.is_set():
            try:
                pause, found = step(self._queue), ""
            except Exception as error:  # noqa: BLE001 - whatever it is, the next exam shall not wait for ever
                # A full disk, a queue that is down, a model that is being replaced: nothing of the exam's doing.
                pause, found = _BREATH, str(error) if isinstance(error, UserError) else type(error).__name__
            if found and found != trouble:
                _log.error("exams have to wait: %s", found)
            elif trouble and not found:
                _log.warning("exams no longer wait")
            trouble = found
            self._ended.wait(pause)

    def _offer(self, queue: "JobQueue") -> float:
        queue.offer(self._store.due(self._quiet))
        return self._look

    def _work(self, worker: Worker, queue: "JobQueue") -> float:
        name = queue.next()
        if name is None:
            return 0 if queue.blocking else _POLL_SECONDS
        job = self._store.take(name)
        if job is not None:
            self._do(worker, job)
        return 0

    def _do(self, worker: Worker, job: Job) -> None:
        out = self._store.claims.folder / job.study
        try:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(mode=0o700)
            objects = [(self._name(path), path) for path in worker.answer(job, out)]
            kept = self._store.answered(job, objects)
            audit(
                "answered" if kept else "overtaken",
                **{self._noun: job.study},
                images=len(job.files),
                objects=len(objects),
                worker=self._store.claims.name,
            )
            self._answered()
        except JobFailed as failure:
            if not self._ended.is_set():
                self._note(job, failure)
        finally:
            # First the folder: once the job is released, another thread may make it anew for a later image.
            shutil.rmtree(out, ignore_errors=True)
            self._store.release(job)

    def _note(self, job: Job, failure: JobFailed) -> None:
        failures = self._store.failed(
            job, failure.reason, failure.detail, pause=self._pauses.after, for_good=failure.for_good
        )
        last = failure.for_good or failures >= self._store.limits.attempts
        audit(
            "failed" if last else "to be tried again",
            **{self._noun: job.study},
            why=failure.reason.value,
            detail=failure.detail,
            attempt=failures,
        )


def by_file_name(path: Path) -> str:
    """The name that a file of an answer has already."""
    return path.name


def _uid_of(path: Path) -> str:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
