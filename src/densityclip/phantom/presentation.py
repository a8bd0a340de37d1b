"""From processed signal to stored pixels: grey curve, window, polarity, padding, and what is burned in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densityclip.phantom.looks import Look

Pixels = NDArray[np.uint16]

BITS_STORED = 12
_TOP = 2**BITS_STORED - 1
_TISSUE_FROM, _TISSUE_TO = 260, 3900
# Signal that fixed processing shows as black and as white, in the units of processing.py and tomosynthesis.py: optical
# path above most of the fat for DM, 1/mm for slices and synthesized images. Set once from 60 generated women of the
# internal site.
_RANGES = {"DM": (0.0, 0.95), "s2D": (-0.0003, 0.0045), "DBT": (-0.0003, 0.0040)}
# A fatty image is stretched until its range is at least this share of the usual one.
_LEAST_RANGE = {"DM": 0.6, "s2D": 0.35, "DBT": 0.35}

_GLYPHS = {
    " ": (".....", ".....", ".....", ".....", ".....", ".....", "....."),
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
    "C": (".111.", "1...1", "1....", "1....", "1....", "1...1", ".111."),
    "M": ("1...1", "11.11", "1.1.1", "1.1.1", "1...1", "1...1", "1...1"),
    "O": (".111.", "1...1", "1...1", "1...1", "1...1", "1...1", ".111."),
    "S": (".1111", "1....", "1....", ".111.", "....1", "....1", "1111."),
    "Y": ("1...1", "1...1", ".1.1.", "..1..", "..1..", "..1..", "..1.."),
    "N": ("1...1", "11..1", "1.1.1", "1.1.1", "1..11", "1...1", "1...1"),
    "D": ("1111.", "1...1", "1...1", "1...1", "1...1", "1...1", "1111."),
    "2": (".111.", "1...1", "....1", "..11.", ".1...", "1....", "11111"),
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


def _place(letters: NDArray[np.bool_], breast: NDArray[np.bool_], tops: tuple[int, ...]) -> tuple[int, int] | None:
    """Where letters touch no breast: near the edge away from the chest wall (right), first of the rows; else None."""
    columns = breast.shape[1]
    height, width = letters.shape
    left = columns - width - max(3, columns // 20)
    for top in tops:
        if left >= 0 and not breast[max(top - 2, 0) : top + height + 2, max(left - 2, 0) : left + width + 2].any():
            return top, left
    return None


def _levels(values: NDArray[np.float32], breast: NDArray[np.bool_], kind: str, look: Look) -> NDArray[np.uint16]:
    """Signal to 4096 levels, by a range that is partly fixed and partly the image's own."""
    low, high = _RANGES[kind]
    inside = values[..., breast].ravel()[::7]
    own_low, own_high = np.percentile(inside, [3.0, 99.7])
    if look.film:
        # The periphery, which no equalisation lifts, goes black; fat in the middle is grey and not white.
        own_low, own_high = max(own_low, -0.45), max(own_high, 0.55)
    else:
        # The dense end is spared from saturation, and a fatty breast is not stretched until it looks dense.
        own_high = max(own_high, low + _LEAST_RANGE[kind] * (high - low))
        own_low = min(own_low, low + 0.25 * (high - low))
    high = max((1 - look.adaptive) * high + look.adaptive * own_high, own_high)
    # Fat is dark in nearly every image: the dark end follows the image more than the bright one.
    following = 0.6 + 0.4 * look.adaptive
    low = (1 - following) * low + following * own_low
    levels = values * np.float32(_TOP / (high - low))
    levels -= np.float32(low * _TOP / (high - low))
    np.clip(levels, 0, _TOP, out=levels)
    return levels.astype(np.uint16)


def _curve(look: Look) -> NDArray[np.float64]:
    """Grey in 0..1 of each of the 4096 levels: the vendor's S, then its gamma."""
    grey = np.arange(_TOP + 1) / _TOP
    if look.contrast:
        steep = 1.5 * look.contrast
        grey = (np.tanh(steep * (grey - 0.5)) / np.tanh(steep / 2) + 1) / 2
    return np.asarray(grey**look.gamma)


def present(
    values: NDArray[np.float32],
    top: int,
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
        values: `[rows, columns]` or `[frames, rows, columns]`, chest wall at column 0; may have fewer rows and columns
            than the image, whose rest is air.
        top: Row of the image that the first row of the values is.
        breast: `[rows, columns]` of the image, where it shows tissue.
        kind: `DM`, `s2D` or `DBT`.
        side: `L` (stays) or `R` (mirrored: chest wall at the last column).
        view: For the marker.
        look: The vendor.
        rng: Draws of this image.
    """
    held = slice(top, top + values.shape[-2]), slice(0, values.shape[-1])
    levels = _levels(values, breast[held], kind, look)
    curve = _curve(look)
    bottom = _TISSUE_FROM
    if kind == "s2D":
        bottom = max(bottom, round(look.s2d_floor * _TOP))
    table = np.rint(bottom + (_TISSUE_TO - bottom) * curve).astype(np.uint16)
    air = np.abs(rng.standard_normal(breast.shape, dtype=np.float32))
    air = 150 + 30 * air if look.film else 12 + 10 * air
    pixels = np.empty((*values.shape[:-2], *breast.shape), dtype=np.uint16)
    pixels[..., *held] = table[levels]
    pixels[..., ~breast] = air[~breast].astype(np.uint16)
    _burn_in(pixels, breast, kind, side, view)
    columns = breast.shape[1]
    if look.padding:
        pixels[..., ~breast[:, -1], columns - max(2, columns // 60) :] = 0
    centre, width = _window(float(curve[levels[..., breast[held]][..., ::7]].mean()), look)
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


def _burn_in(pixels: Pixels, breast: NDArray[np.bool_], kind: str, side: str, view: str) -> None:
    """Side and view, and on a synthesized image that it is one; only where there is no breast."""
    rows = breast.shape[0]
    height = max(7, rows // 26)
    texts = [(side + view, (rows // 14, rows // 5, rows - height - rows // 14))]
    if kind == "s2D":
        texts.append(("SYN 2D", (rows // 3, rows // 2, rows - height - rows // 6)))
    for text, tops in texts:
        letters = marker(text, height)
        spot = _place(letters, breast, tops)
        if spot is None:
            continue
        part = pixels[..., spot[0] : spot[0] + letters.shape[0], spot[1] : spot[1] + letters.shape[1]]
        # Mirrored letters here stand upright after a right breast is mirrored.
        part[..., letters[:, ::-1] if side == "R" else letters] = _TOP - 60


def _window(mean_grey: float, look: Look) -> tuple[int, int]:
    """The default window: nearly all stored values, drawn a little towards the image's own."""
    centre = round((_TISSUE_FROM + _TISSUE_TO) / 2 + 500 * (mean_grey - 0.4))
    return centre, 3600 if look.window_function == "LINEAR" else 2800
