"""A site's label table: who was read as which density, keyed by image, exam or patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from densityclip.datasets.columns import Rows, density_parser, parse_age, parse_date, parse_side, read_rows
from densityclip.errors import UserError

# Key column of a table to where an image's row says the same.
KEYS: dict[str, str] = {
    "sop_uid": "sop_uid",
    "study_uid": "_study_uid",
    "accession_number": "_accession_number",
    "patient_id": "patient_id",
}
VALUES = ("density", "density_source", "age", "race", "site", "institution", "machine", "source_split")
_BOTH = ("B", "BOTH", "BILATERAL")
_MEND_DENSITY = "correct the table, or say what the word means with --label-map WORD=A,OTHER=B"


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """Values of a label table, to be found again by key, side and date.

    Attributes:
        name: File name, for messages.
        key: The column that the table is keyed by.
        dated: Whether a row also names the day of the exam, so that each exam of a woman has its own.
        rows: Columns `key`, `study_date` if dated, `laterality` (null for both sides), and those of `VALUES` that the
            table has; one row for each key, day and side.
    """

    name: str
    key: str
    dated: bool
    rows: pl.DataFrame

    def join(self, images: pl.LazyFrame) -> pl.LazyFrame:
        """Images with what the table says of them, which goes before what they say themselves.

        A row for the image's side goes before one for both sides.

        Args:
            images: Schema `headers.SEEN`.

        Returns:
            The same rows and columns, and `_label`: whether any row of the table is about the image.
        """
        day = ["study_date"] if self.dated else []
        values = [name for name in VALUES if name in self.rows.columns]
        both = self.rows.filter(pl.col("laterality").is_null()).drop("laterality")
        sided = self.rows.filter(pl.col("laterality").is_not_null())
        joined = images
        for rows, word, side in ((both, "both", []), (sided, "side", ["laterality"])):
            joined = joined.join(
                rows.lazy().with_columns(found=True).rename({name: f"{name} of {word}" for name in (*values, "found")}),
                left_on=[KEYS[self.key], *day, *side],
                right_on=["key", *day, *side],
                how="left",
                maintain_order="left",
            )
        said = {name: pl.coalesce(f"{name} of side", f"{name} of both") for name in values}
        source = said.pop("density_source", pl.lit(None, pl.String)).fill_null("table")
        told = [pl.coalesce(expression, name).alias(name) for name, expression in said.items()]
        if "density" in said:
            told.append(
                pl.when(said["density"].is_not_null()).then(source).otherwise("density_source").alias("density_source")
            )
        found = pl.coalesce("found of side", "found of both", pl.lit(value=False)).alias("_label")
        return joined.with_columns(*told, found).select(*images.collect_schema().names(), "_label")


def read_label_table(path: Path, label_map: Mapping[str, str] | None = None) -> LabelTable:
    """Read a label table, keyed by the first of `sop_uid`, `study_uid`, `accession_number`, `patient_id` it has.

    A table keyed by `patient_id` may have a `study_date`, so that each exam of a woman has a label of its own. A
    `laterality` limits a row to one breast; blank, `B` or `both` means both.

    Args:
        path: The table.
        label_map: What the table's own words for a density mean, such as `{"fatty": "A"}`.

    Raises:
        UserError: No key column, none of `VALUES`, a blank key or date, a value that fits its column badly, or two rows
            that contradict each other; row and column are named.
    """
    rows = read_rows(path)
    key = next((name for name in KEYS if name in rows.table.columns), None)
    if key is None:
        raise UserError(
            f"the table {path} has none of the columns {', '.join(KEYS)}; it has {', '.join(rows.table.columns)}",
            "rename the column that says which image, exam or patient a row is about",
        )
    dated = key == "patient_id" and "study_date" in rows.table.columns
    for column in (key, *(["study_date"] if dated else [])):
        rows.refuse_blanks(column)
    if not any(name in rows.table.columns for name in VALUES):
        raise UserError(
            f"the table {path} says nothing of an image: it has {', '.join(rows.table.columns)}",
            f"name the column of densities density (columns that are read: {', '.join(VALUES)})",
        )
    table = _parsed(rows, key, dated, label_map)
    group = ["key", *(["study_date"] if dated else []), "laterality"]
    _refuse_contradictions(rows, table, group, key)
    values = [name for name in VALUES if name in table.columns]
    merged = table.group_by(group, maintain_order=True).agg(pl.col(name).drop_nulls().first() for name in values)
    return LabelTable(name=rows.name, key=key, dated=dated, rows=merged)


def _parsed(rows: Rows, key: str, dated: bool, label_map: Mapping[str, str] | None) -> pl.DataFrame:
    have = rows.table.columns
    columns = [rows.table[key].alias("key")]
    if dated:
        columns.append(rows.parsed("study_date", parse_date, pl.Date()).alias("study_date"))
    if "laterality" in have:
        columns.append(rows.parsed("laterality", _side, pl.String()).alias("laterality"))
    else:
        columns.append(pl.Series("laterality", [None] * rows.table.height, dtype=pl.String()))
    for name in VALUES:
        if name == "density" and name in have:
            columns.append(rows.parsed(name, density_parser(label_map), pl.String(), _MEND_DENSITY).alias(name))
        elif name == "age" and name in have:
            columns.append(rows.parsed(name, parse_age, pl.Float64()).alias(name))
        elif name in have:
            columns.append(rows.table[name].alias(name))
    return pl.DataFrame(columns)


def _side(text: str) -> str | None:
    return None if text.upper() in _BOTH else parse_side(text)


def _refuse_contradictions(rows: Rows, table: pl.DataFrame, group: Sequence[str], key: str) -> None:
    names = [name for name in VALUES if name in table.columns]
    firsts = [pl.col(name).drop_nulls().first().over(group).alias(name) for name in names]
    differs = table.select(pl.col(name) != first for name, first in zip(names, firsts, strict=True))
    wrong = differs.select(pl.any_horizontal(pl.all()).fill_null(value=False)).to_series() if names else None
    if wrong is None or not wrong.any():
        return
    place = int(wrong.arg_true()[0])
    columns = [name for name in names if differs[name][place]]
    raise UserError(
        f"{rows.where(place)} contradicts an earlier row of the same {key} in {', '.join(columns)}",
        "keep one row for each image, breast or exam; key the table by study_uid or sop_uid, or add a study_date",
    )
