"""How workers hear of jobs: huey, in a file of the store, or on a Redis server that several services may share.

The table of the store is the one truth of what is to be done; the queue brings the names of jobs to whoever is free. A
queue takes a task off before it is run, so that a worker that is killed takes its task with it, and a Redis server may
be emptied or restarted. What is due by the table and not in the queue is therefore offered again, by every process that
works on the store: a task that was lost costs a second, and one that is there twice finds its job taken.
"""

import contextlib
import importlib.util
import json
import secrets
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huey import RedisHuey, SqliteHuey
from huey.api import Huey
from huey.registry import Message
from huey.serializer import Serializer

from densityclip.errors import UserError

QUEUE, QUEUE_NAME = "queue.sqlite", "queue.name"
"""The built-in queue, and the name under which a store's jobs stand on a server; both may be deleted at any time."""

_TASK = "answer"
_SECONDS = 5
_MOST_OFFERED = 100


class JobQueue:
    """Names of jobs, handed to one of several workers each; safe to use from several threads.

    Attributes:
        blocking: Whether `work` itself waits a second for a job.
    """

    def __init__(self, store: Path, do: Callable[[str], None], *, url: str | None = None) -> None:
        """Name the queue of a store; `check` sees whether it answers.

        Args:
            store: The store's folder.
            do: Told the name of a job, by `work`. The name may be of a job that is done, or of none at all.
            url: Redis server (`redis://`, `rediss://`, `unix://`); None for a file in the store.

        Raises:
            UserError: The URL is none.
        """
        self._where = without_password(url) if url else str(store / QUEUE)
        self._huey = _redis(url, _name_in(store)) if url else _sqlite(store / QUEUE)

        @self._huey.task(name=_TASK)
        def answer(job: str) -> None:
            do(job)

        self._offer = answer
        self.blocking = bool(self._huey.storage.blocking)

    def check(self) -> None:
        """See that the queue answers.

        Raises:
            UserError: It does not.
        """
        try:
            self._huey.pending_count()
        except _down() as error:
            raise self._no_answer(error) from error

    def offer(self, jobs: Iterable[str]) -> None:
        """Put in what is not there yet, in this order.

        Raises:
            UserError: The queue does not answer.
        """
        try:
            there = {task.args[0] for task in self._huey.pending()}
            for _, job in zip(range(_MOST_OFFERED), jobs, strict=False):
                if job not in there:
                    self._offer(job)
        except _down() as error:
            raise self._no_answer(error) from error

    def work(self) -> bool:
        """Take the next name out and do its job; False where there was none.

        Raises:
            UserError: The queue does not answer.
        """
        try:
            task = self._huey.dequeue()
        except _down() as error:
            raise self._no_answer(error) from error
        if task is None:
            return False
        # Not `huey.execute`: it answers exceptions with a traceback in the log, and retries are the table's.
        task.execute()
        return True

    def _no_answer(self, error: Exception) -> UserError:
        return UserError(
            f"the queue {self._where} does not answer ({type(error).__name__})",
            "jobs are safe; start the server, or a service without --queue",
        )


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


class _Names(Serializer):
    """Messages are the names of jobs in JSON: huey's own are pickles, and whoever writes one runs code here."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps({"id": data.id, "job": data.args[0]}).encode()

    def _deserialize(self, data: bytes) -> Message:
        try:
            said = json.loads(bytes(data))
            name, job = str(said["id"]), str(said["job"])
        except (ValueError, TypeError, KeyError, RecursionError):
            # Not from here: it names no job, and is gone once it is taken out.
            name, job = secrets.token_hex(16), ""
        return Message(name, f"{__name__}.{_TASK}", args=(job,), kwargs={})


def _sqlite(path: Path) -> Huey:
    # Not synced: after a power cut it may be damaged, and the table says what is to be done.
    if path.is_file() and not _is_sound(path):
        for left in path.parent.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)
    return SqliteHuey(filename=str(path), fsync=False, strict_fifo=True, results=False, serializer=_Names())


def _is_sound(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_SECONDS)) as table:
            return table.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.OperationalError:
        return True  # another process has it
    except sqlite3.DatabaseError:
        return False


def _redis(url: str, name: str) -> Huey:
    if importlib.util.find_spec("redis") is None:
        raise UserError("--queue needs the package redis", "install it: pip install 'densityclip[serve]'")
    from redis import ConnectionPool

    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise _no_server(url)
    # A network that is silent must not hold a worker for ever; `work` waits one second at the server.
    settings: dict[str, Any] = {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS}
    try:
        pool = ConnectionPool.from_url(url, **settings)
        # What stands behind a question mark is looked at only when a connection is made; none is opened here.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise _no_server(url) from error
    return RedisHuey(f"densityclip{name}", connection_pool=pool, results=False, serializer=_Names())


def _no_server(url: str) -> UserError:
    return UserError(f"{without_password(url)!r} is no Redis server", "write --queue redis://host:6379/0")


def _down() -> tuple[type[Exception], ...]:
    """What a queue raises that does not answer."""
    found: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
    if importlib.util.find_spec("redis") is not None:
        from redis.exceptions import RedisError

        found = (*found, RedisError)
    return found


def _name_in(store: Path) -> str:
    """A random name for the store, the same for every process that works on it: stores may share a server."""
    path, name = store / QUEUE_NAME, secrets.token_hex(8)
    if not path.is_file():
        mine = store / f"{QUEUE_NAME}.{name}"
        mine.write_text(name, encoding="ascii")
        # A link is there whole, or another process was first.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(mine)
        mine.unlink()
    return path.read_text(encoding="ascii")
