"""Uploads on disk: what the web service accepted, what became of it, and when it goes.

A job is accepted when its files are synced, its folder is renamed into place and its row is committed; then the answer
202 is true whatever happens to the process. Its name is random and derives from nothing that was sent; its files are
numbered. The uploaded files go as soon as there is an answer, the answer goes after a set time.
"""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from densityclip.deliver.durable import DurableFolder, make_folder, rename_synced, sync
from densityclip.deliver.exams import Job
from densityclip.deliver.incoming import Upload, full_or
from densityclip.deliver.limits import Limits
from densityclip.reasons import Reason

PROGRESS, RESULT = "progress.json", "result.json"

JOBS = "jobs.sqlite"
"""The table's file."""

_SCHEMA_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, files INTEGER NOT NULL, created REAL NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL DEFAULT 0,
    reason TEXT, detail TEXT, done_at REAL);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, next_try);
"""


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
        joining: bool = False,
    ) -> None:
        """Open the folder; as the service, make it where there is none and put right what a killed process left.

        Args:
            folder: Where; two services cannot have the same one open.
            limits: What a job may use.
            keep_seconds: How long an answer stays.
            clock: Seconds since the epoch.
            joining: Whether to answer jobs beside the service, whose the folder is.

        Raises:
            UserError: Another service has it open, there is none to join, it is of another version, or it cannot be
                written.
        """
        self.folder, self.limits, self._keep, self._clock = folder, limits or Limits(), keep_seconds, clock
        parts = (self._incoming, self._inputs, self._results)
        super().__init__(folder, JOBS, _TABLES, version=_SCHEMA_VERSION, parts=parts, joining=joining)

    # What comes in.

    def begin(self) -> Upload:
        """Make room for the files of a new job.

        Raises:
            DiskFullError: There is none.
        """
        try:
            return Upload(self._incoming)
        except OSError as error:
            raise full_or(error) from error

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
            with self.table.transaction() as table:
                table.execute(
                    "INSERT INTO jobs (id, owner, state, files, created) VALUES (?, ?, ?, ?, ?)",
                    (upload.id, owner, JobState.WAITING, upload.kept, self._clock()),
                )
        except (OSError, sqlite3.Error) as error:
            shutil.rmtree(self._inputs / upload.id, ignore_errors=True)
            raise full_or(error) from error
        return upload.id

    def waiting(self) -> int:
        """How many jobs have no answer yet."""
        return int(self.table.all("SELECT count(*) FROM jobs WHERE state = ?", JobState.WAITING)[0][0])

    # What is to be answered: `jobs.JobStore`.

    def due(self, quiet_seconds: float | None = None) -> list[str]:
        """Jobs on which nobody works; one that was begun more often comes later. Uploads are complete as they are."""
        rows = self.table.all(
            "SELECT id, worker FROM jobs LEFT JOIN claims ON claims.study = id "
            "WHERE state = ? AND next_try <= ? ORDER BY starts, created, jobs.rowid",
            JobState.WAITING,
            self._clock(),
        )
        return self.claims.free(rows)

    def take(self, name: str) -> Job | None:
        """Take a job that is due; None where it is not, or another process has it. `release` gives it back."""
        with self.table.transaction() as table:
            row = table.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND state = ? AND next_try <= ?",
                (name, JobState.WAITING, self._clock()),
            ).fetchone()
            if row is None or not self.claims.take(table, name):
                return None
            table.execute("UPDATE jobs SET starts = starts + 1 WHERE id = ?", (name,))
        # Where somebody removed them the answer fails, and the job with it: it must not come up again and again.
        return Job(name, 1, tuple(sorted((self._inputs / name).glob("*"))), ())

    def answered(self, job: Job, objects: Sequence[tuple[str, Path]]) -> bool:
        """Keep an answer and remove what it was made from; False where the job was removed meanwhile."""
        folder = self._results / job.study
        with self.table.transaction() as table:
            if not table.execute("SELECT 1 FROM jobs WHERE id = ?", (job.study,)).fetchone():
                return False
            shutil.rmtree(folder, ignore_errors=True)
            make_folder(folder)
            for name, path in objects:
                sync(path)
                path.replace(folder / name)
            sync(folder)
            self._close(table, job.study, JobState.DONE)
        shutil.rmtree(self._inputs / job.study, ignore_errors=True)
        return True

    def failed(
        self, job: Job, reason: Reason, detail: str, *, pause: Callable[[int], float], for_good: bool = False
    ) -> int:
        """Note that a job could not be answered; returns how often. What was uploaded goes after the last attempt."""
        with self.table.transaction() as table:
            table.execute(
                "UPDATE jobs SET failures = failures + 1, reason = ?, detail = ? WHERE id = ?",
                (reason.value, detail, job.study),
            )
            row = table.execute("SELECT failures FROM jobs WHERE id = ?", (job.study,)).fetchone()
            failures = int(row[0]) if row else 1
            last = for_good or failures >= self.limits.attempts
            if last:
                self._close(table, job.study, JobState.FAILED)
            else:
                table.execute("UPDATE jobs SET next_try = ? WHERE id = ?", (self._clock() + pause(failures), job.study))
        if last:
            shutil.rmtree(self._inputs / job.study, ignore_errors=True)
        return failures

    def _close(self, table: sqlite3.Connection, name: str, state: JobState) -> None:
        table.execute("UPDATE jobs SET state = ?, done_at = ? WHERE id = ?", (state, self._clock(), name))

    # What is known.

    def status(self, name: str, owner: str) -> JobStatus:
        """Where a job stands.

        Args:
            name: Its id.
            owner: Who asks; jobs of others are as if they were not there.

        Raises:
            KeyError: There is no such job of this owner, or its time is over.
        """
        row = self.table.one(
            "SELECT state, files, reason, detail, done_at, jobs.rowid, worker FROM jobs "
            "LEFT JOIN claims ON study = id WHERE id = ? AND owner = ?",
            name,
            owner,
        )
        if row is None:
            raise KeyError(name)
        state, files, reason, detail, done_at, number, worker = row
        working = state == JobState.WAITING and worker is not None
        before = 0
        if state == JobState.WAITING and not working:
            earlier = "SELECT count(*) FROM jobs WHERE state = ? AND rowid < ?"
            before = self.table.all(earlier, JobState.WAITING, number)[0][0]
        return JobStatus(
            id=name,
            state=JobState.WORKING if working else JobState(state),
            files=files,
            before=before,
            reason=reason if state == JobState.FAILED else None,
            detail=detail if state == JobState.FAILED else None,
            expires_at=None if done_at is None else done_at + self._keep,
        )

    def progress(self, name: str) -> dict[str, int]:
        """Steps done and of all, as far as the worker of a job has said; empty where it has not."""
        claim = self.table.one("SELECT worker FROM claims WHERE study = ?", name)
        try:
            with (self.work / (claim or ("",))[0] / name / PROGRESS).open("rb") as file:
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
        with self.table.transaction() as table:
            table.execute("DELETE FROM jobs WHERE id = ?", (name,))
        for part in (self._inputs, self._results):
            shutil.rmtree(part / name, ignore_errors=True)

    def remove_old(self) -> int:
        """Remove the jobs whose time is over; returns how many."""
        rows = self.table.all("SELECT id FROM jobs WHERE done_at <= ?", self._clock() - self._keep)
        for (name,) in rows:
            self.remove(name)
        return len(rows)

    # How.

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
        for left in self._incoming.iterdir():
            shutil.rmtree(left)
        with self.table.transaction() as table:
            self.claims.forget_the_dead(table)
        states = dict(self.table.all("SELECT id, state FROM jobs"))
        for left in self._inputs.iterdir():
            if states.get(left.name) != JobState.WAITING:
                shutil.rmtree(left, ignore_errors=True)
        for left in self._results.iterdir():
            if states.get(left.name) != JobState.DONE:
                shutil.rmtree(left, ignore_errors=True)
        self.remove_old()
