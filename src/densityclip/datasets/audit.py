"""Counts of what is in an index, and of what was left out and why, as plain JSON values."""

from typing import Any

import polars as pl

from densityclip.artifacts import SCHEMA_VERSION
from densityclip.density import CATEGORIES
from densityclip.reasons import Reason
from densityclip.records import MODALITIES, Modality

THIN_CELL = 30
NOT_STATED = "not stated"
_COLUMNS = (
    "site",
    "institution",
    "vendor",
    "machine",
    "modality",
    "view",
    "laterality",
    "density",
    "age_band",
    "race",
    "source_split",
)


def audit(index: pl.DataFrame, excluded: pl.DataFrame) -> dict[str, Any]:
    """Count an index.

    Args:
        index: Schema `index`.
        excluded: Schema `excluded`.

    Returns:
        `totals`; `counts`: for each column its values with their numbers of images, exams and patients, densities in
        their order and the rest by number; `density_by_modality`: a table of images, and lists of its empty and thin
        (fewer than 30 images) cells; `excluded`: by reason, with the reason in words; `label_conflicts`: breasts and
        patients whose labels differ.
    """
    banded = index.with_columns(age_band())
    labelled = index.filter(pl.col("density").is_not_null())
    return {
        "schema_version": SCHEMA_VERSION,
        "totals": {
            "images_found": index.height + excluded.height,
            "images": index.height,
            "images_excluded": excluded.height,
            "images_labelled": labelled.height,
            "patients": index["patient_id"].n_unique(),
            "exams": index["exam_id"].n_unique(),
        },
        "counts": {column: _counts(banded, column) for column in _COLUMNS},
        "density_by_modality": _density_by_modality(index),
        "excluded": _excluded(excluded),
        "label_conflicts": {
            "breasts_with_two_labels": _with_several(labelled, ["exam_id", "laterality"]),
            "exams_whose_breasts_differ": _with_several(labelled, ["exam_id"]),
            "patients_whose_labels_differ": _with_several(labelled, ["patient_id"]),
        },
    }


def age_band() -> pl.Expr:
    """Age in bands of ten years from 40 to 69, `<40` and `70+`, null where no age is stated."""
    age = pl.col("age")
    decade = (age // 10 * 10).cast(pl.Int32)
    return (
        pl.when(age.is_null())
        .then(None)
        .when(age < 40)
        .then(pl.lit("<40"))
        .when(age >= 70)
        .then(pl.lit("70+"))
        .otherwise(pl.format("{}-{}", decade, decade + 9))
        .alias("age_band")
    )


def _counts(table: pl.DataFrame, column: str) -> list[dict[str, Any]]:
    grouped = (
        table.group_by(pl.col(column).alias("value"))
        .agg(
            pl.len().alias("images"),
            pl.col("exam_id").n_unique().alias("exams"),
            pl.col("patient_id").n_unique().alias("patients"),
        )
        .sort("value", nulls_last=True)
    )
    if column not in ("density", "age_band"):
        grouped = grouped.sort("images", descending=True, maintain_order=True)
    return grouped.with_columns(pl.col("value").fill_null(NOT_STATED)).to_dicts()


def _density_by_modality(index: pl.DataFrame) -> dict[str, Any]:
    numbers = {
        (modality, density): number
        for modality, density, number in index.group_by("modality", "density").len().iter_rows()
    }
    present = [name for name in (*MODALITIES, Modality.UNKNOWN.value) if name in set(index["modality"])]
    cells = {
        modality: {density: int(numbers.get((modality, density), 0)) for density in CATEGORIES}
        | {NOT_STATED: int(numbers.get((modality, None), 0))}
        for modality in present
    }
    named = [(f"{modality} {density}", cells[modality][density]) for modality in present for density in CATEGORIES]
    return {
        "images": cells,
        "empty_cells": [name for name, number in named if number == 0],
        "thin_cells": [name for name, number in named if 0 < number < THIN_CELL],
        "thin_means_fewer_than": THIN_CELL,
    }


def _excluded(excluded: pl.DataFrame) -> list[dict[str, Any]]:
    sentences = {reason.value: reason.sentence for reason in Reason}
    counted = excluded.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return [
        {"reason": reason, "sentence": sentences[reason], "images": number} for reason, number in counted.iter_rows()
    ]


def _with_several(labelled: pl.DataFrame, keys: list[str]) -> int:
    several = labelled.drop_nulls(keys).group_by(keys).agg(pl.col("density").n_unique().alias("labels"))
    return several.filter(pl.col("labels") > 1).height
