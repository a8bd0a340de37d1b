"""Insertion and deletion curves of many images in one: the mean at each step, with intervals over patients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.evaluation.bootstrap import mean_of_rows, row_weights
from densityclip.explain.figures import DELETION, FEWEST_PATIENTS, INSERTION, RESAMPLES


def mean_curves(
    patients: Sequence[str], curves: Mapping[str, Mapping[int, NDArray[np.floating]]]
) -> list[dict[str, Any]]:
    """The mean curves of each map over all images.

    Args:
        patients: The patient of each image.
        curves: Map to image, by its place in `patients`, to `[2, points]`: the score, above that of the breast turned
            to fat, while tokens are deleted and while they are inserted. Images without a curve are left out.

    Returns:
        Entries `map`, `curve` (`deletion` or `insertion`), `share` of the breast's tokens at each point, `mean`, the
        ends `low` and `high` of the 95% interval that resamples patients (null under `FEWEST_PATIENTS`), `images`,
        `patients`.
    """
    told = []
    for name, mine in curves.items():
        places = sorted(mine)
        owners = [patients[place] for place in places]
        weights = row_weights(owners, RESAMPLES, 0)
        values = np.stack([mine[place] for place in places]).astype(np.float64)
        number = len(set(owners))
        for side, figure in enumerate((DELETION, INSERTION)):
            points = [mean_of_rows(column, weights, number) for column in values[:, side].T]
            told.append(
                {
                    "map": name,
                    "curve": figure,
                    "share": [round(step / (len(points) - 1), 6) for step in range(len(points))],
                    "mean": [point.value for point in points],
                    "low": [point.low for point in points] if number >= FEWEST_PATIENTS else None,
                    "high": [point.high for point in points] if number >= FEWEST_PATIENTS else None,
                    "images": len(places),
                    "patients": number,
                }
            )
    return told
