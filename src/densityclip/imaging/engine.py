"""Who carries a preparation out: worker processes of this machine, or Ray. Both yield the same, in the same order."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from types import TracebackType
from typing import IO, Any, Protocol, Self

import polars as pl

from densityclip import __version__
from densityclip.errors import UserError
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.worker import Call, PreparedImage, Timed
from densityclip.reasons import Reason, Refused

ENGINES = ("local", "ray")
TIMEOUT = 120.0

_START = "import sys; from densityclip.imaging.worker import serve; serve(int(sys.argv[1]))"
_START_SECONDS = 300.0
# A file that hangs holds up those behind it, which wait here as prepared pixels: 10,000 images of 224 x 224.
_HELD_BYTES = 500_000_000
_AHEAD = 2
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
_SIGALRM = -14
_SIGKILL = -9  # as a status of subprocess; the signal itself has no name on Windows


class Engine(AbstractContextManager["Engine"], Protocol):
    """Prepares files; used in a with block, and nothing is started before it is needed."""

    @property
    def workers(self) -> int:
        """Files that are prepared at the same time."""
        ...

    def run(self, paths: pl.Series) -> Iterator[Timed]:
        """Prepare files.

        Args:
            paths: Strings.

        Yields:
            One outcome per path, in their order, as soon as all before it are there.

        Raises:
            UserError: No worker can be started.
        """
        ...


def open_engine(
    name: str, recipe: Recipe, *, workers: int | None = None, timeout: float = TIMEOUT, ray_address: str | None = None
) -> Engine:
    """The engine of a name.

    Args:
        name: `local` or `ray`.
        recipe: How to prepare.
        workers: Files at the same time; by default 1 here, and every CPU of Ray's cluster.
        timeout: Seconds that one file may take.
        ray_address: Of a running cluster; by default Ray is started on this machine, and stopped in the end.

    Raises:
        UserError: The name is unknown, or Ray is not installed.
    """
    if name == "ray":
        from densityclip.imaging.ray_engine import RayEngine

        return RayEngine(recipe, workers=workers, timeout=timeout, address=ray_address)
    if name != "local":
        raise UserError(f"there is no engine {name!r}", f"use one of {', '.join(ENGINES)}")
    if ray_address is not None:
        raise UserError("the local engine has no use for an address of Ray", "add --engine ray, or leave it out")
    return LocalEngine(recipe, workers=workers or 1, timeout=timeout)


@dataclass(slots=True)
class _Task:
    number: int
    path: str
    deaths: int = 0


class _Worker:
    """A child process and the tasks that it was handed, of which it works on the first."""

    def __init__(self, greeting: tuple[Any, ...], log: IO[bytes]) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            # Not multiprocessing's own spawn: that imports the caller's main script again, which in a script without
            # a guard, or inside a worker of Ray, starts everything a second time.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=_environment(),
            )
        self.tasks: deque[_Task] = deque()
        self.ready = False
        self.since = time.monotonic()
        self._send(greeting)

    def give(self, task: _Task) -> None:
        if not self.tasks:
            self.since = time.monotonic()
        self.tasks.append(task)
        self._send((task.number, task.path))

    def _send(self, message: tuple[Any, ...]) -> None:
        # Of a worker that has just died the closed pipe is heard of next.
        with suppress(OSError):
            self.connection.send(message)

    def end(self) -> int:
        """Let it go, by force where it does not go at once; its exit status, negative for a signal."""
        self.connection.close()
        try:
            return self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class LocalEngine:
    """Worker processes of this machine, watched one by one.

    A file that outlasts the limit is refused and its worker replaced. A worker that dies costs nothing but the file
    that it worked on, and that only when it dies of it again; one that was killed as if for want of memory gets its
    second try with no other file beside it.
    """

    def __init__(
        self, recipe: Recipe, *, workers: int = 1, timeout: float = TIMEOUT, call: Call = prepare_file
    ) -> None:
        """Nothing is started yet.

        Args:
            recipe: How to prepare.
            workers: Processes.
            timeout: Seconds that one file may take.
            call: What prepares a file; a function of a module, which the workers import.
        """
        self._workers = max(1, workers)
        self._timeout = timeout
        self._greeting = (recipe, timeout, call)
        self._pool: list[_Worker] = []
        self._files = ExitStack()
        self._log: IO[bytes] | None = None
        self._watched = 0.0

    def __enter__(self) -> Self:
        self._log = self._files.enter_context(tempfile.TemporaryFile())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._pool:
            if worker.tasks or not worker.ready:
                worker.process.kill()
            # All are told before any is waited for.
            worker.connection.close()
        for worker in self._pool:
            worker.end()
        self._pool.clear()
        self._files.close()

    @property
    def workers(self) -> int:
        """Processes."""
        return self._workers

    def run(self, paths: pl.Series) -> Iterator[Timed]:
        """Prepare files; see `Engine.run`."""
        run = _Run(paths)
        try:
            self._watched = time.monotonic()
            while not run.finished:
                self._hand_out(run)
                self._collect(run)
                yield from run.in_order()
        finally:
            # The answers to tasks of a run that was given up would be taken for those of the next.
            for worker in [worker for worker in self._pool if worker.tasks]:
                worker.process.kill()
                worker.end()
                self._pool.remove(worker)

    def _hand_out(self, run: "_Run") -> None:
        while len(self._pool) < min(self.workers, run.unfinished):
            assert self._log is not None, "an engine is used within a with block"
            self._pool.append(_Worker(self._greeting, self._log))
        ready = [worker for worker in self._pool if worker.ready]
        if run.lonely:
            if ready and not any(worker.tasks for worker in self._pool):
                ready[0].give(run.lonely[0])
            return
        for depth in range(1, _AHEAD + 1):
            for worker in ready:
                if len(worker.tasks) < depth and not any(task.deaths for task in worker.tasks):
                    task = run.next_task(idle=not worker.tasks)
                    if task is not None:
                        worker.give(task)

    def _collect(self, run: "_Run") -> None:
        """Wait until something happens, and take note of it: answers, deaths, limits that are passed."""
        now = time.monotonic()
        nearest = min(self._deadline(worker) for worker in self._pool)
        pause = now - self._watched
        spoken = wait([worker.connection for worker in self._pool], timeout=max(0.0, nearest - now))
        self._watched = time.monotonic()
        pause = max(pause, self._watched - max(now, nearest))
        for worker in list(self._pool):
            if pause > min(5.0, self._timeout / 2):
                # Stopped (Ctrl-Z, a batch job set aside): the workers were, too, and get their time again.
                worker.since = self._watched
            if worker.connection in spoken:
                self._hear(run, worker)
            elif time.monotonic() >= self._deadline(worker):
                self._give_up(run, worker)

    def _deadline(self, worker: _Worker) -> float:
        if not worker.ready:
            return worker.since + _START_SECONDS
        return worker.since + (self._timeout if worker.tasks else 3600)

    def _hear(self, run: "_Run", worker: _Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(run, worker)
            return
        worker.since = time.monotonic()
        if worker.ready:
            number, timed = message
            assert worker.tasks.popleft().number == number, "a worker answered out of turn"
            run.answer(number, timed)
            return
        if message != __version__:
            raise UserError(f"the workers run densityclip {message}, this is {__version__}", "install the same version")
        worker.ready = True

    def _give_up(self, run: "_Run", worker: _Worker) -> None:
        if not worker.ready:
            raise UserError("a worker process did not start in five minutes", "look at what keeps this machine busy")
        if not worker.tasks:
            worker.since = time.monotonic()
            return
        worker.process.kill()
        worker.end()
        self._pool.remove(worker)
        run.answer(worker.tasks.popleft().number, self._outlasted())
        run.take_back(worker.tasks)

    def _outlasted(self) -> Timed:
        return Timed(Refused(Reason.TIMEOUT, f"more than {self._timeout:g} seconds"), self._timeout)

    def _bury(self, run: "_Run", worker: _Worker) -> None:
        status = worker.end()
        self._pool.remove(worker)
        if not worker.ready:
            words = _last_words(self._log) if self._log else ""
            raise UserError(f"a worker process did not start: {words}", "run `densityclip doctor`")
        if not worker.tasks:
            return
        task = worker.tasks.popleft()
        task.deaths += 1
        if status == _SIGALRM:
            # It was its own alarm clock that ended it, while this process looked elsewhere.
            run.answer(task.number, self._outlasted())
        elif task.deaths > 1:
            run.answer(task.number, Timed(Refused(Reason.CRASHED, _cause(status)), 0.0))
        else:
            run.retry(task, alone=status == _SIGKILL)
        run.take_back(worker.tasks)


class _Run:
    """What is to do, under way, and waiting for its turn in one run of an engine."""

    def __init__(self, paths: pl.Series) -> None:
        self.unfinished = len(paths)
        self.lonely: deque[_Task] = deque()
        self._feed = (_Task(number, path) for number, path in enumerate(_strings(paths)))
        self._returned: deque[_Task] = deque()
        self._retries: deque[_Task] = deque()
        self._answers: dict[int, Timed] = {}
        self._held = 0
        self._turn = 0

    @property
    def finished(self) -> bool:
        return not self.unfinished and not self._answers

    def next_task(self, *, idle: bool) -> _Task | None:
        """The next task for a worker; what killed a worker before goes only to one that has nothing else to lose."""
        if idle and self._retries:
            return self._retries.popleft()
        if self._returned:
            return self._returned.popleft()
        return next(self._feed, None) if self._held < _HELD_BYTES else None

    def answer(self, number: int, timed: Timed) -> None:
        if self.lonely and self.lonely[0].number == number:
            self.lonely.popleft()
        self._answers[number] = timed
        self._held += _size(timed)
        self.unfinished -= 1

    def retry(self, task: _Task, *, alone: bool) -> None:
        (self.lonely if alone else self._retries).append(task)

    def take_back(self, tasks: Sequence[_Task]) -> None:
        self._returned.extend(tasks)

    def in_order(self) -> Iterator[Timed]:
        while self._turn in self._answers:
            timed = self._answers.pop(self._turn)
            self._held -= _size(timed)
            self._turn += 1
            yield timed


def _size(timed: Timed) -> int:
    # An outcome costs something without pixels too: a million refusals behind one that hangs are to be bounded.
    return 1000 + (timed.outcome.pixels.nbytes if isinstance(timed.outcome, PreparedImage) else 0)


def _strings(paths: pl.Series) -> Iterable[str]:
    # Slice by slice: a million Python strings at once are 150 MB.
    for start in range(0, len(paths), 10_000):
        yield from paths.slice(start, 10_000).to_list()


def _environment() -> dict[str, str]:
    # Workers import what their parent imports, and each keeps to one core.
    found = [place or os.getcwd() for place in sys.path]
    return os.environ | dict.fromkeys(_THREADS, "1") | {"PYTHONPATH": os.pathsep.join(found)}


def _cause(status: int) -> str:
    if status == _SIGKILL:
        return "its process was killed, twice; most likely it needs more memory than there is"
    if status < 0:
        return f"its process ended by signal {signal.Signals(-status).name}, twice"
    return f"its process ended with status {status}, twice"


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
