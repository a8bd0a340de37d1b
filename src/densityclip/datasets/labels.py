"""A site's label table: who was read as which density, keyed by image, exam or patient."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.density import parse_density
from densityclip.dicom.header import HeaderFacts
from densityclip.errors import UserError

KEYS = ("sop_uid", "study_uid", "accession_number", "patient_id")
VALUES = ("density", "density_source", "age", "race", "site", "institution", "machine", "source_split")
_SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Values of a label table, found again by key and side.

    Attributes:
        key: The column that the table is keyed by.
        rows: (key, side or None for both sides) to the values of `VALUES` that are not blank.
    """

    key: str
    rows: Mapping[tuple[str, str | None], Mapping[str, Any]]

    def look_up(self, facts: HeaderFacts) -> Mapping[str, Any]:
        """Values for an object, empty if the table does not know it; a row for its side goes before one for both."""
        key = getattr(facts, self.key)
        if key is None:
            return {}
        return {**self.rows.get((key, None), {}), **self.rows.get((key, facts.laterality), {})}


def read_any_table(path: Path) -> pl.DataFrame:
    """Read a CSV or Parquet table; of a CSV every value is text.

    Raises:
        UserError: The file is missing, is no such table, or has no rows.
    """
    if not path.is_file():
        raise UserError(f"the table {path} does not exist", "correct --table")
    try:
        if path.suffix.lower() == ".parquet":
            table = pl.read_parquet(path)
        else:
            table = pl.read_csv(path, infer_schema=False, encoding="utf8-lossy")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} is not a readable CSV or Parquet table", "give a table with a header row") from error
    if not table.height:
        raise UserError(f"the table {path} has no rows", "give a table with one row per image, breast or exam")
    return table.rename({name: name.strip().lstrip("\ufeff") for name in table.columns})


def read_label_table(path: Path, label_map: Mapping[str, str] | None = None) -> LabelTable:
    """Read a label table, keyed by the first of `sop_uid`, `study_uid`, `accession_number`, `patient_id` it has.

    Args:
        path: The table.
        label_map: What the table's own words for a density mean, such as `{"fatty": "A"}`.

    Raises:
        UserError: No key column, a blank key, a density that is no category, an age that is no number, a side that is
            neither left nor right, or two rows that contradict each other; row and column are named.
    """
    table = read_any_table(path)
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise UserError(
            f"the table {path} has none of the columns {', '.join(KEYS)}; it has {', '.join(table.columns)}",
            "rename the column that says which image, exam or patient a row is about",
        )
    rows: dict[tuple[str, str | None], dict[str, Any]] = {}
    for number, row in enumerate(table.iter_rows(named=True), start=2):
        where = f"{path.name} line {number}"
        name = text_of(row[key])
        if name is None:
            raise UserError(f"{where}, column {key}, is blank", "fill it in or remove the row")
        values = {
            column: value
            for column in VALUES
            if column in row
            and (value := parse_value(_mapped(row[column], column, label_map), column, where)) is not None
        }
        known = rows.setdefault((name, _side(row.get("laterality"), where)), {})
        differing = sorted(column for column in values if known.get(column, values[column]) != values[column])
        if differing:
            raise UserError(
                f"{where} contradicts an earlier row of the same {key} in {', '.join(differing)}",
                "keep one row for each image, breast or exam, or key the table by study_uid or sop_uid",
            )
        known.update(values)
    return LabelTable(key=key, rows=rows)


def _mapped(value: object, column: str, label_map: Mapping[str, str] | None) -> object:
    return (label_map or {}).get(text_of(value) or "", value) if column == "density" else value


def text_of(value: object) -> str | None:
    """A cell as text: blanks become None, 12.0 becomes 12."""
    if value is None:
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text if text and text.lower() not in ("nan", "none", "null") else None


def parse_value(value: object, column: str, where: str) -> Any:
    """A cell of a column that has a meaning of its own: a density, an age, otherwise text.

    Raises:
        UserError: It does not fit; the message names the row and column.
    """
    text = text_of(value)
    if text is None:
        return None
    if column == "density":
        try:
            return parse_density(text)
        except ValueError as error:
            raise UserError(
                f"{where}, column density: {error}",
                "correct the table, or say what the word means with --label-map WORD=A,OTHER=B",
            ) from error
    if column == "age":
        try:
            return float(text.upper().removesuffix("Y"))
        except ValueError as error:
            raise UserError(f"{where}, column age: {text!r} is no number", "write the age in years") from error
    return text


def parse_side(value: object, where: str) -> str | None:
    """A side as tables write it (`L`, `left`, ...), None for a blank.

    Raises:
        UserError: It is neither.
    """
    text = text_of(value)
    if text is None:
        return None
    if text.upper() not in _SIDES:
        raise UserError(f"{where}, column laterality: {text!r} is neither L nor R", "write L or R, or leave it blank")
    return _SIDES[text.upper()]


def _side(value: object, where: str) -> str | None:
    text = text_of(value)
    return None if text is None or text.upper() in ("B", "BOTH", "BILATERAL") else parse_side(text, where)
