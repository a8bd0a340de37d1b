"""How far a map agrees with what is known of the breast: its outline and, on generated exams, its gland."""

import math

import numpy as np
from numpy.typing import NDArray

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


def _checked(values: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    checked: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if checked.shape != np.shape(mask):
        raise ValueError(f"values are {checked.shape}, the mask is {np.shape(mask)}")
    if not np.isfinite(checked).all():
        raise ValueError("the map holds a value that is not finite")
    return checked
