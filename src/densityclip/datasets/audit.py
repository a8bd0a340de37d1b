"""Counts of what is in an index, and of what was left out and why, as plain JSON values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import SCHEMA_VERSION
from densityclip.datasets.limits import THIN, not_for
from densityclip.density import CATEGORIES
from densityclip.reasons import Reason
from densityclip.records import MODALITIES, Laterality, Modality, View

Table = pl.DataFrame | pl.LazyFrame | Path

NOT_STATED = "not stated"
MOST_VALUES = 100
_COLUMNS = (
    "site",
    "institution",
    "vendor",
    "machine",
    "modality",
    "view",
    "laterality",
    "density",
    "density_source",
    "age_band",
    "race",
    "implant",
    "source_split",
)
_IN_ORDER = ("density", "age_band")
# Counting distinct numbers instead of long ids: 1.1 million rows take 2.0 s and 180 MB, not 4.6 s and 240 MB.
# Two ids of a million share a 64-bit hash once in 30 million audits.
_PATIENT = pl.col("patient_id").hash().alias("patient")
_EXAM = pl.col("exam_id").hash().alias("exam")
_LABELLED = pl.col("density").is_not_null()
_RANK = pl.col("density").replace_strict(
    {name: place for place, name in enumerate(CATEGORIES)}, default=None, return_dtype=pl.Int8
)


def audit(index: Table, excluded: Table, *, notes: Sequence[str] = (), for_processing: bool = False) -> dict[str, Any]:
    """Count an index. No id of a patient, an exam or an image is in the result.

    Args:
        index: Schema `index`. A path is read piece by piece, so that memory does not grow with the rows.
        excluded: Schema `excluded`, likewise.
        notes: Sentences of who made the index, handed on.
        for_processing: Whether all images of the index are raw (For Processing), as was asked for; else none is.

    Returns:
        - `totals` of images, patients and exams;
        - `limits`: what a model trained on this must not be used for, each with the rule it follows from (`limits`);
        - `notes`;
        - `for_processing`, as given;
        - `density_by_modality`: labelled images and patients in each cell, and lists of its empty cells and of its
          thin ones (fewer than 30 patients);
        - `density_by_site`: the same numbers;
        - `label_conflicts`: breasts, exams and patients whose labels differ;
        - `exams`: how many are complete, how many women have several, and from when they are;
        - `age`: how often it is stated, and the middle 98% of those of labelled images, in years;
        - `excluded`: by reason, with the reason in words, what can be done, and where such images come from;
        - `counts`: for each column its values with numbers of images, exams and patients, all and labelled ones;
          categories and ages in their order, the rest by number.
    """
    images, left_out = _lazy(index), _lazy(excluded)
    images = images.with_columns(age_band(), implant=_yes_or_no("implant"))
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "totals": _totals(images, left_out),
        "limits": [],
        "notes": list(notes),
        "for_processing": for_processing,
        "density_by_modality": _by_modality(images),
        "density_by_site": _by_density(images, "site"),
        "label_conflicts": _conflicts(images),
        "exams": _exams(images),
        "age": _age(images),
        "excluded": _excluded(left_out),
        "counts": {column: _counts(images, column) for column in _COLUMNS},
    }
    return content | {"limits": not_for(content)}


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


def _lazy(table: Table) -> pl.LazyFrame:
    return pl.scan_parquet(table) if isinstance(table, Path) else table.lazy()


def _run(query: pl.LazyFrame) -> pl.DataFrame:
    return query.collect(engine="streaming")


def _yes_or_no(column: str) -> pl.Expr:
    return pl.col(column).replace_strict({True: "yes", False: "no"}, default=None, return_dtype=pl.String)


def _totals(images: pl.LazyFrame, left_out: pl.LazyFrame) -> dict[str, int]:
    found = _run(
        images.select(
            images=pl.len(),
            images_labelled=_LABELLED.sum(),
            patients=_PATIENT.n_unique(),
            patients_labelled=_PATIENT.filter(_LABELLED).n_unique(),
            exams=_EXAM.n_unique(),
            exams_labelled=_EXAM.filter(_LABELLED).n_unique(),
        )
    ).row(0, named=True)
    without = _run(left_out.select(pl.len())).item()
    return {
        "images_found": found["images"] + without,
        "images": found["images"],
        "images_excluded": without,
        **{name: found[name] for name in ("images_labelled", "patients", "patients_labelled")},
        **{name: found[name] for name in ("exams", "exams_labelled")},
    }


def _counts(images: pl.LazyFrame, column: str) -> list[dict[str, Any]]:
    counted = _run(
        images.group_by(pl.col(column).alias("value")).agg(
            images=pl.len(),
            images_labelled=_LABELLED.sum(),
            exams=_EXAM.n_unique(),
            patients=_PATIENT.n_unique(),
            patients_labelled=_PATIENT.filter(_LABELLED).n_unique(),
        )
    )
    if column in _IN_ORDER:
        # "<" sorts after digits; the youngest stand first.
        counted = counted.sort(pl.col("value").str.replace("<", "0", literal=True), nulls_last=True)
    else:
        counted = counted.sort("images", "value", descending=[True, False], nulls_last=True)
    rows = counted.with_columns(pl.col("value").fill_null(NOT_STATED)).to_dicts()
    if len(rows) <= MOST_VALUES:
        return rows
    rest = rows[MOST_VALUES:]
    # A patient may stand under several values, so only images can be added up.
    further = {"value": f"{len(rest):,} further values"} | {
        name: sum(row[name] for row in rest) for name in ("images", "images_labelled")
    }
    return [*rows[:MOST_VALUES], further | {"exams": None, "patients": None, "patients_labelled": None}]


def _by_density(images: pl.LazyFrame, column: str) -> dict[str, dict[str, dict[str, int]]]:
    """Numbers of images and of patients by a column and density, values in order of their images."""
    counted = _run(
        images.group_by(pl.col(column).fill_null(NOT_STATED).alias("value"), "density").agg(
            images=pl.len(), patients=_PATIENT.n_unique()
        )
    )
    order = counted.group_by("value").agg(pl.col("images").sum()).sort("images", "value", descending=[True, False])
    values = order["value"].head(MOST_VALUES).to_list()
    found = {(value, density): numbers for value, density, *numbers in counted.iter_rows()}
    columns = [(name, name) for name in CATEGORIES] + [(None, NOT_STATED)]
    return {
        unit: {
            value: {shown: found.get((value, density), (0, 0))[place] for density, shown in columns} for value in values
        }
        for place, unit in enumerate(("images", "patients"))
    }


def _by_modality(images: pl.LazyFrame) -> dict[str, Any]:
    tables = _by_density(images, "modality")
    present = [name for name in (*MODALITIES, Modality.UNKNOWN.value) if name in tables["images"]]
    ordered = {unit: {name: table[name] for name in present} for unit, table in tables.items()}
    cells = {f"{name} {density}": ordered["patients"][name][density] for name in present for density in CATEGORIES}
    return {
        **ordered,
        "empty_cells": [name for name, patients in cells.items() if patients == 0],
        "thin_cells": [name for name, patients in cells.items() if 0 < patients < THIN],
        "thin_means_fewer_patients_than": THIN,
    }


def _conflicts(images: pl.LazyFrame) -> dict[str, int]:
    """Where labels differ: an exam takes the denser of its breasts, so its label is its highest rank."""
    labelled = images.filter(_LABELLED)
    span = {"low": _RANK.min(), "high": _RANK.max()}
    breasts = _run(labelled.drop_nulls("laterality").group_by(_EXAM, "laterality").agg(**span))
    exams = _run(labelled.group_by(_EXAM).agg(_PATIENT.min(), pl.col("study_date").min(), **span))
    patients = exams.group_by("patient").agg(
        several=pl.len() > 1,
        undated=pl.col("study_date").is_null().any(),
        dates=pl.col("study_date").n_unique(),
        exams=pl.len(),
        low=pl.col("high").min(),
        high=pl.col("high").max(),
        lowest=pl.col("low").min(),
    )
    differ = patients.filter(pl.col("high") > pl.col("low"))
    return {
        "breasts_with_two_labels": breasts.filter(pl.col("high") > pl.col("low")).height,
        "exams_whose_breasts_differ": exams.filter(pl.col("high") > pl.col("low")).height,
        "exams_whose_breasts_differ_by_more_than_one_step": exams.filter(pl.col("high") - pl.col("low") > 1).height,
        "patients_whose_labels_differ": patients.filter(pl.col("high") > pl.col("lowest")).height,
        "patients_with_several_labelled_exams": int(patients["several"].sum()),
        "patients_whose_exams_differ": differ.height,
        "patients_whose_exams_differ_by_more_than_one_step": differ.filter(pl.col("high") - pl.col("low") > 1).height,
        "patients_whose_exams_differ_and_are_not_told_apart_by_date": differ.filter(
            pl.col("undated") | (pl.col("dates") < pl.col("exams"))
        ).height,
    }


def _exams(images: pl.LazyFrame) -> dict[str, Any]:
    views = {
        f"{side} {view}": ((pl.col("laterality") == side) & (pl.col("view") == view)).any()
        for side in Laterality
        for view in View
    }
    owners = {"patient": _PATIENT.min(), "other": _PATIENT.max()}
    exams = _run(images.group_by(_EXAM).agg(date=pl.col("study_date").min(), **owners, **views))
    sides = [pl.any_horizontal(pl.col(f"{side} {view}") for view in View) for side in Laterality]
    return {
        "exams_with_all_four_views": exams.filter(pl.all_horizontal(list(views))).height,
        "exams_of_one_side_only": exams.filter(sides[0] != sides[1]).height,
        "exams_of_more_than_one_patient": exams.filter(pl.col("patient") != pl.col("other")).height,
        "exams_without_a_date": int(exams["date"].null_count()),
        "patients_with_several_exams": exams.group_by("patient").len().filter(pl.col("len") > 1).height,
        # Years only: a date is close to an identity. Sources that shift dates make these shifted years.
        "first_year": exams["date"].dt.year().min(),
        "last_year": exams["date"].dt.year().max(),
    }


def _age(images: pl.LazyFrame) -> dict[str, Any]:
    age = pl.col("age").filter(_LABELLED)
    found = _run(
        images.select(
            images_with_age=pl.col("age").is_not_null().sum(),
            low=age.quantile(0.01, "nearest").floor().cast(pl.Int32),
            high=age.quantile(0.99, "nearest").floor().cast(pl.Int32),
        )
    )
    return found.row(0, named=True)


def _excluded(left_out: pl.LazyFrame) -> list[dict[str, Any]]:
    known = {reason.value: reason for reason in Reason}
    by = {name: _breakdown(left_out, name) for name in ("modality", "site")}
    counted = _run(left_out.group_by("reason").len()).sort("len", "reason", descending=[True, False])
    return [
        {
            "reason": reason,
            "sentence": known[reason].sentence if reason in known else reason,
            "remedy": known[reason].remedy if reason in known else "",
            "images": number,
        }
        | {f"by_{name}": table[reason] for name, table in by.items() if table}
        for reason, number in counted.iter_rows()
    ]


def _breakdown(left_out: pl.LazyFrame, column: str) -> dict[str, dict[str, int]]:
    """Images by reason and a column; empty where the column tells nothing because all have the same value."""
    counted = _run(left_out.group_by("reason", pl.col(column).fill_null(NOT_STATED)).len())
    if counted[column].n_unique() < 2:
        return {}
    result: dict[str, dict[str, int]] = {}
    for reason, value, number in counted.sort("len", column, descending=[True, False]).iter_rows():
        result.setdefault(reason, {})[value] = number
    return result
