"""From the members of an arm to its one answer: the mean of their probabilities."""

import polars as pl

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
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
    # Sorted by member last: sums run in one order whatever the order of the rows.
    rows = with_raw_probabilities(table).sort(*_KEYS, *_MEMBER).with_columns(pl.struct(_KEYS).rle_id().alias("_group"))
    ok = (pl.col("status") == Status.OK.value).fill_null(False)
    alone, all_ok = pl.len() == 1, ok.all()
    not_ok = pl.col("status").filter(~ok)
    refused = pl.when((not_ok == Status.REFUSED.value).any()).then(pl.lit(Status.REFUSED.value)).otherwise(not_ok.max())
    joined = rows.group_by("_group", maintain_order=True).agg(
        *(pl.col(name).first() for name in (*_KEYS, *_FACTS)),
        *(_mean(name, pl.col(name).mean(), alone, all_ok) for name in PROBABILITIES),
        *(_mean(name, log_of(pl.col(raw).mean()), alone, all_ok) for name, raw in zip(LOGITS, RAW, strict=True)),
        pl.when(alone | all_ok).then(pl.col("status").first()).otherwise(refused).alias("status"),
        pl.when(~all_ok).then(pl.col("reason").filter(~ok).drop_nulls().mode().sort().first()).alias("reason"),
        (pl.col("label").min() != pl.col("label").max()).alias("_differ"),
    )
    _check(rows, joined)
    return fill_derived(conform(joined.drop("_group", "_differ"), "predictions"))


def _mean(name: str, mean: pl.Expr, alone: pl.Expr, all_ok: pl.Expr) -> pl.Expr:
    return pl.when(alone).then(pl.col(name).first()).when(all_ok).then(mean).alias(name)


def _check(rows: pl.DataFrame, joined: pl.DataFrame) -> None:
    same = [pl.col(name).eq_missing(pl.col(name).shift()) for name in ("_group", *_MEMBER)]
    repeated = rows.select(pl.all_horizontal(same).sum()).item()
    if repeated:
        raise UserError(
            f"{repeated} rows occur more than once in the same arm, fold and seed",
            "give each image once; two files of the same model must not be joined",
        )
    differ = joined["_differ"].sum()
    if differ:
        raise UserError(
            f"members of an arm name different labels for {differ} rows",
            "predict them all with every model from the same index",
        )
