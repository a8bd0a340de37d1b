"""Files and tables that outlive a kill and a power cut: what the stores of the listener and the service share."""

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO

from densityclip.deliver.claims import CLAIMS, Claims
from densityclip.deliver.exams import Job
from densityclip.errors import UserError


class DiskFullError(Exception):
    """There is no room; the sender shall try again later."""


class DurableTable:
    """An SQLite file whose commits are synced; for several threads, and for several processes beside each other."""

    def __init__(self, path: Path, tables: str, *, version: int) -> None:
        """Open the file, make it where there is none.

        Args:
            path: The file; readable by its owner only.
            tables: SQL that makes what is not there yet.
            version: Of the tables.

        Raises:
            UserError: The file is of another version.
        """
        self.lock = threading.RLock()
        self._table = open_table(path, tables, version=version)

    def close(self) -> None:
        """Close it."""
        with self.lock:
            self._table.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is done with the connection; no other process writes meanwhile."""
        with self.lock:
            self._table.execute("BEGIN IMMEDIATE")
            try:
                yield self._table
                self._table.execute("COMMIT")
            finally:
                # A commit that finds the disk full leaves the transaction open.
                if self._table.in_transaction:
                    self._table.execute("ROLLBACK")

    def one(self, query: str, *values: object) -> tuple | None:
        """The first row of a query."""
        with self.lock:
            return self._table.execute(query, values).fetchone()

    def all(self, query: str, *values: object) -> list[tuple]:
        """Every row of a query."""
        with self.lock:
            return self._table.execute(query, values).fetchall()


class DurableFolder:
    """A folder of jobs: files, a durable table of them, and who works on which.

    One process has it to itself as the service: it takes jobs in and throws old ones away. Others may join it to work.

    Attributes:
        folder: Where everything lies.
        table: What is known.
        claims: Who works on what.
    """

    def __init__(
        self, folder: Path, file: str, tables: str, *, version: int, parts: Iterable[Path], joining: bool = False
    ) -> None:
        """Open the folder; as the service, make it where there is none and put right what a killed process left.

        Args:
            folder: Where; two services cannot have the same one open.
            file: Name of the SQLite file in it.
            tables: SQL that makes what is not there yet.
            version: Of the tables.
            parts: The folders in it.
            joining: Whether to work beside the service, whose the folder is.

        Raises:
            UserError: Another service has it open, there is none to join, it is of another version or holds something
                else, or it cannot be written.
        """
        self.folder = folder
        self._only: IO[str] | None = None
        parts = [*parts, self.work]
        if joining and not (folder / file).is_file():
            raise UserError(f"{folder} is no store of a service", "start the service with this --store first")
        if not joining:
            _refuse_foreign(folder, file, {part.name for part in parts})
        try:
            for part in (folder, *parts):
                part.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not joining:
                self._only = take_alone(folder)
            self.table = DurableTable(folder / file, tables + CLAIMS, version=version)
            self.claims = Claims(self.work)
            try:
                if not joining:
                    self._recover()
            except BaseException:
                self.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"the store {folder} cannot be used ({error})",
                "give a folder on a disk of this machine with free space left",
            ) from error

    @property
    def work(self) -> Path:
        """Where workers write, each process into a folder of its own, `claims.folder`."""
        return self.folder / "work"

    def release(self, job: Job) -> None:
        """Give a job back, answered or not; from now on others may take it."""
        # No other thread may take it between the two.
        with self.table.lock:
            self.claims.let_go(job.study)
            with self.table.transaction() as table:
                self.claims.drop(table, job.study)

    def close(self) -> None:
        """Close the table and let another process have the folder."""
        with self.table.lock:
            self.claims.close()
            self.table.close()
            if self._only is not None:
                self._only.close()

    def _recover(self) -> None:
        """Put right what a killed process left."""
        raise NotImplementedError


def _refuse_foreign(folder: Path, file: str, parts: Collection[str]) -> None:
    """Take no folder that holds anything else, such as another service's store: what has no row here is removed.

    Raises:
        UserError: It does.
    """
    if not folder.is_dir() or (folder / file).is_file():
        return
    for path in folder.iterdir():
        # What a start that was killed leaves.
        if path.name != "lock" and not (path.name in parts and path.is_dir() and not any(path.iterdir())):
            raise UserError(
                f"{folder} is no store of this service, and it holds {path.name}",
                "give another --store, or an empty one",
            )


def open_table(path: Path, tables: str, *, version: int) -> sqlite3.Connection:
    """Open an SQLite file, with its tables, whose commits are synced before they return.

    Args:
        path: The file; readable by its owner only.
        tables: SQL that makes what is not there yet.
        version: Of the tables.

    Raises:
        UserError: The file is of another version.
    """
    table = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    table.execute("PRAGMA journal_mode = WAL")
    # With NORMAL, a commit in the write-ahead log may be lost when the power goes.
    table.execute("PRAGMA synchronous = FULL")
    (found,) = table.execute("PRAGMA user_version").fetchone()
    if found not in (0, version):
        table.close()
        raise UserError(f"the store has version {found}, this densityclip writes {version}", "give another --store")
    table.executescript(tables)
    table.execute(f"PRAGMA user_version = {version}")
    path.chmod(0o600)
    return table


def take_alone(folder: Path) -> IO[str]:
    """Lock a folder for this process, until the handle is closed.

    Raises:
        UserError: Another process has it.
    """
    # The lock goes with the process, however it ends.
    handle = (folder / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise UserError(f"another process uses the store {folder}", "stop it, or give another --store") from error
    return handle


def write_synced(path: Path, pieces: Iterable[bytes | memoryview]) -> int:
    """Write a file and sync it; returns its bytes."""
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def rename_synced(source: Path, target: Path) -> None:
    """Rename a file and sync the folder it is in now."""
    source.replace(target)
    sync(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, for its owner only, and sync the one above it."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Sync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: Exception) -> bool:
    """Whether an error means that the disk, or a quota, is full."""
    number = getattr(error, "errno", None)
    return number in (errno.ENOSPC, errno.EDQUOT) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
