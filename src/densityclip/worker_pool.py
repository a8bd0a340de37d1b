"""Worker processes that do not outlive their parent, and how many of them have a core to themselves."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext


def worker_pool(workers: int, *, imports: Sequence[str] = ()) -> ProcessPoolExecutor:
    """A pool of processes that know nothing of this one, and end by themselves when it is killed outright.

    Args:
        workers: Processes.
        imports: As of `start_early`, for those who did not call it.
    """
    start_early(imports)
    return ProcessPoolExecutor(workers, worker_context(), initializer=end_with_parent)


def cores() -> int:
    """CPU cores that this process may use, which a batch system or a container may have cut."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_early(imports: Sequence[str]) -> None:
    """Begin to start workers in the background, and return at once; a second call does nothing.

    A server process imports what workers need, once, and each worker is a fork of it: importing pydicom takes 0.8 s of
    each process's time, and the program has other things to do meanwhile.

    Args:
        imports: Modules by name. Those whose threads a fork would miss (polars) must not be among what they import.
    """
    if worker_context().get_start_method() == "forkserver":
        forkserver.set_forkserver_preload(list(imports))
        forkserver.ensure_running()


def worker_context() -> ForkServerContext | SpawnContext:
    """How worker processes are started."""
    # Not a fork of this process, which may hold locks and has threads.
    return get_context("forkserver") if "forkserver" in get_all_start_methods() else get_context("spawn")


def end_with_parent() -> None:
    """End this process when its parent has ended, however that came about."""

    # A command that is killed outright cannot tell its workers: they would wait for it for ever, 120 MB each.
    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
