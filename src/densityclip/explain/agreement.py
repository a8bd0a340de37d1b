"""How far a map agrees with what is known of the breast (its outline, its gland), and with another map."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from densityclip.evaluation.ranking import Ranking


def energy_inside(heat: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Share of a map's positive heat that lies inside a mask.

    Compare it with the mask's share of the area: a flat map scores just that.

    Args:
        heat: `[rows, columns]`, raw; negative values count as none.
        mask: `[rows, columns]`, such as the breast.

    Returns:
        In `[0, 1]`; NaN for a map without positive heat.

    Raises:
        ValueError: The shapes differ, or the map holds a value that is not finite.
    """
    positive = np.clip(_checked(heat, mask), 0.0, None)
    total = float(positive.sum())
    return float(positive[np.asarray(mask, dtype=bool)].sum()) / total if total > 0 else math.nan


def gland_auc(heat: NDArray[np.floating], gland_mm: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """How well heat ranks the places with much gland above those with little, inside the breast.

    Args:
        heat: `[rows, columns]`, raw, signed or not; pixels or tokens.
        gland_mm: `[rows, columns]`, thickness of gland that the ray crosses, mm.
        mask: `[rows, columns]`, the breast.

    Returns:
        Area under the ROC curve with "thicker than the median inside the breast" as the positive class, ties counted
        half: 0.5 is chance; NaN where all of the breast is on one side of the median.

    Raises:
        ValueError: The shapes differ, or a value is not finite.
    """
    inside = np.asarray(mask, dtype=bool)
    scores, gland = _checked(heat, mask)[inside], _checked(gland_mm, mask)[inside]
    if not len(gland):
        return math.nan
    ranking = Ranking.of(scores, gland > np.median(gland))
    return float(ranking.auc(np.ones((len(scores), 1)))[0])


def pointing_hit(heat: NDArray[np.floating], gland_mm: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Whether the hottest place anywhere in the image is one with much gland (the pointing game).

    Zhang et al. 2016, "Top-down neural attention by excitation backprop", with "thicker gland than the median inside
    the breast" for the object and no tolerance around it.

    Args:
        heat: `[rows, columns]`, raw, signed or not; pixels or tokens.
        gland_mm: `[rows, columns]`, thickness of gland that the ray crosses, mm.
        mask: `[rows, columns]`, the breast.

    Returns:
        1 for a hit, 0 for a miss; of several hottest places, the share that hits. A flat map so scores what pointing at
        random would: the share of the image that has much gland. NaN where no place of the breast has more gland than
        the median.

    Raises:
        ValueError: The shapes differ, or a value is not finite.
    """
    inside = np.asarray(mask, dtype=bool)
    values, gland = _checked(heat, mask), _checked(gland_mm, mask)
    if not inside.any():
        return math.nan
    much = inside & (gland > np.median(gland[inside]))
    return float(much[values == values.max()].mean()) if much.any() else math.nan


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Spearman's correlation of two maps over the places of a mask.

    Args:
        first: `[rows, columns]`, any scale: only ranks count.
        second: `[rows, columns]`.
        mask: `[rows, columns]`, the places to compare.

    Returns:
        In `[-1, 1]`, tied values with their mean rank; NaN where one map is constant there, or no place is left.

    Raises:
        ValueError: The shapes differ, or a value is not finite.
    """
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        return math.nan
    ranks = np.stack([rankdata(_checked(values, mask)[inside]) for values in (first, second)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    spread = math.sqrt(float((ranks[0] ** 2).sum()) * float((ranks[1] ** 2).sum()))
    return float(np.clip((ranks[0] * ranks[1]).sum() / spread, -1.0, 1.0)) if spread > 0 else math.nan


def _checked(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    checked: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if checked.shape != np.shape(mask):
        raise ValueError(f"values are {checked.shape}, the mask is {np.shape(mask)}")
    if not np.isfinite(checked).all():
        raise ValueError("the map holds a value that is not finite")
    return checked
