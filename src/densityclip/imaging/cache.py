"""The prepared images on disk: built by any engine, resumable, read at random by memory map."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import (
    INDEX,
    SCHEMA_VERSION,
    atomic_path,
    disk_error,
    hash_json,
    read_json,
    read_table,
    write_json,
    write_manifest,
    write_table,
)
from densityclip.errors import UserError
from densityclip.imaging.engine import TIMEOUT, Engine, LocalEngine
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.plan import Estimate, Plan, check_space, estimate, make_plan
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.unfinished import WORK, Unfinished
from densityclip.imaging.worker import PLACE, Outcome, PreparedImage
from densityclip.reasons import Reason, Refused

__all__ = ["Cache", "CacheSummary", "Estimate", "build_cache", "estimate"]

GEOMETRY = tuple(field.name for field in fields(Geometry))
_COMMIT_SECONDS = 2.0
_COMMIT_IMAGES = 512
# A folder that is no longer mounted: better to stop than to refuse all that is left of an archive.
_MISSING_IN_A_ROW = 200
_MADE_BY = "densityclip prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """What building a cache came to.

    Attributes:
        images: Images of the index that are in the cache.
        rows: Prepared images, slices counted one by one.
        refused: Images that were refused; see `refused.parquet`.
        resumed: Images that an earlier, interrupted run had already done.
        reasons: How many were refused by each reason code, the most frequent first.
    """

    images: int
    rows: int
    refused: int
    resumed: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """A finished cache.

    Attributes:
        path: Its folder.
        images: `[n, height, width]` of the recipe's dtype, a read-only memory map: any row in any order.
        rows: One row for each of `images`, in order: `row`, `slice_index` (the frame in the file), the columns of the
            index, and the fields of `Geometry` prefixed `geometry_`. The slices of a volume are neighbours.
        recipe: How the images were prepared.
    """

    path: Path
    images: NDArray[Any]
    rows: pl.DataFrame
    recipe: Recipe

    @classmethod
    def open(cls, path: Path) -> "Cache":
        """Open a cache.

        Raises:
            UserError: There is none, it is unfinished, or its files do not belong together.
        """
        if not (path / "manifest.json").is_file():
            unfinished = (path / WORK).is_dir()
            raise UserError(
                f"{path} holds {'an unfinished' if unfinished else 'no'} cache",
                f"{'run the same `densityclip prepare` again' if unfinished else f'make it with `{_MADE_BY}`'}",
            )
        recipe = Recipe.from_dict(read_json(path / "recipe.json", _MADE_BY))
        try:
            rows = pl.read_parquet(path / "rows.parquet")
            images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise UserError(f"the cache {path} is damaged", "delete it and make it again") from error
        if images.shape != (rows.height, recipe.height, recipe.width) or images.dtype != recipe.dtype:
            raise UserError(f"the files of the cache {path} do not belong together", "delete it and make it again")
        return cls(path, images, rows, recipe)

    def in_memory(self) -> "Cache":
        """The same cache with its images read into memory, in one sequential pass: no read waits for the disk again.

        `images` is then an ordinary array, which `torch.from_numpy(...).to("cuda")` takes to a GPU in one piece; a
        training keeps it there and gathers its batches on the device.
        """
        return replace(self, images=np.load(self.path / "images.npy", allow_pickle=False))


def build_cache(
    index: pl.DataFrame,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    timeout: float = TIMEOUT,
    engine: Engine | None = None,
    root: Path | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CacheSummary:
    """Prepare every image of an index into a cache.

    The images are written in the order of the index, so the files are the same for any engine and number of workers. A
    run that was killed goes on where it stopped when started again, and ends with the same files; a finished cache is
    left as it is. A file that cannot be prepared, that crashes a worker or that outlasts the limit is refused, and the
    rest goes on.

    Args:
        index: Schema `index`.
        out: Folder of the cache.
        recipe: How to prepare.
        workers: Processes of the local engine.
        timeout: Seconds that the local engine gives to one file.
        engine: Another engine, or one that is kept for several caches; it stays open.
        root: Where relative paths of the index start; the current folder if None.
        announce: Told in a sentence, before anything starts, how large and how long it will be; measured only then.
        progress: Called with the number of images done and of all.

    Raises:
        UserError: The disk is too small, the folder holds a cache of another recipe or index, another run is at work
            on it, the files have gone missing, or every image was refused.
    """
    plan = make_plan(index, recipe, root)
    identity = {"recipe_hash": recipe.recipe_hash, "index_hash": plan.index_hash}
    finished = _check_same(out, identity)
    if finished is not None:
        reasons = _count(read_table(out / "refused.parquet", "excluded")["reason"])
        return CacheSummary(**finished["counts"], reasons=reasons)
    if not (out / WORK).is_dir():
        check_space(plan, out)
    mine: AbstractContextManager[Engine] = (
        LocalEngine(recipe, workers=workers, timeout=timeout) if engine is None else nullcontext(engine)
    )
    try:
        with Unfinished.open(out, recipe, identity) as unfinished, mine as chosen:
            resumed = unfinished.done
            if resumed < plan.index.height:
                check_space(plan, out, done=resumed)
                if announce is not None:
                    announce(estimate(plan, out, chosen, done=resumed).sentence())
                _carry_out(plan, unfinished, chosen, progress)
            return _finish(plan, out, unfinished, identity, resumed)
    except OSError as error:
        raise disk_error(error, out / "images.npy") from error


def _check_same(out: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    manifest = out / "manifest.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file", "give a folder as --out")
    if manifest.is_file():
        found = read_json(manifest, _MADE_BY)
        if not isinstance(found, dict) or found.get("step") != "prepare":
            raise UserError(f"{out} holds something else than a cache", "give another --out")
        stated = found["config"]
    else:
        found, stated = None, Unfinished.stated(out, _MADE_BY)
    if stated is None:
        return None
    for name, word in (("recipe_hash", "recipe"), ("index_hash", "index")):
        if stated.get(name) != identity[name]:
            raise UserError(
                f"{out} was made with another {word}: {stated.get(name)}, now {identity[name]}",
                f"give another --out, delete {out}, or go back to that {word}",
            )
    return found


def _carry_out(plan: Plan, unfinished: Unfinished, engine: Engine, progress: Callable[[int, int], None] | None) -> None:
    total, committed, begun = plan.index.height, unfinished.done, time.monotonic()
    missing = 0
    if progress is not None:
        progress(unfinished.done, total)
    for timed in engine.run(plan.paths.slice(unfinished.done)):
        outcome = _as_promised(timed.outcome, plan.slots[unfinished.done])
        missing = missing + 1 if isinstance(outcome, Refused) and outcome.reason is Reason.MISSING_FILE else 0
        if missing == _MISSING_IN_A_ROW:
            raise UserError(
                f"{missing} files in a row are missing, after {unfinished.done - missing + 1} of {total} images",
                "mount the archive again and run the same command, or index the files that are there",
            )
        unfinished.add(outcome)
        due = unfinished.done - committed >= _COMMIT_IMAGES or time.monotonic() - begun > _COMMIT_SECONDS
        # Files that are missing one after the other are tried again if it comes to a stop.
        if due and not missing:
            unfinished.commit()
            committed, begun = unfinished.done, time.monotonic()
        if progress is not None:
            progress(unfinished.done, total)
    unfinished.commit()


def _as_promised(outcome: Outcome, slots: int) -> Outcome:
    if isinstance(outcome, PreparedImage) and slots and len(outcome.pixels) != slots:
        detail = f"the index promises {slots} slice(s), the file gives {len(outcome.pixels)}"
        return Refused(Reason.BAD_HEADER, detail)
    return outcome


def _finish(plan: Plan, out: Path, unfinished: Unfinished, identity: dict[str, str], resumed: int) -> CacheSummary:
    assert unfinished.done == plan.index.height, "an image was neither prepared nor refused"
    lost = _refused(plan, unfinished)
    reasons = _count(lost["reason"])
    write_table(lost, out / "refused.parquet", "excluded")
    if lost.height == plan.index.height:
        counted = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        listed = f"see {out / 'refused.parquet'}; delete {out} to try again"
        raise UserError(f"every image was refused ({counted})", listed)
    rows = _rows(plan, unfinished)
    unfinished.place_images(out / "images.npy")
    with atomic_path(out / "rows.parquet") as temporary:
        rows.write_parquet(
            temporary, metadata={"densityclip_kind": "cache-rows", "schema_version": str(SCHEMA_VERSION)}
        )
    write_json(out / "recipe.json", plan.recipe.to_dict())
    summary = {"images": plan.index.height - lost.height, "rows": rows.height, "refused": lost.height}
    write_manifest(
        out / "manifest.json",
        step="prepare",
        config=identity,
        inputs={"index": plan.index_hash, "recipe": hash_json(plan.recipe.to_dict())},
        counts=summary | {"resumed": resumed},
    )
    unfinished.remove()
    return CacheSummary(**summary, resumed=resumed, reasons=reasons)


def _refused(plan: Plan, unfinished: Unfinished) -> pl.DataFrame:
    sentences = {reason.value: reason.sentence for reason in Reason}
    refusals = unfinished.refusals()
    return plan.index[list(refusals)].with_columns(
        pl.Series("reason", [reason for reason, _ in refusals.values()], dtype=pl.String),
        pl.Series("detail", [said or sentences[reason] for reason, said in refusals.values()], dtype=pl.String),
    )


def _rows(plan: Plan, unfinished: Unfinished) -> pl.DataFrame:
    records = unfinished.records()
    records = records[records[:, 1] > 0]
    columns = {"slice_index": pl.Int32()} | {f"geometry_{name}": pl.Int32() for name in GEOMETRY}
    assert len(columns) == len(PLACE), "the columns are those of the places"
    measured = pl.DataFrame(records[:, 2:], schema=columns).with_columns(pl.col("geometry_flipped").cast(pl.Boolean))
    table = pl.concat([measured, plan.index[records[:, 0]]], how="horizontal").with_row_index("row")
    geometry = [name for name in columns if name != "slice_index"]
    return table.select(pl.col("row").cast(pl.Int64), "slice_index", *INDEX, *geometry)


def _count(reasons: pl.Series) -> dict[str, int]:
    counts = reasons.value_counts().sort(["count", "reason"], descending=[True, False])
    return dict(counts.iter_rows())
