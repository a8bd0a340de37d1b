"""Where the breast is: its mask, the side of the chest wall, and its box.

Works on a reduced copy: on 13 megapixels morphology costs seconds, and the outline needs no finer grid. Laterality
tags are not trusted; the side is seen in the image (mirrored images exist).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from densityclip.imaging.resample import Picture, sampled
from densityclip.reasons import Reason, Refused

_WORKING_SIDE = 400
_SMALLEST_SIDE = 64
_SMALLEST_SHARE = 0.015
_BINS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Breast:
    """A breast found in an image.

    Attributes:
        mask: `[ceil(rows / factor), ceil(columns / factor)]` bool, on the reduced grid.
        factor: Pixels of the image along one side of a cell of the mask.
        chest_wall_right: Whether the chest wall is at the right of the image.
        top: First row of the breast's box in the image.
        left: First column of the box.
        rows: Rows of the box.
        columns: Columns of the box.
    """

    mask: NDArray[np.bool_]
    factor: int
    chest_wall_right: bool
    top: int
    left: int
    rows: int
    columns: int


def find_breast(image: Picture | NDArray[np.float32]) -> Breast:
    """Find the breast in a digital or film-like mammogram.

    Args:
        image: A picture, or `[rows, columns]` display values in `[0, 1]`; air dark.

    Returns:
        The breast without markers, burned-in text and loose folds.

    Raises:
        Refused: `too_small`, or `no_breast`: nothing in the image is large and solid enough, or all of it is.
    """
    picture = image if isinstance(image, Picture) else Picture(image)
    rows, columns = picture.shape
    if min(rows, columns) < _SMALLEST_SIDE:
        raise Refused(Reason.TOO_SMALL, f"{rows} x {columns} pixels")
    small, factor = sampled(picture, _WORKING_SIDE)
    inner = _within_frame(small)
    if 0 in small[inner].shape:
        raise Refused(Reason.NO_BREAST, "the whole image is a bright frame")
    mask = np.zeros(small.shape, dtype=bool)
    mask[inner] = _breast_mask(small[inner])
    _check_is_breast(mask[inner])
    first_row, last_row = _extent(mask, 1)
    first_column, last_column = _extent(mask, 0)
    top, left = first_row * factor, first_column * factor
    return Breast(
        mask=mask,
        factor=factor,
        chest_wall_right=_chest_wall_is_right(mask[:, first_column : last_column + 1]),
        top=top,
        left=left,
        rows=min((last_row + 1) * factor, rows) - top,
        columns=min((last_column + 1) * factor, columns) - left,
    )


def _extent(mask: NDArray[np.bool_], across: int) -> tuple[int, int]:
    places = np.flatnonzero(np.any(mask, axis=across))
    return int(places[0]), int(places[-1])


def _breast_mask(small: NDArray[np.float32]) -> NDArray[np.bool_]:
    threshold = -np.inf
    mask = np.ones(small.shape, dtype=bool)
    # Padding and collimator lie below the air; when the body fills its own box, that was one of them.
    for _ in range(3):
        threshold = _air_threshold(small, threshold)
        mask = _largest_body(_filled(small > threshold))
        if not _fills_its_box(mask):
            break
    return mask


def _fills_its_box(mask: NDArray[np.bool_]) -> bool:
    if not mask.any():
        return False
    (top, bottom), (left, right) = _extent(mask, 1), _extent(mask, 0)
    # The outermost columns may be half padding and half air.
    heights = mask[top : bottom + 1, left : right + 1].mean(axis=0)
    return bool(mask.mean() > 0.9 or min(heights[:3].max(), heights[-3:].max()) > 0.6)


def _air_threshold(small: NDArray[np.float32], above: float) -> float:
    # Air is the darkest level that many pixels share. Otsu's threshold would do on fatty breasts but cuts the fat off
    # dense ones. The spread of the air is taken from below its peak, where no tissue is; its median, because padding
    # lies there too.
    values = small[small > above]
    low, high = (float(values.min()), float(np.percentile(values, 99.5))) if values.size else (0.0, 0.0)
    if high <= low:
        return high
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    near = np.convolve(counts, np.ones(5), mode="same")
    peak = int(np.argmax(near >= max(0.15 * float(near[: _BINS // 2].max()), 0.02 * values.size)))
    while peak + 1 < _BINS and near[peak + 1] > near[peak]:
        peak += 1
    start = max(peak - 2, 0)
    air = float(edges[start + int(np.argmax(counts[start : peak + 3])) + 1])
    sigma = 1.4826 * float(np.median(air - values[values <= air]))
    return air + max(4 * sigma, 0.015 * (high - low))


def _within_frame(small: NDArray[np.float32]) -> tuple[slice, slice]:
    # Digitised film often has a white frame, or the scanner's bright edge; taken for tissue it would join the labels
    # to the breast. A line is one if nearly all of it is white, or all of it equally bright: a breast is neither.
    highest = float(small.max())
    edges = []
    for view in (small, small[::-1], small.T, small.T[::-1]):
        lines = np.percentile(view[: max(len(view) // 16, 1)], (5, 20, 95), axis=1)
        framed = (lines[1] >= 0.9 * highest) | ((lines[0] > 0.5 * highest) & (lines[2] - lines[0] < 0.1 * highest))
        width = int(np.argmin(framed)) if not framed.all() else len(framed)
        # The next line is half frame and half film.
        edges.append(width + 1 if width else 0)
    rows, columns = small.shape
    return slice(edges[0], rows - edges[1]), slice(edges[2], columns - edges[3])


def _largest_body(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # Opening removes text and thin bridges; the image's edge does not erode, for there the breast goes on.
    size = 2 * max(2, round(0.012 * max(above.shape))) + 1
    eroded = ndimage.minimum_filter(above.view(np.uint8), size=size, mode="nearest")
    opened = ndimage.maximum_filter(eroded, size=size, mode="nearest")
    labels, count = ndimage.label(opened)
    if count == 0:
        return np.zeros_like(above)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    at_side = np.zeros_like(areas)
    touching = np.unique(labels[:, [0, -1]])
    at_side[touching] = areas[touching]
    # The breast comes in from a side. Something loose is taken only if nothing that touches a side is of its order.
    best = int(at_side.argmax()) if at_side.max() >= 0.3 * areas.max() else int(areas.argmax())
    # Back to the fine outline: what the opening shaved off next to the body (nipple, corners).
    grown = ndimage.maximum_filter((labels == best).view(np.uint8), size=size, mode="nearest").view(np.bool_)
    body, _ = ndimage.label(above & grown)
    kept = np.bincount(body[(labels == best) & above])
    kept[0] = 0
    return _filled(body == kept.argmax()) if len(kept) > 1 else _filled(labels == best)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # Dark fat behind a bright skin line is a hole that may be open to the chest wall, so only what reaches the top or
    # bottom of the image is outside. Labelling the background is some ten times faster than binary_fill_holes.
    holes, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, dtype=bool)
    outside[holes[[0, -1]]] = True
    outside[0] = False
    return ~outside[holes]


def _check_is_breast(mask: NDArray[np.bool_]) -> None:
    share = float(mask.mean())
    # A breast 3 cm deep and 6 cm high on the largest detector covers 0.02 of it.
    if share < _SMALLEST_SHARE:
        raise Refused(Reason.NO_BREAST, f"the largest bright body covers {share:.1%} of the image")
    if _fills_its_box(mask):
        raise Refused(Reason.NO_BREAST, "the largest bright body does not taper as a breast does")
    box = mask[np.ix_(mask.any(axis=1), mask.any(axis=0))]
    if min(box.shape) < 0.08 * min(mask.shape) or box.mean() < 0.3:
        raise Refused(Reason.NO_BREAST, "the largest bright body is no breast in shape")


def _chest_wall_is_right(box: NDArray[np.bool_]) -> bool:
    # The column mass profile: a breast is broadest at the chest wall and tapers to the nipple.
    heights = box.sum(axis=0).astype(np.float64)
    centre = float(heights @ np.arange(len(heights))) / float(heights.sum())
    return centre > (len(heights) - 1) / 2
