"""Paired difference between two arms on the same images: the same resampled patients for both."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import Estimate, finite_or_none, interval, replicates
from densityclip.evaluation.hypotheses import two_sided_p
from densityclip.evaluation.metrics import Sample
from densityclip.evaluation.ranking import Floats


@dataclass(frozen=True, eq=False)
class ScoredArm:
    """One arm on one set of rows: the figures and their replicates.

    Attributes:
        ids: `[n]` what each row stands for, unique.
        patients: `[n]` patient of each row.
        labels: `[n]` label of each row, 0 to 3.
        values: Metric to its value on the sample.
        replicated: Metric to `[resamples]`.
    """

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[int, ...]
    values: dict[str, float]
    replicated: dict[str, Floats]

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        patients: Sequence[str],
        sample: Sample,
        *,
        resamples: int,
        seed: int,
        names: Iterable[str] | None = None,
    ) -> "ScoredArm":
        """Score the rows and every resample of their patients, by the named metrics or by all."""
        wanted = None if names is None else tuple(names)
        values = {name: float(value[0]) for name, value in sample.score(names=wanted).items()}
        replicated = replicates(sample, patients, resamples=resamples, seed=seed, names=wanted)
        return cls(tuple(ids), tuple(patients), tuple(sample.labels.tolist()), values, replicated)

    def estimates(self) -> dict[str, Estimate]:
        """Every metric with its interval."""
        n_patients = len(set(self.patients))
        return {name: interval(value, self.replicated[name], n_patients) for name, value in self.values.items()}


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference of one metric.

    Attributes:
        p: Two-sided, against no difference; NaN where there is no interval.
    """

    p: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, NaN as None."""
        return super().as_json() | {"excludes_zero": excludes_zero(self), "p": finite_or_none(self.p)}


def compare(first: ScoredArm, second: ScoredArm) -> dict[str, Difference]:
    """Second minus first, every metric that both have, with the interval of the difference and its p-value.

    Args:
        first: Scored with the same number of resamples and the same seed as `second`.
        second: On the same images of the same patients, in any order.

    Raises:
        UserError: The two were not scored on the same images, or labels or patients of an image differ.
    """
    rows_of = [dict(zip(arm.ids, zip(arm.patients, arm.labels, strict=True), strict=True)) for arm in (first, second)]
    unpaired = len(set(first.ids) ^ set(second.ids))
    if unpaired:
        raise UserError(
            f"the two arms were not scored on the same images: {unpaired} are in only one of them",
            "predict the same images with both models, then compare again",
        )
    if rows_of[0] != rows_of[1]:
        raise UserError(
            "the two arms give some images another label or another patient",
            "make both predictions from the same index, then compare again",
        )
    n_patients = len(set(first.patients))
    found = {}
    for name in (name for name in first.values if name in second.values):
        replicated = second.replicated[name] - first.replicated[name]
        gap = interval(second.values[name] - first.values[name], replicated, n_patients)
        p = two_sided_p(replicated) if math.isfinite(gap.low) else math.nan
        found[name] = Difference(gap.value, gap.low, gap.high, gap.resamples_used, p)
    return found


def excludes_zero(estimate: Estimate) -> bool | None:
    """Whether the interval lies on one side of zero; None where there is no interval."""
    if not (estimate.low == estimate.low and estimate.high == estimate.high):
        return None
    return estimate.low > 0.0 or estimate.high < 0.0
