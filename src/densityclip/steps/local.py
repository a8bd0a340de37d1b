"""What fitting a frozen model to a site would bring, as a secondary analysis: on some labelled exams, or on none."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from densityclip.artifacts import PROBABILITIES
from densityclip.density import CATEGORIES
from densityclip.records import Level, Status

# How many labelled exams are tried, as far as a site has twice as many patients; and how often each number is drawn.
NUMBERS, DRAWS = (10, 25, 50, 100), 20
SHOWN = ("accuracy", "macro_auc", "quadratic_kappa", "mean_absolute_error", "ece", "brier")
ASSUMPTION = (
    "transductive: estimated from the very exams that are scored; assumes that the sites differ in the shares of the "
    "categories alone"
)


def adapt_locally(
    predictions: pl.DataFrame,
    prior: Sequence[float],
    *,
    numbers: Sequence[int] = NUMBERS,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Recalibration over k labelled exams, and the prior estimated without labels, at every other site.

    Args:
        predictions: Schema `predictions` with all members of one arm; its external exams are used.
        prior: `[4]` shares of the categories that the arm's probabilities were made for.
        numbers: The k to try.
        draws: How often each is drawn.
        seed: Of the draws.

    Returns:
        An entry a cohort with labelled exams: `curve`, with for each k the metrics of the other patients before and
        after (mean, lowest and highest of the draws), and `prior_shift`.
    """
    from densityclip.probability.ensemble import join_members

    exams = predictions.filter(level=Level.EXAM.value, part="external")
    entries = []
    for (cohort,), rows in join_members(exams).sort("cohort").group_by("cohort", maintain_order=True):
        answered = rows.filter(pl.col("status") == Status.OK.value)
        labelled = answered.filter(pl.col("label").is_not_null())
        if labelled.is_empty():
            continue
        entries.append(
            {
                "cohort": cohort,
                "arm": labelled["arm"][0],
                "level": Level.EXAM.value,
                "n": len(labelled),
                "n_patients": labelled["patient_id"].n_unique(),
                "curve": _curve(labelled, numbers, draws, seed),
                "prior_shift": _prior_shift(answered, prior),
            }
        )
    return entries


def _curve(labelled: pl.DataFrame, numbers: Sequence[int], draws: int, seed: int) -> list[dict[str, Any]]:
    from densityclip.probability.local import local_curve

    tried = sorted(local_curve(labelled, numbers, draws=draws, seed=seed), key=lambda one: one.k)
    return [
        {
            "k": k,
            "draws": len(group),
            "n_patients": group[0].before["patient_id"].n_unique(),
            "before": _spread([_metrics(one.before) for one in group]),
            "after": _spread([_metrics(one.after) for one in group]),
        }
        for k, group in ((k, list(found)) for k, found in groupby(tried, key=lambda one: one.k))
    ]


def _prior_shift(answered: pl.DataFrame, prior: Sequence[float]) -> dict[str, Any]:
    from densityclip.probability.aggregate import fill_derived
    from densityclip.probability.local import estimate_prior

    found = estimate_prior(answered.select(PROBABILITIES).to_numpy(), prior, answered["patient_id"].to_list())
    adapted = fill_derived(
        answered.with_columns(pl.Series(name, found.probabilities[:, k]) for k, name in enumerate(PROBABILITIES))
    )
    labels = answered["label"].drop_nulls().to_numpy()
    return {
        "assumption": ASSUMPTION,
        "exams": len(answered),
        "prior": _by_category(prior),
        "estimated": _by_category(found.prior),
        "labelled": _by_category([float(np.mean(labels == letter)) for letter in CATEGORIES]),
        "converged": found.converged,
        "before": _metrics(answered),
        "after": _metrics(adapted),
    }


def _by_category(values: Iterable[float]) -> dict[str, float]:
    return {letter: float(value) for letter, value in zip(CATEGORIES, values, strict=True)}


def _metrics(rows: pl.DataFrame) -> dict[str, float | None]:
    from densityclip.evaluation.bootstrap import finite_or_none
    from densityclip.evaluation.places import labelled, sample_of

    values = sample_of(labelled(rows)).score(names=SHOWN)
    return {name: finite_or_none(float(values[name][0])) for name in SHOWN}


def _spread(scores: Sequence[dict[str, float | None]]) -> dict[str, dict[str, float] | None]:
    """Mean, lowest and highest over the draws, of those where a metric can be told."""
    spread: dict[str, dict[str, float] | None] = {}
    for name in SHOWN:
        values = [value for score in scores if (value := score[name]) is not None]
        spread[name] = (
            {"value": float(np.mean(values)), "lowest": min(values), "highest": max(values)} if values else None
        )
    return spread
