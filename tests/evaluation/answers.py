"""Predictions made by hand for the tests of evaluation: random probabilities, known labels, facts on request."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from densityclip.artifacts import PROBABILITIES, conform
from densityclip.probability.aggregate import fill_derived


def predictions(
    patients: int = 12,
    arms: Sequence[str] = ("single", "multi"),
    sites: Sequence[str] = ("S",),
    seed: int = 0,
    *,
    cohort: str = "c",
    part: str = "test",
    folds: Sequence[int] = (0,),
    skill: float = 0.0,
    facts: Sequence[dict[str, Any]] = ({},),
) -> pl.DataFrame:
    """Four images a patient (DM and s2D of both sides), labels A to D in turn, facts in turn.

    Args:
        patients: How many; their ids begin with the cohort unless it is `c`.
        arms: Each with answers of its own.
        sites: In turn.
        seed: Of the random probabilities.
        cohort: Its name.
        part: Of all patients.
        folds: A member each.
        skill: Weight that the true category gets beside a random distribution.
        facts: Columns of each patient, in turn.
    """
    rng = np.random.default_rng(seed)
    prefix = "" if cohort == "c" else f"{cohort}-"
    rows = []
    for p in range(patients):
        for modality in ("DM", "s2D"):
            for side in "LR":
                for arm in arms:
                    for fold in folds:
                        probabilities = rng.dirichlet(np.ones(4) + skill * (np.arange(4) == p % 4))
                        rows.append(
                            {
                                "level": "image",
                                "image_id": f"{prefix}{p}{modality}{side}",
                                "exam_id": f"{prefix}e{p}",
                                "patient_id": f"{prefix}p{p}",
                                "modality": modality,
                                "view": "CC",
                                "laterality": side,
                                "site": sites[p % len(sites)],
                                "cohort": cohort,
                                "part": part,
                                "fold": fold,
                                "arm": arm,
                                "seed": 0,
                                "label": "ABCD"[p % 4],
                                "status": "ok",
                                **dict(zip(PROBABILITIES, probabilities, strict=True)),
                                **{f"logit_{k}": float(np.log(v)) for k, v in zip("abcd", probabilities, strict=True)},
                                **facts[p % len(facts)],
                            }
                        )
    return fill_derived(conform(pl.DataFrame(rows), "predictions"))


def one(entries: list[dict[str, Any]], **keys: object) -> dict[str, Any]:
    """The one entry with these values."""
    found = [entry for entry in entries if all(entry[key] == value for key, value in keys.items())]
    assert len(found) == 1, f"{len(found)} entries with {keys}"
    return found[0]
