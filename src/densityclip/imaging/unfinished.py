"""A cache on its way: pixels appended in the order of the index, and a journal of what is safely on the disk."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.artifacts import atomic_path, read_json, write_json
from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.worker import PLACE, Outcome
from densityclip.reasons import Refused

WORK = ".work"
_PLAN, _IMAGES, _JOURNAL, _REFUSED, _LOCK = "plan.json", "images.npy", "journal.bin", "refused.jsonl", "lock"
# Number of the image, its slices (0 if it was refused), the place of one slice, and a checksum. 68 bytes: a journal of
# a million images is read in a blink, where one of JSON took seconds and a gigabyte.
_RECORD = 3 + len(PLACE)
_WEIGHTS = np.random.default_rng(0).integers(1, 2**20, _RECORD - 1) | 1


class Unfinished:
    """The working folder of one cache. What `commit` has returned from survives a kill.

    Attributes:
        done: Images of the index that were prepared or refused.
        rows: Prepared images so far.
    """

    def __init__(self, work: Path, recipe: Recipe) -> None:
        self._work = work
        self._shape = (recipe.height, recipe.width)
        self._dtype = recipe.dtype
        self.done, self.rows = self._cut_back()
        self._images = (work / _IMAGES).open("ab") if (work / _IMAGES).is_file() else None
        self._journal = (work / _JOURNAL).open("ab")
        self._refused = (work / _REFUSED).open("ab")
        self._new_records: list[bytes] = []
        self._new_refusals: list[bytes] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path, recipe: Recipe, identity: dict[str, str]) -> "Iterator[Unfinished]":
        """Begin or go on, alone.

        Raises:
            UserError: Another process is at it, or the working folder is damaged.
        """
        work = out / WORK
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work / _LOCK, out):
            if not (work / _PLAN).is_file():
                (work / _IMAGES).write_bytes(npy_header(0, (recipe.height, recipe.width), recipe.dtype))
                for name in (_JOURNAL, _REFUSED):
                    (work / name).write_bytes(b"")
                write_json(work / _PLAN, identity)
            unfinished = cls(work, recipe)
            try:
                yield unfinished
            finally:
                unfinished.close()

    @staticmethod
    def stated(out: Path, made_by: str) -> dict[str, str] | None:
        """What the unfinished cache in a folder was begun with, None if there is none."""
        plan = out / WORK / _PLAN
        return read_json(plan, made_by) if plan.is_file() else None

    def add(self, outcome: Outcome) -> None:
        """Append what became of the next image of the index."""
        if isinstance(outcome, Refused):
            entry = {"image": self.done, "reason": outcome.reason.value, "detail": outcome.detail}
            self._new_refusals.append(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            records = np.zeros((1, _RECORD), dtype="<i4")
        else:
            assert self._images is not None, "a cache whose images are in place has nothing to add"
            pixels = np.ascontiguousarray(outcome.pixels, dtype=self._dtype)
            if pixels.shape[1:] != self._shape:
                raise ValueError(f"a prepared image has shape {pixels.shape[1:]}, the recipe says {self._shape}")
            self._images.write(pixels.data)
            records = np.empty((len(pixels), _RECORD), dtype="<i4")
            records[:, 1], records[:, 2:-1] = len(pixels), outcome.places
            self.rows += len(pixels)
        records[:, 0] = self.done
        records[:, -1] = _checksums(records)
        self._new_records.append(records.tobytes())
        self.done += 1

    def commit(self) -> None:
        """Bring everything added so far to the disk; the pixels before the journal says that they are there."""
        self._refused.write(b"".join(self._new_refusals))
        self._journal.write(b"".join(self._new_records))
        self._new_refusals.clear()
        self._new_records.clear()
        for handle in (self._images, self._refused, self._journal):
            if handle is not None:
                handle.flush()
                os.fsync(handle.fileno())

    def close(self) -> None:
        """Let go of the files. What was added and not committed is done again by the next run."""
        for handle in (self._images, self._refused, self._journal):
            if handle is not None:
                handle.close()

    def records(self) -> NDArray[np.int32]:
        """`[n, 16]` int32: image, slices and the columns of `PLACE`; refused images have one record, slices 0."""
        return np.fromfile(self._work / _JOURNAL, dtype="<i4").reshape(-1, _RECORD)[:, :-1]

    def refusals(self) -> dict[int, tuple[str, str]]:
        """Reason and detail of each refused image, by its number in the index."""
        lines = (self._work / _REFUSED).read_bytes().splitlines()
        return {entry["image"]: (entry["reason"], entry["detail"]) for entry in map(json.loads, lines)}

    def place_images(self, target: Path) -> None:
        """Move the images to where they stay; done already if a run was killed after it."""
        if self._images is None:
            return
        self._images.close()
        with (self._work / _IMAGES).open("r+b") as handle:
            handle.write(npy_header(self.rows, self._shape, self._dtype))
            handle.flush()
            os.fsync(handle.fileno())
        (self._work / _IMAGES).replace(target)
        self._images = None

    def remove(self) -> None:
        """Remove the working folder."""
        self.close()
        for name in (_REFUSED, _JOURNAL, _PLAN, _LOCK):
            (self._work / name).unlink(missing_ok=True)
        self._work.rmdir()

    def _cut_back(self) -> tuple[int, int]:
        """Cut all files back to what belongs together after a kill; returns images and rows done."""
        size = len(npy_header(0, self._shape, self._dtype))
        row = self._shape[0] * self._shape[1] * self._dtype.itemsize
        journal, images = self._work / _JOURNAL, self._work / _IMAGES
        if not (journal.is_file() and (self._work / _REFUSED).is_file()):
            raise self._torn()
        records = np.fromfile(journal, dtype="<i4")
        records = records[: len(records) // _RECORD * _RECORD].reshape(-1, _RECORD)
        whole = _whole_images(records)
        if images.is_file():
            whole = min(whole, _covered(records[:whole], (images.stat().st_size - size) // row))
        records = records[:whole]
        done = int(records[-1, 0]) + 1 if whole else 0
        rows = int((records[:, 1] > 0).sum())
        os.truncate(journal, whole * _RECORD * 4)
        if images.is_file():
            os.truncate(images, size + rows * row)
        self._keep_refusals(done, int((records[:, 1] == 0).sum()))
        return done, rows

    def _torn(self) -> UserError:
        out = self._work.parent
        return UserError(f"the unfinished cache in {out} is damaged", f"delete {out} and make it again")

    def _keep_refusals(self, done: int, expected: int) -> None:
        kept: list[bytes] = []
        for line in (self._work / _REFUSED).read_bytes().splitlines(keepends=True):
            # A kill can leave half a line, and entries of images that the journal does not know.
            if len(kept) == expected:
                break
            kept.append(line)
        try:
            numbers = [json.loads(line)["image"] for line in kept]
        except ValueError as error:
            raise self._torn() from error
        if len(numbers) != expected or any(number >= done for number in numbers):
            raise self._torn()
        with atomic_path(self._work / _REFUSED) as temporary:
            temporary.write_bytes(b"".join(kept))


def npy_header(rows: int, shape: tuple[int, int], dtype: Any) -> bytes:
    """The head of a NumPy file of images; as long for any number of rows, so that it can be written last."""
    header = io.BytesIO()
    content = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(header, content)
    return header.getvalue()


def _whole_images(records: NDArray[np.int32]) -> int:
    """How many records from the start tell of whole images, in order: after a power cut a tail may be zeros."""
    sound = records[:, -1] == _checksums(records)
    records = records[: len(sound) if sound.all() else int(np.argmin(sound))]
    if not len(records):
        return 0
    starts = np.flatnonzero(np.diff(records[:, 0], prepend=-1) != 0)
    lengths = np.diff(starts, append=len(records))
    right = (records[starts, 0] == np.arange(len(starts))) & (lengths == np.maximum(records[starts, 1], 1))
    good = len(starts) if right.all() else int(np.argmin(right))
    return int(lengths[:good].sum())


def _checksums(records: NDArray[np.int32]) -> NDArray[np.int64]:
    # Not 0 for a record of zeros, which is what a file system leaves of a block that it lost.
    return (records[:, :-1] @ _WEIGHTS + 1) & 0x7FFFFFFF


def _covered(records: NDArray[np.int32], rows: int) -> int:
    """How many records, in whole images, have their pixels among the first rows of the images."""
    needed = np.cumsum(records[:, 1] > 0)
    if not len(records) or needed[-1] <= rows:
        return len(records)
    first = int(np.searchsorted(needed, rows, side="right"))
    return int(np.searchsorted(records[:, 0], records[first, 0]))


@contextlib.contextmanager
def _locked(lock: Path, out: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        # Windows: two runs at once are the user's to avoid.
        yield
        return
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is at work on {out}", "wait for it, or give another --out") from error
        except OSError:
            # A file system without locks.
            pass
        yield
