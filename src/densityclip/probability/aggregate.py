"""From slices to images to breasts to exams: averages of probabilities, within modality and view first."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.density import predicted_category, prob_dense
from densityclip.records import Level, Status

# What keeps two predictions apart besides what they are of.
_RUN = ("arm", "cohort", "part", "fold", "seed")
_IMAGE = (*_RUN, "patient_id", "exam_id", "image_id")
_BREAST = (*_RUN, "patient_id", "exam_id", "laterality")
_EXAM = (*_RUN, "patient_id", "exam_id")
_FACTS = ("modality", "view", "laterality", "site", "vendor", "machine", "age", "race")
_RAW = ("_raw_a", "_raw_b", "_raw_c", "_raw_d")
_SMALLEST = float(np.finfo(np.float64).tiny)


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities from logits along the last axis.

    Args:
        logits: `[..., classes]`, any real scale; NaN rows stay NaN.

    Returns:
        The same shape, each last axis summing to one; computed after subtracting the maximum, so nothing overflows.
    """
    values = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def fill_derived(table: pl.DataFrame) -> pl.DataFrame:
    """Fill `predicted` and `prob_dense` from `prob_a..prob_d`; rows without all four probabilities get nulls.

    Args:
        table: Columns of the schema `predictions`, any level.

    Returns:
        The same rows in the same order.
    """
    probabilities = _matrix(table, PROBABILITIES)
    known = ~np.isnan(probabilities).any(axis=1)
    return (
        table.with_columns(
            pl.Series("predicted", predicted_category(np.nan_to_num(probabilities)), dtype=pl.String()),
            pl.Series("prob_dense", prob_dense(probabilities), dtype=pl.Float64()),
            pl.Series("_known", known),
        )
        .with_columns(pl.when("_known").then(pl.col(name)).alias(name) for name in ("predicted", "prob_dense"))
        .drop("_known")
    )


def average_slices(slices: pl.DataFrame) -> pl.DataFrame:
    """Average the slices of each volume to one row per image.

    Args:
        slices: Rows of schema `predictions` with level `slice`.

    Returns:
        Schema `predictions`, level `image`, sorted by run and id. See `to_level` for what an average is.

    Raises:
        ValueError: A row is of another level.
    """
    _require_level(slices, Level.SLICE)
    return _finish(_combine(_prepared(slices), _IMAGE, ("slice_index",)), Level.IMAGE)


def to_level(images: pl.DataFrame, level: Literal["breast", "exam"]) -> pl.DataFrame:
    """Join the images of each breast, or of each exam, into one prediction.

    Probabilities are averaged (the softmax of the logits, and the calibrated ones alike) within modality and view
    first, so that a repeated view does not count twice; then over the breast's modalities and views; then over the two
    breasts. The logits of a row are the logarithm of its mean uncalibrated probabilities. Images whose status is not
    `ok` are left out; where none is left the row is `refused`, with the reason that most of its images carry. A breast
    has the label of its images, or none if they disagree; an exam has that of its denser breast, or none if a breast's
    images disagree. Facts such as modality or vendor are kept where all images share them and are null otherwise.

    Args:
        images: Rows of schema `predictions` with level `image`, in any order.
        level: What a row shall stand for.

    Returns:
        Schema `predictions`, sorted by run, patient, exam and side: the same bytes for any order of the images.

    Raises:
        ValueError: A row is of another level.
    """
    _require_level(images, Level.IMAGE)
    breasts = _combine(_prepared(images), _BREAST, ("modality", "view"))
    if level == Level.BREAST.value:
        return _finish(breasts, Level.BREAST)
    return _finish(_combine(breasts, _EXAM, ("laterality",)), Level.EXAM)


def _require_level(table: pl.DataFrame, level: Level) -> None:
    others = sorted(set(table["level"].unique().to_list()) - {level.value}, key=str)
    if others:
        raise ValueError(f"rows of level {level.value} are expected, found {others}")


def _matrix(table: pl.DataFrame, columns: tuple[str, ...]) -> NDArray[np.float64]:
    return table.select(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in columns).to_numpy()


def _prepared(table: pl.DataFrame) -> pl.DataFrame:
    raw = softmax(_matrix(table, LOGITS)) if table.height else np.empty((0, 4))
    return table.with_columns(
        *(pl.Series(name, raw[:, k], dtype=pl.Float64()).fill_nan(None) for k, name in enumerate(_RAW)),
        pl.lit(False).alias("_conflict"),
    )


def _combine(children: pl.DataFrame, keys: tuple[str, ...], inner: tuple[str, ...]) -> pl.DataFrame:
    """Average children over `inner` groups, then over each group of `keys`; children may be averages themselves."""
    # Sorted first, ids last: sums run in one order whatever the order of the rows, so results are equal bit for bit.
    ids = [name for name in ("image_id", "slice_index") if name in children.columns]
    order = list(dict.fromkeys([*keys, *inner, *ids]))
    rows = children.sort(order).with_columns(pl.struct(keys).rle_id().alias("_group"))
    values = (*_RAW, *PROBABILITIES)
    means = (
        rows.filter(pl.col("status") == Status.OK.value)
        .group_by("_group", *(f for f in inner if f not in keys), maintain_order=True)
        .agg(pl.col(values).mean())
        .group_by("_group", maintain_order=True)
        .agg(pl.col(values).mean())
    )
    return _facts(rows, keys).join(means, on="_group", how="left", maintain_order="left").drop("_group")


def _facts(rows: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    ok = pl.col("status") == Status.OK.value
    used = ok | ~ok.any()
    label = pl.col("label").drop_nulls()
    conflict = pl.col("_conflict").any() if keys == _EXAM else label.n_unique() > 1
    shared = [name for name in _FACTS if name not in keys]
    return rows.group_by("_group", maintain_order=True).agg(
        *(pl.col(name).first() for name in keys),
        *(
            pl.when(pl.col(name).filter(used).n_unique() == 1).then(pl.col(name).filter(used).first()).alias(name)
            for name in shared
        ),
        # The letters sort as the categories do, so the greatest is the denser breast's (density.denser).
        pl.when(~conflict).then(label.max()).alias("label"),
        conflict.alias("_conflict"),
        pl.when(ok.any()).then(pl.lit(Status.OK.value)).otherwise(pl.lit(Status.REFUSED.value)).alias("status"),
        pl.when(~ok.any()).then(pl.col("reason").drop_nulls().mode().sort().first()).alias("reason"),
    )


def _finish(rows: pl.DataFrame, level: Level) -> pl.DataFrame:
    table = rows.with_columns(
        pl.lit(level.value).alias("level"),
        *(pl.col(raw).clip(lower_bound=_SMALLEST).log().alias(logit) for raw, logit in zip(_RAW, LOGITS, strict=True)),
    ).drop(*_RAW, "_conflict")
    return fill_derived(conform(table, "predictions"))
