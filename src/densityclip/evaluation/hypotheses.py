"""Tests of a difference by its bootstrap replicates: superiority, non-inferiority, and the correction of a family.

A test and its 95% interval say the same: p is the level at which the percentile interval starts to exclude the value
that is tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import Estimate
from densityclip.evaluation.metrics import LOWER_IS_BETTER, METRICS
from densityclip.evaluation.ranking import Floats

SUPERIOR = "superior"
INFERIOR = "inferior"
NOT_SHOWN = "not shown"
NON_INFERIOR = "non-inferior"
NON_INFERIORITY_NOT_SHOWN = "non-inferiority not shown"


def two_sided_p(replicated: Floats, at: float = 0.0) -> float:
    """P-value against a difference of `at`.

    It is below 0.05 exactly where the 95% percentile interval excludes `at`, from 40 usable replicates on: the
    smallest value that can come out is 2 / (replicates + 1).

    Args:
        replicated: `[resamples]` of the difference; NaN ones are left out.
        at: The value that is tested.

    Returns:
        In (0, 1]; NaN without usable replicates.
    """
    above, below = one_sided_p(replicated, at), one_sided_p(-replicated, -at)
    return math.nan if math.isnan(above) else min(1.0, 2.0 * min(above, below))


def one_sided_p(replicated: Floats, at: float) -> float:
    """P-value for the difference being above `at`.

    It is below 0.025 exactly where the lower end of the two-sided 95% interval is above `at`; the smallest value is
    1 / (replicates + 1).

    Args:
        replicated: `[resamples]` of the difference; NaN ones are left out.
        at: The value that is tested.

    Returns:
        In (0, 1]; NaN without usable replicates.
    """
    usable = np.sort(replicated[np.isfinite(replicated)])
    if not len(usable):
        return math.nan
    # The highest quantile that is not above `at`, with NumPy's straight lines between replicates.
    after = int(np.searchsorted(usable, at, side="right"))
    if after == len(usable):
        return 1.0
    share = 0.0
    if after:
        before = usable[after - 1]
        share = (after - 1 + (at - before) / (usable[after] - before)) / (len(usable) - 1)
    return max(float(share), 1.0 / (len(usable) + 1))


@dataclass(frozen=True)
class Judgement:
    """What a test came to.

    Attributes:
        verdict: One of the words above.
        p: NaN where there was nothing to test with.
        level: What p was held against: 0.05 two-sided, or 0.025 one-sided.
    """

    verdict: str
    p: float
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Superiority:
    """Is the first arm better than the second by a metric? Two-sided, at 5%.

    Attributes:
        metric: Of `METRICS`; it decides which direction is better.
    """

    metric: str
    kind: ClassVar[str] = "superiority"

    def __post_init__(self) -> None:
        _check_metric(self.metric)

    def judge(self, difference: Estimate, replicated: Floats) -> Judgement:
        """`superior`, `inferior` or `not shown`.

        Args:
            difference: First minus second, with its interval.
            replicated: `[resamples]` that the interval was made from.
        """
        low, high = _better_is_higher(self.metric, difference)
        p = two_sided_p(replicated) if math.isfinite(difference.low) else math.nan
        return Judgement(SUPERIOR if low > 0.0 else INFERIOR if high < 0.0 else NOT_SHOWN, p, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiority:
    """Is the first arm at most a margin worse than the second? One-sided, at 2.5%.

    Shown where the end of the two-sided 95% interval on the worse side is within the margin.

    Attributes:
        metric: Of `METRICS`; it decides which direction is worse.
        margin: What may be lost, in units of the metric, above 0; declared before the results are seen.
    """

    metric: str
    margin: float
    kind: ClassVar[str] = "non-inferiority"

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        if not (math.isfinite(self.margin) and self.margin > 0.0):
            raise UserError(
                f"a non-inferiority margin of {self.margin} allows nothing",
                "give a margin above 0, in units of the metric, chosen before the results are seen",
            )

    def judge(self, difference: Estimate, replicated: Floats) -> Judgement:
        """`non-inferior` or `non-inferiority not shown`.

        Args:
            difference: First minus second, with its interval.
            replicated: `[resamples]` that the interval was made from.
        """
        low, _ = _better_is_higher(self.metric, difference)
        sign = -1.0 if self.metric in LOWER_IS_BETTER else 1.0
        p = one_sided_p(sign * replicated, -self.margin) if math.isfinite(difference.low) else math.nan
        return Judgement(NON_INFERIOR if low > -self.margin else NON_INFERIORITY_NOT_SHOWN, p, 0.025)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected over their family (Holm, Scandinavian Journal of Statistics 6:65, 1979).

    Args:
        p_values: One for each test of the family. NaN is a test that could not be made: it stays NaN, and counts
            like a p-value of 1, so that a test that failed does not make the others easier.

    Returns:
        In the same order, each at least as large as before, at most 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    stepped = values[order] * (len(values) - np.arange(len(order)))
    corrected = np.full(len(values), math.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return [float(value) for value in corrected]


def _better_is_higher(metric: str, difference: Estimate) -> tuple[float, float]:
    """The interval, turned so that above 0 means the first arm is better."""
    if metric in LOWER_IS_BETTER:
        return -difference.high, -difference.low
    return difference.low, difference.high


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is not one of {', '.join(METRICS)}")
