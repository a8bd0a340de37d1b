"""A model's answers for what a person points at: files, a folder or a zip archive of them, a cache."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import polars as pl

from densityclip.artifacts import hash_file, hash_table
from densityclip.errors import UserError
from densityclip.probability.joining import members_of
from densityclip.reasons import Reason
from densityclip.records import Status
from densityclip.steps.archive import read_splits
from densityclip.steps.models import cached_images, with_parts, write_predictions
from densityclip.steps.objects import write_objects
from densityclip.steps.overlays import Overlays
from densityclip.steps.progress import Report
from densityclip.steps.sources import found_images, is_cache

if TYPE_CHECKING:
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import Bundle

Item = TypeVar("Item")


def predict(
    source: Path,
    bundle: "Bundle",
    out: Path,
    *,
    splits: Path | None = None,
    overlay: bool = False,
    report: bool = False,
    workers: int = 1,
    progress: Report = None,
    announce: Callable[[str], None] | None = None,
) -> pl.DataFrame:
    """Predict DICOM and image files, a folder or a zip archive of them, or a cache.

    Writes `predictions.parquet`, `predictions.csv`, a JSON per exam; on request structured reports, and overlays as
    pictures and as secondary captures. Each file is decoded once for its answer and its map, and once more where it is
    drawn.

    Args:
        source: What to predict.
        bundle: The model.
        out: Where to write.
        splits: Split file that says which part each patient belongs to; without it, no row has a part.
        overlay: Whether to draw where the model looked.
        report: Whether to write structured reports.
        workers: Processes that read headers.
        progress: Told (done, total) images.
        announce: Told in a sentence what was held back and written besides predictions, and what could not be.

    Returns:
        Schema `predictions`.

    Raises:
        UserError: There is nothing to read, the cache has another recipe, or the model has no tower that a map can be
            read from.
    """
    from densityclip.inference.guard import hold_back_disagreeing
    from densityclip.inference.predictor import Predictor, all_levels, refused_images
    from densityclip.inference.zip_source import unpacked

    with unpacked(source) as folder:
        if is_cache(folder) and splits is None:
            refuse_training_cache(folder, bundle)
        predictor = Predictor(bundle)
        overlays = Overlays(predictor, out / "overlays") if overlay else None
        found, excluded = found_images(folder, bundle.recipe, workers)
        # An exam's images one after the other: what is said of it then is the same whatever lies beside it.
        found = found.sort("exam_id", "path", nulls_last=True)
        if is_cache(folder):
            images = _of_cache(folder, found, predictor, overlays, progress)
        else:
            images = pl.concat([_of_files(found, predictor, overlays, progress), refused_images(excluded)])
        if splits is not None:
            images = with_parts(images, read_splits(splits), fold=bundle.provenance["training"]["config"]["fold"])
        joining = predictor.calibration.joining
        table = hold_back_disagreeing(all_levels(images, joining))
        write_predictions(
            table,
            out,
            config={"model": bundle.model_hash},
            inputs={"index": hash_table(found)},
            joinings=dict.fromkeys(members_of(table), joining),
        )
        written = write_objects(table, found, bundle, out, report=report, overlays=overlays)
    if announce is not None:
        for sentence in (*_of_guard(images, bundle), *written.sentences()):
            announce(sentence)
    return table


def refuse_training_cache(cache: Path, bundle: "Bundle") -> None:
    """Stop where a cache that a model was trained on is given without the parts of its patients.

    Raises:
        UserError: It was.
    """
    if hash_file(cache / "rows.parquet") in bundle.provenance["training"]["caches"]:
        raise UserError(
            f"the model was trained on patients of {cache}, and without their parts they would be scored like others",
            "name the split file of the training with --splits",
        )


def _of_files(found: pl.DataFrame, predictor: "Predictor", overlays: Overlays | None, progress: Report) -> pl.DataFrame:
    """Image-level predictions of files; their maps are gathered on the way."""
    from densityclip.inference.predictor import ImageRows

    rows = ImageRows(predictor.calibration)
    passing = rows.passing(_counted(predictor.predict_files(found), len(found), progress))
    if overlays is None:
        for _ in passing:
            pass
    else:
        overlays.gather(passing)
    return rows.table()


def _of_cache(
    cache: Path, found: pl.DataFrame, predictor: "Predictor", overlays: Overlays | None, progress: Report
) -> pl.DataFrame:
    """Image-level predictions of a cache; maps are read from the files that it was made of."""
    images = cached_images(cache, predictor, progress, guarded=True)
    if overlays is not None:
        answered = images.filter(pl.col("status") == Status.OK.value)["image_id"]
        overlays.gather(predictor.predict_files(found.filter(pl.col("image_id").is_in(answered.implode()))))
    return images


def _counted(items: Iterable[Item], total: int, progress: Report) -> Iterator[Item]:
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, total)


def _of_guard(images: pl.DataFrame, bundle: "Bundle") -> list[str]:
    """What the guard held back, or that the model has none and why."""
    if bundle.guarded:
        held = images.filter(pl.col("reason") == Reason.UNLIKE_TRAINING.value).height
        return [f"{held} image{'s' * (held != 1)} held back as unlike the training images."] if held else []
    why = bundle.provenance.get("guard", {}).get("why", "it was trained before guards were fitted")
    return [f"Images unlike the training images are not recognised, as the model has no guard: {why}."]
