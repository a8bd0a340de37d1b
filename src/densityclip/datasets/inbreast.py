"""INbreast: `INbreast.csv` (semicolons), an image a row, and `AllDICOMs/{image}_{patient}_MG_R_CC_ANON.dcm`."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl

from densityclip.datasets.columns import Rows, density_parser, parse_age, parse_date, parse_side, parse_view, read_rows
from densityclip.datasets.contract import Candidates, Request
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.locate import find_table, list_files
from densityclip.datasets.rules import blank_note, counted, leave_out_other_views, name_origin, refuse_contradictions
from densityclip.errors import UserError
from densityclip.records import Modality

SITE = "INbreast"
INSTITUTION = "Centro Hospitalar de S. João, Porto"
_NEEDED = ("File Name", "Laterality", "View", "ACR")
_USED = (*_NEEDED, "Patient ID", "Patient age", "Acquisition date")
_REMOVED = ("removed", "remove", "anonymized", "anonymised")
_EXTENSIONS = frozenset({".dcm", ".dicom"})
# Image, patient's pseudonym, side and view; the release writes ML in names where the table says MLO.
_NAME = r"([0-9]+)_([0-9A-Za-z]+)_MG_[LR]_[A-Z]+_ANON\.\w+$"


def candidates(request: Request) -> Candidates:
    """The images of `INbreast.csv`; the patient is the pseudonym in the file's name, because the table's id is removed.

    The table says month and year only, so there is no study date; a patient's images of one month are an exam.

    Raises:
        UserError: The table or a column is missing, a value fits nothing, or no image is there.
    """
    table = find_table(request, ("INbreast.csv", "INbreast.parquet"), ("INbreast Release 1.0",))
    read = read_rows(table, _USED)
    read.require(_NEEDED, "give INbreast.csv of the release (save the workbook's sheet as CSV) with --table")
    read, totals = _without_totals(read)
    images = _images(read)
    refuse_contradictions(images, read, ("laterality", "view", "density"))
    rows, notes = _with_patients(images, request)
    if totals:
        notes.append(f"The last {counted(totals, 'row', 'rows')} of the table name no file and were passed over.")
    rows = name_origin(leave_out_other_views(rows), site=SITE, institution=request.institution or INSTITUTION)
    rules = HeaderRules(read_files=not request.no_files, require_view=True)
    return Candidates(rows=rows, rules=rules, notes=(*notes, *blank_note(rows)), tables={"table": table})


def _without_totals(read: Rows) -> tuple[Rows, int]:
    """The table without the rows below the last image, which a sheet saved from the workbook has, and their number."""
    named = read.table["File Name"].is_not_null().arg_true()
    images = int(named[-1]) + 1 if len(named) else 0
    shorter = replace(read, table=read.table.head(images))
    shorter.refuse_blanks("File Name")
    return shorter, read.table.height - images


def _images(read: Rows) -> pl.DataFrame:
    month = read.parsed_if_there("Acquisition date", _known, pl.String())
    named = read.parsed("File Name", _image_id, pl.String()).alias("image_id").to_frame()
    return named.with_columns(
        pl.lit(Modality.DM.value).alias("modality"),
        read.parsed("View", parse_view, pl.String()).alias("view"),
        read.parsed("Laterality", parse_side, pl.String()).alias("laterality"),
        read.parsed("ACR", density_parser(), pl.String()).alias("density"),
        read.parsed_if_there("Patient ID", _known, pl.String()).alias("_named"),
        read.parsed_if_there("Patient age", _age, pl.Float64()).alias("age"),
        read.parsed_if_there("Acquisition date", _full_date, pl.Date()).alias("study_date"),
        month.alias("_month"),
    )


def _image_id(text: str) -> str:
    number = re.match(r"[0-9]+", text)
    if number is None:
        raise ValueError(f"{text!r} does not begin with the number of an image")
    return number.group()


def _known(text: str) -> str | None:
    return None if text.lower() in _REMOVED else text


def _age(text: str) -> float | None:
    return None if text.lower() in _REMOVED else parse_age(text)


def _full_date(text: str) -> date | None:
    # 201001 is a month: a day would be made up.
    return parse_date(text) if len(text) >= 8 and text[0].isdigit() else None


def _with_patients(images: pl.DataFrame, request: Request) -> tuple[pl.DataFrame, list[str]]:
    source = request.source.resolve()
    if request.no_files and not source.is_dir():
        files = pl.DataFrame(schema={"image_id": pl.String(), "pseudonym": pl.String(), "found": pl.String()})
    else:
        files = _named_files(source)
    images = images.join(files, on="image_id", how="left", maintain_order="left")
    if not request.no_files and images["found"].null_count() == images.height:
        raise UserError(
            f"{source} holds none of the {images.height:,} images that the table names",
            "give the folder that holds AllDICOMs, or add --no-files to plan without images",
        )
    patient = pl.coalesce("pseudonym", "_named", "image_id")
    alone = images.filter(pl.col("pseudonym").is_null() & pl.col("_named").is_null()).height
    given = pl.format("{}/AllDICOMs/{}.dcm", pl.lit(str(source)), "image_id")
    rows = images.with_columns(
        pl.coalesce("found", given).alias("path"),
        patient.alias("patient_id"),
        pl.format("{}-{}", patient, pl.col("_month").fill_null("0")).alias("exam_id"),
    ).drop("pseudonym", "found", "_named", "_month")
    notes = ["The table's patient ids are removed: patients are the pseudonyms in the files' names."]
    if alone:
        notes.append(
            f"{counted(alone, 'image', 'images')} without a file: no patient id is known, so each counts as a patient "
            "of its own."
        )
    return rows, notes


def _named_files(source: Path) -> pl.DataFrame:
    paths = list_files(source, _EXTENSIONS)
    names = paths.str.extract_groups(_NAME)
    return (
        pl.DataFrame([names.struct.field("1").alias("image_id"), names.struct.field("2").alias("pseudonym")])
        .with_columns(paths.alias("found"))
        .drop_nulls("image_id")
        .unique("image_id", keep="first", maintain_order=True)
    )
