"""The pectoral muscle of an MLO view: a straight edge from the top of the breast to the chest wall.

After the idea of Karssemeijer 1998 ("Automated classification of parenchymal patterns in mammograms": the muscle's edge
as the straight line that most gradient votes for, within plausible angles) and Kwok et al. 2004 ("Automatic pectoral
muscle segmentation on mediolateral oblique view mammograms": straight first, and refused where it does not hold).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Lengths are shares of the breast's height; measured on generated exams, see docs/explain.md.
_TOPS = np.arange(0.08, 0.6, 0.012)
_FEET = np.arange(0.30, 1.05, 0.02)
_DEGREES = (8.0, 45.0)
_SHORTEST_SEEN = 0.25
# Grey is compared this far on either side of the line, after smoothing over this; shares of the canvas's longer side.
_BESIDE, _SMOOTHED = 0.015, 0.012
# A step in grey counts up to this many standard deviations of the breast's: one clip or vein shall not outvote a line.
_MOST_STEP = 0.6
_PLACES = np.linspace(0.02, 0.98, 80)
# What counts as clear evidence.
SMALLEST_STEP = 0.3
SMALLEST_SUPPORT = 0.9
_A_STEP = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Pectoral:
    """A muscle that was found.

    Attributes:
        region: `[height, width]` bool on the canvas, inside the breast.
        top_px: Column where the edge meets the breast's first row.
        foot_px: Rows from there down to where the edge meets the chest wall.
        step: Mean step in grey across the edge, in standard deviations of the breast's grey, each clipped at 0.6.
        support: Share of the edge that is brighter on the muscle's side.
    """

    region: NDArray[np.bool_]
    top_px: float
    foot_px: float
    step: float
    support: float

    @property
    def degrees(self) -> float:
        """Angle of the edge with the chest wall."""
        return float(np.degrees(np.arctan2(self.top_px, self.foot_px)))


def find_pectoral(pixels: NDArray[np.generic], mask: NDArray[np.bool_]) -> Pectoral | None:
    """Find the pectoral muscle on a prepared MLO image.

    Args:
        pixels: `[height, width]`, prepared grey: chest wall at the left, the axilla at the top.
        mask: `[height, width]`, the breast.

    Returns:
        None where the evidence is not clear: the best line needs a mean step of `SMALLEST_STEP` and to be brighter on
        the muscle's side along `SMALLEST_SUPPORT` of what is seen of it. A muscle that fills the breast's whole width
        at the top, or borders on gland as bright as itself, is often not found.

    Raises:
        ValueError: The shapes differ.
    """
    if np.shape(pixels) != np.shape(mask):
        raise ValueError(f"pixels are {np.shape(pixels)}, the mask is {np.shape(mask)}")
    inside = np.asarray(mask, dtype=bool)
    grey = np.asarray(pixels, dtype=np.float32)
    if not inside.any() or not np.ptp(grey[inside]):
        return None
    rows = np.flatnonzero(inside.any(axis=1))
    first, height = int(rows[0]), int(rows[-1] - rows[0] + 1)
    tops, feet = _lines(height)
    steps, seen = _steps(_smooth(grey, inside), inside, first, tops, feet)
    counted = np.maximum(seen.sum(axis=1), 1)
    mean = steps.sum(axis=1) / counted
    # Of lines with equal steps the longer one is better known; a root, or a long line through nothing would win.
    length = np.hypot(tops, feet) / height * seen.mean(axis=1)
    score = np.where(length >= _SHORTEST_SEEN, mean * np.sqrt(length), -np.inf)
    best = int(score.argmax())
    support = float((steps[best] > _A_STEP).sum() / counted[best])
    if not np.isfinite(score[best]) or mean[best] < SMALLEST_STEP or support < SMALLEST_SUPPORT:
        return None
    row, column = np.indices(inside.shape)
    region = inside & (column < tops[best] * (1 - (row - first) / feet[best]))
    return Pectoral(region, float(tops[best]), float(feet[best]), float(mean[best]), support)


def _lines(height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Candidates: column at the breast's first row, and rows down to the chest wall, `[lines]` px each."""
    tops, feet = (grid.ravel() * height for grid in np.meshgrid(_TOPS, _FEET, indexing="ij"))
    degrees = np.degrees(np.arctan2(tops, feet))
    plausible = (degrees >= _DEGREES[0]) & (degrees <= _DEGREES[1])
    return tops[plausible], feet[plausible]


def _smooth(grey: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Grey in standard deviations of the breast's, smoothed without the air beside it."""
    sigma = _SMOOTHED * max(inside.shape)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, mode="nearest")
    smooth = ndimage.gaussian_filter(np.where(inside, grey, np.float32(0)), sigma, mode="nearest")
    return np.asarray(np.where(inside, smooth / np.maximum(weight, 1e-3), 0) / grey[inside].std(), dtype=np.float32)


def _steps(
    smooth: NDArray[np.float32],
    inside: NDArray[np.bool_],
    first: int,
    tops: NDArray[np.float64],
    feet: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Steps in grey across each line, `[lines, places]`, 0 where not both sides are seen; and where they are."""
    across = np.hypot(tops, feet)
    beside = _BESIDE * max(inside.shape)
    down, right = ((side / across * beside)[:, None] for side in (tops, feet))
    row = first + feet[:, None] * _PLACES
    column = tops[:, None] * (1 - _PLACES)
    # The skin line is bright, and no edge of the muscle.
    core = ndimage.binary_erosion(inside, iterations=2, border_value=1).astype(np.float32)

    def either(image: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        muscle, breast = (
            ndimage.map_coordinates(image, [row + sign * down, column + sign * right], order=1, mode="nearest")
            for sign in (-1, 1)
        )
        return muscle, breast

    seen = np.minimum(*either(core)) > 0.99
    seen &= column - right >= -0.5
    muscle, breast = either(smooth)
    return np.where(seen, np.clip(muscle - breast, -_MOST_STEP, _MOST_STEP), 0.0), seen
