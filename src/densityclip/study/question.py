"""Whether the cohort of the primary question holds what it asks for: looked up before anything is trained."""

from pathlib import Path

import polars as pl

from densityclip.artifacts import read_table
from densityclip.errors import UserError
from densityclip.evaluation.endpoint import FEWEST_TESTED
from densityclip.records import Level
from densityclip.study_file import Study

# What an image must state to be part of a row of the level.
_NEEDED = {
    Level.BREAST.value: ("exam_id", "laterality"),
    Level.EXAM.value: ("exam_id",),
}


def check_question(study: Study, index: Path, splits: Path) -> None:
    """Refuse a primary question that no image could answer, whatever the arms do.

    Args:
        study: The study.
        index: Index of the primary question's cohort.
        splits: Its split.

    Raises:
        UserError: None of the labelled images of the part that answers is of the modality, or states what the level
            needs.
    """
    primary, part = study.primary, study.question["part"]
    table = read_table(index, "index").filter(pl.col("density").is_not_null())
    patients = read_table(splits, "splits").filter(cohort=primary.cohort, part=part).select("patient_id").unique()
    able = _able(study, table.join(patients, on="patient_id", how="semi"))
    if able.height:
        return
    held = sorted(table["modality"].unique().to_list())
    raise UserError(
        f"the primary question cannot be answered: the {part} part of the cohort {primary.cohort} has no labelled "
        f"{_kind(study)} (labelled images of the cohort: {', '.join(held) or 'none'})",
        "change `primary` in the study file, and give another --out: this question is registered",
    )


def few_patients(study: Study, index: Path, splits: Path) -> str:
    """A sentence where so few patients can answer the primary question that it will not be tested; else blank."""
    primary = study.primary
    able = _able(study, read_table(index, "index").filter(pl.col("density").is_not_null()))
    if splits.is_file():
        patients = read_table(splits, "splits").filter(cohort=primary.cohort, part=study.question["part"])
        able = able.join(patients, on="patient_id", how="semi")
    number = able["patient_id"].n_unique()
    if number >= FEWEST_TESTED:
        return ""
    return (
        f"The primary question has {number} patient{'s' * (number != 1)} with labelled {_kind(study)}: with fewer than "
        f"{FEWEST_TESTED} it is described and not tested."
    )


def _able(study: Study, rows: pl.DataFrame) -> pl.DataFrame:
    """Of labelled rows of an index, those that can be part of the answer."""
    primary = study.primary
    if primary.modality != "all":
        rows = rows.filter(modality=primary.modality)
    return rows.drop_nulls(_NEEDED.get(primary.level, ("image_id",)))


def _kind(study: Study) -> str:
    primary = study.primary
    kind = "images" if primary.modality == "all" else f"{primary.modality} images"
    needed = _NEEDED.get(primary.level)
    named = " and ".join(name.removesuffix("_id") for name in needed or ())
    return f"{kind} that name their {named}" if named else kind
