"""How a row is left out of an index: a reason and a fact; the first rule that applies keeps its word."""

from typing import TypeVar

import polars as pl

from densityclip.reasons import Reason

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def leave_out(rows: Frame, condition: pl.Expr, reason: Reason, detail: pl.Expr | str = "") -> Frame:
    """Mark candidates as left out, unless an earlier rule did so already.

    Args:
        rows: Candidates; a query must have the columns `reason` and `detail` already.
        condition: True where the rule applies; null counts as false.
        reason: The rule's reason.
        detail: The fact about each row; the reason's sentence if empty.
    """
    if isinstance(rows, pl.DataFrame):
        absent = [name for name in ("reason", "detail") if name not in rows.columns]
        rows = rows.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
    said = detail if isinstance(detail, pl.Expr) else pl.lit(detail or reason.sentence)
    applies = condition.fill_null(value=False) & pl.col("reason").is_null()
    return rows.with_columns(
        pl.when(applies).then(pl.lit(reason.value)).otherwise(pl.col("reason")).alias("reason"),
        pl.when(applies).then(said.fill_null(reason.sentence)).otherwise(pl.col("detail")).alias("detail"),
    )
