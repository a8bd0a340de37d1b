"""What the rows of every dataset's table are held to, before any file is looked at."""

from collections.abc import Sequence

import polars as pl

from densityclip.datasets.columns import Rows
from densityclip.datasets.exclusion import leave_out
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import View

DENSITY = pl.Enum(CATEGORIES)


def leave_out_other_views(rows: pl.DataFrame) -> pl.DataFrame:
    """Leave out the views that are stated and are neither CC nor MLO; they keep their own words."""
    other = pl.col("view").is_not_null() & ~pl.col("view").is_in([view.value for view in View])
    return leave_out(rows, other, Reason.NONSTANDARD_VIEW, pl.format("view {}", "view"))


def name_origin(rows: pl.DataFrame, *, site: str | pl.Expr, institution: str | pl.Expr) -> pl.DataFrame:
    """Put the site and institution on rows, and `table` as the source of every label that is there."""
    return rows.with_columns(
        (pl.lit(site) if isinstance(site, str) else site).alias("site"),
        (pl.lit(institution) if isinstance(institution, str) else institution).alias("institution"),
        pl.when(pl.col("density").is_not_null()).then(pl.lit("table")).alias("density_source"),
    )


def refuse_contradictions(rows: pl.DataFrame, read: Rows, columns: Sequence[str]) -> None:
    """Check that rows of one image say the same of it.

    Args:
        rows: Candidates in the order of the table, one for each of its rows, with `image_id`.
        read: The table, to name its rows.
        columns: What may not differ.

    Raises:
        UserError: Two rows of one image differ; both are named, with the columns.
    """
    repeated = rows.with_row_index("place").filter(
        pl.col("image_id").is_duplicated() & pl.col("image_id").is_not_null()
    )
    first = pl.all().first().over("image_id")
    differing = {
        name: repeated.select(pl.col(name).ne_missing(pl.col(name).first().over("image_id")).arg_true()).to_series()
        for name in columns
        if name in rows.columns
    }
    places = [int(found[0]) for found in differing.values() if len(found)]
    if not places:
        return
    place = min(places)
    names = [name for name, found in differing.items() if place in found]
    earlier = int(repeated.select(first)["place"][place])
    raise UserError(
        f"{read.where(earlier)} and {read.where(int(repeated['place'][place]))} are about one image and differ in "
        f"{', '.join(names)}",
        "keep the row that is right",
    )


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


def impossible_note(read: Rows, column: str, values: pl.Series) -> list[str]:
    """A sentence on numbers of a column that can be nobody's and count as blank, if there are any."""
    number = int((read.table[column].is_not_null() & values.is_null()).sum()) if column in read.table.columns else 0
    said = counted(number, "value counts", "values count")
    return [f"{said} as blank in column {column}: no such number can be."] if number else []


def blank_note(rows: pl.DataFrame) -> list[str]:
    """A sentence on images without a density, if there are any."""
    blank = rows["density"].null_count()
    have = "has" if blank == 1 else "have"
    return [f"{blank:,} of {counted(rows.height, 'image', 'images')} {have} no density in the table."] if blank else []
