"""One place: every arm's figures there, and the differences of the pairs that met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import Estimate, finite_or_none
from densityclip.evaluation.compare import ScoredArm, compare
from densityclip.evaluation.delong import auc_estimate
from densityclip.evaluation.metrics import AREAS, METRICS, Sample, reliability, roc_points
from densityclip.evaluation.places import Joined, Place, label_counts, labelled, sample_of, unit_ids

# Of each category in each cell: enough for a curve of some centimetres.
_ROC_POINTS = 80
_NOT_ESTIMABLE = Estimate(float("nan"), float("nan"), float("nan"), 0)
_NO_CONFUSION = [[0] * len(CATEGORIES) for _ in CATEGORIES]


@dataclass(frozen=True)
class Resampling:
    """The bootstrap over patients.

    Attributes:
        resamples: How many.
        seed: Of the draw.
    """

    resamples: int
    seed: int


def score_place(
    place: Place, arms: Mapping[str, Joined], resampling: Resampling, pairs: Sequence[tuple[str, str]] | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, ScoredArm]]:
    """Score the arms at a place.

    Args:
        place: Where.
        arms: Arm to its rows there.
        resampling: Of the intervals; pairs share it.
        pairs: Which differences to make, each first minus second; all where absent.

    Returns:
        Entries of `cells`, entries of `differences`, and what the endpoint is made from.
    """
    cells, scored = [], {}
    for arm, joined in arms.items():
        cell, of_arm = _cell(joined, place, resampling)
        cells.append({"arm": arm} | cell)
        if of_arm is not None:
            scored[arm] = of_arm
    # Later arms minus earlier ones, where nobody asked for certain pairs.
    wanted = [(second, first) for first, second in combinations(scored, 2)] if pairs is None else pairs
    met = [pair for pair in wanted if pair[0] in scored and pair[1] in scored]
    return cells, [_difference(place, scored, pair) for pair in met], scored


def _cell(joined: Joined, place: Place, resampling: Resampling) -> tuple[dict[str, Any], ScoredArm | None]:
    rows = labelled(joined.ensemble)
    sample, patients = sample_of(rows), rows["patient_id"]
    trainings = joined.members.select("fold", "seed").unique()
    cell = place.as_json() | {
        "n": rows.height,
        "n_patients": patients.n_unique(),
        "n_conflicting": joined.ensemble.height - rows.height,
        "members": trainings.height,
        "folds": trainings["fold"].n_unique(),
        "seeds": trainings["seed"].n_unique(),
        "label_counts": label_counts(rows["label"]),
    }
    if rows.is_empty():
        nothing = dict.fromkeys(METRICS, _NOT_ESTIMABLE.as_json())
        empty = {"auc": {}, "confusion": _NO_CONFUSION, "roc": {}, "reliability": {}, "each_member": []}
        return cell | {"metrics": nothing} | empty, None
    scored = ScoredArm.of(
        unit_ids(rows, place.level).to_list(),
        patients.to_list(),
        sample,
        resamples=resampling.resamples,
        seed=resampling.seed,
    )
    return cell | {
        "metrics": {name: estimate.as_json() for name, estimate in scored.estimates().items()},
        "auc": analytic_aucs(sample, patients.to_numpy()),
        "confusion": sample.confusion()[0].astype(int).tolist(),
        "roc": roc_points(sample.labels, sample.probabilities, most=_ROC_POINTS),
        "reliability": reliability(sample),
        "each_member": each_member(joined.members),
    }, scored


def each_member(members: pl.DataFrame) -> list[dict[str, Any]]:
    """Every training's own figures: few of them, so points and no interval."""
    found = []
    for (fold, seed), rows in labelled(members).sort("fold", "seed").group_by("fold", "seed", maintain_order=True):
        values = sample_of(rows).score()
        metrics = {name: finite_or_none(float(value[0])) for name, value in values.items()}
        found.append({"fold": fold, "seed": seed, "n": rows.height, "metrics": metrics})
    return found


def analytic_aucs(sample: Sample, patients: Any) -> dict[str, dict[str, Any]]:
    """Intervals of AUCs without resampling: DeLong, or its form for clustered rows; None where not estimable."""
    found = {}
    for ranked, (scores, positive) in sample.ranked.items():
        estimate = auc_estimate(positive, scores, patients)
        figures = {key: finite_or_none(float(getattr(estimate, key))) for key in ("value", "se", "low", "high")}
        found[AREAS[ranked][0]] = figures | {"method": estimate.method}
    return found


def _difference(place: Place, scored: Mapping[str, ScoredArm], pair: tuple[str, str]) -> dict[str, Any]:
    first, second = scored[pair[0]], scored[pair[1]]
    entry: dict[str, Any] = place.as_json() | {
        "arms": list(pair),
        "n": len(second.ids),
        "n_patients": len(set(second.patients)),
    }
    try:
        found = compare(second, first)
    except UserError as error:
        # Arms that refuse different images leave this pair open; every other figure stands.
        return entry | {"metrics": {}, "not_compared": error.fact}
    return entry | {
        "metrics": {name: value.as_json() for name, value in found.items()},
        "not_compared": None,
    }
