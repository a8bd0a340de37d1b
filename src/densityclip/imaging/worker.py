"""What a worker process does: take a path, prepare the file, send back its pixels or the reason for their absence."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densityclip import __version__
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.prepare import Prepared, prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.reasons import Reason, Refused

PLACE: tuple[str, ...] = ("slice_index", *(field.name for field in fields(Geometry)))
# Beyond the limit that the parent keeps: a worker whose parent was killed ends itself.
_ORPHAN_SECONDS = 60

Call = Callable[[Path, Recipe], list[Prepared]]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """All that the cache keeps of one file.

    Attributes:
        pixels: `[slices, height, width]` of the recipe's dtype.
        places: `[slices, 14]` int32, the columns of `PLACE`: the frame, and where its pixels lie on the original.
    """

    pixels: NDArray[Any]
    places: NDArray[np.int32]


Outcome = PreparedImage | Refused


class Timed(NamedTuple):
    """What became of one file, and how long that took.

    Attributes:
        outcome: Its pixels, or why there are none.
        seconds: In the worker.
    """

    outcome: Outcome
    seconds: float


def attempt(path: str, recipe: Recipe, call: Call = prepare_file) -> Timed:
    """Prepare one file; whatever is wrong with it comes back as a refusal."""
    began = time.perf_counter()
    try:
        outcome: Outcome = _packed(call(Path(path), recipe))
    except Refused as refused:
        outcome = refused
    except Exception as error:  # noqa: BLE001 - one file must not end a job of a million, not even by a defect of ours.
        outcome = Refused(Reason.CRASHED, _whereabouts(error))
    return Timed(outcome, time.perf_counter() - began)


def serve(descriptor: int) -> None:
    """Answer (number, path) with (number, outcome) until the other end is closed; the life of a worker process.

    Args:
        descriptor: Of the pipe to the parent, which first sends the recipe, the time limit (seconds) and the function
            that prepares.
    """
    if hasattr(signal, "SIGINT"):
        # Ctrl-C goes to the whole group; the parent alone decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        # When memory runs out the kernel shall take a worker, which costs one file, and not the parent.
        Path("/proc/self/oom_score_adj").write_text("500")
    with Connection(descriptor) as parent:
        recipe, timeout, call = parent.recv()
        parent.send(__version__)
        _silence()
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                number, path = parent.recv()
                _alarm(timeout + _ORPHAN_SECONDS)
                answer = attempt(path, recipe, call)
                _alarm(0)
                parent.send((number, answer))


def _packed(slices: list[Prepared]) -> PreparedImage:
    places = [[one.slice_index, *one.geometry.as_row().values()] for one in slices]
    return PreparedImage(np.stack([one.pixels for one in slices]), np.array(places, dtype=np.int32))


def _whereabouts(error: Exception) -> str:
    # The message of an exception may quote the file; its type and its line cannot.
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(innermost.filename).name}, line {innermost.lineno}"


def _silence() -> None:
    # Decoders in C write their complaints straight to the terminal, across the progress bar.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _alarm(seconds: float) -> None:
    # Its default action ends the process from within the kernel, also when a decoder loops and Python gets no turn.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
