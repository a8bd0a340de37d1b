"""Any CSV or Parquet table of images, with a mapping of its columns and labels."""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from densityclip.artifacts import INDEX
from densityclip.datasets.columns import (
    Rows,
    density_parser,
    parse_age,
    parse_date,
    parse_flag,
    parse_number,
    parse_side,
    parse_view,
    read_rows,
)
from densityclip.datasets.contract import Candidates, Request
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.rules import impossible_note, leave_out_other_views, refuse_contradictions
from densityclip.dicom.codes import vendor_name
from densityclip.errors import UserError
from densityclip.records import Modality

_MODALITIES = {modality.value.lower(): modality.value for modality in Modality}
# More is no volume of a breast; it would be taken at its word when memory is planned.
_MOST_FRAMES = 2000


def candidates(request: Request) -> Candidates:
    """The images that a table names, one row each: image files or DICOM.

    What the table leaves blank is taken from the header where the file is DICOM. A side, view or modality that neither
    states stays null or `unknown`: the table, not a guess, says what is in it. Where neither table nor header has
    exams, a patient's images of one date are an exam; without dates all of them are.

    Raises:
        UserError: There is no table; a named column is missing, there is none for path or patient_id, a value fits
            nothing (row and column are named), or two rows of one image contradict each other.
    """
    if request.table is None:
        raise UserError("--dataset table needs a table", "give it with --table FILE")
    read = read_rows(request.table)
    names = _columns(read, request.columns)
    for needed in ("path", "patient_id"):
        read.refuse_blanks(names[needed])
    if request.label_map and "density" not in names:
        raise UserError(
            f"--label-map is given, but {read.name} has no column density; it has {', '.join(read.columns)}",
            "say which one it is with --column density=NAME",
        )
    rows = _rows(read, names, request)
    refuse_contradictions(rows, read, [name for name in rows.columns if name != "image_id"])
    rules = HeaderRules(read_files=not request.no_files)
    notes = _notes(read, rows, names)
    return Candidates(rows=leave_out_other_views(rows), rules=rules, notes=notes, tables={"table": request.table})


def _notes(read: Rows, rows: pl.DataFrame, names: Mapping[str, str]) -> tuple[str, ...]:
    notes = [] if "density" in names else [f"{read.name} has no column density: nothing is labelled."]
    for ours in ("age", "frames", "spacing_mm"):
        if ours in names:
            notes += impossible_note(read, names[ours], rows[ours])
    return tuple(notes)


def _columns(read: Rows, columns: Mapping[str, str]) -> dict[str, str]:
    """Our names of the columns that the table has, and the table's."""
    unknown = sorted(set(columns) - set(INDEX))
    if unknown:
        raise UserError(f"an index has no column {', '.join(unknown)}", f"its columns are {', '.join(INDEX)}")
    read.require(sorted(columns.values()), "correct --column")
    present = read.table.columns
    names = {ours: columns.get(ours, ours) for ours in INDEX if ours in columns or ours in present}
    for needed in ("path", "patient_id"):
        if needed not in names:
            raise UserError(
                f"{read.name} has no column {needed}; it has {', '.join(present)}",
                f"say which one it is with --column {needed}=NAME",
            )
    return names


def _rows(read: Rows, names: Mapping[str, str], request: Request) -> pl.DataFrame:
    texts = read.table.select(pl.col(theirs).alias(ours) for ours, theirs in names.items())
    rows = texts.with_columns(_parsed(read, names, request))
    given = pl.col("path").str.replace_all(r"\\", "/")
    relative = ~given.str.contains(r"^(?:/|[A-Za-z]:/)")
    root = pl.lit(request.source.resolve().as_posix())
    rows = rows.with_columns(
        _or_else(rows, "image_id", "path"),
        pl.when(relative).then(pl.format("{}/{}", root, given)).otherwise(given).alias("path"),
    )
    if "view" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.String).alias("view"))
    return _with_defaults(rows, request)


def _or_else(rows: pl.DataFrame, name: str, other: str) -> pl.Expr:
    return pl.coalesce(name, other).alias(name) if name in rows.columns else pl.col(other).alias(name)


def _with_defaults(rows: pl.DataFrame, request: Request) -> pl.DataFrame:
    """What the command says of site and institution stands where the table is silent; a label's source is the table."""
    for name, said in (("site", request.site), ("institution", request.institution)):
        if said is not None:
            known = pl.col(name) if name in rows.columns else pl.lit(None, pl.String)
            rows = rows.with_columns(pl.coalesce(known, pl.lit(said)).alias(name))
    if "density" not in rows.columns:
        return rows.drop("density_source", strict=False)
    source = pl.col("density_source") if "density_source" in rows.columns else pl.lit(None, pl.String)
    labelled = pl.col("density").is_not_null()
    stated = pl.when(labelled).then(pl.coalesce(source, pl.lit("table"))).alias("density_source")
    return rows.with_columns(stated)


def _parsed(read: Rows, names: Mapping[str, str], request: Request) -> list[pl.Series]:
    found = [
        read.parsed(names[ours], parse, INDEX[ours]).alias(ours) for ours, parse in _PARSERS.items() if ours in names
    ]
    if "density" in names:
        step = "correct the table, or say what the word means with --label-map WORD=A,OTHER=B"
        labels = read.parsed(names["density"], density_parser(request.label_map), pl.String(), step)
        found.append(labels.alias("density"))
    return found


def _modality(text: str) -> str | None:
    if text.lower() not in _MODALITIES:
        raise ValueError(f"{text!r} is not DM, s2D or DBT")
    word = _MODALITIES[text.lower()]
    return None if word == Modality.UNKNOWN.value else word


def _frames(text: str) -> int | None:
    number = parse_number(text)
    if not 1 <= number <= _MOST_FRAMES:
        return None
    if not number.is_integer():
        raise ValueError(f"{text!r} is no number of frames")
    return int(number)


def _spacing(text: str) -> float | None:
    spacing = parse_number(text)
    return spacing if 0 < spacing < float("inf") else None


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "laterality": parse_side,
    "view": parse_view,
    "vendor": vendor_name,
    "modality": _modality,
    "study_date": parse_date,
    "age": parse_age,
    "implant": parse_flag,
    "frames": _frames,
    "spacing_mm": _spacing,
}
