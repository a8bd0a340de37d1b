"""Predictions with labels -> the content of `metrics.json`: every cell of arm, cohort, part, site, modality, level."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from densityclip.artifacts import PROBABILITIES, SCHEMA_VERSION
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import COVERAGE
from densityclip.evaluation.compare import ScoredArm, compare, difference_as_json
from densityclip.evaluation.metrics import Sample, roc_points
from densityclip.probability.aggregate import average_slices, to_level
from densityclip.records import MODALITIES, Level, Part, Status

ALL = "all"
UNKNOWN = "unknown"
_SCORED_PARTS = (Part.TEST.value, Part.EXTERNAL.value)
_LEVELS = (Level.IMAGE.value, Level.BREAST.value, Level.EXAM.value)
# Rounded by storing software, still a distribution; a wrong column is off by far more.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Place:
    """Where arms meet: one test set at one level.

    Attributes:
        cohort: As the study names it; None where predictions do not say.
        part: `test`, `external`, or None where nothing was split.
        site: A site, or `all` where a cohort has several.
        modality: A modality, or `all` where there are several.
        level: `image`, `breast` or `exam`.
    """

    cohort: str | None
    part: str | None
    site: str
    modality: str
    level: str

    def as_json(self) -> dict[str, Any]:
        """The keys of a cell."""
        return {name: getattr(self, name) for name in ("cohort", "part", "site", "modality", "level")}


def evaluate(
    predictions: pl.DataFrame,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score every arm wherever it was tested, and every pair of arms that met.

    Image rows are scored as they are; breasts and exams are joined from them, within each modality and over all.
    Rows of `train`, `validation` and `calibration`, rows that are not `ok`, and rows without a label are left out and
    counted. Rows of several folds or seeds are pooled; the patients are resampled, so an image that is predicted
    twice does not narrow the interval.

    Args:
        predictions: Schema `predictions`; image rows (or slice rows only, which are averaged first).
        resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
        progress: Told `(done, total)` cells.

    Returns:
        Plain values for `metrics.json`; what cannot be estimated is None.

    Raises:
        UserError: No rows, no labels, a label outside A to D, no patient, an image twice in one run, or probabilities
            that are missing, NaN, or do not sum to one.
    """
    images, left_out = _scorable(predictions)
    places = list(_places(images))
    arms_of = _by_arm(images)
    total, done = len(places), 0
    cells: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for place, rows in places:
        scored: dict[str, ScoredArm] = {}
        for arm in arms_of:
            mine = rows.filter(pl.col("arm").eq_missing(pl.lit(arm, dtype=pl.String())))
            if mine.is_empty():
                continue
            cell, scored[arm or UNKNOWN] = _score(mine, place, resamples, seed)
            cells.append({"arm": arm or UNKNOWN} | cell)
        differences += [_difference(place, scored, pair) for pair in combinations(scored, 2)]
        done += 1
        if progress is not None:
            progress(done, total)
    return {
        "schema_version": SCHEMA_VERSION,
        "bootstrap": {"over": "patients", "resamples": resamples, "seed": seed, "coverage": COVERAGE},
        "cells": cells,
        "differences": differences,
        "refused": left_out,
    }


def _by_arm(images: pl.DataFrame) -> list[str | None]:
    return images["arm"].unique(maintain_order=True).to_list()


def _scorable(predictions: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Image rows that can be scored, sorted, and how many were left out for which reason."""
    images = predictions.filter(pl.col("level") == Level.IMAGE.value)
    if images.is_empty() and Level.SLICE.value in predictions["level"]:
        images = average_slices(predictions.filter(pl.col("level") == Level.SLICE.value))
    if images.is_empty():
        raise UserError("the predictions hold no rows", "make them with `densityclip predict`")
    _check_ids(images)
    left_out: dict[str, int] = {}

    def keep(rows: pl.DataFrame, condition: pl.Expr, code: pl.Expr) -> pl.DataFrame:
        met = condition.fill_null(False)
        lost = rows.filter(~met)
        if lost.height:
            for reason, count in lost.group_by(code.alias("_code")).len().sort("_code").iter_rows():
                left_out[str(reason)] = left_out.get(str(reason), 0) + int(count)
        return rows.filter(met)

    scored_part = pl.col("part").is_in(_SCORED_PARTS) | pl.col("part").is_null()
    images = keep(images, scored_part, pl.format("part_{}", "part"))
    images = keep(images, pl.col("status") == Status.OK.value, pl.coalesce("reason", "status", pl.lit("no_status")))
    images = keep(images, pl.col("label").is_not_null(), pl.lit("unlabelled"))
    if images.is_empty():
        found = ", ".join(f"{code} {count}" for code, count in left_out.items())
        labels = "the predictions have no labels" if set(left_out) == {"unlabelled"} else f"no row is left ({found})"
        raise UserError(labels, "give `densityclip predict` an index with densities, and test or external images")
    _check_values(images)
    # The internal test before the external sites: the order of every table and figure made from this.
    internal_first = pl.col("part") == Part.EXTERNAL.value
    return images.sort(internal_first, "cohort", "part", "arm", "fold", "seed", "image_id"), left_out


def _check_ids(images: pl.DataFrame) -> None:
    run = ["arm", "fold", "seed", "image_id"]
    repeated = images.height - images.select(run).n_unique()
    if repeated:
        raise UserError(
            f"{repeated} images occur more than once in the same arm, fold and seed",
            "give each image once; two files of the same model must not be joined",
        )
    if images["patient_id"].null_count() or images["image_id"].null_count():
        raise UserError("some rows have no image_id or patient_id", "intervals are over patients: fill both columns")


def _check_values(images: pl.DataFrame) -> None:
    strange = sorted(set(images["label"].unique().to_list()) - set(CATEGORIES))
    if strange:
        raise UserError(f"labels {', '.join(strange)} are not among A, B, C, D", "map them with --label-map")
    values = images.select(pl.col(name).fill_null(float("nan")) for name in PROBABILITIES).to_numpy()
    lost = int((values != values).any(axis=1).sum())
    if lost:
        raise UserError(
            f"{lost} rows of status ok have a missing or NaN probability",
            "predict again, or mark those rows `refused` with a reason",
        )
    odd = int(((abs(values.sum(axis=1) - 1.0) > _SUM_TOLERANCE) | (values < 0.0).any(axis=1)).sum())
    if odd:
        raise UserError(
            f"in {odd} rows prob_a to prob_d are negative or do not sum to one",
            "write probabilities, not logits or rounded percentages",
        )


def _places(images: pl.DataFrame) -> Iterator[tuple[Place, pl.DataFrame]]:
    """Every test set with its rows, in a fixed order."""
    sited = images.with_columns(pl.col("site").fill_null(UNKNOWN), pl.col("modality").fill_null(UNKNOWN))
    for (cohort, part), rows in sited.group_by("cohort", "part", maintain_order=True):
        sites = sorted(rows["site"].unique().to_list())
        for site in [ALL, *sites] if len(sites) > 1 else sites:
            of_site = rows if site == ALL else rows.filter(pl.col("site") == site)
            present = of_site["modality"].unique().to_list()
            modalities = [name for name in (*MODALITIES, UNKNOWN) if name in present]
            for modality in [*modalities, ALL] if len(modalities) > 1 else modalities:
                of_modality = of_site if modality == ALL else of_site.filter(pl.col("modality") == modality)
                for level in _LEVELS:
                    joined = of_modality if level == Level.IMAGE.value else to_level(of_modality, level)  # type: ignore[arg-type]
                    yield Place(cohort, part, site, modality, level), joined


def _row_ids(rows: pl.DataFrame, level: str) -> list[str]:
    of = {"image": ["image_id"], "breast": ["patient_id", "exam_id", "laterality"], "exam": ["patient_id", "exam_id"]}
    parts = [pl.col(name).cast(pl.String).fill_null("") for name in [*of[level], "fold", "seed"]]
    return rows.select(pl.concat_str(parts, separator="\x1f")).to_series().to_list()


def _score(rows: pl.DataFrame, place: Place, resamples: int, seed: int) -> tuple[dict[str, Any], ScoredArm]:
    labelled = rows.filter(pl.col("label").is_not_null())
    labels = labelled["label"].replace_strict(CATEGORIES, range(len(CATEGORIES)), return_dtype=pl.Int64).to_numpy()
    sample = Sample.of(labels, labelled.select(PROBABILITIES).to_numpy())
    patients = labelled["patient_id"].to_list()
    scored = ScoredArm.of(_row_ids(labelled, place.level), patients, sample, resamples=resamples, seed=seed)
    counts = [int((sample.labels == k).sum()) for k in range(len(CATEGORIES))]
    cell = place.as_json() | {
        "n": labelled.height,
        "n_patients": len(set(patients)),
        "n_conflicting": rows.height - labelled.height,
        "folds": int(labelled["fold"].n_unique()),
        "seeds": int(labelled["seed"].n_unique()),
        "label_counts": dict(zip(CATEGORIES, counts, strict=True)),
        "metrics": {name: estimate.as_json() for name, estimate in scored.estimates().items()},
        "confusion": sample.confusion()[0].astype(int).tolist(),
        "roc": roc_points(sample.labels, sample.probabilities),
    }
    return cell, scored


def _difference(place: Place, scored: dict[str, ScoredArm], pair: tuple[str, str]) -> dict[str, Any]:
    first, second = scored[pair[0]], scored[pair[1]]
    entry: dict[str, Any] = place.as_json() | {
        "arms": [pair[1], pair[0]],
        "n": len(first.ids),
        "n_patients": len(set(first.patients)),
    }
    try:
        found = compare(first, second)
    except UserError as error:
        # Arms that refuse different images leave this pair open; every other figure stands.
        return entry | {"metrics": {}, "not_compared": error.fact}
    return entry | {
        "metrics": {name: difference_as_json(value) for name, value in found.items()},
        "not_compared": None,
    }
