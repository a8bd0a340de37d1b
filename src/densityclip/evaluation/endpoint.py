"""The one question that was fixed beforehand, and the other tests of the same contrast, corrected for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from densityclip.evaluation.bootstrap import Estimate, finite_or_none, interval
from densityclip.evaluation.compare import ScoredArm
from densityclip.evaluation.hypotheses import holm, two_sided_p
from densityclip.evaluation.metrics import LOWER_IS_BETTER, Floats
from densityclip.evaluation.places import Place

SUPERIORITY, NON_INFERIORITY = "superiority", "non-inferiority"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The contrast of the primary question at one place.

    Attributes:
        place: Where.
        difference: First minus second of the contrast, in the primary metric; None where the arms did not meet.
        replicated: `[resamples]` of it.
        n_patients: Patients that both scored.
        not_compared: Why they did not meet, or None.
    """

    place: Place
    difference: Estimate | None
    replicated: Floats
    n_patients: int
    not_compared: str | None

    @classmethod
    def of(
        cls,
        place: Place,
        scored: Mapping[str, ScoredArm],
        primary: Mapping[str, Any],
        differences: Sequence[Mapping[str, Any]],
    ) -> "Comparison | None":
        """Read it off the arms that were scored there; None where one of the two is not among them."""
        contrast, metric = list(primary["contrast"]), primary["metric"]
        entry = next((entry for entry in differences if entry["arms"] == contrast), None)
        if entry is None:
            return None
        if entry["not_compared"]:
            return cls(place, None, np.empty(0), entry["n_patients"], entry["not_compared"])
        first, second = (scored[arm] for arm in contrast)
        replicated = first.replicated[metric] - second.replicated[metric]
        value = first.values[metric] - second.values[metric]
        n_patients = entry["n_patients"]
        return cls(place, interval(value, replicated, n_patients), replicated, n_patients, None)

    @property
    def p(self) -> float:
        """Two-sided, against no difference; NaN where there is none to test."""
        if self.difference is None or self.n_patients < 2 or not np.isfinite(self.difference.value):
            return float("nan")
        return two_sided_p(self.replicated)


def endpoint_and_family(
    primary: Mapping[str, Any] | None, comparisons: Mapping[Place, Comparison]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The verdict on the primary question, and the secondary tests with their corrected p-values.

    The family is the primary metric of the same contrast, at the same level, on every other whole cohort and modality.
    It is corrected by Holm; the primary test is one test, fixed beforehand, and is not corrected.

    Args:
        primary: As `evaluate` takes it; None where nothing was asked.
        comparisons: By place, at the primary level.
    """
    if primary is None:
        return None, []
    asked = next((one for place, one in comparisons.items() if _is_asked(place, primary)), None)
    others = [one for one in comparisons.values() if one is not asked]
    tested = [one for one in others if np.isfinite(one.p)]
    corrected = dict(zip(map(id, tested), holm([one.p for one in tested]), strict=True)) if tested else {}
    family = [
        one.place.as_json()
        | {
            "metric": primary["metric"],
            "contrast": list(primary["contrast"]),
            "n_patients": one.n_patients,
            "estimate": None if one.difference is None else one.difference.as_json(),
            "p": finite_or_none(one.p),
            "p_holm": finite_or_none(float(corrected[id(one)])) if id(one) in corrected else None,
            "not_compared": one.not_compared,
        }
        for one in others
    ]
    return _endpoint(primary, asked), family


def _is_asked(place: Place, primary: Mapping[str, Any]) -> bool:
    part = primary.get("part")
    return (place.cohort, place.modality, place.level) == (
        primary["cohort"],
        primary["modality"],
        primary["level"],
    ) and (part is None or place.part == part)


def _endpoint(primary: Mapping[str, Any], asked: Comparison | None) -> dict[str, Any]:
    kind, margin = primary.get("kind", SUPERIORITY), primary.get("margin")
    entry: dict[str, Any] = {
        "metric": primary["metric"],
        "level": primary["level"],
        "modality": primary["modality"],
        "cohort": primary["cohort"],
        "part": asked.place.part if asked else primary.get("part"),
        "contrast": list(primary["contrast"]),
        "kind": kind,
        "margin": margin,
        "n_patients": asked.n_patients if asked else 0,
        "estimate": None,
        "p": None,
        "verdict": "not estimable",
        "why": None,
    }
    if asked is None:
        return entry | {"why": "there are no such predictions of both arms"}
    if asked.difference is None:
        return entry | {"why": asked.not_compared}
    return entry | {
        "estimate": asked.difference.as_json(),
        "p": finite_or_none(asked.p),
        "verdict": _verdict(asked.difference, kind, margin, primary["metric"] in LOWER_IS_BETTER),
    }
def _verdict(difference, kind, margin, lower_is_better):
    return "x"
