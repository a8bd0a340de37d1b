"""The one question that was fixed beforehand, and the other tests of the same contrast, corrected for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import Estimate, finite_or_none
from densityclip.evaluation.compare import ScoredArm
from densityclip.evaluation.hypotheses import NonInferiority, Superiority, holm
from densityclip.evaluation.metrics import Floats
from densityclip.evaluation.places import Place
from densityclip.records import number_of

NOT_ESTIMABLE = "not estimable"
# A percentile interval over fewer patients is too narrow to be held against a level.
FEWEST_TESTED = 20


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
        return cls(place, Estimate.from_json(entry["metrics"][metric]), replicated, entry["n_patients"], None)

    def judge(self, hypothesis: Superiority | NonInferiority) -> tuple[str, float]:
        """Verdict and p-value; NaN where there is no difference, no interval, or too few patients for a test."""
        if self.difference is None or not np.isfinite(self.difference.low) or self.n_patients < FEWEST_TESTED:
            return NOT_ESTIMABLE, float("nan")
        judgement = hypothesis.judge(self.difference, self.replicated)
        return judgement.verdict, judgement.p


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
    found = [one.judge(Superiority(metric=primary["metric"])) for one in others]
    # A test that could not be made counts too: whoever planned it planned to look at it.
    corrected = holm([p for _, p in found])
    family = [
        one.place.as_json()
        | {
            "metric": primary["metric"],
            "contrast": list(primary["contrast"]),
            "n_patients": one.n_patients,
            "estimate": None if one.difference is None else one.difference.as_json(),
            "p": finite_or_none(p),
            "p_holm": finite_or_none(p_holm),
            "not_compared": _why_not(one),
        }
        for one, (_, p), p_holm in zip(others, found, corrected, strict=True)
    ]
    return _endpoint(primary, asked), family


def _is_asked(place: Place, primary: Mapping[str, Any]) -> bool:
    part = primary.get("part")
    return (place.cohort, place.modality, place.level) == (
        primary["cohort"],
        primary["modality"],
        primary["level"],
    ) and (part is None or place.part == part)


def _hypothesis(primary: Mapping[str, Any]) -> Superiority | NonInferiority:
    """What is to be shown.

    Raises:
        UserError: A non-inferiority without a margin, or of a kind that is neither.
    """
    kind, margin = primary.get("kind") or Superiority.kind, primary.get("margin")
    if kind == Superiority.kind:
        return Superiority(metric=primary["metric"])
    if kind == NonInferiority.kind and margin is not None:
        return NonInferiority(metric=primary["metric"], margin=float(margin))
    raise UserError(
        f"the primary question is of kind {kind!r} with margin {margin}",
        "ask for superiority, or for non-inferiority with a margin",
    )


def _endpoint(primary: Mapping[str, Any], asked: Comparison | None) -> dict[str, Any]:
    hypothesis = _hypothesis(primary)
    verdict, p = (NOT_ESTIMABLE, float("nan")) if asked is None else asked.judge(hypothesis)
    estimate = None if asked is None or asked.difference is None else asked.difference.as_json()
    return {
        "metric": primary["metric"],
        "level": primary["level"],
        "modality": primary["modality"],
        "cohort": primary["cohort"],
        "part": asked.place.part if asked else primary.get("part"),
        "contrast": list(primary["contrast"]),
        "kind": hypothesis.kind,
        "margin": hypothesis.margin if isinstance(hypothesis, NonInferiority) else None,
        "n_patients": asked.n_patients if asked else 0,
        "estimate": estimate,
        "p": finite_or_none(p),
        "verdict": verdict,
        "why": _why_not(asked),
    }


def _why_not(one: Comparison | None) -> str | None:
    """Why there is no test; None where there is one."""
    if one is None:
        return "there are no such predictions of both arms"
    if one.not_compared is None and one.n_patients < FEWEST_TESTED:
        few = f"{number_of(one.n_patients, 'patient')} {'is' if one.n_patients == 1 else 'are'} too few"
        return f"{few} for a test, which wants {FEWEST_TESTED}"
    return one.not_compared
