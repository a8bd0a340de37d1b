"""Drawn mammograms in the looks that archives hold, each with the true outline of its breast.

Shapes: CC and MLO, filling the height or tiny, fatty or dense. Looks: digital with padding, collimator and burned-in
text; digitised film with fog, uneven light, noise, labels, white frames and the scanner's edge.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

ROWS, COLUMNS = 560, 440
Draw = np.random.Generator
Look = Callable[[np.ndarray, np.ndarray, Draw], np.ndarray]


def shape_of(name: str, draw: Draw) -> np.ndarray:
    """The true mask, chest wall on the left: `cc`, `mlo`, `tall` (cut at top and bottom), `tiny`, `broad`."""
    y, x = np.mgrid[:ROWS, :COLUMNS].astype(float)
    height, depth, middle = {
        "cc": (draw.uniform(0.55, 0.85), draw.uniform(0.35, 0.7), 0.5),
        "mlo": (draw.uniform(0.6, 0.75), draw.uniform(0.4, 0.65), 0.6),
        "tall": (draw.uniform(1.05, 1.5), draw.uniform(0.4, 0.7), 0.5),
        "tiny": (draw.uniform(0.24, 0.35), draw.uniform(0.12, 0.2), 0.5),
        "broad": (draw.uniform(0.9, 1.0), draw.uniform(0.8, 0.92), 0.5),
    }[name]
    middle = (middle + draw.uniform(-0.04, 0.04)) * ROWS
    mask = (np.abs(y - middle) / (height * ROWS / 2)) ** 2.2 + (x / (depth * COLUMNS)) ** 2 <= 1
    if name == "mlo":
        # Armpit and pectoral muscle go on to the top of the image.
        mask |= (y < middle) & (x < (0.35 * depth + 0.12) * COLUMNS * (1 - 0.25 * y / middle) + 10)
        mask |= ndimage.binary_closing(mask, iterations=12)
    nipple = (y - middle) ** 2 + (x - depth * COLUMNS) ** 2 < (0.014 * ROWS) ** 2
    return mask | nipple


def tissue(mask: np.ndarray, kind: str, view: str, draw: Draw) -> np.ndarray:
    """Display values within the mask for `fatty`, `scattered` or `dense`; thin at the rim, with a skin line."""
    share, fat, gland = {"fatty": (0.05, 0.22, 0.12), "scattered": (0.3, 0.25, 0.3), "dense": (0.75, 0.3, 0.45)}[kind]
    depth = ndimage.distance_transform_cdt(np.pad(mask, ((60, 60), (60, 0)), mode="edge"), "chessboard")[60:-60, 60:]
    thickness = np.clip(depth / draw.uniform(12, 30), 0.35, 1) ** 0.5
    coarse, fine = smooth(draw, 18, 14), smooth(draw, 140, 110)
    cloud = 1 / (1 + np.exp(-3 * (coarse + 0.3 * fine - np.quantile(coarse, 1 - share))))
    values = fat * thickness * (1 + 0.12 * coarse * 0.3) + gland * cloud * np.clip(depth / 25, 0, 1)
    values[(depth > 0) & (depth < 3)] += 0.06
    if view == "mlo":
        y, x = np.mgrid[:ROWS, :COLUMNS]
        values += 0.35 / (1 + np.exp((y / (0.55 * ROWS) + x / (0.3 * COLUMNS) - 1) * 14))
    return np.where(mask, np.clip(values, 0, 1), 0)


def smooth(draw: Draw, rows: int, columns: int) -> np.ndarray:
    """Smooth noise of standard deviation near 1 with so many cells."""
    cells = Image.fromarray(draw.standard_normal((rows, columns)).astype(np.float32))
    return np.asarray(cells.resize((COLUMNS, ROWS), Image.Resampling.BICUBIC))


def digital(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Air clipped to black by the window; text in the far corner."""
    image = np.clip(values + np.where(mask, 0.01, 0) * draw.standard_normal(mask.shape), 0, 1)
    return with_text(image, COLUMNS - 120, 20, "R CC")


def noisy_air(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Air above black, with noise, and padding below it at the far side."""
    image = values + draw.uniform(0.03, 0.08) * ~mask + 0.006 * draw.standard_normal(mask.shape)
    image[:, COLUMNS - int(draw.integers(10, 100)) :] = 0
    return with_text(np.clip(image, 0, 1), COLUMNS - 180, ROWS - 60, "L MLO")


def collimated(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Air above black within the collimator, black beyond its edges (top, bottom and far side)."""
    image = values + 0.06 * ~mask + 0.004 * draw.standard_normal(mask.shape)
    edge = int(draw.integers(4, 16))
    image[:edge], image[ROWS - edge :], image[:, COLUMNS - 2 * edge :] = 0, 0, 0
    return np.clip(image, 0, 1)


def text_at_the_chest_wall(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Burned-in lines of text at the chest wall, above and below the breast, and one against the skin."""
    image = digital(values, mask, draw)
    places = np.flatnonzero(mask.any(axis=1))
    for y in (6, 22, ROWS - 24):
        if y + 14 < places[0] or y > places[-1]:
            image = with_text(image, 0, y, "INSTITUTE 12.03.2019 MLO")
    edge = int(np.flatnonzero(mask[ROWS // 2])[-1])
    return with_text(image, min(edge + 1, COLUMNS - 60), ROWS // 2 - 40, "compr 92 N")


def film(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Fog, uneven light, grain, and a bright label in the air."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    light = draw.uniform(-0.03, 0.03) * (y / ROWS - 0.5) + draw.uniform(-0.03, 0.03) * (x / COLUMNS - 0.5)
    fog = draw.uniform(0.06, 0.14)
    image = fog + light + 0.8 * values + 0.012 * draw.standard_normal(mask.shape)
    top, left = int(draw.integers(20, 60)), COLUMNS - int(draw.integers(90, 130))
    image[top : top + 34, left : left + 70] = 0.95
    return with_text(np.clip(image, 0, 1), left + 6, top + 10, "R CC", fill=0.15)


def framed_film(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Film with the white frame of the light box at top, bottom and far side."""
    image, edge = film(values, mask, draw), int(draw.integers(3, 14))
    image[:edge], image[ROWS - edge :], image[:, COLUMNS - edge :] = 1, 1, 1
    return image


def slanted_film(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Film that lay askew: a bright wedge along the far side and one along the bottom, and the light uneven."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    image = film(values, mask, draw)
    image[x > COLUMNS - 3 - draw.uniform(4, 14) * y / ROWS] = 0.97
    image[y > ROWS - 2 - draw.uniform(4, 10) * (1 - x / COLUMNS) * (x > 0.6 * COLUMNS)] = 0.97
    return image


def scanned_film(values: np.ndarray, mask: np.ndarray, draw: Draw) -> np.ndarray:
    """Film that was laid into the scanner with a bright strip at the far side and a dark one at the chest wall."""
    image, strip = film(values, mask, draw), int(draw.integers(4, 20))
    image[:, COLUMNS - strip :] = 0.85 + 0.01 * draw.standard_normal((ROWS, strip))
    image[:, : int(draw.integers(1, 5))] = 0.02
    return image


LOOKS: dict[str, Look] = {
    look.__name__: look
    for look in (digital, noisy_air, collimated, text_at_the_chest_wall, film, framed_film, scanned_film, slanted_film)
}
SHAPES = ("cc", "mlo", "tall", "tiny", "broad")
KINDS = ("fatty", "scattered", "dense")


def looking(look: str, shape: str, kind: str, seed: int, *, right: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Image `[560, 440]` float32 in `[0, 1]` and true mask; mirrored if the chest wall is to be at the right."""
    draw = np.random.default_rng([seed, *map(ord, look + shape + kind)])
    mask = shape_of(shape, draw)
    image = LOOKS[look](tissue(mask, kind, shape, draw), mask, draw).astype(np.float32)
    return (np.ascontiguousarray(image[:, ::-1]), mask[:, ::-1]) if right else (image, mask)


def with_text(image: np.ndarray, x: int, y: int, text: str, fill: float = 1.0) -> np.ndarray:
    page = Image.fromarray(image.astype(np.float32))
    ImageDraw.Draw(page).text((x, y), text, fill=fill)
    return np.asarray(page).copy()
