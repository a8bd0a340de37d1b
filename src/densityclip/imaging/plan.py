"""What building a cache will take, said before it starts: images, size on the disk, and time from a measured sample."""

import io
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import polars as pl

from densityclip.artifacts import conform, hash_table
from densityclip.errors import UserError
from densityclip.imaging.engine import Engine
from densityclip.imaging.recipe import Recipe, prepared_count
from densityclip.reasons import Refused
from densityclip.records import Modality

# Of a row of rows.parquet: slice and geometry, compressed. While it is built, 64 bytes in the journal.
_PLACE_BYTES = 30
_TABLE_SAMPLE = 5_000
# A volume whose index does not say how many frames it has.
_TYPICAL_FRAMES = 60
_SAMPLES_A_MODALITY = 4
_SAMPLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What building a cache will take.

    Attributes:
        images: Images of the index that are still to do.
        total: Images of the index.
        bytes: On the disk, pixels and rows, of those still to do.
        free: Bytes that are free there.
        seconds: With all workers of the engine; None if no file of the sample could be prepared.
        workers: Files prepared at the same time.
        sampled: Files that the time was measured on.
    """

    images: int
    total: int
    bytes: int
    free: int
    seconds: float | None
    workers: int
    sampled: int

    def sentence(self) -> str:
        """It, in words."""
        size = f"{said_bytes(self.bytes)} on the disk, where {said_bytes(self.free)} are free"
        if self.images < self.total:
            size = f"Going on: {self.images} of {self.total} images are left, {size}"
        else:
            size = f"{self.images} images, {size}"
        by = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        if self.seconds is None:
            return f"{size}. None of {self.sampled} files tried could be prepared, so the time is unknown."
        return f"{size}. About {said_seconds(self.seconds)} with {by}, measured on {self.sampled} of the files."


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The images of a cache, in the order of the index. Columns, never an object per row: an index may have millions.

    Attributes:
        index: Schema `index`.
        recipe: How the images are prepared.
        paths: `path` of the index, absolute.
        slots: Prepared images expected of each image, by the frames that the index states; 0 where it states none.
        index_hash: 16 hexadecimal digits of what the index says.
        bytes: Expected size of the finished cache.
    """

    index: pl.DataFrame
    recipe: Recipe
    paths: pl.Series
    slots: pl.Series
    index_hash: str
    bytes: int


def make_plan(index: pl.DataFrame, recipe: Recipe, root: Path | None = None) -> Plan:
    """Lay out a cache, without a look at any file.

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
    start = os.path.join(os.path.abspath(root or ""), "")
    path = pl.col("path")
    paths = index.select(pl.when(path.str.starts_with("/")).then(path).otherwise(pl.lit(start) + path))["path"]
    counts = {frames: prepared_count(max(frames, 1), recipe) for frames in index["frames"].drop_nulls().unique()}
    slots = index.select(pl.col("frames").replace_strict(counts, default=0, return_dtype=pl.Int64))["frames"]
    size = _pixel_bytes(index, slots, recipe) + _table_bytes(index, slots)
    return Plan(index, recipe, paths, slots, hash_table(index)[:16], size)


def estimate(
    plan: Plan, out: Path, engine: Engine, *, done: int = 0, sample_seconds: float = _SAMPLE_SECONDS
) -> Estimate:
    """Say how large and how long a preparation will be.

    A few images of each modality are prepared on the spot, by all of the engine's workers at once, so that reading,
    decoding and the workers' getting in each other's way are in the figure, and each modality counts by its share.

    Args:
        plan: What is to be prepared.
        out: Folder of the cache.
        engine: Who prepares it.
        done: Images at the start of the index that an earlier run has done.
        sample_seconds: When to stop measuring.
    """
    places = _places(plan.index["modality"].slice(done), done, engine.workers)
    # The first files find the workers still loading their decoders: other files, not counted.
    images = plan.index.height - done
    warm = [done + number * images // engine.workers for number in range(min(engine.workers, images))]
    kinds = {place: kind for kind, chosen in places.items() for place in chosen}
    in_turn = [place for place in chain.from_iterable(zip_longest(*places.values())) if place is not None]
    spent: dict[str, list[float]] = {kind: [] for kind in places}
    began, good = time.monotonic(), 0
    for number, timed in enumerate(engine.run(plan.paths[warm + in_turn]), start=-len(warm)):
        good += not isinstance(timed.outcome, Refused)
        if number >= 0:
            spent[kinds[in_turn[number]]].append(timed.seconds)
        if number >= 0 and time.monotonic() - began > sample_seconds:
            break
    seconds = _extrapolated(plan.index["modality"].slice(done), spent) / engine.workers if good else None
    return Estimate(
        images=images,
        total=plan.index.height,
        bytes=round(plan.bytes * images / plan.index.height),
        free=_free(out)[1],
        seconds=seconds,
        workers=engine.workers,
        sampled=len({*warm, *in_turn[: sum(map(len, spent.values()))]}),
    )


def check_space(plan: Plan, out: Path, *, done: int = 0) -> None:
    """Check that what is still to do of a cache fits on the disk.

    Raises:
        UserError: It does not; both sizes are named.
    """
    folder, free = _free(out)
    needed = plan.bytes * (plan.index.height - done) / plan.index.height
    if needed > 0.98 * free:
        raise UserError(
            f"the cache needs {said_bytes(needed)} and {folder} has {said_bytes(free)} free",
            "free some space, choose another --out, or prepare smaller images with --size",
        )


def said_bytes(number: float) -> str:
    """A size in the unit that a person would choose."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:.{2 if number < 10 * unit else 0}f} {name}"
    return f"{number / 1e3:.0f} kB"


def said_seconds(seconds: float) -> str:
    """A duration in the unit that a person would choose."""
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{max(seconds, 1):.0f} s"


def _pixel_bytes(index: pl.DataFrame, slots: pl.Series, recipe: Recipe) -> int:
    volumes = int(((slots == 0) & (index["modality"] == Modality.DBT.value)).sum())
    others = int((slots == 0).sum()) - volumes
    expected = int(slots.sum()) + others + volumes * prepared_count(_TYPICAL_FRAMES, recipe)
    return expected * recipe.height * recipe.width * recipe.dtype.itemsize


def _table_bytes(index: pl.DataFrame, slots: pl.Series) -> int:
    """Size of the table of rows, from some of its rows written to memory; slices of a volume repeat their strings."""
    part = index.gather_every(max(1, index.height // _TABLE_SAMPLE))
    written = io.BytesIO()
    part.write_parquet(written)
    return round(written.tell() / part.height * index.height) + int(slots.sum()) * _PLACE_BYTES


def _places(modalities: pl.Series, offset: int, workers: int) -> dict[str, list[int]]:
    """Evenly spaced images of each modality, enough of them to keep all workers at work."""
    kinds = modalities.unique().sort().to_list()
    wanted = max(_SAMPLES_A_MODALITY, 2 * workers // len(kinds))
    places = {}
    for kind in kinds:
        found = modalities.eq_missing(kind).arg_true()
        number = min(wanted, len(found))
        places[kind] = [offset + int(found[(2 * k + 1) * len(found) // (2 * number)]) for k in range(number)]
    return places


def _extrapolated(modalities: pl.Series, spent: Mapping[str, Sequence[float]]) -> float:
    """Worker-seconds of all images; a modality that was not reached counts as the mean of the others."""
    means = {kind: sum(times) / len(times) for kind, times in spent.items() if times}
    other = sum(means.values()) / len(means)
    counts = {kind: int(modalities.eq_missing(kind).sum()) for kind in spent}
    return sum(count * means.get(kind, other) for kind, count in counts.items())


def _free(out: Path) -> tuple[Path, int]:
    folder = next(place for place in (out, *out.absolute().parents) if place.is_dir())
    return folder, shutil.disk_usage(folder).free
