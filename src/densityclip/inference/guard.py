"""Is this input like what the model knows, and do its views agree? If not, abstain, with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from densityclip.artifacts import PROBABILITIES
from densityclip.errors import UserError
from densityclip.model.bundle import GUARD, Bundle
from densityclip.reasons import Reason
from densityclip.records import Level, Status

# Two images of one breast that are more than this far apart in expected category (A 0 to D 3) cannot both be right: a
# breast does not differ by two categories between its own views. Stated, not fitted: it needs no labels and is rare.
MOST_SPREAD = 2.0
_SMALLEST_FIT = 50


@dataclass(frozen=True, eq=False)
class Guard:
    """How far from the training data an image may be to be answered.

    The distance is that of Mahalanobis in the space of the image tower's unit features (Lee et al. 2018,
    arXiv:1807.03888, with one class), the covariance shrunk as Ledoit and Wolf (2004) do.

    Attributes:
        mean: `[d]` of the training images.
        whitening: `[d, d]`; a feature less the mean, times this, has the distance as its length.
        threshold: Images beyond it are not answered.
        share: Share of new images of the training's kind that the threshold was to keep.
        images: Images, of other patients than the training's, that placed the threshold.
    """

    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]
    threshold: float
    share: float
    images: int

    def distances(self, features: ArrayLike) -> NDArray[np.float64]:
        """Distances `[n]` of features `[n, d]`, any length but zero: they are made unit first."""
        return _lengths((_unit(features) - self.mean) @ self.whitening)

    def is_unlike(self, features: ArrayLike) -> NDArray[np.bool_]:
        """Which of some images `[n, d]` are unlike the training data; a feature that is no number is."""
        return ~(self.distances(features) <= self.threshold)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The content of `guard.safetensors`."""
        return {
            "mean": self.mean,
            "whitening": np.ascontiguousarray(self.whitening),
            "threshold": np.array([self.threshold]),
            "share": np.array([self.share]),
            "images": np.array([self.images]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Guard":
        """Read `to_arrays` back."""
        numbers = {name: arrays[name].item() for name in ("threshold", "share", "images")}
        return cls(arrays["mean"], arrays["whitening"], **numbers)


def fit_guard(training: ArrayLike, held_out: ArrayLike, *, share: float = 0.99) -> Guard:
    """Fit the guard of a model.

    Args:
        training: `[n, d]` features of training images: what the model knows.
        held_out: `[m, d]` features of images of other patients, which place the threshold.
        share: Share of such images that shall be answered. The threshold is the smallest distance of them that keeps
            it for a new image of the same kind, `ceil(share * (m + 1))`th of m (split conformal).

    Raises:
        UserError: Fewer than 50 images on either side, or too few to keep that share.
    """
    known, held = _unit(training), _unit(held_out)
    for name, rows in (("training", known), ("held-out", held)):
        if len(rows) < _SMALLEST_FIT:
            raise UserError(f"{len(rows)} {name} images cannot place a guard", f"give at least {_SMALLEST_FIT}")
    rank = int(np.ceil(share * (len(held) + 1)))
    if rank > len(held):
        raise UserError(
            f"{len(held)} held-out images cannot place a guard that keeps {share:.1%}",
            "give more of them, or a smaller share",
        )
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(known)
    values, vectors = np.linalg.eigh(fitted.covariance_)
    whitening = vectors / np.sqrt(np.maximum(values, np.finfo(float).eps))
    distances = np.sort(_lengths((held - fitted.location_) @ whitening))
    return Guard(np.asarray(fitted.location_), whitening, float(distances[rank - 1]), share, len(held))


def _unit(features: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(features, dtype=np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(rows, axis=1))


def load_guard(bundle: Bundle) -> Guard | None:
    """The guard of a bundle; None where it has none, and then no image is held back for its looks.

    Raises:
        UserError: Its file is damaged although its hash is right: nobody wrote it whole.
    """
    if not bundle.guarded:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return Guard.from_arrays(load_file(bundle.folder / GUARD))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"the guard in {bundle.folder} is damaged", "copy the whole bundle again") from error


def hold_back_unlike(images: pl.DataFrame, unlike: Sequence[bool] | NDArray[np.bool_]) -> pl.DataFrame:
    """Images that are unlike the training data become `abstained` with `unlike_training`; they join nothing.

    Args:
        images: Schema `predictions`, level `image`.
        unlike: One a row.
    """
    held = pl.Series("_unlike", list(unlike), dtype=pl.Boolean()) & (images["status"] == Status.OK.value)
    return _held_back(images, pl.lit(held), Reason.UNLIKE_TRAINING)


def hold_back_disagreeing(table: pl.DataFrame, most_spread: float = MOST_SPREAD) -> pl.DataFrame:
    """Breasts whose images are too far apart, and their exams, become `abstained` with `views_disagree`.

    Probabilities stay, so that a reader sees why; `predicted` and `prob_dense` go. Doing it twice changes nothing.

    Args:
        table: Schema `predictions`, all levels.
        most_spread: Largest difference of expected category between two images of one breast, 0 to 3.
    """
    breasts = breasts_apart(table, most_spread)
    ok = pl.col("status") == Status.OK.value
    apart = breasts.select(pl.struct("exam_id", "laterality")).to_series()
    in_breast = pl.struct("exam_id", "laterality").is_in(apart.implode())
    of_exam = pl.col("exam_id").is_in(breasts["exam_id"].unique().implode())
    level = pl.col("level")
    held = ok & (((level == Level.BREAST.value) & in_breast) | ((level == Level.EXAM.value) & of_exam))
    return _held_back(table, held, Reason.VIEWS_DISAGREE)


def breasts_apart(table: pl.DataFrame, most_spread: float = MOST_SPREAD) -> pl.DataFrame:
    """Breasts whose answered images are too far apart to be of one breast.

    Args:
        table: Schema `predictions`, or its columns `level status exam_id laterality prob_a prob_b prob_c prob_d`.
        most_spread: Largest difference of expected category between two images of one breast, 0 to 3.

    Returns:
        `exam_id` and `laterality`; breasts of no exam or side are never there.
    """
    expected = pl.sum_horizontal(pl.col(name) * k for k, name in enumerate(PROBABILITIES))
    answered = (pl.col("level") == Level.IMAGE.value) & (pl.col("status") == Status.OK.value)
    return (
        table.filter(answered & pl.col("laterality").is_not_null() & pl.col("exam_id").is_not_null())
        .group_by("exam_id", "laterality")
        .agg((expected.max() - expected.min()).alias("spread"))
        .filter(pl.col("spread") > most_spread)
        .select("exam_id", "laterality")
        .sort("exam_id", "laterality")
    )


def _held_back(table: pl.DataFrame, held: pl.Expr, reason: Reason) -> pl.DataFrame:
    marked = table.with_columns(held.fill_null(False).alias("_held"))
    return marked.with_columns(
        pl.when("_held").then(pl.lit(Status.ABSTAINED.value)).otherwise("status").alias("status"),
        pl.when("_held").then(pl.lit(reason.value)).otherwise("reason").alias("reason"),
        *(pl.when(~pl.col("_held")).then(pl.col(name)).alias(name) for name in ("predicted", "prob_dense")),
    ).drop("_held")
