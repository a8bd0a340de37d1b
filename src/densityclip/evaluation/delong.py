"""AUCs with a standard error by formula instead of resampling, alone and paired, with one row a patient or several.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 44:837 (1988); computed from mid-ranks as in Sun and Xu, IEEE
Signal Processing Letters 21:1389 (2014); rows in clusters as in Obuchowski, Biometrics 53:567 (1997), whose formula
is DeLong's where every cluster is one row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import rankdata

from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import COVERAGE
from densityclip.evaluation.ranking import Floats, Ints

# Variances are differences of near-equal sums: what is below this is rounding, not spread.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class AucEstimate:
    """An AUC and what its formula says of its spread.

    Attributes:
        value: Ties counted half; NaN without positives or negatives.
        se: Standard error; NaN where positives or negatives come from fewer than two patients.
        low: Lower end of the 95% interval, made on the logit scale so that it stays within 0 and 1; NaN without a
            standard error, and for an AUC of exactly 0 or 1: there the formula's standard error is 0, and an interval
            of no width would claim certainty.
        high: Upper end.
        method: `delong` where every row is a patient of its own, else `obuchowski`.
    """

    value: float
    se: float
    low: float
    high: float
    method: Literal["delong", "obuchowski"]


class AucDifference(NamedTuple):
    """First AUC minus second on the same rows.

    Attributes:
        difference: NaN without positives or negatives.
        se: Standard error of the difference, with what the two share taken out; NaN as for one AUC.
        z: Difference over standard error; NaN where that is 0.
        p: Two-sided, normal; 1 for two scores that rank alike, NaN where there is no test.
    """

    difference: float
    se: float
    z: float
    p: float


def auc_estimate(
    positive: ArrayLike, scores: ArrayLike, clusters: Sequence[Any] | ArrayLike | None = None
) -> AucEstimate:
    """AUC with a 95% interval.

    Args:
        positive: `[n]`, the truth.
        scores: `[n]`, higher means positive.
        clusters: `[n]`, patient of each row; each row its own where absent.

    Raises:
        ValueError: The lengths differ.
        UserError: A score is NaN.
    """
    truth, values, cluster, method = _checked(positive, [scores], clusters)
    areas, covariance = _areas(truth, values, cluster)
    value, se = float(areas[0]), _root(float(covariance[0, 0]))
    low = high = math.nan
    if 0.0 < value < 1.0 and math.isfinite(se):
        reach = float(ndtri(0.5 + COVERAGE / 2.0)) * se / (value * (1.0 - value))
        low, high = float(expit(logit(value) - reach)), float(expit(logit(value) + reach))
    return AucEstimate(value, se, low, high, method)


def auc_difference(
    positive: ArrayLike,
    scores_1: ArrayLike,
    scores_2: ArrayLike,
    clusters: Sequence[Any] | ArrayLike | None = None,
) -> AucDifference:
    """First AUC minus second, paired on the same rows.

    Args:
        positive: `[n]`, the truth.
        scores_1: `[n]`, higher means positive.
        scores_2: `[n]`, of the same rows.
        clusters: `[n]`, patient of each row; each row its own where absent.

    Raises:
        ValueError: The lengths differ.
        UserError: A score is NaN.
    """
    truth, values, cluster, _ = _checked(positive, [scores_1, scores_2], clusters)
    areas, covariance = _areas(truth, values, cluster)
    difference = float(areas[0] - areas[1])
    se = _root(float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1]))
    if not se > 0.0:
        # Two scores that rank alike differ by nothing, for certain; another difference without spread tests nothing.
        return AucDifference(difference, se, math.nan, 1.0 if difference == 0.0 and se == 0.0 else math.nan)
    z = difference / se
    return AucDifference(difference, se, z, float(2.0 * ndtr(-abs(z))))


def _checked(
    positive: ArrayLike, scores: Sequence[ArrayLike], clusters: Sequence[Any] | ArrayLike | None
) -> tuple[NDArray[np.bool_], Floats, Ints, Literal["delong", "obuchowski"]]:
    """Truth `[n]`, scores `[k, n]`, clusters `[n]` counted from 0, and the name of the formula."""
    truth = np.asarray(positive, dtype=bool)
    values = np.stack([np.asarray(one, dtype=np.float64) for one in scores])
    cluster = np.arange(len(truth)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if values.shape[1:] != truth.shape or cluster.shape != truth.shape:
        raise ValueError(f"{len(truth)} rows, {values.shape[1:]} scores and {cluster.shape} clusters do not match")
    if np.isnan(values).any():
        raise UserError("some scores are NaN", "leave those rows out, or find out why the model gave NaN")
    alone = len(truth) == 0 or int(np.bincount(cluster).max()) == 1
    return truth, values, cluster, "delong" if alone else "obuchowski"


def _areas(truth: NDArray[np.bool_], scores: Floats, cluster: Ints) -> tuple[Floats, Floats]:
    """AUCs `[k]` and their covariance `[k, k]`; NaN where not estimable.

    Obuchowski's S10, S01 and S11, divided as in his variance: sums over clusters of what their positives and their
    negatives deviate from the AUC, and of the product of the two.
    """
    m, n, k = int(truth.sum()), int((~truth).sum()), len(scores)
    if not m or not n:
        return np.full(k, math.nan), np.full((k, k), math.nan)
    size = int(cluster.max()) + 1
    areas, of_positives, of_negatives = np.empty(k), np.empty((k, size)), np.empty((k, size))
    for row, values in enumerate(scores):
        # Share of negatives that a positive beats, and of positives that beat a negative.
        ranks = rankdata(values)
        beats = (ranks[truth] - rankdata(values[truth])) / n
        beaten = 1.0 - (ranks[~truth] - rankdata(values[~truth])) / m
        areas[row] = beats.mean()
        of_positives[row] = np.bincount(cluster[truth], beats - areas[row], size) / m
        of_negatives[row] = np.bincount(cluster[~truth], beaten - areas[row], size) / n
    with_positives, with_negatives = len(np.unique(cluster[truth])), len(np.unique(cluster[~truth]))
    if min(with_positives, with_negatives) < 2:
        return areas, np.full((k, k), math.nan)
    crossed = of_positives @ of_negatives.T
    clusters = len(np.unique(cluster))
    covariance = (
        with_positives / (with_positives - 1) * of_positives @ of_positives.T
        + with_negatives / (with_negatives - 1) * of_negatives @ of_negatives.T
        + clusters / (clusters - 1) * (crossed + crossed.T)
    )
    return areas, covariance


def _root(variance: float) -> float:
    """Standard error; NaN for a variance that came out negative by more than rounding, as clusters can make it."""
    if abs(variance) < _ROUNDING:
        return 0.0
    return math.sqrt(variance) if variance > 0.0 else math.nan
