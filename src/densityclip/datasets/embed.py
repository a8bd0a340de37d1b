"""EMBED open data (Emory): a table of images, a table of findings, and `images/cohort_N/patient/exam/.../*.dcm`.

Its licence bans passing on weights, embeddings or anything derived from it; `registry` says so, and bundles inherit it.
"""

from pathlib import Path
from typing import Any

import polars as pl

from densityclip.datasets.columns import (
    Rows,
    density_parser,
    parse_age,
    parse_date,
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
    DENSITY,
    blank_note,
    counted,
    impossible_note,
    leave_out_other_views,
    name_origin,
    refuse_contradictions,
)
from densityclip.dicom.codes import vendor_name
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import Modality

SITE, INSTITUTION = "EMBED", "Emory University"
IMAGES = ("EMBED_OpenData_metadata.csv", "EMBED_OpenData_metadata_reduced.csv")
FINDINGS = ("EMBED_OpenData_clinical.csv", "EMBED_OpenData_clinical_reduced.csv")
_KINDS = {
    "2d": Modality.DM.value,
    "3d": Modality.DBT.value,
    "c-view": Modality.S2D.value,
    "cview": Modality.S2D.value,
}
_MODIFIER = "0_ViewCodeSequence_0_ViewModifierCodeSequence_CodeMeaning"
_IMAGES_NEEDED = (
    "anon_dicom_path", "empi_anon", "acc_anon", "FinalImageType", "ImageLateralityFinal", "ViewPosition"
)  # fmt: skip
_IMAGES_USED = (
    *_IMAGES_NEEDED, "spot_mag", "study_date_anon", "SeriesDescription", "Manufacturer", "DeviceSerialNumber",
    "StationName", "PatientSex", "BreastImplantPresent", _MODIFIER,
)  # fmt: skip
_FINDINGS_NEEDED = ("acc_anon", "tissueden")
# Older copies of the table call the race ETHNICITY_DESC.
_FINDINGS_USED = (*_FINDINGS_NEEDED, "age_at_study", "RACE_DESC", "ETHNICITY_DESC")
_MALE = "male"


def candidates(request: Request) -> Candidates:
    """The images of the metadata table, with the density of their exam from the clinical table.

    Density is the exam's: the rows of the clinical table are findings, and `side` is the side of a finding, so rows are
    brought together by exam and never chosen by side.

    Raises:
        UserError: A table or column is missing, a value fits nothing, the tables do not belong together, or the images
            are not there.
    """
    image_table = find_table(request, IMAGES, ("tables",))
    finding_table = _beside(image_table)
    images = read_rows(image_table, _IMAGES_USED)
    images.require(_IMAGES_NEEDED, "give the metadata table of the release with --table")
    for column in ("anon_dicom_path", "empi_anon", "acc_anon"):
        images.refuse_blanks(column)
    findings = read_rows(finding_table, _FINDINGS_USED)
    findings.require(_FINDINGS_NEEDED, "put the clinical table of the release beside the metadata table")
    exams, notes = _exams(findings)
    rows = _images(images, image_table, request)
    refuse_contradictions(rows, images, ("patient_id", "exam_id", "laterality", "view", "modality"))
    rows = rows.join(exams, on="exam_id", how="left", maintain_order="left")
    if rows["_known"].null_count() == rows.height:
        raise UserError(
            f"no exam (acc_anon) of {image_table.name} is in {finding_table.name}",
            "give two tables of the same release, neither of them saved again by a spreadsheet",
        )
    notes += _notes(rows)
    rows = name_origin(_left_out(rows), site=SITE, institution=request.institution or INSTITUTION)
    rules = HeaderRules(read_files=not request.no_files, require_view=True)
    return Candidates(
        rows=rows.select(name for name in rows.columns if not name.startswith("_")),
        rules=rules,
        notes=tuple(notes),
        tables={"images": image_table, "findings": finding_table},
    )


def _beside(image_table: Path) -> Path:
    """The table of findings that lies beside the table of images."""
    names = [image_table.name.replace("metadata", "clinical"), *FINDINGS]
    paths = [image_table.parent / name for name in names if name != image_table.name]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise UserError(
            f"there is no {FINDINGS[0]} beside {image_table.name}",
            "EMBED's densities are in its clinical table: put it beside the metadata table",
        )
    return found


def _stated(race: str) -> pl.Expr:
    """A race as it is written; null where the words say that it is not known, so that this is no group of people."""
    text = pl.col(race).str.replace_all(r"\s+", " ")
    return pl.when(~text.str.contains(r"(?i)unknown|unavailable|unreported|not recorded|declined")).then(text)


def _exams(findings: Rows) -> tuple[pl.DataFrame, list[str]]:
    """One row an exam: `density` (of differing ones the densest), `age`, `race`, and what is left out by `_male`."""
    findings.refuse_blanks("acc_anon")
    said = findings.parsed("tissueden", _density_or_male, pl.String())
    race = [name for name in ("RACE_DESC", "ETHNICITY_DESC") if name in findings.table.columns]
    rows = findings.table.select(
        pl.col("acc_anon").alias("exam_id"),
        pl.coalesce(*(_stated(name) for name in race), pl.lit(None, pl.String)).alias("race"),
    ).with_columns(
        findings.parsed_if_there("age_at_study", parse_age, pl.Float64()).alias("age"),
        said.replace(_MALE, None).cast(DENSITY).alias("density"),
        (said == _MALE).fill_null(value=False).alias("_male"),
    )
    exams = (
        rows.group_by("exam_id", maintain_order=True)
        .agg(
            pl.col("density").max(),
            pl.col("density").drop_nulls().n_unique().alias("_densities"),
            pl.col("_male").any(),
            pl.col("age", "race").drop_nulls().first(),
        )
        .with_columns(pl.col("density").cast(pl.String), pl.lit(value=True).alias("_known"))
    )
    notes = [f"{counted(rows.height, 'finding', 'findings')} of {counted(exams.height, 'exam', 'exams')} were read."]
    notes += impossible_note(findings, "age_at_study", rows["age"])
    differing = exams.filter(pl.col("_densities") > 1).height
    if differing:
        notes.append(f"The findings of {counted(differing, 'exam', 'exams')} differ in density; the densest was taken.")
    return exams.drop("_densities"), notes


def _density_or_male(text: str) -> str | None:
    return _MALE if text == "5" else density_parser()(text)


def _images(images: Rows, table: Path, request: Request) -> pl.DataFrame:
    # Every release wrote another prefix (./images/, the folders of a file server); from `cohort_N/` on they agree.
    tail = pl.col("anon_dicom_path").str.replace_all(r"\\", "/").str.replace(r"^.*?(cohort_\d+/)", "$1")
    tails = images.table.select(tail.str.strip_chars_start("./"))["anon_dicom_path"]
    root = find_root(request, ("images",), tails.str.extract(r"^([^/]+)/").drop_nulls().unique(), table)
    kind = pl.col("FinalImageType").str.to_lowercase()
    return images.table.select(
        _image_ids(tails).alias("image_id"),
        pl.format("{}/{}", pl.lit(str(root)), tails).alias("path"),
        pl.col("empi_anon").alias("patient_id"),
        pl.col("acc_anon").alias("exam_id"),
        kind.replace_strict(_KINDS, default=None).alias("modality"),
        pl.col("FinalImageType").alias("_kind"),
    ).with_columns(
        images.parsed_if_there("study_date_anon", parse_date, pl.Date()).alias("study_date"),
        _view(images).alias("view"),
        images.parsed("ImageLateralityFinal", parse_side, pl.String()).alias("laterality"),
        images.parsed_if_there("spot_mag", parse_flag, pl.Boolean()).fill_null(value=False).alias("_spot"),
        images.parsed_if_there("BreastImplantPresent", parse_flag, pl.Boolean()).alias("implant"),
        images.parsed_if_there("Manufacturer", vendor_name, pl.String()).alias("vendor"),
        _text(images, "DeviceSerialNumber", "StationName").alias("machine"),
        _text(images, _MODIFIER).str.to_lowercase().alias("_modifier"),
        (_text(images, "PatientSex").str.to_uppercase() == "M").fill_null(value=False).alias("_man"),
    )


def _image_ids(tails: pl.Series) -> pl.Series:
    """The names of the files; of names that stand in several folders (views named alike), the whole path."""
    names = tails.str.extract(r"([^/]+?)(?:\.dcm)?$")
    return names.zip_with(~names.is_duplicated(), tails)


def _text(images: Rows, *columns: str) -> pl.Series:
    there = [name for name in columns if name in images.table.columns]
    return images.table.with_columns(pl.coalesce(*there, pl.lit(None, pl.String)).alias("_text"))["_text"]


def _view(images: Rows) -> pl.Series:
    """The view: of an exaggerated one, `ViewPosition` says CC and the series name XCCL; blank, the name may say it."""
    stated = images.parsed("ViewPosition", parse_view, pl.String())
    if "SeriesDescription" not in images.table.columns:
        return stated
    series = pl.col("SeriesDescription").str.to_uppercase()
    exaggerated = series.str.extract(r"^[LR]?[ _-]?(XCC[LM]?)\b")
    named = series.str.extract(r"^[LR][ _-]?(CC|MLO)\b")
    table = images.table.with_columns(stated.alias("_stated"))
    return table.select(pl.coalesce(exaggerated, "_stated", named)).to_series()


def _left_out(rows: pl.DataFrame) -> pl.DataFrame:
    rows = leave_out(
        rows,
        pl.col("_kind").str.to_lowercase().str.starts_with("roi"),
        Reason.NOT_MAMMOGRAPHY,
        pl.format("a screen save with marked regions ({})", "_kind"),
    )
    rows = leave_out(rows, pl.col("_male") | pl.col("_man"), Reason.MALE)
    rows = leave_out(rows, pl.col("_spot"), Reason.MAGNIFICATION, "the table says spot_mag 1")
    spoiling = pl.col("_modifier").str.contains("magnif|spot|tangential")
    rows = leave_out(rows, spoiling, Reason.MAGNIFICATION, pl.format("view modifier {}", "_modifier"))
    rows = leave_out_other_views(rows)
    displaced = pl.col("_modifier").str.contains("implant displaced").fill_null(value=False)
    return leave_out(rows, pl.col("implant") & ~displaced, Reason.IMPLANT, "the table states an implant")


def _notes(rows: pl.DataFrame) -> list[str]:
    notes = blank_note(rows.filter(~(pl.col("_male").fill_null(value=False) | pl.col("_man"))))
    unknown = rows.filter(pl.col("_known").is_null())["exam_id"].n_unique()
    if unknown:
        notes.append(f"{counted(unknown, 'exam', 'exams')} of the image table without a row in the clinical table.")
    odd = rows.filter(pl.col("modality").is_null() & ~pl.col("_kind").str.to_lowercase().str.starts_with("roi"))
    for word, number in _numbers(odd, "_kind").items():
        notes.append(f"{counted(number, 'image', 'images')} of kind {word}: what they are is left to their headers.")
    volumes = rows.filter(pl.col("modality") == Modality.DBT.value).height
    if volumes:
        notes.append(
            f"The table names {counted(volumes, 'tomosynthesis volume', 'tomosynthesis volumes')}; the open release "
            "does not hold them, so they count as missing files."
        )
    return notes


def _numbers(rows: pl.DataFrame, column: str) -> dict[Any, int]:
    return dict(rows.group_by(pl.col(column).fill_null("not stated")).len().sort(column).iter_rows())
