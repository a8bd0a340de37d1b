"""How workers hear of jobs: huey, in a file of the store, or on a Redis server that several services may share.

The table of the store is the one truth of what is to be done; the queue brings the names of jobs to whoever is free. A
queue takes a task off before it is run, so that a worker that is killed takes its task with it, and a Redis server may
be emptied or restarted. What is due by the table and not in the queue is therefore offered again, by every process that
works on the store: a task that was lost waits for the next look, and one that is there twice finds its job taken.
"""

import contextlib
import importlib.util
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huey import RedisHuey, SqliteHuey
from huey.api import Huey
from huey.registry import Message
from huey.serializer import Serializer

from densityclip.errors import UserError

QUEUE, QUEUE_NAME = "queue.sqlite", "queue.name"
"""The built-in queue, and the name under which a store's jobs stand on a server; they may go while nobody works."""

_TASK = "answer"
_SOCKET_SECONDS = 5
_MOST_OFFERED = 100
_NAME = re.compile("[0-9a-f]{1,64}")


class JobQueue:
    """Names of jobs, each handed to one of those who ask; safe to use from several threads.

    Attributes:
        blocking: Whether `next` itself waits a second for a job.
    """

    def __init__(self, store: Path, url: str | None = None) -> None:
        """Open the queue of a store.

        Args:
            store: The store's folder.
            url: Redis server (`redis://`, `rediss://`, `unix://`); None for a file in the store.

        Raises:
            UserError: The URL is none, or the queue does not answer.
        """
        self._store, self._url = store, url
        with self._answering():
            self._open()
            self._huey.pending_count()

    def offer(self, jobs: Sequence[str]) -> None:
        """Put in what is not there yet, in this order.

        Raises:
            UserError: The queue does not answer.
        """
        if not jobs:
            return
        with self._answering():
            there = {task.args[0] for task in self._huey.pending()}
            for job in islice(jobs, _MOST_OFFERED):
                if job not in there:
                    self._put(job)

    def next(self) -> str | None:
        """Take the next name out; it may be of a job that is done, or of none at all. None where there is none.

        Raises:
            UserError: The queue does not answer.
        """
        # huey's own consumer would run tasks, repeat them and limit their time; all that is the table's and `Worker`'s.
        with self._answering():
            task = self._huey.dequeue()
        return None if task is None else str(task.args[0])

    def close(self) -> None:
        """Close this thread's connections; those of other threads end with them."""
        self._huey.storage.close()
        if self._url:
            self._huey.storage.pool.disconnect()

    def _open(self) -> None:
        self._huey: Huey = _redis(self._url, _name_in(self._store)) if self._url else _sqlite(self._store / QUEUE)
        # A task is known by its name; what it would do is never called.
        self._put = self._huey.task(name=_TASK)(_named)
        self.blocking = bool(self._huey.storage.blocking)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except _down() as error:
            if type(error) is sqlite3.DatabaseError:
                # Damaged while it was open: the next look finds it made anew.
                with contextlib.suppress(*_down()):
                    self._open()
            raise UserError(*self._words(error)) from error

    def _words(self, error: Exception) -> tuple[str, str]:
        if not self._url:
            fact = f"the queue {self._store / QUEUE} cannot be used ({error})"
            return fact, "free space on the disk; if there is, stop all that works on the store and delete the file"
        fact = f"the queue {_shown(self._url)} does not answer ({type(error).__name__})"
        if type(error).__name__ in ("AuthenticationError", "ResponseError"):
            return fact, "look at its address and password"
        return fact, "no job is lost; start the server, or the service without --queue"


class _Names(Serializer):
    """Messages are the names of jobs in JSON: huey's own are pickles, and whoever writes one runs code here."""

    def _serialize(self, data: Message) -> bytes:
        return json.dumps({"id": data.id, "job": data.args[0]}).encode()

    def _deserialize(self, data: bytes | str) -> Message:
        job = ""
        # What is not from here names no job, and is gone once it is taken out.
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            said = json.loads(data if isinstance(data, str) else bytes(data))["job"]
            job = said if _NAME.fullmatch(said) else ""
        return Message(secrets.token_hex(16), f"{__name__}.{_TASK}", args=(job,), kwargs={})


def _named(job: str) -> str:
    return job


def _sqlite(path: Path) -> Huey:
    # Not synced: after a power cut it may be damaged, and the table says what is to be done.
    if path.is_file() and not _is_sound(path):
        for left in path.parent.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)
    path.touch(mode=0o600)
    return SqliteHuey(filename=str(path), fsync=False, strict_fifo=True, results=False, serializer=_Names())


def _is_sound(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_SOCKET_SECONDS)) as table:
            return table.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.OperationalError:
        return True  # another process has it
    except sqlite3.DatabaseError:
        return False


def _redis(url: str, name: str) -> Huey:
    if importlib.util.find_spec("redis") is None:
        raise UserError("--queue needs the package redis", "install it: pip install 'densityclip[serve]'")
    from redis import ConnectionPool

    # A network that is silent must not hold a worker for ever; `next` waits one second at the server.
    settings: dict[str, Any] = {"socket_timeout": _SOCKET_SECONDS, "socket_connect_timeout": _SOCKET_SECONDS}
    try:
        _shown(url)
        pool = ConnectionPool.from_url(url, **settings)
        # What stands behind a question mark is looked at only when a connection is made; none is opened here.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        # Not the text itself: where it cannot be read, nobody knows where its password ends.
        raise UserError(
            "what --queue or DENSITYCLIP_QUEUE says is no address of a Redis server",
            "write redis://host:6379/0; in a password, %-encode what is no letter and no digit",
        ) from error
    return RedisHuey(f"densityclip{name}", connection_pool=pool, results=False, serializer=_Names())


def _shown(url: str) -> str:
    """A server without user and password.

    Raises:
        ValueError: It is no address of a Redis server.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path:
        return f"unix://{parts.path}"
    # A sign in a password that is not encoded ends the host's part before the password ends.
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or "@" in url.partition(parts.netloc)[2]:
        raise ValueError
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"


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
