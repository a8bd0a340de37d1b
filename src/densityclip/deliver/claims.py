"""Who works on what, where several processes share one folder of jobs.

A claim is a row of the table. Whether the process that made it still lives is said by a lock that the kernel drops with
the process, however that ends: there is no heartbeat to miss, and no time after which a long exam is taken for lost.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import IO

CLAIMS = "CREATE TABLE IF NOT EXISTS claims (study TEXT PRIMARY KEY, worker TEXT NOT NULL);"
"""One row for each job that a process works on."""

_LOCK = ".lock"


class Claims:
    """The name of this process among those that share a folder, and the claims under it.

    Attributes:
        name: Random.
        folder: Where this process writes what it works on; removed with it.
    """

    def __init__(self, work: Path) -> None:
        """Take a name.

        Args:
            work: Holds, for each process, its lock and its folder.
        """
        self._work = work
        # What this process really works on: a row that could not be removed, on a full disk, binds nobody.
        self._held: set[str] = set()
        self.name, self._lock = _take_name(work)
        self.folder = work / self.name
        self.folder.mkdir(mode=0o700)

    def free(self, jobs: Iterable[tuple[str, str | None]]) -> list[str]:
        """Those of some jobs, each with who claims it, on which no living process works; in their order."""
        living = {None: False, self.name: True}
        found = []
        for job, worker in jobs:
            if worker not in living:
                living[worker] = self._lives(str(worker))
            if not living[worker] or (worker == self.name and job not in self._held):
                found.append(job)
        return found

    def take(self, table: sqlite3.Connection, job: str) -> bool:
        """Claim a job; False where it is being worked on.

        Args:
            table: Within a transaction that no other thread or process shares.
            job: Which.
        """
        row = table.execute("SELECT worker FROM claims WHERE study = ?", (job,)).fetchone()
        if row is not None and not self.free([(job, row[0])]):
            return False
        table.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (job, self.name))
        self._held.add(job)
        return True

    def let_go(self, job: str) -> None:
        """Work on a job no longer, whether or not `drop` succeeds."""
        self._held.discard(job)

    def drop(self, table: sqlite3.Connection, job: str) -> None:
        """Remove the claim on a job."""
        table.execute("DELETE FROM claims WHERE study = ? AND worker = ?", (job, self.name))

    def others(self) -> int:
        """How many other processes work on the folder."""
        names = {path.stem for path in self._work.glob(f"*{_LOCK}")} - {self.name}
        return sum(self._lives(name) for name in names)

    def forget_the_dead(self, table: sqlite3.Connection) -> None:
        """Remove the claims, the folders and the locks of processes that have ended."""
        for (worker,) in table.execute("SELECT DISTINCT worker FROM claims").fetchall():
            if not self._lives(worker):
                table.execute("DELETE FROM claims WHERE worker = ?", (worker,))
        for path in self._work.iterdir():
            if self._lives(path.stem):
                continue
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Give the name back."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_path(self.name).unlink(missing_ok=True)
        self._lock.close()

    def _lives(self, worker: str) -> bool:
        try:
            with self._lock_path(worker).open() as handle:
                # Shared, so that two who ask at once do not take each other for the worker.
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def _lock_path(self, worker: str) -> Path:
        return self._work / f"{worker}{_LOCK}"


def _take_name(work: Path) -> tuple[str, IO[str]]:
    while True:
        name = secrets.token_hex(8)
        path = work / f"{name}{_LOCK}"
        handle = path.open("x")
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Between the two lines above, another may have taken the file for one that a dead process left.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle.fileno())):
            return name, handle
        handle.close()
