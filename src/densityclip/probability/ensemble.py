"""From the members of an arm to its one answer: the mean of their probabilities."""

import polars as pl

from densityclip.artifacts import LOGITS, PREDICTIONS, PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.probability.aggregate import RAW, fill_derived, log_of, with_raw_probabilities
from densityclip.records import Status

_KEYS = ("level", "arm", "cohort", "part", "patient_id", "exam_id", "laterality", "image_id", "slice_index")
_FACTS = ("modality", "view", "site", "vendor", "machine", "age", "race", "label")
_MEMBER = ("fold", "seed")


def join_members(table: pl.DataFrame) -> pl.DataFrame:
    """Join the rows that several members (fold, seed) of an arm have of the same thing.

    Probabilities are averaged, calibrated and uncalibrated alike; logits are the logarithm of the mean of the members'
    softmax. A row is `ok` only where every member's is; else it has no probabilities, and the commonest
    reason of those that are not. A row that one member alone has keeps its values to the last bit. Rows of different
    parts stay apart: a patient who validates in one fold and trains in another is two rows.

    Args:
        table: Schema `predictions`, any levels, each made with the member's own joining.

    Returns:
        Schema `predictions`, `fold` and `seed` null, sorted by level, arm, cohort, part and ids: the same bytes for any
        order of the rows.

    Raises:
        UserError: A member has two rows of one thing, or members name different labels.
    """
    # Sorted by member: sums run in one order whatever the order of the rows.
    rows = (
        with_raw_probabilities(table)
        .sort(*_MEMBER)
        .with_columns(
            pl.struct(_MEMBER).rle_id().alias("_member"),
            (pl.col("status") == Status.OK.value).fill_null(False).alias("_ok"),
        )
    )
    alone, all_ok = pl.len() == 1, pl.col("_ok").all()
    joined = rows.group_by(_KEYS, maintain_order=True).agg(
        *(pl.col(name).first() for name in (*_FACTS, "status", "reason")),
        *(_mean(name, pl.col(name).mean(), alone, all_ok) for name in PROBABILITIES),
        *(_mean(name, log_of(pl.col(raw).mean()), alone, all_ok) for name, raw in zip(LOGITS, RAW, strict=True)),
        (alone | all_ok).alias("_as_first"),
        (pl.len() - pl.col("_member").n_unique()).alias("_repeated"),
        (pl.col("label").min() != pl.col("label").max()).alias("_differ"),
    )
    _check(joined)
    joined = pl.concat([joined.filter("_as_first"), _not_ok(joined.filter(~pl.col("_as_first")), rows)])
    return fill_derived(conform(joined.select(set(joined.columns) & set(PREDICTIONS)).sort(_KEYS), "predictions"))


def _mean(name: str, mean: pl.Expr, alone: pl.Expr, all_ok: pl.Expr) -> pl.Expr:
    return pl.when(alone).then(pl.col(name).first()).when(all_ok).then(mean).alias(name)


def _not_ok(joined: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Status and reason where some members have no answer: refused goes before abstained."""
    why = (
        rows.filter(~pl.col("_ok"))
        .group_by(_KEYS)
        .agg(pl.col("status").max(), pl.col("reason").drop_nulls().mode().sort().first())
    )
    return joined.drop("status", "reason").join(why, on=_KEYS, how="left", nulls_equal=True).select(joined.columns)


def _check(joined: pl.DataFrame) -> None:
    repeated, differ = joined.select(pl.col("_repeated").sum(), pl.col("_differ").sum()).row(0)
    if repeated:
        raise UserError(
            f"{repeated} rows occur more than once in the same arm, fold and seed",
            "give each image once; two files of the same model must not be joined",
        )
    if differ:
        raise UserError(
            f"members of an arm name different labels for {differ} rows",
            "predict them all with every model from the same index",
        )
