"""Several trainings of a study at the same time: each in a process of its own, and on a GPU of its own where it can."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from queue import SimpleQueue

from densityclip.errors import UserError
from densityclip.records import number_of
from densityclip.study.state import Progress, Report
from densityclip.study.trainings import Trainings
from densityclip.study_file import Member, Study
from densityclip.worker_pool import worker_pool


def check_at_once(study: Study, number: int) -> None:
    """Refuse more trainings at a time than there are cores for, where they train on the CPU.

    Threads that have no core to themselves wait for one another at every sum: two trainings of two threads on two cores
    were slower than one after the other by a factor.

    Raises:
        UserError: There are too few cores.
    """
    import torch

    cores = os.cpu_count() or 1
    threads = max(study.train_config(member).threads for member in study.members())
    if number > 1 and number * threads > cores and not torch.cuda.is_available():
        most = cores // threads
        fewer = f"use --at-once {most}" if most > 1 else "leave --at-once out"
        raise UserError(
            f"{number} trainings of {threads} threads each want {number * threads} cores, and there are {cores}",
            f"{fewer}, or set `training: {{threads: {max(1, cores // number)}}}` in the study file",
        )


def train_at_once(trainings: Trainings, number: int, progress: Progress) -> None:
    """Train and ask every member of a study, `number` of them at a time.

    What is done already is found done. One that fails leaves the others alone: they are trained to their ends before
    the error is raised. Which of them ran beside which changes no answer.

    Args:
        trainings: What they share.
        number: Processes.
        progress: Counts those that are done.

    Raises:
        UserError: Of the first that failed, or that its process was killed.
    """
    slots: SimpleQueue[_Slot] = SimpleQueue()
    every = [_Slot(place) for place in range(number)]
    for slot in every:
        slots.put(slot)
    tasks = _tasks(trainings.study)

    def run(task: _Task) -> UserError | None:
        slot = slots.get()
        try:
            return slot.run(trainings, task)
        finally:
            slots.put(slot)

    failed: dict[_Task, BaseException] = {}
    with progress(f"train and predict, {number} at once") as report, contextlib.ExitStack() as stack:
        for slot in every:
            stack.callback(slot.close)
        threads = stack.enter_context(ThreadPoolExecutor(number))
        running = {threads.submit(run, task): task for task in tasks}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                error = future.exception() or future.result()
                if error is not None:
                    failed[running[future]] = error
                report(done, len(tasks))
        except BaseException:
            for future in running:
                future.cancel()
            raise
    if failed:
        _raise_first(tasks, failed)


def _raise_first(tasks: Sequence["_Task"], failed: dict["_Task", BaseException]) -> None:
    first = next(task for task in tasks if task in failed)
    error = failed[first]
    if not isinstance(error, UserError):
        raise error
    # One that its loss stopped names itself.
    fact = error.fact if error.fact.startswith(first.title) else f"{first.title}: {error.fact}"
    if len(failed) > 1:
        others = ", ".join(task.title for task in tasks if task in failed and task is not first)
        fact = f"{fact}; failed too: {others}"
    left = len(tasks) - len(failed)
    kept = f"; the other {number_of(left, 'training')} went to the end and will not be repeated" if left else ""
    raise UserError(fact + kept, error.next_step) from error


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


class _Slot:
    """A place for one training: its process, which is kept from one to the next, for torch takes seconds to import."""

    def __init__(self, place: int) -> None:
        self._place = place
        self._pool: ProcessPoolExecutor | None = None

    def run(self, trainings: Trainings, task: _Task) -> UserError | None:
        if self._pool is None:
            self._pool = worker_pool(1)
        try:
            return self._pool.submit(_train_and_predict, trainings, task, self._place).result()
        except BrokenProcessPool:
            self.close()
            return UserError(
                "its process was killed, perhaps for want of memory",
                "the same command goes on where it stopped; where it happens again, lower --at-once",
            )

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _train_and_predict(trainings: Trainings, task: _Task, place: int) -> UserError | None:
    """In the process of a slot; a mistake of the user's comes back as a value, so that the process lives on."""
    _take_gpu(place)
    try:
        if task.shuffled:
            trainings.train_on_nothing(task.member.arm, _silent)
            return None
        trainings.train(task.member, _silent)
        for cohort in trainings.caches:
            trainings.predict(task.member, cohort, _silent)
    except UserError as error:
        return UserError(error.fact, error.next_step)
    return None


def _take_gpu(place: int) -> None:
    """Show this process one GPU of those that it was given; before torch has looked at any."""
    import torch

    if torch.cuda.is_initialized():
        return  # the slot's second training
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if len(names) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]


@contextlib.contextmanager
def _silent(_: str) -> Iterator[Report]:
    """Of several bars at once nobody can tell which is which."""
    yield lambda done, total: None
