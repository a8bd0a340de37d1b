"""Several trainings of a study at the same time: each in a process of its own, and on a GPU of its own where it can."""

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue

from densityclip.errors import UserError
from densityclip.records import number_of
from densityclip.study.state import Progress, Report
from densityclip.study.trainings import Trainings
from densityclip.study_file import Member, Study
from densityclip.worker_pool import cores, end_with_parent, worker_context

# Seconds that an idle process may take to end.
_BREATH = 10.0


def check_at_once(study: Study, number: int) -> None:
    """Refuse more trainings at a time than there are cores for, where they train on the CPU.

    Threads that have no core to themselves wait for one another at every sum: two trainings of two threads on two cores
    were slower than one after the other by a factor.

    Raises:
        UserError: There are too few cores.
    """
    from densityclip.training.device import device_of

    configs = [study.train_config(member) for member in study.members()]
    threads = max((config.threads for config in configs if device_of(config).type == "cpu"), default=0)
    if number == 1 or number * threads <= cores():
        return
    most = max(1, cores() // threads)
    ways = [f"use --at-once {most}" if most > 1 else "leave --at-once out"]
    if threads > 1 and cores() >= number:
        ways.append(f"set `training: {{threads: {cores() // number}}}` in the study file, with another --out")
    wanted = f"{number} trainings of {number_of(threads, 'thread')} each want {number * threads} cores"
    raise UserError(f"{wanted}, and there are {cores()}", ", or ".join(ways))


def train_at_once(trainings: Trainings, number: int, progress: Progress) -> None:
    """Train and ask every member of a study, `number` of them at a time.

    What is done already is found done. One that fails leaves the others alone: they are trained to their ends before
    the error is raised. Which of them ran beside which changes no answer. An interrupt ends them all where they are.

    Args:
        trainings: What they share.
        number: Processes.
        progress: Counts those that are done.

    Raises:
        UserError: What those that failed said, or that their process was killed.
        RuntimeError: One failed by a mistake of ours; its traceback.
    """
    tasks, gpus = _tasks(trainings.study), _gpus()
    slots = [_Slot(gpus[place % len(gpus)] if gpus else None) for place in range(min(number, len(tasks)))]
    free: SimpleQueue[_Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)

    def run(task: _Task) -> str | UserError | None:
        slot = free.get()
        try:
            return slot.run(trainings, task)
        finally:
            free.put(slot)

    failed: dict[_Task, str | UserError] = {}
    with progress(f"train and predict, {number} at once") as report, ThreadPoolExecutor(len(slots)) as threads:
        report(0, len(tasks))
        running = {threads.submit(run, task): task for task in tasks}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                said = future.result()
                if said is not None:
                    failed[running[future]] = said
                report(done, len(tasks))
        finally:
            # After an interrupt nobody waits for trainings that take hours; they go on from their last checkpoint.
            for slot in slots:
                slot.end()
    if failed:
        _raise(tasks, failed)


def _raise(tasks: Sequence["_Task"], failed: Mapping["_Task", str | UserError]) -> None:
    for task, said in failed.items():
        if isinstance(said, str):
            raise RuntimeError(f"{task.title} failed by a mistake of this program\n{said}")
    told = [(task.title, error) for task in tasks if isinstance(error := failed.get(task), UserError)]
    # One that its loss stopped names itself.
    facts = [error.fact if error.fact.startswith(title) else f"{title}: {error.fact}" for title, error in told]
    left = len(tasks) - len(failed)
    if left:
        facts.append(f"the other {number_of(left, 'training')} went to the end and will not be repeated")
    raise UserError("; ".join(facts), told[0][1].next_step)


@dataclass(frozen=True)
class _Task:
    """A member, or the first of an arm once more on shuffled labels."""

    member: Member
    shuffled: bool = False

    @property
    def title(self) -> str:
        return self.member.title + (" on shuffled labels" if self.shuffled else "")


def _tasks(study: Study) -> tuple[_Task, ...]:
    shuffled = study.explain.arms if study.explain.shuffled_labels else ()
    again = tuple(_Task(study.members_of(arm)[0], shuffled=True) for arm in shuffled)
    return (*(_Task(member) for member in study.members()), *again)


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


class _Slot:
    """A place for one training: its process, which is kept from one to the next, for torch takes seconds to import."""

    def __init__(self, gpu: str | None) -> None:
        self._gpu, self._lock = gpu, threading.Lock()
        self._ended, self._busy = False, False
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, trainings: Trainings, task: _Task) -> str | UserError | None:
        """Train and ask; returns what went wrong, a mistake of ours as its traceback."""
        pipe = self._start()
        if pipe is None:
            return None
        self._busy = True
        try:
            pipe.send((trainings, task))
            said: str | UserError | None = pipe.recv()
        except (EOFError, OSError):
            self._close()
            return UserError(
                "its process was killed, perhaps for want of memory",
                "the same command goes on where it stopped; where it happens again, lower --at-once",
            )
        finally:
            self._busy = False
        return said

    def _start(self) -> Connection | None:
        """The pipe to the process, which is started where there is none; None where it has ended for good."""
        with self._lock:
            if self._ended:
                return None
            if self._pipe is None:
                context = worker_context()
                self._pipe, theirs = context.Pipe()
                self._process = context.Process(target=_serve, args=(theirs, self._gpu), daemon=True)
                self._process.start()
                theirs.close()
            return self._pipe

    def end(self) -> None:
        """End the process, whatever it is at, and start no other."""
        self._ended = True
        self._close()

    def _close(self) -> None:
        with self._lock:
            if self._process is not None and self._pipe is not None:
                if self._busy:
                    self._process.kill()
                    self._process.join()
                # One that waits ends by itself at the end of its pipe, and tidies up.
                self._pipe.close()
                self._process.join(_BREATH)
                self._process.kill()
            self._process = self._pipe = None


def _serve(pipe: Connection, gpu: str | None) -> None:
    """What the process of a slot does: one training after the other, until its parent ends it."""
    end_with_parent()
    # An interrupt of the terminal goes to all processes; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with contextlib.suppress(EOFError):
        while True:
            trainings, task = pipe.recv()
            try:
                _train_and_predict(trainings, task)
            except UserError as error:
                pipe.send(UserError(error.fact, error.next_step))
            except Exception:  # noqa: BLE001 - whatever it is, the other trainings go on, and the parent raises it
                pipe.send(traceback.format_exc())
            else:
                pipe.send(None)


def _train_and_predict(trainings: Trainings, task: _Task) -> None:
    if task.shuffled:
        trainings.train_on_nothing(task.member.arm, _silent)
        return
    trainings.train(task.member, _silent)
    for cohort in trainings.caches:
        trainings.predict(task.member, cohort, _silent)


@contextlib.contextmanager
def _silent(_: str) -> Iterator[Report]:
    """Of several bars at once nobody can tell which is which."""
    yield lambda done, total: None
