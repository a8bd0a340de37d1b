"""How far probabilities are from what then happens: bins of equal width, as reliability curves draw them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.evaluation.ranking import Floats, Ints

# The number that Guo et al. (2017, arXiv:1706.04599) and most since then use; the error depends on it.
ECE_BINS = 15


def bin_of(probabilities: Floats, bins: int) -> Ints:
    """Bin of each of `[n]` probabilities, 0 to `bins` - 1: of equal width, each with its upper end, 0 in the first."""
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    return np.searchsorted(inner, probabilities, side="left")


def calibration_gaps(confidence: Floats, right: NDArray[np.bool_]) -> tuple[Ints, Floats]:
    """Each row's part in the expected calibration error.

    The error is the sum over bins of |sum of gaps| over the number of rows, which is the mean over bins, weighted by
    their rows, of |share right - mean confidence|.

    Args:
        confidence: `[n]`, probability of the chosen category.
        right: `[n]`, whether that was the label.

    Returns:
        `[n]` bins and `[n]` gaps, right (0 or 1) minus confidence.
    """
    return bin_of(confidence, ECE_BINS), right - confidence


def reliability_bins(probabilities: Floats, happened: NDArray[np.bool_], bins: int) -> list[dict[str, Any]]:
    """Points of a reliability curve.

    Args:
        probabilities: `[n]`, in `[0, 1]`.
        happened: `[n]`, whether it was so.
        bins: Of equal width.

    Returns:
        For each bin `low`, `high`, `count`, `mean_probability` and `observed` (share that happened); the last two are
        None in an empty bin.
    """
    place = bin_of(probabilities, bins)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (probabilities, happened)]
    edges = np.linspace(0.0, 1.0, bins + 1)
    return [
        {
            "low": round(float(edges[k]), 6),
            "high": round(float(edges[k + 1]), 6),
            "count": int(counts[k]),
            "mean_probability": float(sums[0][k] / counts[k]) if counts[k] else None,
            "observed": float(sums[1][k] / counts[k]) if counts[k] else None,
        }
        for k in range(bins)
    ]
