"""Where heat lies: the breast, its pectoral muscle, burned-in labels, the frame of the canvas, and air."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from densityclip.explain.agreement import energy_inside
from densityclip.explain.pectoral import find_pectoral
from densityclip.imaging.geometry import Geometry

REGIONS = ("breast", "pectoral", "markers", "border", "air")
TOKEN_PX = (16, 16)
# A label is at least this far above the air around the breast, as a share of the display's range. Film scans have air
# at 0.04 and less; letters stand near 1.
_ABOVE_AIR = 0.3
# Share of a prepared pixel that is bright in the original: strokes of letters are thinner than a prepared pixel.
_COVERED = 0.2
# Distance that letters of one label are joined over, and that the breast's rim is wide, as a share of the canvas.
_JOINED = 0.02


def regions_of(
    display: NDArray[np.floating],
    geometry: Geometry,
    mask: NDArray[np.bool_],
    view: str | None,
    pixels: NDArray[np.generic],
    *,
    token_px: tuple[int, int] = TOKEN_PX,
) -> dict[str, NDArray[np.bool_]]:
    """Cut the canvas into the places that a reviewer asks about.

    Args:
        display: `[rows, columns]` in `[0, 1]`, the original image as a screen shows it, air dark.
        geometry: Where the canvas lies on it.
        mask: `[height, width]` of the canvas, the breast.
        view: `CC`, `MLO` or None; the muscle is looked for in an MLO alone.
        pixels: `[height, width]` of the canvas, prepared grey.
        token_px: Height and width of a token on the canvas, pixels.

    Returns:
        Name to `[height, width]` bool. `breast`, `markers`, `border` and `air` share out the canvas: each place is in
        exactly one. `markers` are labels, burned-in words and other bright things outside the breast in what the crop
        shows (the prepared image is black there, and a map may point there all the same); `border` is the outermost
        ring of tokens without breast and markers; `air` is the rest. `pectoral` is a part of the breast, and absent
        where no muscle was found.

    Raises:
        ValueError: A shape is not the geometry's.
    """
    breast = np.asarray(mask, dtype=bool)
    if breast.shape != (geometry.canvas_rows, geometry.canvas_columns) or np.shape(pixels) != breast.shape:
        raise ValueError(f"mask is {breast.shape} and pixels {np.shape(pixels)}, not the canvas of the geometry")
    markers = _markers(display, geometry, breast)
    border = _outermost(breast.shape, token_px) & ~breast & ~markers
    regions = {"breast": breast, "markers": markers, "border": border, "air": ~(breast | markers | border)}
    muscle = find_pectoral(pixels, breast) if view == "MLO" else None
    if muscle is not None:
        regions["pectoral"] = muscle.region
    return regions


def energy_shares(heat: NDArray[np.floating], regions: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Share of a map's positive heat in each region, and the region's share of the area beside it.

    A flat map has just the area's share everywhere. The shares of breast, markers, border and air add up to 1.

    Args:
        heat: `[height, width]` of the canvas, raw; negative values count as none.
        regions: Of `regions_of`.

    Returns:
        `energy_<region>` and `area_<region>` in `[0, 1]`; energy is NaN for a map without positive heat.

    Raises:
        ValueError: The shapes differ, or the map holds a value that is not finite.
    """
    shares = {}
    for name, region in regions.items():
        shares[f"energy_{name}"] = energy_inside(heat, region)
        shares[f"area_{name}"] = float(np.mean(region))
    return shares


def _markers(display: NDArray[np.floating], geometry: Geometry, breast: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bright things outside the breast, in what the crop shows."""
    outside = geometry.to_original(breast.astype(np.float32)) < 0.5
    if not outside.any():
        return np.zeros_like(breast)
    air = float(np.median(display[outside]))
    lit = (display > air + _ABOVE_AIR) & outside
    bright = geometry.to_canvas(lit.astype(np.float32)) >= _COVERED
    reach = max(1, round(_JOINED * max(breast.shape)))
    # What touches the breast, or comes in from the chest wall below it, is tissue: the rim, a fold of the abdomen.
    near = ndimage.binary_dilation(breast, iterations=reach)
    near[:, geometry.left : geometry.left + 2] = True
    joined = _closed(bright & ~near, reach)
    labels, count = ndimage.label(_closed(bright, reach))
    tissue = np.zeros(count + 1, dtype=bool)
    tissue[labels[near & bright]] = True
    tissue[0] = True
    return joined & ~tissue[labels] & ~breast


def _closed(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Gaps of up to twice the reach filled, also at the edges of the canvas."""
    wide = np.pad(mask, reach)
    size = 2 * reach + 1
    closed = ndimage.minimum_filter(ndimage.maximum_filter(wide.view(np.uint8), size=size), size=size)
    return np.asarray(closed[reach:-reach, reach:-reach], dtype=bool)


def _outermost(shape: tuple[int, ...], token_px: tuple[int, int]) -> NDArray[np.bool_]:
    """The ring of tokens along the frame of the canvas."""
    ring = np.ones(shape, dtype=bool)
    ring[token_px[0] : shape[0] - token_px[0], token_px[1] : shape[1] - token_px[1]] = False
    return ring
