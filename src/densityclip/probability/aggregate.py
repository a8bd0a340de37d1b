"""From slices to images, breasts, exams and patients: averages of probabilities, one exposure counting once."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.density import CATEGORIES, predicted_category, prob_dense
from densityclip.probability.joining import PLAIN, Joining, Member, members_of
from densityclip.records import Level, Status

# What keeps two predictions apart besides what they are of.
_RUN = ("arm", "cohort", "part", "fold", "seed")
_IMAGE = (*_RUN, "patient_id", "exam_id", "image_id")
_BREAST = (*_RUN, "patient_id", "exam_id", "laterality")
_EXAM = (*_RUN, "patient_id", "exam_id")
_PATIENT = (*_RUN, "patient_id")
_FACTS = ("modality", "view", "laterality", "site", "vendor", "machine", "age", "race")
# The softmax of the logits, beside them while rows are joined.
RAW = ("_raw_a", "_raw_b", "_raw_c", "_raw_d")
_VALUES = (*RAW, *PROBABILITIES)
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


def temper(probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Probabilities `softmax(log(p) / temperature)` of probabilities p, `[n, 4]`; NaN rows stay NaN."""
    return softmax(log_probabilities(probabilities) / temperature)


def log_probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of probabilities, a zero taken as the smallest normal number; NaN stays NaN."""
    return np.asarray(np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _SMALLEST)))


def label_numbers(labels: pl.Series) -> NDArray[np.int64]:
    """Place of each label among the categories, `[n]`, 0 (A) to 3 (D); none may be missing or of another name."""
    return labels.replace_strict(CATEGORIES, range(len(CATEGORIES)), return_dtype=pl.Int64).to_numpy()


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
    return _finish(_combine(with_raw_probabilities(slices), _IMAGE, ("slice_index",)), Level.IMAGE)


def to_level(
    images: pl.DataFrame, level: Literal["breast", "exam", "patient"], joining: Joining = PLAIN
) -> pl.DataFrame:
    """Join the images of each breast, exam or patient into one prediction.

    Probabilities are averaged (the softmax of the logits, and the calibrated ones alike) within modality and view
    first, so that a repeated view does not count twice; then over the modalities of a view, for DM, s2D and DBT of one
    view show one breast once; then over the breast's views. Breasts become an exam by the joining's rule, exams a
    patient by their mean. The joining's temperature of the level comes last, on the calibrated probabilities alone. The
    logits of a row are the logarithm of its joined uncalibrated probabilities.

    Images whose status is not `ok` are left out; where none is left the row is `refused`, with the reason that most of
    its images carry. A breast has the label of its images, or none if they disagree; an exam has that of its denser
    breast, or none if a breast's images disagree; a patient has that of her exams, or none if they disagree. Facts such
    as modality or vendor are kept where all images share them and are null otherwise.

    What is not known joins nothing: images without a side make up no breast (in an exam they stand together as one of
    unknown side), images without an exam id no exam, images without a patient id no patient. Images without a view are
    one view of their own.

    Args:
        images: Rows of schema `predictions` with level `image`, in any order.
        level: What a row shall stand for.
        joining: Of the model that gave the rows (`members_to_level` for several).

    Returns:
        Schema `predictions`, sorted by run, patient, exam and side: the same bytes for any order of the images.

    Raises:
        ValueError: A row is of another level.
    """
    _require_level(images, Level.IMAGE)
    if level == Level.PATIENT.value:
        images = images.filter(pl.col("patient_id").is_not_null())
    images = images.filter(pl.col("exam_id").is_not_null())
    if level == Level.BREAST.value:
        images = images.filter(pl.col("laterality").is_not_null())
    joined = _combine(with_raw_probabilities(images), _BREAST, ("view", "modality"))
    if level != Level.BREAST.value:
        joined = _combine(joined, _EXAM, ("laterality",), joining.denser_weight)
    if level == Level.PATIENT.value:
        joined = _combine(joined, _PATIENT, ("exam_id",))
    return _finish(joined, Level(level), joining.temperatures[level])


def members_to_level(
    images: pl.DataFrame, level: Literal["breast", "exam", "patient"], joinings: Mapping[Member, Joining]
) -> pl.DataFrame:
    """`to_level` of rows of several members, each with its own joining.

    Args:
        images: Rows of schema `predictions` with level `image`, of any number of arms, folds and seeds.
        level: What a row shall stand for.
        joinings: Of `read_joinings`; a member that it does not name is joined as `PLAIN` says.

    Returns:
        As `to_level`, sorted by member first.
    """
    rows = images.partition_by("arm", "fold", "seed", as_dict=True)
    parts = [to_level(rows[member], level, joinings.get(member, PLAIN)) for member in members_of(images)]
    return pl.concat(parts) if parts else to_level(images, level)


def _require_level(table: pl.DataFrame, level: Level) -> None:
    others = sorted(set(table["level"].unique().to_list()) - {level.value}, key=str)
    if others:
        raise ValueError(f"rows of level {level.value} are expected, found {others}")


def _matrix(table: pl.DataFrame, columns: tuple[str, ...]) -> NDArray[np.float64]:
    return table.select(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in columns).to_numpy()


def with_raw_probabilities(table: pl.DataFrame) -> pl.DataFrame:
    """A table of schema `predictions` with the softmax of its logits in the columns `RAW`."""
    raw = softmax(_matrix(table, LOGITS)) if table.height else np.empty((0, 4))
    return table.with_columns(
        pl.Series(name, raw[:, k], dtype=pl.Float64()).fill_nan(None) for k, name in enumerate(RAW)
    )


def log_of(probability: pl.Expr) -> pl.Expr:
    """The logarithm of a probability, a zero taken as the smallest normal number."""
    return probability.clip(lower_bound=_SMALLEST).log()


def _combine(
    children: pl.DataFrame, keys: tuple[str, ...], inner: tuple[str, ...], denser_weight: float = 0.0
) -> pl.DataFrame:
    """Average children within groups of all of `inner`, then of all but its last, and so on up to those of `keys`.

    Children may be averages themselves. The last average is drawn towards the child of highest expected category.
    """
    # Sorted first, ids last: sums run in one order whatever the order of the rows, so results are equal bit for bit.
    if "_conflict" not in children.columns:
        children = children.with_columns(pl.lit(False).alias("_conflict"))
    ids = [name for name in ("image_id", "slice_index") if name in children.columns]
    rows = children.sort(list(dict.fromkeys([*keys, *inner, *ids]))).with_columns(
        pl.struct(keys).rle_id().alias("_group")
    )
    means = rows.filter(pl.col("status") == Status.OK.value)
    for depth in range(len(inner), 0, -1):
        means = means.group_by("_group", *inner[:depth], maintain_order=True).agg(pl.col(_VALUES).mean())
    means = _weighted(means, denser_weight)
    return _facts(rows, keys).join(means, on="_group", how="left", maintain_order="left").drop("_group")


def _weighted(children: pl.DataFrame, denser_weight: float) -> pl.DataFrame:
    """One row a group: the children's mean, drawn by a weight towards the densest (those, where several tie)."""
    mean = pl.col(_VALUES).mean()
    if denser_weight:
        # The calibrated probabilities say which breast is denser, for the uncalibrated ones too: there is one answer.
        expected = pl.sum_horizontal(pl.col(name) * k for k, name in enumerate(PROBABILITIES))
        densest = pl.col(_VALUES).filter(expected == expected.max()).mean()
        mean = pl.when(expected.is_not_null().any()).then(mean * (1.0 - denser_weight) + densest * denser_weight)
        mean = mean.otherwise(pl.col(_VALUES).mean())
    return children.group_by("_group", maintain_order=True).agg(mean)


def _facts(rows: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    """What a group is, its label, its status: one row a group, in the order of the groups."""
    ok = pl.col("status") == Status.OK.value
    rows = rows.with_columns(ok.fill_null(False).alias("_ok")).with_columns(
        pl.col("_ok").any().over("_group").alias("_any")
    )
    differ = (pl.col("label").min() != pl.col("label").max()).fill_null(False)
    # Breasts of an exam may differ in truth; images of one breast, and exams of one patient, were labelled in conflict.
    conflict = pl.col("_conflict").any() if keys == _EXAM else pl.col("_conflict").any() | differ
    whole = rows.group_by("_group", maintain_order=True).agg(
        *(pl.col(name).first() for name in keys),
        # The letters sort as the categories do, so the greatest is the denser breast's (density.denser).
        pl.when(~conflict).then(pl.col("label").max()).alias("label"),
        conflict.alias("_conflict"),
        pl.when(pl.col("_any").first())
        .then(pl.lit(Status.OK.value))
        .otherwise(pl.lit(Status.REFUSED.value))
        .alias("status"),
    )
    # Apart from the rest, and without a filter in each expression: four fifths of the time went into those.
    used = rows.filter(pl.col("_ok") | ~pl.col("_any")).group_by("_group", maintain_order=True)
    shared = used.agg(
        pl.when(pl.col(name).n_unique() == 1).then(pl.col(name).first()).alias(name)
        for name in _FACTS
        if name not in keys
    )
    lost = rows.filter(~pl.col("_any")).group_by("_group", maintain_order=True)
    reasons = lost.agg(pl.col("reason").drop_nulls().mode().sort().first())
    for part in (shared, reasons):
        whole = whole.join(part, on="_group", how="left", maintain_order="left")
    return whole


def _finish(rows: pl.DataFrame, level: Level, temperature: float = 1.0) -> pl.DataFrame:
    table = rows.with_columns(
        pl.lit(level.value).alias("level"),
        *(log_of(pl.col(raw)).alias(logit) for raw, logit in zip(RAW, LOGITS, strict=True)),
    ).drop(*RAW, "_conflict")
    if temperature != 1.0 and table.height:
        sharpened = temper(_matrix(table, PROBABILITIES), temperature)
        table = table.with_columns(
            pl.Series(name, sharpened[:, k]).fill_nan(None) for k, name in enumerate(PROBABILITIES)
        )
    return fill_derived(conform(table, "predictions"))
