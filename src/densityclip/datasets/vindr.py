"""VinDr-Mammo 1.0.0: `breast-level_annotations.csv`, an image a row, and `images/{study_id}/{image_id}.dicom`."""

from pathlib import Path

import polars as pl

from densityclip.datasets.columns import Rows, density_parser, parse_age, parse_side, parse_view, read_rows
from densityclip.datasets.contract import Candidates, Request
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.locate import find_root, find_table
from densityclip.datasets.rules import blank_note, counted, leave_out_other_views, name_origin, refuse_contradictions
from densityclip.dicom.codes import vendor_name
from densityclip.errors import UserError
from densityclip.records import Modality

SITE = "VinDr-Mammo"
# Where the exams were made, by the data descriptor (doi 10.1038/s41597-023-02100-7); no row says which.
INSTITUTION = "Hospital 108 and Hanoi Medical University Hospital"
TABLE, METADATA = "breast-level_annotations.csv", "metadata.csv"
_NEEDED = ("study_id", "image_id", "laterality", "view_position", "breast_density", "split")
_OF_FINDINGS = {"finding_categories", "finding_birads", "xmin"}
# What `metadata.csv` took from the headers, under DICOM's own names.
_IMAGE_KEY, _AGE, _VENDOR = "SOP Instance UID", "Patient's Age", "Manufacturer"


def candidates(request: Request) -> Candidates:
    """The images of the breast-level table; density is per breast, and a study stands for the patient.

    Ages and vendors are taken from `metadata.csv` where it lies beside the table.

    Raises:
        UserError: The table or a column is missing, it is the table of findings, a value fits nothing, or the images
            are not there.
    """
    table = find_table(request, (TABLE,))
    read = read_rows(table)
    if _OF_FINDINGS.intersection(read.table.columns):
        raise UserError(f"{table.name} has a row for each finding, and counts an image more than once", f"give {TABLE}")
    read.require(_NEEDED, f"give the {TABLE} of the release with --table")
    for column in ("study_id", "image_id"):
        read.refuse_blanks(column)
    root = find_root(request, ("images",), read.table["study_id"], table)
    rows = _images(read, root, request)
    refuse_contradictions(rows, read, ("exam_id", "laterality", "view", "density"))
    metadata = table.parent / METADATA
    tables = {"table": table}
    if metadata.is_file():
        rows = rows.join(_from_headers(metadata), on="image_id", how="left", maintain_order="left")
        tables["metadata"] = metadata
    rules = HeaderRules(read_files=not request.no_files, require_view=True)
    return Candidates(rows=leave_out_other_views(rows), rules=rules, notes=_notes(rows), tables=tables)


def _images(read: Rows, root: Path, request: Request) -> pl.DataFrame:
    rows = read.table.select(
        "image_id",
        pl.format("{}/{}/{}.dicom", pl.lit(str(root)), "study_id", "image_id").alias("path"),
        pl.col("study_id").alias("patient_id"),
        pl.col("study_id").alias("exam_id"),
        pl.lit(Modality.DM.value).alias("modality"),
        pl.col("split").alias("source_split"),
    ).with_columns(
        read.parsed("laterality", parse_side, pl.String()),
        read.parsed("view_position", parse_view, pl.String()).alias("view"),
        read.parsed("breast_density", density_parser(), pl.String()).alias("density"),
        read.parsed_if_there("series_id", str, pl.String()).alias("series_uid"),
    )
    return name_origin(rows, site=SITE, institution=request.institution or INSTITUTION)


def _from_headers(path: Path) -> pl.DataFrame:
    read = read_rows(path, (_IMAGE_KEY, _AGE, _VENDOR))
    read.require((_IMAGE_KEY,), f"give the {METADATA} of the release, or take it away: it adds ages and vendors only")
    found = pl.DataFrame(
        [
            read.table[_IMAGE_KEY].alias("image_id"),
            read.parsed_if_there(_AGE, parse_age, pl.Float64()).alias("age"),
            read.parsed_if_there(_VENDOR, vendor_name, pl.String()).alias("vendor"),
        ]
    )
    return found.drop_nulls("image_id").unique("image_id", keep="first", maintain_order=True)


def _notes(rows: pl.DataFrame) -> tuple[str, ...]:
    notes = ["There is no patient id: studies are taken for patients, and a woman with two studies is not seen."]
    per_exam = rows.group_by("exam_id").agg(pl.col("density").drop_nulls().n_unique())
    differing = per_exam.filter(pl.col("density") > 1).height
    if differing:
        said = "differ in density; each breast keeps its own"
        notes.append(f"The breasts of {counted(differing, 'study', 'studies')} {said}.")
    return (*notes, *blank_note(rows))
