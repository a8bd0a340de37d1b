"""A worker beside a service, with a slow stand-in for the model; prints `open` when it works.

Arguments: store, seconds that an exam takes.
"""

import sys
import threading
import time
from functools import partial
from pathlib import Path

from listen_samples import stand_in_answer

from densityclip.deliver.listen_service import told_to_end
from densityclip.deliver.shared_work import work_beside


def slow_answer(seconds, files, out, earlier):
    time.sleep(seconds)
    return stand_in_answer(files, out, earlier)


def make_slow(seconds):
    return partial(slow_answer, seconds)


def main() -> None:
    stop = threading.Event()
    with told_to_end(stop.set):
        work_beside(
            Path(sys.argv[1]),
            stop,
            make=partial(make_slow, float(sys.argv[2])),
            began=lambda _: sys.stdout.write("open\n") and sys.stdout.flush(),
        )


if __name__ == "__main__":
    main()
