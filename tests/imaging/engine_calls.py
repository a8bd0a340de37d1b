"""What the workers of a test carry out: preparation that is slow, hangs, or takes its process with it, by file name."""

import os
import signal
import time
from pathlib import Path

from densityclip.imaging.prepare import Prepared, prepare_file
from densityclip.imaging.recipe import Recipe


def slowly(path: Path, recipe: Recipe) -> list[Prepared]:
    time.sleep(0.03)
    return prepare_file(path, recipe)


def fragile(path: Path, recipe: Recipe) -> list[Prepared]:
    name = path.stem
    if "hangs" in name:
        time.sleep(1000)
    if "crashes" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "once" in name:
        # The second try finds the mark that the first one left.
        mark = path.with_suffix(".mark")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL if "memory" in name else signal.SIGABRT)
    if "defect" in name:
        raise ZeroDivisionError("a message that may quote the file")
    os.write(2, b"noise of a decoder")
    return prepare_file(path, recipe)


def slower(path: Path, recipe: Recipe) -> list[Prepared]:
    time.sleep(0.3)
    return prepare_file(path, recipe)
