"""From processed signal to stored pixels: grey curve, window, polarity, padding, and the marker burned in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densityclip.phantom.looks import Look

Pixels = NDArray[np.uint16]

BITS_STORED = 12
_TOP = 2**BITS_STORED - 1
_TISSUE_FROM, _TISSUE_TO = 260, 3900
# Signal that fixed processing shows as black and as white, in the units that xray.py returns: optical path above most
# of the fat for DM, 1/mm for slices and synthesized images. Set once from 60 generated women of the internal site.
_RANGES = {"DM": (-0.12, 1.00), "s2D": (-0.004, 0.026), "DBT": (-0.008, 0.022)}

_GLYPHS = {
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
    "C": (".111.", "1...1", "1....", "1....", "1....", "1...1", ".111."),
    "M": ("1...1", "11.11", "1.1.1", "1.1.1", "1...1", "1...1", "1...1"),
    "O": (".111.", "1...1", "1...1", "1...1", "1...1", "1...1", ".111."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Pixels as they are written.

    Attributes:
        pixels: `[rows, columns]` or `[frames, rows, columns]` uint16, 12 bits used.
        inverted: Whether white is stored as 0 (MONOCHROME1).
        window_center: VOI window, in stored values.
        window_width: VOI window, in stored values.
        window_function: `LINEAR` or `SIGMOID`.
        padding: Stored value outside the collimated field, or None.
    """

    pixels: Pixels
    inverted: bool
    window_center: int
    window_width: int
    window_function: str
    padding: int | None


def marker(text: str, height_px: int) -> NDArray[np.bool_]:
    """Letters as a bitmap of about the given height, a seventh of it between them."""
    scale = max(1, round(height_px / 7))
    letters = [np.array([[c == "1" for c in row] for row in _GLYPHS[letter]]) for letter in text]
    gap = np.zeros((7, 1), dtype=bool)
    row = np.concatenate([piece for letter in letters for piece in (letter, gap)][:-1], axis=1)
    return np.kron(row, np.ones((scale, scale), dtype=bool))


def _place(letters: NDArray[np.bool_], breast: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Where the letters touch no breast: near the edge away from the chest wall (right), top first; else None."""
    rows, columns = breast.shape
    height, width = letters.shape
    left = columns - width - max(3, columns // 20)
    for top in (rows // 14, rows // 5, rows - height - rows // 14):
        if left >= 0 and not breast[max(top - 2, 0) : top + height + 2, max(left - 2, 0) : left + width + 2].any():
            return top, left
    return None


def _grey(values: NDArray[np.float32], breast: NDArray[np.bool_], kind: str, look: Look) -> NDArray[np.float32]:
    """Signal to 0..1 by a range that is partly fixed and partly the image's own, then the vendor's curve."""
    low, high = _RANGES[kind]
    inside = values[..., breast].ravel()[::7]
    own_low, own_high = np.percentile(inside, [3.0, 99.7])
    # The dense end is spared from saturation, and a fatty breast is not stretched until it looks dense.
    own_high = max(own_high, low + 0.75 * (high - low))
    high = max((1 - look.adaptive) * high + look.adaptive * own_high, 0.92 * own_high)
    low = (1 - look.adaptive) * low + look.adaptive * min(own_low, low + 0.15 * (high - low))
    return np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1) ** np.float32(look.gamma)


def present(
    values: NDArray[np.float32],
    breast: NDArray[np.bool_],
    *,
    kind: str,
    side: str,
    view: str,
    look: Look,
    rng: np.random.Generator,
) -> Stored:
    """Make stored pixels of a processed signal.

    Args:
        values: `[rows, columns]` or `[frames, rows, columns]`, chest wall at column 0.
        breast: `[rows, columns]`.
        kind: `DM`, `s2D` or `DBT`.
        side: `L` (stays) or `R` (mirrored: chest wall at the last column).
        view: For the marker.
        look: The vendor.
        rng: Draws of this image.
    """
    grey = _grey(values, breast, kind, look)
    stored = _TISSUE_FROM + (_TISSUE_TO - _TISSUE_FROM) * grey
    air = 12 + 10 * np.abs(rng.standard_normal(breast.shape, dtype=np.float32))
    stored = np.where(breast, stored, air)
    rows, columns = breast.shape
    letters = marker(side + view, max(7, rows // 26))
    spot = _place(letters, breast)
    pixels = np.rint(stored).astype(np.uint16)
    if spot is not None:
        top, left = spot
        part = pixels[..., top : top + letters.shape[0], left : left + letters.shape[1]]
        # Mirrored letters here stand upright after a right breast is mirrored below.
        part[..., letters[:, ::-1] if side == "R" else letters] = _TOP - 60
    if look.padding:
        pixels[..., ~breast[:, -1], columns - max(2, columns // 60) :] = 0
    centre, width = _window(grey, breast, look)
    if look.inverted:
        pixels, centre = (_TOP - pixels).astype(np.uint16), _TOP - centre
    if side == "R":
        pixels = pixels[..., ::-1]
    return Stored(
        pixels=np.ascontiguousarray(pixels),
        inverted=look.inverted,
        window_center=centre,
        window_width=width,
        window_function=look.window_function,
        padding=(_TOP if look.inverted else 0) if look.padding else None,
    )


def _window(grey: NDArray[np.float32], breast: NDArray[np.bool_], look: Look) -> tuple[int, int]:
    """The default window: nearly all stored values, drawn a little towards the image's own."""
    middle = float(grey[..., breast].mean())
    centre = round((_TISSUE_FROM + _TISSUE_TO) / 2 + 500 * (middle - 0.4))
    return centre, 3600 if look.window_function == "LINEAR" else 2800
