"""A pool of worker processes that do not outlive their parent."""

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of freshly started processes, which end by themselves when this one is killed outright.

    Args:
        workers: Processes.
    """
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    # A command that is killed outright cannot tell its workers: they would wait for it for ever, 120 MB each.
    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
