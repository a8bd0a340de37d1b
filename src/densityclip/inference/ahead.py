"""Working out the next items while the present ones are used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(work: Callable[[Item], Result], items: Iterable[Item], *, most: int) -> Iterator[Result]:
    """What `work` makes of each item, in their order, worked out in a thread while the caller uses earlier ones.

    One thread alone: pydicom's warnings, which may quote a patient, are muted for the whole process, and two threads
    would switch them on in each other's work.

    Args:
        work: Called in the thread; what it raises is raised where its result would have come.
        items: Taken as they are needed.
        most: Results that may wait.

    Yields:
        One result an item. A caller that stops early waits for the item in hand and for no other.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
