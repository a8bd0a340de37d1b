"""What the phantom benchmarks measure on an image: spectra, grey levels, skin line, texture. Pure functions of arrays.

Frequencies of spectra are in cycles per pixel; callers turn them into cycles per mm or per depth of the breast. The
depth is the width of the breast's box, from chest wall to nipple: pixel spacing is unknown in plain image files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, uniform_filter
from scipy.stats import skew, wasserstein_distance

from densityclip.imaging.breast import find_breast

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

STANDARD_DEPTH = 400
TEXTURE_SCALES = (2, 4, 8, 16)
_PATCH_SHARES = (0.45, 0.32)
_MOST_PATCHES = 12
_SECTORS = np.radians(np.arange(-60, 61, 12))


@dataclass(frozen=True, slots=True, eq=False)
class Breast:
    """An image with its breast, chest wall at the left.

    Attributes:
        image: `[rows, columns]` grey levels, 0 to 255.
        mask: `[rows, columns]`, the breast.
        depth: Columns of the breast's box.
    """

    image: NDArray[np.float32]
    mask: Mask
    depth: int


def standing(display: NDArray[np.float32]) -> Breast:
    """Find the breast of display values in `[0, 1]` and put its chest wall left; the same way for real and generated.

    Raises:
        Refused: No breast is found.
    """
    found = find_breast(display)
    mask = np.repeat(np.repeat(found.mask, found.factor, axis=0), found.factor, axis=1)
    mask = mask[: display.shape[0], : display.shape[1]]
    image = 255 * display
    if found.chest_wall_right:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return Breast(np.ascontiguousarray(image), np.ascontiguousarray(mask), found.columns)


def at_depth(breast: Breast, depth: int = STANDARD_DEPTH) -> Breast:
    """The same image resampled so that the breast is `depth` pixels deep."""
    scale = depth / breast.depth
    rows, columns = (max(round(side * scale), 8) for side in breast.image.shape)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    image = np.asarray(Image.fromarray(breast.image).resize((columns, rows), method))
    mask = Image.fromarray(breast.mask.astype(np.float32)).resize((columns, rows), Image.Resampling.BILINEAR)
    return Breast(image, np.asarray(mask) >= 0.5, depth)


def patch_corners(mask: Mask, side: int, most: int = _MOST_PATCHES) -> list[tuple[int, int]]:
    """Top left corners of squares that lie in the mask, half overlapping; at most some, evenly chosen."""
    if side > min(mask.shape):
        return []
    share = uniform_filter(mask.astype(np.float32), side, mode="constant")
    step, half = max(side // 2, 1), side // 2
    corners = [
        (row, column)
        for row in range(0, mask.shape[0] - side + 1, step)
        for column in range(0, mask.shape[1] - side + 1, step)
        if share[row + half, column + half] > 0.995
    ]
    chosen = np.linspace(0, len(corners) - 1, min(most, len(corners))).round().astype(int)
    return [corners[place] for place in chosen]


def patch_spectrum(image: Floats, corners: Sequence[tuple[int, int]], side: int) -> tuple[Floats, Floats]:
    """Mean periodogram of patches, each freed of its plane and seen through a Hann window.

    Returns:
        Frequencies in cycles per pixel and powers, one of each per term of the half spectrum, without order.
    """
    window = np.outer(*[np.hanning(side + 2)[1:-1]] * 2)
    y, x = np.mgrid[:side, :side] / side - 0.5
    plane = np.stack([np.ones(side * side), y.ravel(), x.ravel()], axis=1)
    solve = np.linalg.pinv(plane * window.ravel()[:, None])
    power = np.zeros((side, side // 2 + 1))
    for row, column in corners:
        patch = image[row : row + side, column : column + side].astype(np.float64)
        flat = patch - (plane @ (solve @ (patch * window).ravel())).reshape(side, side)
        power += np.abs(np.fft.rfft2(flat * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    return frequency.ravel()[1:], power.ravel()[1:] / max(len(corners), 1)


def exponent(frequency: Floats, power: Floats, low: float, high: float, bins: int = 8) -> float | None:
    """The b of `power ~ 1 / frequency^b` between two frequencies; None if the spectrum does not reach that far."""
    # Beyond 0.4 cycles a pixel the detector's or a resampling's own fall begins, and the corners of the square.
    if high > 0.4 or low <= 0:
        return None
    edges = np.geomspace(low, high, bins + 1)
    place = np.digitize(frequency, edges) - 1
    points = [
        (np.log(frequency[place == k]).mean(), np.log(power[place == k] + 1e-12).mean())
        for k in range(bins)
        if (place == k).any()
    ]
    if len(points) < 4:
        return None
    return -float(np.polyfit(*np.transpose(points), 1)[0])


def breast_spectrum(breast: Breast) -> tuple[Floats, Floats] | None:
    """Spectrum of the tissue well inside the skin, frequencies in cycles per pixel; None if no patch has room."""
    inner = eroded(breast.mask, 0.04 * breast.depth)
    for share in _PATCH_SHARES:
        side = 2 * round(share * breast.depth / 2)
        corners = patch_corners(inner, side)
        if corners:
            return patch_spectrum(breast.image, corners, side)
    return None


def eroded(mask: Mask, distance: float) -> Mask:
    """The mask without what is nearer than some pixels to its edge; the borders of the image are no edge."""
    if distance < 2:
        return binary_erosion(mask, border_value=1)
    return distance_transform_edt(mask) > distance if not mask.all() else mask


def grey_levels(values: Floats) -> dict[str, float]:
    """Percentiles, spread and skewness of the grey levels in a breast."""
    low, middle, high = np.percentile(values, [1, 50, 99])
    return {
        "grey 1%": float(low),
        "grey median": float(middle),
        "grey 99%": float(high),
        "grey SD/mean": float(values.std() / max(values.mean(), 1e-9)),
        "grey skewness": float(skew(values)),
    }


def skin_line(breast: Breast) -> tuple[float, float] | None:
    """How the grey rises from air to tissue, the median over sectors of the outline.

    Tissue is the level between 10% and 20% of the depth below the edge, air that between 3% and 6% outside.

    Returns:
        Distance between 10% and 90% of the rise as a share of the depth, and how far the grey exceeds tissue within a
        tenth of the depth below the edge, as a share of the rise; None if no sector shows all of it.
    """
    mask, depth = breast.mask, breast.depth
    signed = np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))
    rows, columns = np.indices(mask.shape)
    middle = np.average(np.arange(mask.shape[0]), weights=mask.sum(axis=1))
    angle = np.arctan2(rows - middle, columns + 1.0)
    width = max(1.0, 0.0025 * depth)
    found = []
    for low, high in pairwise(_SECTORS):
        here = (angle >= low) & (angle < high) & (signed > -0.06 * depth) & (signed < 0.2 * depth)
        place = np.floor(signed[here] / width).astype(int)
        if not len(place):
            continue
        first = place.min()
        total = np.bincount(place - first, minlength=1)
        sums = np.bincount(place - first, weights=breast.image[here])
        distance = (np.arange(len(total)) + first + 0.5) * width / depth
        measured = _rise(distance[total > 2], (sums[total > 2] / total[total > 2]))
        if measured is not None:
            found.append(measured)
    if not found:
        return None
    rise, overshoot = np.median(found, axis=0)
    return float(rise), float(overshoot)


def _rise(distance: Floats, grey: Floats) -> tuple[float, float] | None:
    air, tissue = (distance >= -0.06) & (distance < -0.03), (distance >= 0.10) & (distance < 0.20)
    if air.sum() < 3 or tissue.sum() < 5:
        return None
    floor, plateau = np.median(grey[air]), np.median(grey[tissue])
    if plateau - floor < 4:
        return None
    share = (grey - floor) / (plateau - floor)
    crossings = [_first_above(distance, share, level) for level in (0.1, 0.9)]
    near = (distance >= 0) & (distance < 0.10)
    return crossings[1] - crossings[0], float(share[near].max() - 1)


def _first_above(distance: Floats, share: Floats, level: float) -> float:
    place = int(np.argmax(share >= level))
    if place == 0 or share[place] == share[place - 1]:
        return float(distance[place])
    part = (level - share[place - 1]) / (share[place] - share[place - 1])
    return float(distance[place - 1] + part * (distance[place] - distance[place - 1]))


def local_spread(image: Floats, mask: Mask, scale: float) -> Floats:
    """Local standard deviation of the structures of one scale, at the pixels of the mask well away from its edge.

    The scale is isolated by a difference of two Gaussians, of half the scale and of the scale (pixels); both are means
    over the mask alone, so that the air does not count.
    """

    def blurred(values: Floats, sigma: float) -> Floats:
        return gaussian_filter(np.where(mask, values, 0.0), sigma) / np.maximum(gaussian_filter(inside, sigma), 1e-6)

    inside = mask.astype(np.float64)
    band = blurred(image, scale / 2) - blurred(image, scale)
    spread = np.sqrt(np.maximum(blurred(band**2, 2 * scale), 0))
    core = eroded(mask, scale)
    return spread[core if core.any() else mask]


def texture_samples(image: Floats, mask: Mask, number: int = 400) -> dict[int, Floats]:
    """Evenly spaced quantiles of the local spread at each scale: every image then counts alike."""
    steps = (np.arange(number) + 0.5) / number
    values = image.astype(np.float64)
    return {scale: np.quantile(local_spread(values, mask, scale), steps) for scale in TEXTURE_SCALES}


def texture_distance(one: Sequence[dict[int, Floats]], other: Sequence[dict[int, Floats]]) -> dict[int, float]:
    """Wasserstein distance between two groups of images at each scale, in grey levels."""

    def together(group: Sequence[dict[int, Floats]], scale: int) -> Floats:
        return np.concatenate([samples[scale] for samples in group])

    return {s: float(wasserstein_distance(together(one, s), together(other, s))) for s in TEXTURE_SCALES}


def halves_distance(
    group: Sequence[dict[int, Floats]], rng: np.random.Generator, times: int = 40
) -> dict[int, float] | None:
    """The yardstick of `texture_distance`: the same between random halves of one group, the median of many."""
    if len(group) < 4:
        return None
    found = []
    for _ in range(times):
        order = rng.permutation(len(group))
        parts = [[group[place] for place in half] for half in np.array_split(order, 2)]
        found.append(texture_distance(*parts))
    return {scale: float(np.median([each[scale] for each in found])) for scale in TEXTURE_SCALES}


def summary(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    """Median and range of what could be measured."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return form(known[0])
    return f"{form(float(np.median(known)))} ({form(min(known))} to {form(max(known))})"
