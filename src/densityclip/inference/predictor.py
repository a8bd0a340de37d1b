"""The road from pixels to probabilities; every caller uses it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.prepare import Prepared, prepare_file
from densityclip.inference.ahead import map_ahead
from densityclip.inference.guard import hold_back_unlike, load_guard
from densityclip.model.bundle import Bundle
from densityclip.probability.aggregate import average_slices, fill_derived, softmax, to_level
from densityclip.probability.calibrate import Calibration
from densityclip.probability.joining import Joining
from densityclip.reasons import Refused, reason_of
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
        unlike: Whether the bundle's guard finds it unlike the training images; false where there is no guard.
    """

    row: dict[str, Any]
    prepared: list[Prepared] = field(default_factory=list)
    logits: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    refused: Refused | None = None
    unlike: bool = False


class Predictor:
    """A bundle, loaded once, that answers for prepared images, files and caches.

    Attributes:
        bundle: The bundle on disk.
        calibration: What turns its logits into probabilities, and joins these.
        guard: What tells images that are unlike the training images; None where the bundle has none.
        classifier: Its image tower and class embeddings, on `device`.
        device: `cuda` where there is one, else `cpu`.
    """

    def __init__(self, bundle: Bundle, *, device: str | None = None, batch_size: int = 64) -> None:
        """Load the image tower.

        Args:
            bundle: The model.
            device: torch's name of it; by default `cuda` where there is one, else `cpu`.
            batch_size: Slices at a time of a cache.
        """
        import torch

        self.bundle = bundle
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = batch_size
        self.calibration = Calibration.from_dict(bundle.calibration)
        self.guard = load_guard(bundle)
        # Nothing is learned here: without it the gradients of maps would keep those of every weight.
        self.classifier: DensityClassifier = bundle.classifier().to(self.device).requires_grad_(False)

    def answers(
        self, pixels: NDArray[Any], modalities: Sequence[str | None]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Uncalibrated logits of prepared images, and the features that they come from.

        Args:
            pixels: `[n, h, w]`, prepared with the bundle's recipe and of its depth.
            modalities: Modality of each.

        Returns:
            `[n, 4]` in the order A, B, C, D, and unit rows `[n, d]`.
        """
        import torch

        logits, features = [np.empty((0, 4))], [np.empty((0, self.classifier.prompts.shape[-1]))]
        with torch.inference_mode():
            for start in range(0, len(pixels), self.batch_size):
                piece = slice(start, start + self.batch_size)
                batch = torch.from_numpy(np.ascontiguousarray(pixels[piece])).to(self.device)
                found = self.classifier.features(batch)
                logits.append(self.classifier.compared(found, modalities[piece]).double().cpu().numpy())
                features.append(found.double().cpu().numpy())
        return np.concatenate(logits), np.concatenate(features)

    def unlike(self, features: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images the guard finds unlike the training images; none where there is no guard.

        Args:
            features: `[slices, d]`; an image's feature is the mean of its slices', as where the guard was fitted.
            images: `[slices]`, the number of the image that each slice belongs to, from 0 without gaps.

        Returns:
            `[images]`.
        """
        counts = np.bincount(images)
        if self.guard is None or not len(counts):
            return np.zeros(len(counts), dtype=bool)
        sums = np.zeros((len(counts), features.shape[1]))
        np.add.at(sums, images, features)
        return self.guard.is_unlike(sums / counts[:, None])

    def predict_files(self, index: pl.DataFrame) -> Iterator[PredictedImage]:
        """Prepare and score the files of an index, in its order; a bad file stops nothing.

        The next files are decoded while the present ones go through the tower. A batch holds images of one exam: its
        answers are the same to the last bit whatever is predicted beside it, where its images follow one another.

        Args:
            index: Table of schema `index`.

        Yields:
            One image after the other; memory does not grow with their number.
        """
        # A small batch costs a CPU nothing, and the tower begins while most of an exam is still to be decoded.
        most = 4 if self.device == "cpu" else self.batch_size
        images = map_ahead(self._prepared, index.iter_rows(named=True), most=4 * most)
        for batch in in_batches(images, most):
            yield from self._score(batch)

    def _prepared(self, row: dict[str, Any]) -> PredictedImage:
        try:
            return PredictedImage(row, prepare_file(Path(row["path"]), self.bundle.recipe))
        except Refused as refused:
            return PredictedImage(row, refused=refused)

    def _score(self, images: list[PredictedImage]) -> Iterator[PredictedImage]:
        pixels = [prepared.pixels for image in images for prepared in image.prepared]
        names = [image.row["modality"] for image in images for _ in image.prepared]
        if not pixels:
            yield from images
            return
        logits, features = self.answers(np.stack(pixels), names)
        answered = np.array([bool(image.prepared) for image in images])
        places = np.repeat(np.cumsum(answered) - 1, [len(image.prepared) for image in images])
        unlike = iter(self.unlike(features, places))
        done = 0
        for image in images:
            if image.prepared:
                mine = logits[done : done + len(image.prepared)]
                done += len(image.prepared)
                image = replace(image, logits=mine, unlike=bool(next(unlike)))
            yield image

    def predict_cache(
        self, cache: Cache, progress: Callable[[int, int], None] | None = None, *, guarded: bool = False
    ) -> pl.DataFrame:
        """Score every image of a cache.

        Args:
            cache: Prepared images.
            progress: Called with slices done and slices in all.
            guarded: Whether images that are unlike the training images are held back; a study scores all.

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
        rows, logits, features = cache.rows, [], []
        names = rows["modality"].to_list()
        places = rows["row"].to_numpy()
        for start in range(0, len(rows), self.batch_size):
            piece = slice(start, start + self.batch_size)
            some = self.answers(cache.images[places[piece]], names[piece])
            logits.append(some[0])
            features.append(some[1])
            if progress is not None:
                progress(min(start + self.batch_size, len(rows)), len(rows))
        images = images_from_slices(rows, np.concatenate(logits), self.calibration)
        if not guarded:
            return images
        ids, numbers = np.unique(rows["image_id"].to_numpy().astype(str), return_inverse=True)
        unlike = dict(zip(ids.tolist(), self.unlike(np.concatenate(features), numbers).tolist(), strict=True))
        return hold_back_unlike(images, [unlike[name] for name in images["image_id"]])


def in_batches(images: Iterable[PredictedImage], most: int) -> Iterator[list[PredictedImage]]:
    """Images of one exam that follow one another, together until they have so many slices; a refused one counts too."""
    waiting: list[PredictedImage] = []
    slices = 0
    for image in images:
        if waiting and (slices >= most or waiting[-1].row.get("exam_id") != image.row.get("exam_id")):
            yield waiting
            waiting, slices = [], 0
        waiting.append(image)
        slices += max(1, len(image.prepared))
    if waiting:
        yield waiting


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


class ImageRows:
    """Image-level predictions of a stream, gathered while it passes on to others: no pixels are kept."""

    def __init__(self, calibration: Calibration) -> None:
        """Nothing has passed yet.

        Args:
            calibration: Of the predictor that the stream comes from.
        """
        self._calibration = calibration
        self._order: list[str] = []
        self._unlike: set[str] = set()
        self._refused: list[dict[str, Any]] = []
        self._slices: list[dict[str, Any]] = []
        self._logits: list[NDArray[np.float64]] = []

    def passing(self, images: Iterable[PredictedImage]) -> Iterator[PredictedImage]:
        """The same images, each noted before it goes on."""
        for image in images:
            self._note(image)
            yield image

    def _note(self, image: PredictedImage) -> None:
        self._order.append(image.row["image_id"])
        if image.unlike:
            self._unlike.add(image.row["image_id"])
        if image.refused is not None:
            self._refused.append(refused_row(image.row, image.refused.reason.value, image.refused.detail))
        for prepared, values in zip(image.prepared, image.logits, strict=True):
            self._slices.append(image.row | {"slice_index": prepared.slice_index})
            self._logits.append(values)

    def table(self) -> pl.DataFrame:
        """Schema `predictions`, level `image`, in the order of the stream: answered, refused and held back."""
        parts = []
        if self._refused:
            parts.append(conform(pl.DataFrame(self._refused, infer_schema_length=None), "predictions"))
        if self._slices:
            slices = pl.DataFrame(self._slices, infer_schema_length=None)
            scored = images_from_slices(slices, np.stack(self._logits), self._calibration)
            parts.append(hold_back_unlike(scored, [name in self._unlike for name in scored["image_id"]]))
        if not parts:
            return conform(pl.DataFrame(), "predictions")
        places = pl.DataFrame({"image_id": self._order, "_place": range(len(self._order))})
        return pl.concat(parts).join(places, on="image_id", how="left").sort("_place").drop("_place")


def image_table(images: Iterable[PredictedImage], calibration: Calibration) -> pl.DataFrame:
    """Image-level predictions of a stream; see `ImageRows`."""
    rows = ImageRows(calibration)
    for _ in rows.passing(images):
        pass
    return rows.table()


def refused_row(known: dict[str, Any], reason: str, detail: str | None = None) -> dict[str, Any]:
    """A prediction row for an image without an answer.

    Args:
        known: Its row of the index, or of the images that were left out of it.
        reason: The stable code.
        detail: The fact about this image; one that repeats the reason's sentence says nothing more, and is left out.
    """
    row = {name: known.get(name) for name in _FROM_INDEX}
    return row | {
        "level": Level.IMAGE.value,
        "label": known.get("density"),
        "status": Status.REFUSED.value,
        "reason": reason,
        "detail": detail if detail and detail != reason_of(reason).sentence else None,
    }


def refused_images(excluded: pl.DataFrame) -> pl.DataFrame:
    """Image-level prediction rows of images that were refused before any model saw them."""
    rows = [refused_row(row, row["reason"], row["detail"]) for row in excluded.iter_rows(named=True)]
    return conform(pl.DataFrame(rows, infer_schema_length=None), "predictions")


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
