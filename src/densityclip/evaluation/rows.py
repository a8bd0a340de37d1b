"""Which rows of predictions may be scored: checks, each with one message, and a count of what is left out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from densityclip.artifacts import PROBABILITIES
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.probability.aggregate import average_slices
from densityclip.records import Level, Part, Status

_LEARNED_PARTS = (Part.TRAIN.value, Part.VALIDATION.value, Part.CALIBRATION.value)
SCORED_PARTS: tuple[str, ...] = (Part.TEST.value, Part.EXTERNAL.value)
# Rounded by storing software, still a distribution; a wrong column is off by far more.
_SUM_TOLERANCE = 1e-3
_NAMED = 5
# Why a training's answer is left out although it is one: another training of the arm has none for the image.
INCOMPLETE = "not_answered_by_every_training"
# What the trainings of an arm answer together.
_OF_ARM = ("arm", "cohort", "part", "image_id")


@dataclass(frozen=True, eq=False)
class Scorable:
    """Image rows by what they are for.

    Attributes:
        images: Labelled rows of `test`, `external` or no part; sorted, the internal test first.
        calibration: Labelled rows of `calibration`: conformal sets are fitted on them, and nothing else is.
        left_out: Reason to rows that are not scored.
        notes: What a reader must know of the rows, in sentences.
    """

    images: pl.DataFrame
    calibration: pl.DataFrame
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()


def scorable(predictions: pl.DataFrame) -> Scorable:
    """Image rows that can be scored.

    Args:
        predictions: Schema `predictions`; image rows (or slice rows only, which are averaged first).

    Raises:
        UserError: No rows, no labels, a cohort without any image to score, a label outside A to D, no patient, an image
            twice in one training, a patient in two parts of one fold, trainings of an arm that were not given the
            same images to score, or probabilities that are missing, NaN, or do not sum to one.
    """
    images = predictions.filter(pl.col("level") == Level.IMAGE.value)
    if images.is_empty() and Level.SLICE.value in predictions["level"]:
        images = average_slices(predictions.filter(pl.col("level") == Level.SLICE.value))
    if images.is_empty():
        raise UserError("the predictions hold no rows", "make them with `densityclip predict`")
    _check_ids(images)
    _check_parts(images)
    scored = pl.col("part").is_in(SCORED_PARTS) | pl.col("part").is_null()
    lost: list[pl.DataFrame] = []

    def keep(rows: pl.DataFrame, condition: pl.Expr, code: pl.Expr) -> pl.DataFrame:
        lost.append(rows.filter(~condition.fill_null(False)).select("cohort", "part", code.alias("code")))
        return rows.filter(condition.fill_null(False))

    to_score = keep(images, scored, pl.format("part_{}", "part"))
    _check_trainings(to_score)
    labelled = keep(to_score, pl.col("status") == Status.OK.value, pl.coalesce("reason", "status", pl.lit("no_status")))
    labelled = keep(labelled, pl.col("label").is_not_null(), pl.lit("unlabelled"))
    # An ensemble is one model: where one of its trainings has no answer, the mean of the others is another model's.
    counted = labelled.join(_given(to_score), on=_OF_ARM, how="left", nulls_equal=True, maintain_order="left")
    labelled = keep(counted, pl.len().over(_OF_ARM) == pl.col("given"), pl.lit(INCOMPLETE)).drop("given")
    _check_cohorts(labelled, pl.concat(lost), to_score)
    calibration = images.filter(
        (pl.col("part") == Part.CALIBRATION.value)
        & (pl.col("status") == Status.OK.value)
        & pl.col("label").is_not_null()
    )
    for rows in (labelled, calibration):
        _check_values(rows)
    # The internal test before the external sites: the order of every table and figure made from this.
    internal_first = pl.col("part") == Part.EXTERNAL.value
    order = (internal_first, "cohort", "part", "arm", "fold", "seed", "image_id")
    notes = tuple(_shared_patients(images, labelled))
    return Scorable(labelled.sort(order), calibration.sort(order), _counted(pl.concat(lost)), notes)


def _counted(lost: pl.DataFrame) -> dict[str, int]:
    """Reason to rows; parts first, then refusals, then labels: the order in which rows were left out."""
    counts = lost.group_by("code", maintain_order=True).len()
    order = counts.with_columns(
        pl.when(pl.col("code").str.starts_with("part_"))
        .then(0)
        .when(pl.col("code") == "unlabelled")
        .then(2)
        .otherwise(1)
        .alias("rank")
    ).sort("rank", "code")
    return {str(code): int(count) for code, count in order.select("code", "len").iter_rows()}


def _check_cohorts(labelled: pl.DataFrame, lost: pl.DataFrame, to_score: pl.DataFrame) -> None:
    found = ", ".join(f"{code} {count}" for code, count in _counted(lost).items())
    remedy = "give `densityclip predict` an index with densities, and test or external images"
    if labelled.is_empty():
        only = set(lost["code"].unique().to_list())
        raise UserError(
            "the predictions have no labels" if only == {"unlabelled"} else f"no row is left ({found})", remedy
        )
    empty = to_score.select("cohort").unique().join(labelled.select("cohort").unique(), on="cohort", how="anti")
    for cohort in sorted(empty["cohort"].drop_nulls().to_list()):
        of_cohort = lost.filter((pl.col("cohort") == cohort) & ~pl.col("code").str.starts_with("part_"))
        why = ", ".join(f"{code} {count}" for code, count in _counted(of_cohort).items())
        raise UserError(
            f"the cohort {cohort} has no image that can be scored ({why})",
            "leave the cohort out, or give its images labels or a repair",
        )


def _check_ids(images: pl.DataFrame) -> None:
    repeated = images.height - images.select("arm", "fold", "seed", "image_id").n_unique()
    if repeated:
        raise UserError(
            f"{repeated} images occur more than once in the same arm, fold and seed",
            "give each image once; two files of the same model must not be joined",
        )
    if images["patient_id"].null_count() or images["image_id"].null_count():
        raise UserError("some rows have no image_id or patient_id", "intervals are over patients: fill both columns")


def _check_parts(images: pl.DataFrame) -> None:
    known = images.filter(pl.col("part").is_not_null())
    run = ("arm", "cohort", "fold", "patient_id")
    parts = known.select(*run, "part").unique().group_by(run).len().filter(pl.col("len") > 1)
    if parts.height:
        raise UserError(
            f"{parts.height} patients are in two parts of one fold, so some were trained on and would be scored",
            "split again with `densityclip split`, train again, and predict with that split file",
        )


def _given(rows: pl.DataFrame) -> pl.DataFrame:
    """How many trainings of its arm each image was given to: with status and label or without."""
    return rows.group_by(_OF_ARM).agg(pl.len().alias("given"))


def _check_trainings(rows: pl.DataFrame) -> None:
    """Every image of a test set was given to equally many trainings of an arm: to all, or each to those of its fold."""
    given = _given(rows).with_columns(pl.col("given").max().over("arm", "cohort", "part").alias("most"))
    short = given.filter(pl.col("given") < pl.col("most")).sort(_OF_ARM)
    if short.is_empty():
        return
    arm, cohort, part, *_, most = short.row(0)
    here = pl.all_horizontal(
        pl.col(name).eq_missing(pl.lit(value, dtype=pl.String()))
        for name, value in (("arm", arm), ("cohort", cohort), ("part", part))
    )
    place = f"of the {part or 'scored'} images of {cohort or 'the predictions'}"
    raise UserError(
        f"the trainings of {arm or 'the model'} were not given the same images: {place}, "
        f"{short.filter(here).height} of {given.filter(here).height} have rows of fewer than {most} trainings",
        "predict all of them with every training, so that their mean is one model's answer",
    )


def _shared_patients(images: pl.DataFrame, scored: pl.DataFrame) -> Iterator[str]:
    """A sentence where a scored patient's id stands in another cohort too: by chance, or because it is she."""
    held = images.select("patient_id", "cohort").drop_nulls().unique()
    several = held.group_by("patient_id").len().filter(pl.col("len") > 1).select("patient_id")
    shared = scored.select("patient_id").unique().join(several, on="patient_id", how="semi")
    if shared.is_empty():
        return
    rows = images.join(shared, on="patient_id", how="semi")
    trained = rows.filter(pl.col("part").is_in(_LEARNED_PARTS))["patient_id"].n_unique()
    cohorts = ", ".join(sorted(rows["cohort"].drop_nulls().unique().to_list()))
    said = (
        f"{shared.height} scored patient id{'s stand' if shared.height > 1 else ' stands'} in more than one cohort "
        f"({cohorts}). Ids of two sites may be alike by chance, or be one woman's. Each cohort is scored and resampled "
        "by itself, so no figure counts her twice; if they are the same women, the cohorts are not independent"
    )
    if trained:
        said += f", and {trained} of them {'were' if trained > 1 else 'was'} learned from in one and scored in another"
    yield f"{said}."


def _check_values(images: pl.DataFrame) -> None:
    strange = sorted(set(images["label"].unique().to_list()) - set(CATEGORIES))
    if strange:
        named = ", ".join(strange[:_NAMED]) + (", ..." if len(strange) > _NAMED else "")
        raise UserError(f"labels {named} are not among A, B, C, D", "map them with --label-map")
    values = images.select(pl.col(name).fill_null(float("nan")) for name in PROBABILITIES).to_numpy()
    lost = int(np.isnan(values).any(axis=1).sum())
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
