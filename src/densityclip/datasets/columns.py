"""Tables from outside, CSV or Parquet, to columns of known meaning; what does not fit is named by row and column."""

import codecs
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.density import BLANKS, CATEGORIES, parse_density
from densityclip.dicom.side_and_view import split_position
from densityclip.errors import UserError

_SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}
_TRUE, _FALSE = {"1", "true", "yes", "y", "t"}, {"0", "false", "no", "n", "f"}
_DELIMITERS = (",", ";", "\t", "|")
_BYTES_AT_ONCE = 1 << 20
_SHOWN = 30
_WHOLE_FLOAT = r"^(-?\d+)\.0+$"
_OLDEST = 120
_ESCAPED, _PROPER = re.compile("[\udc80-\udcff]"), re.compile("[^\x00-\x7f\udc80-\udcff\ufeff]")
# First bytes of gzip, zip, bzip2, xz and Zstandard.
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A table as text: whatever type a column had, a cell is stripped text or null.

    Attributes:
        name: File name, for messages.
        table: Every column text; blanks (also `density.BLANKS`) are null, whole numbers are written without `.0`.
        columns: All columns that the file has, also those that were not read.
    """

    name: str
    table: pl.DataFrame
    columns: tuple[str, ...]

    def where(self, place: int) -> str:
        """Name of the row at a place: place 0 is row 1, the header not counted.

        Lines are not counted: a quoted cell may hold several.
        """
        return f"{self.name} row {place + 1}"

    def require(self, columns: Sequence[str], next_step: str) -> None:
        """Check that columns are there.

        Raises:
            UserError: Some are not; all of them are named, and what there is.
        """
        missing = [name for name in columns if name not in self.table.columns]
        if missing:
            named = [name for name in self.columns if name]
            more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
            there = ", ".join(named[:_SHOWN]) + more
            raise UserError(f"{self.name} has no column {', '.join(missing)}; it has {there}", next_step)

    def parsed(
        self, column: str, parse: Callable[[str], Any], dtype: pl.DataType, next_step: str = "correct the table"
    ) -> pl.Series:
        """A column through a parser of single texts; null stays null.

        Each distinct text is parsed once, so that a million rows cost as much as their few words.

        Args:
            column: Its name.
            parse: Text to value (or None for a blank); raises ValueError with a sentence.
            dtype: Of the values.
            next_step: Of the message.

        Raises:
            UserError: A text does not fit; the first such row is named, and how many there are.
        """
        cells = self.table[column]
        meanings: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for text in cells.drop_nulls().unique():
            try:
                meanings[text] = parse(text)
            except ValueError as error:
                wrong[text] = str(error)
        if wrong:
            places = cells.is_in(list(wrong)).fill_null(value=False).arg_true()
            more = f" ({len(places)} rows do not fit)" if len(places) > 1 else ""
            place = int(places[0])
            raise UserError(f"{self.where(place)}, column {column}: {wrong[cells[place]]}{more}", next_step)
        known = {text: value for text, value in meanings.items() if value is not None}
        return cells.replace_strict(known, default=None, return_dtype=dtype)

    def parsed_if_there(self, column: str, parse: Callable[[str], Any], dtype: pl.DataType) -> pl.Series:
        """A column through a parser as in `parsed`; all null where the table has no such column."""
        if column not in self.table.columns:
            return pl.Series(column, [None] * self.table.height, dtype=dtype)
        return self.parsed(column, parse, dtype)

    def refuse_blanks(self, column: str) -> None:
        """Check that no cell of a column is blank.

        Raises:
            UserError: One is.
        """
        blank = self.table[column].is_null().arg_true()
        if len(blank):
            raise UserError(f"{self.where(int(blank[0]))}, column {column}, is blank", "fill it in or remove the row")


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Rows:
    """Read a CSV (comma, semicolon, tab or bar) or Parquet table as text.

    A CSV may be UTF-8, UTF-16 with its mark, or Windows-1252 as Excel writes it; one that mixes two is refused, because
    half of its names would be wrong.

    Args:
        path: The table.
        columns: Only these columns, as far as they are there; all if None. Names are stripped of blanks.

    Raises:
        UserError: The file is missing, compressed or no such table, mixes encodings, names a column twice, or has no
            rows.
    """
    if not path.is_file():
        raise UserError(f"the table {path} does not exist", "correct its path")
    if path.suffix.lower() in (".xls", ".xlsx", ".ods"):
        raise UserError(f"{path} is a workbook", "save its sheet as CSV and give that")
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        file = pl.scan_parquet(path) if parquet else _scan_csv(path)
        names = _checked_names(file.collect_schema().names(), path)
        wanted = [name for name, ours in names.items() if columns is None or ours in columns]
        # A table with none of them has rows all the same.
        table = _as_text(file.select(wanted or [*names][:1])).collect().rename(names, strict=False)
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        raise UserError(f"{path} is not a readable CSV or Parquet table", "give a table with a header row") from error
    if not table.height:
        raise UserError(f"the table {path} has no rows", "give a table with one row per image, breast or exam")
    return Rows(path.name, table, tuple(names.values()))


def _checked_names(written: Sequence[str], path: Path) -> dict[str, str]:
    """Names of columns as written, to what they are called."""
    names = {name: name.strip().lstrip("\ufeff") for name in written}
    if len(set(names.values())) < len(written) or any(name.endswith("_duplicated_0") for name in written):
        raise UserError(f"{path} has two columns of one name", "give each column a name of its own")
    return names


def _scan_csv(path: Path) -> pl.LazyFrame:
    # Lazily, so that of a table of 150 columns (EMBED's) the dozen that is wanted is read.
    encoding = _encoding(path)
    with path.open(encoding=encoding) as handle:
        header = handle.readline()
    separator = max(_DELIMITERS, key=header.count)
    _refuse_ragged(path, encoding, separator)
    if encoding == "utf-8":
        return pl.scan_csv(path, infer_schema=False, separator=separator)
    return pl.read_csv(path, infer_schema=False, encoding=encoding, separator=separator).lazy()


def _refuse_ragged(path: Path, encoding: str, separator: str) -> None:
    # Polars fills a short row with blanks and cuts a long one: a stray comma would move a label into another column.
    with path.open(encoding=encoding, newline="") as handle:
        rows = csv.reader(handle, delimiter=separator)
        try:
            wanted = len(next(rows, []))
            for number, row in enumerate(rows, start=1):
                if row and len(row) != wanted:
                    raise UserError(
                        f"{path.name} row {number} has {len(row)} cells, the header has {wanted}", "correct the table"
                    )
        except csv.Error as error:
            raise UserError(f"{path} is not a readable CSV table", "give a table with a header row") from error


def _encoding(path: Path) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    escaped = proper = False
    lines = 1
    with path.open("rb") as handle:
        start = handle.read(6)
        if start.startswith(_COMPRESSED):
            raise UserError(f"the table {path} is compressed", "unpack it and give the table itself")
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        handle.seek(0)
        chunk = start
        while chunk:
            chunk = handle.read(_BYTES_AT_ONCE)
            if b"\0" in chunk:
                raise UserError(f"{path} is no text", "give a CSV (UTF-8) or Parquet table")
            text = decoder.decode(chunk, final=not chunk)
            before = lines
            lines += text.count("\n")
            if text.isascii():
                continue
            # Searched, not walked through: 23 MB with one umlaut took 3.3 s by the character.
            firsts = (_ESCAPED.search(text), _PROPER.search(text))
            if (escaped or firsts[0]) and (proper or firsts[1]):
                starts = [
                    found.start() for found, known in zip(firsts, (escaped, proper), strict=True) if found and not known
                ]
                seen = before + text.count("\n", 0, max(starts, default=0))
                raise UserError(
                    f"{path} mixes two text encodings (seen by line {seen})", "save it again as UTF-8 from one program"
                )
            escaped, proper = escaped or firsts[0] is not None, proper or firsts[1] is not None
    return "windows-1252" if escaped else "utf-8"


def _as_text(table: pl.LazyFrame) -> pl.LazyFrame:
    # pandas writes whole numbers with a blank among them as floats: an id of 17.0 in one table is 17 in the other.
    cells = pl.all().cast(pl.String).str.strip_chars().str.replace(_WHOLE_FLOAT, "$1")
    blank = pl.all().str.to_lowercase().is_in(list(BLANKS))
    return table.select(cells).with_columns(pl.when(~blank).then(pl.all()))


def density_parser(label_map: Mapping[str, str] | None = None) -> Callable[[str], str | None]:
    """A parser of densities: the table's own words first, then letters, numbers and floats.

    Args:
        label_map: The table's words to `A B C D`, as `{"F": "A"}`.

    Returns:
        The parser. A map that gives numbers a meaning of its own must name all that occur (with `1=D,2=C,3=B`, 4 is no
        D), and one that gives letters another meaning all letters: the parser raises ValueError for the others.

    Raises:
        UserError: The map leads to something else.
    """
    words = {re.sub(_WHOLE_FLOAT, r"\1", word): meaning for word, meaning in (label_map or {}).items()}
    unknown = sorted(set(words.values()) - set(CATEGORIES))
    if unknown:
        raise UserError(f"--label-map leads to {', '.join(unknown)}", f"map to {', '.join(CATEGORIES)}")
    own_numbers = any(word in ("1", "2", "3", "4") for word in words)
    own_letters = any(word.upper() in CATEGORIES and word.upper() != meaning for word, meaning in words.items())

    def parse(text: str) -> str | None:
        if text in words:
            return words[text]
        meaning = parse_density(text)
        number = re.sub(_WHOLE_FLOAT, r"\1", text)[-1:].isdigit()
        if meaning is not None and (own_numbers if number else own_letters):
            raise ValueError(f"density {text!r} is not in --label-map, which gives others of its kind a meaning")
        return meaning

    return parse


def parse_side(text: str) -> str:
    """A side as tables write it (`L`, `left`, ...)."""
    if text.upper() not in _SIDES:
        raise ValueError(f"{text!r} is neither L nor R")
    return _SIDES[text.upper()]


def parse_view(text: str) -> str | None:
    """A view as tables write it: `RCC`, `L-MLO` and `cc` are `CC`, `MLO` and `CC`; others keep their words.

    A side that is written with it is left aside: the column of sides says it. A view with a modifier (`CCID`) stays
    whole, because a table's view has no place for one.
    """
    view, modifiers = split_position(text.upper())
    return text.upper() if modifiers else view


def parse_flag(text: str) -> bool:
    """A yes or no as tables write it."""
    word = text.lower().removesuffix(".0")
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither yes nor no")
    return word in _TRUE


def parse_number(text: str) -> float:
    """A number; a decimal comma is one."""
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise ValueError(f"{text!r} is no number") from error


def parse_age(text: str) -> float | None:
    """An age in years, `57`, `57.0` or `057Y`; None if nobody has it (negative, above 120)."""
    try:
        age = parse_number(text.upper().removesuffix("Y"))
    except ValueError as error:
        raise ValueError(f"{text!r} is no age in years") from error
    return age if 0 <= age <= _OLDEST else None


def parse_date(text: str) -> date:
    """A date as ISO 8601 (a time behind it is left aside) or as DICOM writes it, 20240131."""
    try:
        return date.fromisoformat(text[:10] if "-" in text else text[:8])
    except ValueError as error:
        raise ValueError(f"{text!r} is no date like 2024-01-31") from error
