"""The prepared images on disk: built by any number of workers, resumable, read by memory map."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from itertools import islice
from multiprocessing import get_context
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
    write_json,
    write_manifest,
    write_table,
)
from densityclip.errors import UserError
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.plan import Estimate, Plan, check_space, estimate, make_plan
from densityclip.imaging.prepare import Prepared, prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.reasons import Reason, Refused

__all__ = ["Cache", "CacheSummary", "Estimate", "build_cache", "estimate"]

GEOMETRY = tuple(field.name for field in fields(Geometry))
_CHUNK = 8
_COMMIT_EVERY = 64
_MADE_BY = "densityclip prepare"

logger = logging.getLogger(__name__)

Outcome = list[Prepared] | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """What building a cache came to.

    Attributes:
        images: Images of the index that are in the cache.
        rows: Prepared images, slices counted one by one.
        refused: Images that were refused; see `refused.parquet`.
        resumed: Images that an earlier, interrupted run had already done.
    """

    images: int
    rows: int
    refused: int
    resumed: int


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """A finished cache.

    Attributes:
        path: Its folder.
        images: `[n, height, width]` uint8, a read-only memory map.
        rows: One row for each of `images`, in order: `row`, `slice_index` (the frame in the file), the columns of the
            index, and the fields of `Geometry` prefixed `geometry_`.
        recipe: How the images were prepared.
    """

    path: Path
    images: NDArray[np.uint8]
    rows: pl.DataFrame
    recipe: Recipe

    @classmethod
    def open(cls, path: Path) -> "Cache":
        """Open a cache.

        Raises:
            UserError: There is none, it is unfinished, or its files do not belong together.
        """
        if not (path / "manifest.json").is_file():
            unfinished = (path / ".work").is_dir()
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
        if images.shape != (rows.height, recipe.height, recipe.width) or images.dtype != np.uint8:
            raise UserError(f"the files of the cache {path} do not belong together", "delete it and make it again")
        return cls(path, images, rows, recipe)


def build_cache(
    index: pl.DataFrame,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    root: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CacheSummary:
    """Prepare every image of an index into a cache.

    Every image and slice has a fixed slot, so the files are the same for any number of workers. A run that was killed
    goes on where it stopped when started again, and ends with the same files; a finished cache is left as it is.

    Args:
        index: Schema `index`.
        out: Folder of the cache.
        recipe: How to prepare.
        workers: Processes.
        root: Where relative paths of the index start; the current folder if None.
        progress: Called with the number of images done and of all.

    Raises:
        UserError: The disk is too small, the folder holds a cache of another recipe or index, or every image was
            refused.
    """
    plan = make_plan(index, recipe, root)
    identity = {"recipe_hash": recipe.recipe_hash, "index_hash": plan.index_hash}
    finished = _check_same(out, identity)
    if finished is not None:
        return CacheSummary(**finished["counts"])
    work = out / ".work"
    if not (work / "plan.json").is_file():
        check_space(plan, out)
    try:
        done = _start_or_resume(plan, work, identity)
        resumed = len(done)
        _carry_out(plan, work, done, workers, progress)
        return _finish(plan, out, done, identity, resumed)
    except OSError as error:
        raise disk_error(error, out / "images.npy") from error


def _check_same(out: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    manifest, begun = out / "manifest.json", out / ".work" / "plan.json"
    if manifest.is_file():
        found = read_json(manifest, _MADE_BY)
        stated = found["config"]
    elif begun.is_file():
        found, stated = None, read_json(begun, _MADE_BY)
    else:
        return None
    for name, word in (("recipe_hash", "recipe"), ("index_hash", "index")):
        if stated.get(name) != identity[name]:
            raise UserError(
                f"{out} was made with another {word}: {stated.get(name)}, now {identity[name]}",
                f"give another --out, delete {out}, or go back to that {word}",
            )
    return found


def _start_or_resume(plan: Plan, work: Path, identity: dict[str, str]) -> dict[int, dict[str, Any]]:
    shape = (plan.slots, plan.recipe.height, plan.recipe.width)
    if not (work / "plan.json").is_file():
        with atomic_path(work / "images.npy") as temporary:
            # An empty map is a sparse file: the disk is taken up as the slots are filled.
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape).flush()
        (work / "journal.jsonl").unlink(missing_ok=True)
        write_json(work / "plan.json", identity)
    return _read_journal(work / "journal.jsonl")


def _read_journal(journal: Path) -> dict[int, dict[str, Any]]:
    done: dict[int, dict[str, Any]] = {}
    if not journal.is_file():
        return done
    whole = 0
    with journal.open("rb") as handle:
        for line in handle:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
            except ValueError:
                break
            whole += len(line)
            done[entry["image"]] = entry
    # A kill can leave half a line; what comes after must not be glued to it.
    os.truncate(journal, whole)
    return done


def _carry_out(
    plan: Plan,
    work: Path,
    done: dict[int, dict[str, Any]],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    waiting = [image for image in range(len(plan.paths)) if image not in done]
    if not waiting:
        return
    images = np.lib.format.open_memmap(work / "images.npy", mode="r+")
    with (work / "journal.jsonl").open("ab") as journal:
        pending: list[dict[str, Any]] = []
        for image, outcome in _prepare_all(plan, waiting, workers):
            entry = _store(plan, images, image, outcome)
            done[image] = entry
            pending.append(entry)
            if len(pending) >= _COMMIT_EVERY or len(done) == len(plan.paths):
                _commit(images, journal, pending)
                pending.clear()
            if progress is not None:
                progress(len(done), len(plan.paths))


def _commit(images: np.memmap[Any, Any], journal: Any, entries: list[dict[str, Any]]) -> None:
    # Pixels reach the disk before the journal says that they are there.
    images.flush()
    journal.write(b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in entries))
    journal.flush()
    os.fsync(journal.fileno())


def _store(plan: Plan, images: NDArray[np.uint8], image: int, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Refused):
        return {"image": image, "reason": outcome.reason.value, "detail": outcome.detail}
    start = plan.starts[image]
    end = plan.starts[image + 1] if image + 1 < len(plan.starts) else plan.slots
    if len(outcome) != end - start:
        detail = f"the index promises {end - start} slice(s), the file gives {len(outcome)}"
        return {"image": image, "reason": Reason.BAD_HEADER.value, "detail": detail}
    for slot, prepared in enumerate(outcome, start=start):
        images[slot] = prepared.pixels
    return {"image": image, "slices": [[one.slice_index, *one.geometry.as_row().values()] for one in outcome]}


def _prepare_all(plan: Plan, waiting: list[int], workers: int) -> Iterator[tuple[int, Outcome]]:
    if workers <= 1 or len(waiting) <= _CHUNK:
        for image in waiting:
            yield image, _prepare_one(plan.paths[image], plan.recipe)
        return
    chunks = iter([waiting[start : start + _CHUNK] for start in range(0, len(waiting), _CHUNK)])
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running: dict[Future[list[Outcome]], list[int]] = {}

        def submit(chunk: list[int]) -> None:
            running[pool.submit(_prepare_chunk, [plan.paths[image] for image in chunk], plan.recipe)] = chunk

        # A few chunks ahead of the workers, and no more: results are large and this process writes them.
        for chunk in islice(chunks, 3 * workers):
            submit(chunk)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chunk = running.pop(future)
                yield from zip(chunk, _result(future), strict=True)
                following = next(chunks, None)
                if following is not None:
                    submit(following)


def _result(future: Future[list[Outcome]]) -> list[Outcome]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, most likely for want of memory",
            "run the same command again with fewer --workers; finished work is kept",
        ) from error


def _prepare_chunk(paths: list[Path], recipe: Recipe) -> list[Outcome]:
    return [_prepare_one(path, recipe) for path in paths]


def _prepare_one(path: Path, recipe: Recipe) -> Outcome:
    try:
        return prepare_file(path, recipe)
    except Refused as refused:
        return refused


def _finish(
    plan: Plan, out: Path, done: dict[int, dict[str, Any]], identity: dict[str, str], resumed: int
) -> CacheSummary:
    assert len(done) == len(plan.paths), "an image was neither prepared nor refused"
    refused = {image: done[image] for image in sorted(done) if "reason" in done[image]}
    if len(refused) == len(plan.paths):
        reasons = pl.Series([entry["reason"] for entry in refused.values()]).value_counts(sort=True)
        counted = ", ".join(f"{number} {reason}" for reason, number in reasons.iter_rows())
        raise UserError(f"every image was refused ({counted})", f"look at the files; delete {out} to try again")
    rows, slots = _rows(plan, done)
    _place_images(plan, out, slots)
    with atomic_path(out / "rows.parquet") as temporary:
        rows.write_parquet(
            temporary, metadata={"densityclip_kind": "cache-rows", "schema_version": str(SCHEMA_VERSION)}
        )
    lost = plan.index[list(refused)].with_columns(
        pl.Series("reason", [entry["reason"] for entry in refused.values()], dtype=pl.String),
        pl.Series("detail", [_detail(entry) for entry in refused.values()], dtype=pl.String),
    )
    write_table(lost, out / "refused.parquet", "excluded")
    write_json(out / "recipe.json", plan.recipe.to_dict())
    summary = {"images": len(plan.paths) - len(refused), "rows": len(slots), "refused": len(refused)}
    write_manifest(
        out / "manifest.json",
        step="prepare",
        config=identity,
        inputs={"index": plan.index_hash, "recipe": hash_json(plan.recipe.to_dict())},
        counts=summary | {"resumed": resumed},
    )
    _remove_work(out / ".work")
    return CacheSummary(**summary, resumed=resumed)


def _detail(entry: dict[str, Any]) -> str:
    return entry["detail"] or next(reason.sentence for reason in Reason if reason.value == entry["reason"])


def _rows(plan: Plan, done: dict[int, dict[str, Any]]) -> tuple[pl.DataFrame, list[int]]:
    images, slots, values = [], [], []
    for image in sorted(done):
        for position, entry in enumerate(done[image].get("slices", ())):
            images.append(image)
            slots.append(plan.starts[image] + position)
            values.append(entry)
    columns: dict[str, pl.DataType] = {"slice_index": pl.Int32()}
    columns |= {f"geometry_{name}": pl.Boolean() if name == "flipped" else pl.Int32() for name in GEOMETRY}
    measured = pl.DataFrame(values, schema=columns, orient="row")
    table = pl.concat([measured, plan.index[images]], how="horizontal").with_row_index("row")
    geometry = [name for name in columns if name != "slice_index"]
    return table.select(pl.col("row").cast(pl.Int64), "slice_index", *INDEX, *geometry), slots


def _place_images(plan: Plan, out: Path, slots: Iterable[int]) -> None:
    source, target = out / ".work" / "images.npy", out / "images.npy"
    slots = list(slots)
    if not source.is_file():
        # Killed after the images were moved here and before the manifest: they are in place.
        return
    if len(slots) == plan.slots:
        source.replace(target)
        return
    # Slots of refused images are closed up, so that row n of the table is image n.
    filled = np.load(source, mmap_mode="r")
    with atomic_path(target) as temporary:
        shape = (len(slots), plan.recipe.height, plan.recipe.width)
        closed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for row, slot in enumerate(slots):
            closed[row] = filled[slot]
        closed.flush()
    source.unlink()


def _remove_work(work: Path) -> None:
    for name in ("images.npy", "journal.jsonl", "plan.json"):
        (work / name).unlink(missing_ok=True)
    work.rmdir()
