"""Uploads on disk: what the web service accepted, what became of it, and when it goes.

A job is accepted when its files are synced, its folder is renamed into place and its row is committed; then the answer
202 is true whatever happens to the process. Its name is random and derives from nothing that was sent; its files are
numbered. The uploaded files go as soon as there is an answer, the answer goes after a set time.
"""

import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from densityclip.deliver.durable import DurableFolder, is_full, make_folder, rename_synced, sync
from densityclip.deliver.limits import Limits
from densityclip.deliver.store import DiskFullError, Job
from densityclip.dicom.header import starts_like_dicom
from densityclip.reasons import Reason

PROGRESS, RESULT = "progress.json", "result.json"

_SCHEMA_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, files INTEGER NOT NULL, created REAL NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL DEFAULT 0,
    reason TEXT, detail TEXT, done_at REAL);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, next_try);
"""
# The first bytes of what can be read, and the ending by which the reader of a folder knows it.
_PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif", b"BM": ".bmp"}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_SNIFFED = 132


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of a job.

    Attributes:
        id: Random, 32 hexadecimal digits.
        state: Where it stands.
        files: How many were uploaded; an archive is one.
        before: Jobs that wait before it.
        reason: Why it failed.
        detail: The fact, without names of patients.
        expires_at: When it goes, seconds since the epoch; None while it is not done.
    """

    id: str
    state: JobState
    files: int
    before: int
    reason: str | None
    detail: str | None
    expires_at: float | None


class UnknownKindError(Exception):
    """A file is neither DICOM nor a picture nor a zip archive.

    Attributes:
        number: Which, from 1.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"file {number} is of no known kind")


class Upload:
    """Files on their way in; nothing of it stays unless `Uploads.enter` takes it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.id = secrets.token_hex(16)
        self.folder, self._limits = folder / self.id, limits
        self.files = 0
        self.bytes = 0
        self.is_archive = False
        self._open: IO[bytes] | None = None
        self.folder.mkdir(mode=0o700)

    def begin_file(self) -> None:
        """Begin the next file."""
        self.files += 1
        self._open = (self.folder / f"file-{self.files}").open("wb")

    def write(self, piece: bytes) -> None:
        """Add bytes to the file that was begun.

        Raises:
            DiskFullError: There is no room.
        """
        if self._open is None:
            raise ValueError("no file was begun")
        try:
            self._open.write(piece)
        except OSError as error:
            raise _full_or(error) from error
        self.bytes += len(piece)

    def end_file(self) -> None:
        """Sync the file and name it by what it is.

        Raises:
            UnknownKindError: It is nothing that can be read.
            DiskFullError: There is no room.
        """
        if self._open is None:
            return
        try:
            self._open.flush()
            os.fsync(self._open.fileno())
        except OSError as error:
            raise _full_or(error) from error
        finally:
            self._open.close()
            self._open = None
        path = self.folder / f"file-{self.files}"
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
        ending = _ending_of(start)
        if ending is None:
            raise UnknownKindError(self.files)
        self.is_archive = self.is_archive or ending == ".zip"
        path.rename(path.with_name(path.name + ending))

    def drop(self) -> None:
        """Remove what came so far; after `Uploads.enter` there is nothing to remove."""
        if self._open is not None:
            self._open.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Uploads(DurableFolder):
    """Jobs of the web service in one folder; safe to use from several threads. A `jobs.JobStore`.

    Attributes:
        folder: Where everything lies.
        limits: What a job may use.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits | None = None,
        keep_seconds: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the folder, make it where there is none, and put right what a killed process left.

        Args:
            folder: Where; two processes cannot have the same one open.
            limits: What a job may use.
            keep_seconds: How long an answer stays.
            clock: Seconds since the epoch.

        Raises:
            UserError: Another process has it open, it is of another version, or it cannot be written.
        """
        self.folder, self.limits, self._keep, self._clock = folder, limits or Limits(), keep_seconds, clock
        self._running: set[str] = set()
        parts = (self._incoming, self._inputs, self._results, self.work)
        super().__init__(folder, "jobs.sqlite", _TABLES, version=_SCHEMA_VERSION, parts=parts)

    # What comes in.

    def begin(self) -> Upload:
        """Make room for the files of a new job.

        Raises:
            DiskFullError: There is none.
        """
        try:
            return Upload(self._incoming, self.limits)
        except OSError as error:
            raise _full_or(error) from error

    def enter(self, upload: Upload, owner: str) -> str:
        """Accept an upload: when this returns, it is there for good, and will be answered.

        Args:
            upload: With all its files.
            owner: Name of the key that sent it.

        Returns:
            The job's id.

        Raises:
            DiskFullError: There is no room; nothing was kept.
        """
        try:
            sync(upload.folder)
            rename_synced(upload.folder, self._inputs / upload.id)
            with self._transaction() as table:
                table.execute(
                    "INSERT INTO jobs (id, owner, state, files, created) VALUES (?, ?, ?, ?, ?)",
                    (upload.id, owner, JobState.WAITING, upload.files, self._clock()),
                )
        except (OSError, sqlite3.Error) as error:
            shutil.rmtree(self._inputs / upload.id, ignore_errors=True)
            raise _full_or(error) from error
        return upload.id

    def waiting(self) -> int:
        """How many jobs have no answer yet."""
        return int(self._all("SELECT count(*) FROM jobs WHERE state = ?", JobState.WAITING)[0][0])

    # What is to be answered: `jobs.JobStore`.

    def next_job(self, quiet_seconds: float) -> Job | None:
        """Take the next job; one that was begun more often comes later. Uploads are complete: nothing is waited for."""
        with self._lock:
            rows = self._all(
                "SELECT id FROM jobs WHERE state = ? AND next_try <= ? ORDER BY starts, created, rowid",
                JobState.WAITING,
                self._clock(),
            )
            found = next((name for (name,) in rows if name not in self._running), None)
            if found is None:
                return None
            with self._transaction() as table:
                table.execute("UPDATE jobs SET starts = starts + 1 WHERE id = ?", (found,))
            self._running.add(found)
            return Job(found, 1, tuple(sorted((self._inputs / found).iterdir())), ())

    def answered(self, job: Job, objects: Sequence[tuple[str, Path]], peers: Sequence[str]) -> bool:
        """Keep an answer and remove what it was made from; False where the job was removed meanwhile."""
        with self._lock:
            self._running.discard(job.study)
            if not self._all("SELECT 1 FROM jobs WHERE id = ?", job.study):
                return False
            folder = self._results / job.study
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
            for name, path in objects:
                sync(path)
                path.replace(folder / name)
            sync(folder)
            self._close(job.study, JobState.DONE)
        return True

    def failed(
        self, job: Job, reason: Reason, detail: str, *, pause: Callable[[int], float], for_good: bool = False
    ) -> int:
        """Note that a job could not be answered; returns how often. What was uploaded goes after the last attempt."""
        with self._lock:
            self._running.discard(job.study)
            with self._transaction() as table:
                table.execute(
                    "UPDATE jobs SET failures = failures + 1, reason = ?, detail = ? WHERE id = ?",
                    (reason.value, detail, job.study),
                )
            rows = self._all("SELECT failures FROM jobs WHERE id = ?", job.study)
            failures = int(rows[0][0]) if rows else 1
            if for_good or failures >= self.limits.attempts:
                self._close(job.study, JobState.FAILED)
            else:
                with self._transaction() as table:
                    table.execute(
                        "UPDATE jobs SET next_try = ? WHERE id = ?", (self._clock() + pause(failures), job.study)
                    )
        return failures

    def release(self, job: Job) -> None:
        """Give a job back, answered or not."""
        with self._lock:
            self._running.discard(job.study)

    def _close(self, name: str, state: JobState) -> None:
        with self._transaction() as table:
            table.execute("UPDATE jobs SET state = ?, done_at = ? WHERE id = ?", (state, self._clock(), name))
        shutil.rmtree(self._inputs / name, ignore_errors=True)

    # What is known.

    def status(self, name: str, owner: str) -> JobStatus:
        """Where a job stands.

        Args:
            name: Its id.
            owner: Who asks; jobs of others are as if they were not there.

        Raises:
            KeyError: There is no such job of this owner, or its time is over.
        """
        with self._lock:
            rows = self._all(
                "SELECT state, files, reason, detail, done_at, rowid FROM jobs WHERE id = ? AND owner = ?", name, owner
            )
            if not rows:
                raise KeyError(name)
            state, files, reason, detail, done_at, number = rows[0]
            before = 0
            if state == JobState.WAITING:
                before = int(self._all("SELECT count(*) FROM jobs WHERE state = ? AND rowid < ?", state, number)[0][0])
            working = state == JobState.WAITING and name in self._running
            return JobStatus(
                id=name,
                state=JobState.WORKING if working else JobState(state),
                files=files,
                before=0 if working else before,
                reason=reason if state == JobState.FAILED else None,
                detail=detail if state == JobState.FAILED else None,
                expires_at=None if done_at is None else done_at + self._keep,
            )

    def progress(self, name: str) -> dict[str, int]:
        """Steps done and of all, as far as the worker of a job has said; empty where it has not."""
        try:
            with (self.work / name / PROGRESS).open("rb") as file:
                said = json.loads(file.read(1000))
            return {"done": int(said["done"]), "total": int(said["total"])}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def result(self, name: str, file: str) -> Path:
        """A file of an answer; whether the asker may have it is for `status` to say.

        Raises:
            KeyError: There is no such file.
        """
        path = self._results / name / file
        if not path.is_file():
            raise KeyError(file)
        return path

    # What goes away.

    def remove(self, name: str) -> None:
        """Remove a job with all that belongs to it; one that is being worked on leaves no answer."""
        with self._transaction() as table:
            table.execute("DELETE FROM jobs WHERE id = ?", (name,))
        for part in (self._inputs, self._results):
            shutil.rmtree(part / name, ignore_errors=True)

    def remove_old(self) -> int:
        """Remove the jobs whose time is over; returns how many."""
        rows = self._all("SELECT id FROM jobs WHERE done_at <= ?", self._clock() - self._keep)
        for (name,) in rows:
            self.remove(name)
        return len(rows)

    # How.

    @property
    def work(self) -> Path:
        """Where workers write; emptied when the folder is opened."""
        return self.folder / "work"

    @property
    def _incoming(self) -> Path:
        return self.folder / "incoming"

    @property
    def _inputs(self) -> Path:
        return self.folder / "inputs"

    @property
    def _results(self) -> Path:
        return self.folder / "results"

    def _recover(self) -> None:
        """After a kill: half uploads go, and so does what has no row or is no longer needed."""
        for part in (self._incoming, self.work):
            for left in part.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        states = dict(self._all("SELECT id, state FROM jobs"))
        for left in self._inputs.iterdir():
            if states.get(left.name) != JobState.WAITING:
                shutil.rmtree(left, ignore_errors=True)
        for left in self._results.iterdir():
            if states.get(left.name) != JobState.DONE:
                shutil.rmtree(left, ignore_errors=True)
        self.remove_old()


def _ending_of(start: bytes) -> str | None:
    if start.startswith(_ZIP):
        return ".zip"
    if len(start) >= _SNIFFED and starts_like_dicom(start):
        return ".dcm"
    return next((ending for magic, ending in _PICTURES.items() if start.startswith(magic)), None)


def _full_or(error: Exception) -> Exception:
    return DiskFullError() if is_full(error) else error
