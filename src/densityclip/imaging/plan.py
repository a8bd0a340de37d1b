"""What a cache will hold before it is built: a fixed slot for every image and slice, and what that costs."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from densityclip.artifacts import conform, hash_table
from densityclip.dicom.header import read_header
from densityclip.dicom.image_file import IMAGE_EXTENSIONS
from densityclip.errors import UserError
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe, slice_indices
from densityclip.reasons import Refused

_BYTES_A_ROW = 500
_SAMPLE = 6


class Estimate(NamedTuple):
    """What building a cache will take.

    Attributes:
        bytes: On disk.
        seconds: With one worker.
    """

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The slots of a cache, in the order of the index.

    Attributes:
        index: Schema `index`.
        recipe: How the images are prepared.
        paths: One per image.
        starts: First slot of each image.
        slots: Number of slots.
    """

    index: pl.DataFrame
    recipe: Recipe
    paths: Sequence[Path]
    starts: Sequence[int]
    slots: int

    @property
    def index_hash(self) -> str:
        """16 hexadecimal digits of what the index says."""
        return hash_table(self.index)[:16]

    @property
    def bytes(self) -> int:
        """Size of the finished cache on disk."""
        return self.slots * (self.recipe.height * self.recipe.width + _BYTES_A_ROW)


def make_plan(index: pl.DataFrame, recipe: Recipe, root: Path | None = None) -> Plan:
    """Lay out the slots of a cache.

    Args:
        index: Schema `index`.
        recipe: How the images will be prepared.
        root: Where relative paths of the index start; the current folder if None.

    Raises:
        UserError: The index has no rows.
    """
    index = conform(index, "index")
    if not index.height:
        raise UserError("the index has no images", "make one with `densityclip index`")
    paths = [(root or Path()) / path for path in index["path"]]
    starts, slots = [], 0
    for path, frames in zip(paths, index["frames"], strict=True):
        starts.append(slots)
        slots += len(slice_indices(_frames(path, frames), recipe.dbt_slices))
    return Plan(index, recipe, paths, starts, slots)


def estimate(index: pl.DataFrame, recipe: Recipe, root: Path | None = None) -> Estimate:
    """Say how large and how long the preparation of an index will be, from some of its images prepared on the spot.

    Raises:
        UserError: The index has no rows.
    """
    plan = make_plan(index, recipe, root)
    number = len(plan.paths)
    chosen = sorted({place * number // min(_SAMPLE, number) for place in range(min(_SAMPLE, number))})
    began = time.perf_counter()
    for place in chosen:
        try:
            prepare_file(plan.paths[place], recipe)
        except Refused:
            continue
    return Estimate(plan.bytes, (time.perf_counter() - began) / len(chosen) * number)


def check_space(plan: Plan, out: Path) -> None:
    """Check that a cache fits on the disk.

    Raises:
        UserError: It does not; both sizes are named.
    """
    folder = next(place for place in (out, *out.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if plan.bytes > 0.98 * free:
        raise UserError(
            f"the cache needs {plan.bytes / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free",
            "free some space, choose another --out, or prepare smaller images with --size",
        )


def _frames(path: Path, frames: int | None) -> int:
    if frames is not None:
        return max(frames, 1)
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return 1
    try:
        return read_header(path).frames
    except Refused:
        # It will be refused again, with its reason, when it is prepared.
        return 1
