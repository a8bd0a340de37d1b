"""RSNA Screening Mammography Breast Cancer Detection (2022): `train.csv`, an image a row, and `train_images/`."""

import polars as pl

from densityclip.datasets.columns import (
    Rows,
    density_parser,
    parse_age,
    parse_flag,
    parse_side,
    parse_view,
    read_rows,
)
from densityclip.datasets.contract import Candidates, Request
from densityclip.datasets.exclusion import leave_out
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.locate import find_root, find_table
from densityclip.datasets.rules import (
    blank_note,
    counted,
    impossible_note,
    leave_out_other_views,
    name_origin,
    refuse_contradictions,
)
from densityclip.reasons import Reason
from densityclip.records import Modality

# By the challenge's organisers and a published analysis of the data; the table itself has numbers only.
INSTITUTIONS = {"1": "Emory University", "2": "BreastScreen Victoria"}
_NEEDED = ("site_id", "patient_id", "image_id", "laterality", "view", "density")
_USED = (*_NEEDED, "age", "implant", "machine_id")


def candidates(request: Request) -> Candidates:
    """The images of `train.csv`; a patient is one exam, because the table has neither exams nor dates.

    The headers are stripped (no Modality), so side, view and modality are the table's; all images are DM.

    Raises:
        UserError: The table or a column is missing, a value fits nothing, or the images are not there.
    """
    table = find_table(request, ("train.csv",))
    read = read_rows(table, _USED)
    read.require(_NEEDED, "give the train.csv of the challenge with --table")
    for column in ("site_id", "patient_id", "image_id"):
        read.refuse_blanks(column)
    root = find_root(request, ("train_images",), read.table["patient_id"], table)
    rows = _images(read, str(root), request)
    refuse_contradictions(rows, read, ("patient_id", "laterality", "view", "density"))
    notes = (*_notes(rows), *impossible_note(read, "age", rows["age"]))
    rows = leave_out_other_views(rows)
    rows = leave_out(rows, pl.col("implant"), Reason.IMPLANT, "the table states an implant")
    rules = HeaderRules(read_files=not request.no_files, require_view=True)
    return Candidates(rows=rows, rules=rules, notes=notes, tables={"table": table})


def _images(read: Rows, root: str, request: Request) -> pl.DataFrame:
    rows = read.table.select(
        "image_id",
        pl.format("{}/{}/{}.dcm", pl.lit(root), "patient_id", "image_id").alias("path"),
        "patient_id",
        pl.col("patient_id").alias("exam_id"),
        pl.lit(Modality.DM.value).alias("modality"),
        pl.lit("train").alias("source_split"),
    ).with_columns(
        read.parsed("laterality", parse_side, pl.String()),
        read.parsed("view", parse_view, pl.String()),
        read.parsed("density", density_parser(), pl.String()),
        read.parsed_if_there("age", parse_age, pl.Float64()),
        read.parsed_if_there("implant", parse_flag, pl.Boolean()),
        read.parsed_if_there("machine_id", str, pl.String()).alias("machine"),
        read.table["site_id"].alias("site"),
    )
    named = pl.col("site").replace_strict(INSTITUTIONS, default=None)
    institution = pl.lit(request.institution) if request.institution else named
    return name_origin(rows, site=pl.format("RSNA site {}", "site"), institution=institution)


def _notes(rows: pl.DataFrame) -> tuple[str, ...]:
    notes = ["A patient is one exam: the table has neither exams nor dates."]
    for (site,), group in rows.sort("site").group_by("site", maintain_order=True):
        notes += [f"{site}: {sentence}" for sentence in blank_note(group)]
    per_patient = rows.group_by("patient_id").agg(pl.col("density").drop_nulls().n_unique())
    differing = per_patient.filter(pl.col("density") > 1).height
    if differing:
        notes.append(f"The density differs within {counted(differing, 'patient', 'patients')}; it is kept per image.")
    if rows["implant"].any():
        notes.append("Site 1 states implants for the patient, not for the breast: both of her breasts are left out.")
    return tuple(notes)
