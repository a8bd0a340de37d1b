"""Jobs are taken from a store and answered by worker processes.

There is no queue library here. The table of jobs is the queue: taking one and noting who works on it is one
transaction (`claims`), so a kill loses nothing. A queue takes a task off before it is run, and a kill then loses it, so
that the table would have to be asked all the same. Nor can a queue's time limit end a decoder that hangs in C: that,
and a memory limit, takes a process that is killed from outside.
"""

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from densityclip.deliver.audit_log import audit
from densityclip.deliver.claims import Claims
from densityclip.deliver.exams import Job
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.worker import JobFailed, MakeAnswer, Worker
from densityclip.errors import UserError
from densityclip.reasons import Reason

_BREATH = 5.0

_log = logging.getLogger(__name__)


class JobStore(Protocol):
    """Where jobs come from and answers go: `store.Store` of the listener, `uploads.Uploads` of the web service."""

    @property
    def limits(self) -> Limits:
        """What a job may use."""

    @property
    def claims(self) -> Claims:
        """Where this process writes, by `claims.folder`."""

    def next_job(self, quiet_seconds: float | None) -> Job | None:
        """Take the next job whose input has been complete for so long; None leaves that to another process."""

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
        workers: int = 1,
        pauses: Pauses | None = None,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the workers; `start` starts them.

        Args:
            store: Whose exams.
            make: Opens the model in a worker.
            name: A file of an answer to its name in the store; without it, SOP Instance UIDs of DICOM files.
            quiet_seconds: An exam is complete when no image came for so long; None where another process says which
                are.
            workers: Processes; none where others work in the same store.
            pauses: Between attempts at an exam whose worker fails.
            answered: Called when there is something to deliver.
        """
        self._store, self._quiet, self._answered = store, quiet_seconds, answered
        self._name = name or _uid_of
        self._pauses = pauses or Pauses(first=10, factor=4, longest=600)
        self._workers = [Worker(make, store.limits) for _ in range(workers)]
        self._threads = [threading.Thread(target=self._loop, args=(worker,), daemon=True) for worker in self._workers]
        self._ended = threading.Event()

    def open_model(self) -> None:
        """Open the model once, to see that it can be; without workers there is nothing to open.

        Raises:
            UserError: It cannot.
        """
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

    def _loop(self, worker: Worker) -> None:
        while not self._ended.is_set():
            try:
                job = self._store.next_job(self._quiet)
                if job is None:
                    self._ended.wait(1.0 if self._quiet is None else min(1.0, self._quiet / 4))
                else:
                    self._do(worker, job)
            except (OSError, sqlite3.Error, UserError) as error:
                # A full disk, or a model that is being replaced: nothing of the exam's doing.
                _log.error("exams have to wait: %s", type(error).__name__ if isinstance(error, OSError) else error)
                self._ended.wait(_BREATH)

    def _do(self, worker: Worker, job: Job) -> None:
        out = self._store.claims.folder / job.study
        try:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(mode=0o700)
            objects = [(self._name(path), path) for path in worker.answer(job, out)]
            kept = self._store.answered(job, objects)
            audit(
                "answered" if kept else "overtaken",
                study=job.study,
                images=len(job.files),
                objects=len(objects),
                worker=self._store.claims.name,
            )
            self._answered()
        except JobFailed as failure:
            if not self._ended.is_set():
                self._note(job, failure)
        finally:
            # First the folder: once the job is released, another worker may make it anew for a later image.
            shutil.rmtree(out, ignore_errors=True)
            self._store.release(job)

    def _note(self, job: Job, failure: JobFailed) -> None:
        failures = self._store.failed(
            job, failure.reason, failure.detail, pause=self._pauses.after, for_good=failure.for_good
        )
        last = failure.for_good or failures >= self._store.limits.attempts
        audit(
            "failed" if last else "to be tried again",
            study=job.study,
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
