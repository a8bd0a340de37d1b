"""The road from pixels to probabilities; every caller uses it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.prepare import Prepared, prepare_file
from densityclip.model.bundle import Bundle
from densityclip.probability.aggregate import average_slices, fill_derived, softmax, to_level
from densityclip.probability.calibrate import Calibration
from densityclip.probability.joining import Joining
from densityclip.reasons import Refused
from densityclip.records import Level, Status

if TYPE_CHECKING:
    from densityclip.model.classifier import DensityClassifier

_FROM_INDEX = (
    *("image_id", "exam_id", "patient_id", "modality", "view", "laterality"),
    *("site", "vendor", "machine", "age", "race"),
)


@dataclass(frozen=True)
class PredictedImage:
    """One image and what the model says of it.

    Attributes:
        row: Its row of the index.
        prepared: What the model saw, one per slice; empty where the image was refused.
        logits: `[slices, 4]`, uncalibrated.
        refused: Why there is no answer, or None.
    """

    row: dict[str, Any]
    prepared: list[Prepared] = field(default_factory=list)
    logits: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    refused: Refused | None = None


class Predictor:
    """A bundle, loaded once, that answers for prepared images, files and caches.

    Attributes:
        bundle: The bundle on disk.
        calibration: What turns its logits into probabilities, and joins these.
        classifier: Its image tower and class embeddings, on `device`.
        device: `cuda` where there is one, else `cpu`.
    """

    def __init__(self, bundle: Bundle, *, device: str | None = None, batch_size: int = 64) -> None:
        import torch

        self.bundle = bundle
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = batch_size
        self.calibration = Calibration.from_dict(bundle.calibration)
        # Nothing is learned here: without it the gradients of maps would keep those of every weight.
        self.classifier: DensityClassifier = bundle.classifier().to(self.device).requires_grad_(False)

    def logits(self, pixels: NDArray[Any], modalities: Sequence[str | None]) -> NDArray[np.float64]:
        """Uncalibrated logits of prepared images.

        Args:
            pixels: `[n, h, w]`, prepared with the bundle's recipe and of its depth.
            modalities: Modality of each.

        Returns:
            `[n, 4]` in the order A, B, C, D.
        """
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                piece = slice(start, start + self.batch_size)
                batch = torch.from_numpy(np.ascontiguousarray(pixels[piece])).to(self.device)
                parts.append(self.classifier(batch, modalities[piece]).double().cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, 4))

    def predict_files(self, index: pl.DataFrame) -> Iterator[PredictedImage]:
        """Prepare and score the files of an index, in its order, a batch at a time; a bad file stops nothing.

        Args:
            index: Table of schema `index`.

        Yields:
            One image after the other; memory does not grow with their number.
        """
        waiting: list[PredictedImage] = []
        for row in index.iter_rows(named=True):
            try:
                waiting.append(PredictedImage(row, prepare_file(Path(row["path"]), self.bundle.recipe)))
            except Refused as refused:
                waiting.append(PredictedImage(row, refused=refused))
            if sum(len(image.prepared) for image in waiting) >= self.batch_size:
                yield from self._score(waiting)
                waiting = []
        yield from self._score(waiting)

    def _score(self, images: list[PredictedImage]) -> Iterator[PredictedImage]:
        pixels = [prepared.pixels for image in images for prepared in image.prepared]
        names = [image.row["modality"] for image in images for _ in image.prepared]
        logits = self.logits(np.stack(pixels), names) if pixels else np.empty((0, 4))
        done = 0
        for image in images:
            mine = logits[done : done + len(image.prepared)]
            done += len(image.prepared)
            yield PredictedImage(image.row, image.prepared, mine, image.refused)

    def predict_cache(self, cache: Cache, progress: Callable[[int, int], None] | None = None) -> pl.DataFrame:
        """Score every image of a cache.

        Returns:
            Schema `predictions`, level `image`.

        Raises:
            UserError: The cache was prepared with another recipe than the bundle's.
        """
        recipe = self.bundle.recipe
        if cache.recipe != recipe:
            raise UserError(
                f"the cache has recipe {cache.recipe.recipe_hash}, the model was trained with {recipe.recipe_hash}",
                "prepare the images again with the recipe.json of the bundle",
            )
        rows, parts = cache.rows, []
        names = rows["modality"].to_list()
        places = rows["row"].to_numpy()
        for start in range(0, len(rows), self.batch_size):
            piece = slice(start, start + self.batch_size)
            parts.append(self.logits(cache.images[places[piece]], names[piece]))
            if progress is not None:
                progress(min(start + self.batch_size, len(rows)), len(rows))
        return images_from_slices(rows, np.concatenate(parts), self.calibration)


def images_from_slices(rows: pl.DataFrame, logits: NDArray[np.float64], calibration: Calibration) -> pl.DataFrame:
    """Slice rows with their logits to image-level predictions.

    Args:
        rows: Columns of the index, and `slice_index`.
        logits: `[rows, 4]`.
        calibration: Applied to the images, after their slices were joined: that is where it was fitted.

    Returns:
        Schema `predictions`, level `image`.
    """
    probabilities = softmax(logits)
    table = rows.select(
        pl.lit(Level.SLICE.value).alias("level"),
        "slice_index",
        *_FROM_INDEX,
        pl.col("density").alias("label"),
        pl.lit(Status.OK.value).alias("status"),
    ).with_columns(
        *(pl.Series(name, logits[:, k]) for k, name in enumerate(LOGITS)),
        *(pl.Series(name, probabilities[:, k]) for k, name in enumerate(PROBABILITIES)),
    )
    images = average_slices(conform(table, "predictions"))
    calibrated = calibration.apply(images.select(LOGITS).to_numpy())
    return fill_derived(images.with_columns(pl.Series(name, calibrated[:, k]) for k, name in enumerate(PROBABILITIES)))


def image_table(images: Iterable[PredictedImage], calibration: Calibration) -> pl.DataFrame:
    """Image-level predictions of a stream, refused images included.

    Args:
        images: Of `Predictor.predict_files`.
        calibration: Of the same predictor.

    Returns:
        Schema `predictions`, level `image`, in the order of the stream.
    """
    slices, refused, order = [], [], []
    logits = []
    for image in images:
        order.append(image.row["image_id"])
        if image.refused is not None:
            refused.append(refused_row(image.row, image.refused.reason.value))
        for prepared, values in zip(image.prepared, image.logits, strict=True):
            slices.append(image.row | {"slice_index": prepared.slice_index})
            logits.append(values)
    parts = [conform(pl.DataFrame(refused, infer_schema_length=None), "predictions")] if refused else []
    if slices:
        parts.append(images_from_slices(pl.DataFrame(slices, infer_schema_length=None), np.stack(logits), calibration))
    if not parts:
        return conform(pl.DataFrame(), "predictions")
    places = pl.DataFrame({"image_id": order, "_place": range(len(order))})
    return pl.concat(parts).join(places, on="image_id", how="left").sort("_place").drop("_place")


def refused_row(known: dict[str, Any], reason: str) -> dict[str, Any]:
    """A prediction row for an image without an answer."""
    row = {name: known.get(name) for name in _FROM_INDEX}
    return row | {
        "level": Level.IMAGE.value,
        "label": known.get("density"),
        "status": Status.REFUSED.value,
        "reason": reason,
    }


def all_levels(images: pl.DataFrame, joining: Joining) -> pl.DataFrame:
    """Image rows followed by the breasts and exams that they make up.

    Plain image files state no exam, so they stay images.

    Args:
        images: Schema `predictions`, level `image`, of one model.
        joining: Of the same model: `Predictor.calibration.joining`.

    Returns:
        Schema `predictions`.
    """
    return pl.concat([fill_derived(images), to_level(images, "breast", joining), to_level(images, "exam", joining)])
