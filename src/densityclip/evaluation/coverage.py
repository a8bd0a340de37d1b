"""Conformal sets where they were not fitted: how often they hold the label, and how large they are.

They are fitted on calibration patients, one unit a patient, and what they promise is about one unit of a new patient of
the same kind: so coverage here is a mean over patients, of the share of each patient's rows that are covered.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from densityclip.artifacts import PROBABILITIES
from densityclip.evaluation.bootstrap import interval, patient_weights
from densityclip.evaluation.cells import Resampling
from densityclip.evaluation.metrics import Floats
from densityclip.evaluation.places import ALL, UNKNOWN, Joined, labelled, sample_of
from densityclip.evaluation.subgroups import CROSSING, applies, by_group, with_age_band
from densityclip.probability.conformal import Conformal
from densityclip.records import Part

COVERAGE_WANTED = 0.9
_SIZES = (1, 2, 3, 4)


def conformal_entries(
    calibration: Joined,
    scored: Joined,
    modality: str,
    groups: Sequence[str],
    smallest_group: int,
    resampling: Resampling,
) -> list[dict[str, Any]]:
    """Coverage and size of the sets of every arm, over all and by group.

    Args:
        calibration: Rows of the part `calibration`, of the same modality and level as `scored`.
        scored: Test and external rows.
        modality: Of both; with `all` the groups are shown too.
        groups: As in `subgroups`.
        smallest_group: Groups of fewer patients are left out.
        resampling: Of the intervals.
    """
    found = []
    fitted_on = calibration.arms()
    for arm, of_arm in scored.arms().items():
        if arm not in fitted_on:
            continue
        fit_rows = labelled(fitted_on[arm].ensemble)
        fitted = _fit(fit_rows)
        # A promise needs one function on both sides: calibration patients that only some of the trainings kept apart
        # were scored by those, and the test by all.
        same = _trainings_per_unit(fitted_on[arm]) == of_arm.members.select("fold", "seed").n_unique()
        for test_set, here in of_arm.test_sets():
            rows = labelled(here.ensemble)
            # Of several cohorts calibrated together, none is like the mixture of them all.
            at_home = test_set["part"] == Part.TEST.value and fit_rows["cohort"].unique().to_list() == [
                test_set["cohort"]
            ]
            about = (
                {"arm": arm}
                | test_set
                | {
                    "modality": modality,
                    "level": scored.level,
                    "coverage_wanted": COVERAGE_WANTED,
                    "fitted_on_patients": fit_rows["patient_id"].n_unique(),
                }
            )
            shown = groups if modality == ALL else ()
            for entry in _by_group(rows, fitted, shown, smallest_group, resampling):
                # The whole is exchangeable with the calibration patients; a group of it is not.
                found.append(about | {"promised": bool(same and at_home and entry["by"] == ALL)} | entry)
    return found


def _fit(rows: pl.DataFrame) -> Conformal:
    sample = sample_of(rows)
    return Conformal.fit(sample.probabilities, sample.labels, rows["patient_id"].to_list(), coverage=COVERAGE_WANTED)


def _trainings_per_unit(joined: Joined) -> int:
    """How many trainings scored each unit, or 0 where that differs."""
    rows = labelled(joined.members)
    units = rows.group_by("patient_id", "exam_id", "laterality", "image_id").len()["len"].unique()
    return int(units[0]) if len(units) == 1 else 0


def _by_group(
    rows: pl.DataFrame, fitted: Conformal, groups: Sequence[str], smallest_group: int, resampling: Resampling
) -> Iterator[dict[str, Any]]:
    if rows.is_empty():
        return
    rows = with_age_band(rows)
    level = rows["level"][0]
    sets = fitted.sets(rows.select(PROBABILITIES).to_numpy())
    covered = sets[np.arange(rows.height), sample_of(rows).labels].astype(np.float64)
    size = sets.sum(axis=1)
    position, counts = patient_weights(rows["patient_id"].to_list(), resampling.resamples, resampling.seed)
    everyone = np.ones(rows.height, dtype=bool)
    named = [(ALL, ALL, everyone)]
    named += [
        (by, group, mask.to_numpy())
        for by in groups
        if applies(by, level) and CROSSING not in by
        for group, mask in by_group(rows, by)
    ]
    for by, group, mask in named:
        n_patients = len(np.unique(position[mask]))
        if by != ALL and (n_patients < smallest_group or group == UNKNOWN):
            continue
        yield {
            "by": by,
            "group": group,
            "n": int(mask.sum()),
            "n_patients": n_patients,
            "coverage": _mean_over_patients(covered[mask], position[mask], counts, n_patients),
            "size": _mean_over_patients(size[mask].astype(np.float64), position[mask], counts, n_patients),
            "sets": {str(k): int((size[mask] == k).sum()) for k in _SIZES},
        }


def _mean_over_patients(values: Floats, position: Any, counts: Any, n_patients: int) -> dict[str, Any]:
    """Mean over patients of the mean of each one's rows, with its interval over the resamples of all patients."""
    rows = np.bincount(position, minlength=len(counts))
    present = rows > 0
    means = np.bincount(position, weights=values, minlength=len(counts))[present] / rows[present]
    weights = counts[present].astype(np.float64)
    drawn = weights.sum(axis=0)
    replicated = np.divide(means @ weights, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
    return interval(float(means.mean()), replicated, n_patients).as_json()
