"""The compressed breast of one view: outline, thickness, skin, pectoral muscle and the fold below.

Everything is drawn with the chest wall at column 0; the axilla of an MLO and the lateral side of a CC are at row 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from densityclip.phantom.grid import FIELD_ROWS_MM, Grid
from densityclip.phantom.population import Woman
from densityclip.phantom.randomness import keyed

_NIPPLE_RADIUS_MM = 4.5
# A plate of uniform thickness with a round edge holds about this share of area times thickness.
_FILLED = 0.86
# A quarter circle of radius r leaves out (1 - pi/4) r2 of its square: of an edge as deep as 0.46 of the thickness.
_EDGE_LOSS = 0.46 * (1 - np.pi / 4)

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the two breasts and both views of a woman share.

    Attributes:
        width_ratio: Width of a CC outline over its depth.
        pectoral_degrees: Angle of the pectoral edge with the chest wall in MLO.
        pectoral_top_mm: Width of the muscle at the top of an MLO.
        pectoral_share: Share of the inner thickness that is muscle at its edge.
        nipple_rise_mm: Nipple in MLO above a line at 56% of the image's height.
        skin_mm: Thickness of the skin.
        fold: Whether the fold below the breast is seen in MLO, left and right.
        side_volume: Volume of the left and of the right breast, as shares of the woman's mean.
    """

    width_ratio: float
    pectoral_degrees: float
    pectoral_top_mm: float
    pectoral_share: float
    nipple_rise_mm: float
    skin_mm: float
    fold: tuple[bool, bool]
    side_volume: tuple[float, float]

    def size_mm(self, woman: Woman, side: str) -> tuple[float, float]:
        """Half the width of a breast, and its depth from chest wall to nipple, mm."""
        volume = woman.volume_cm3 * self.side_volume["LR".index(side)]
        depth_mm = _depth_mm(volume, woman.thickness_mm, self.width_ratio)
        return 0.5 * self.width_ratio * depth_mm, depth_mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One compressed breast in one view; lengths in mm.

    The arrays hold the rows from `top` on and the first columns of the detector, as many as the breast fits in.

    Attributes:
        top: First row of the detector that the arrays hold, a multiple of 4.
        breast: `[rows, columns]`, where there is breast; pectoral muscle counts as inside.
        thickness: `[rows, columns]`, of all tissue along the ray.
        skin: `[rows, columns]`, of skin along the ray.
        muscle: `[rows, columns]`, share of the inner thickness that is muscle, 0 to 1.
        pectoral: `[rows, columns]`, where there is pectoral muscle, up to the middle of its soft edge.
        fold: `[rows, columns]`, what lies beside the breast below its fold, mm; no part of the breast.
        crease: `[rows, columns]`, skin folded double by the paddle, mm; rare.
        distance: `[rows, columns]`, from the outline, mm.
        nipple_mm: Row of the nipple.
        depth_mm: Distance of the nipple from the chest wall.
        half_mm: Half the width of the breast.
        total_mm: Compressed thickness.
        layers: Number of layers of equal height that tissue is cut into.
    """

    top: int
    breast: NDArray[np.bool_]
    thickness: Image
    skin: Image
    muscle: Image
    pectoral: NDArray[np.bool_]
    fold: Image
    crease: Image
    distance: Image
    nipple_mm: float
    depth_mm: float
    half_mm: float
    total_mm: float
    layers: int

    @property
    def seen(self) -> NDArray[np.bool_]:
        """`[rows, columns]`, where the image shows tissue, the breast's or what is beside it."""
        return self.breast | (self.fold > 0)

    @property
    def layer_mm(self) -> float:
        """Height of a layer."""
        return self.total_mm / self.layers

    def y_mm(self, pitch_mm: float) -> NDArray[np.float32]:
        """`[rows]`: middle of each row, from the upper edge of the detector."""
        return np.asarray((np.arange(len(self.breast)) + self.top + 0.5) * pitch_mm, dtype=np.float32)

    @property
    def layer_centres(self) -> NDArray[np.float32]:
        """`[layers]` mm, from the middle plane."""
        places = (np.arange(self.layers) + 0.5) / self.layers - 0.5
        return np.asarray(places * self.total_mm, dtype=np.float32)

    def in_layers(self, thickness: Image) -> NDArray[np.float32]:
        """Cut what is symmetric about the middle plane into layers: `[layers, rows, columns]` mm."""
        low = self.layer_centres[:, None, None] - np.float32(self.layer_mm / 2)
        half = thickness[None] / 2
        cut = np.minimum(half, low + np.float32(self.layer_mm)) - np.maximum(-half, low)
        return np.maximum(cut, np.float32(0), out=cut)


def draw_traits(site: str, seed: int, woman: Woman) -> Traits:
    """Draw what the views of one woman share."""
    rng = keyed(seed, site, "traits", woman.number)
    sides = np.exp(rng.normal(0.0, 0.055, 2))  # left-right limits of agreement -138/+186 cm3
    return Traits(
        width_ratio=float(np.clip(rng.normal(1.70, 0.14), 1.35, 2.1)),
        pectoral_degrees=float(rng.uniform(15.0, 30.0)),
        pectoral_top_mm=float(rng.uniform(28.0, 60.0)),
        pectoral_share=float(rng.uniform(0.02, 0.09)),
        nipple_rise_mm=float(rng.normal(-6.0, 7.0)),
        skin_mm=_skin_mm(woman, rng),
        fold=(bool(rng.random() < 0.45), bool(rng.random() < 0.45)),
        side_volume=(float(sides[0]), float(sides[1])),
    )


def _skin_mm(woman: Woman, rng: np.random.Generator) -> float:
    """Thickness of the skin (breast CT: 1.44 +- 0.25 mm), thinner in large breasts.

    The fraction drawn for a woman counts skin. In the fattiest breasts skin as thick as the mean would leave nothing of
    it for gland, so skin takes half of the fraction at most.
    """
    usual = rng.normal(1.5, 0.2) - 0.0004 * (woman.volume_cm3 - 500.0)
    most = 0.5 * min(woman.fractions) * woman.thickness_mm / 2.2
    return float(np.clip(min(usual, most), 0.4, 2.1))


def _depth_mm(volume_cm3: float, thickness_mm: float, width_ratio: float) -> float:
    """Depth of a half-ellipse-like outline that holds a volume at a thickness."""
    area_mm2 = 1000.0 * volume_cm3 / (_FILLED * thickness_mm)
    return float(np.clip(np.sqrt(area_mm2 / (np.pi / 4 * width_ratio)), 42.0, 150.0))


def _edge(profile_mm: NDArray[np.floating], rng: np.random.Generator) -> Image:
    """Add the slow irregularity of a real outline, a few per cent of the depth."""
    t = np.linspace(0, np.pi, len(profile_mm), dtype=np.float32)
    waves = sum(rng.normal(0.0, 0.02 / k) * np.sin(k * t + rng.uniform(0, 6.28)) for k in (2, 3, 4, 5))
    return (profile_mm * (1 + waves)).astype(np.float32)


def _outline(
    view: str, depth_mm: float, half_mm: float, traits: Traits, y: Image, rng: np.random.Generator
) -> tuple[Image, float, Image]:
    """How far the breast reaches from the chest wall in each row, `[rows]` mm.

    Returns:
        The outline, the row of the nipple in mm, and the outline without the fold to the axilla that an MLO shows.
    """
    power = rng.uniform(1.9, 2.5)
    if view == "CC":
        nipple = FIELD_ROWS_MM / 2 + float(rng.normal(0.0, 8.0))
        skew = rng.uniform(0.98, 1.14)
        width = np.where(y < nipple, skew * half_mm, (2.02 - skew) * half_mm)
        # From round to conical, and tapering out towards the chest wall.
        power = rng.uniform(1.4, 2.4)
        reach = depth_mm * np.maximum(1 - np.abs((y - nipple) / width) ** power, 0) ** (1 / rng.uniform(1.2, 2.2))
        reach += rng.uniform(0.0, 0.18) * depth_mm * np.exp(-(((y - nipple) / (1.05 * half_mm)) ** 4))
        reach *= depth_mm / float(reach.max())
        reach = np.where(reach < 0.12 * depth_mm, 0, reach)
        outline = _edge(reach, rng)
        return outline, nipple, outline
    nipple = 0.56 * FIELD_ROWS_MM - traits.nipple_rise_mm + float(rng.normal(0.0, 4.0))
    # Above the nipple the outline runs gently up to the axilla, below it turns back to the chest wall.
    tail = rng.uniform(0.9, 1.2) * nipple * float(np.clip(half_mm / 75.0, 0.6, 1.0))
    above, below = max(1.25 * half_mm, tail), rng.uniform(0.85, 1.0) * half_mm
    upper = np.maximum(1 - np.abs((nipple - y) / above) ** rng.uniform(1.4, 1.9), 0) ** 0.8
    lower = np.maximum(1 - np.abs((y - nipple) / below) ** power, 0) ** (1 / 2.1)
    axilla = (rng.uniform(0.15, 0.60) * depth_mm + 14.0) * np.clip((nipple - y) / nipple, 0, 1)
    reach = depth_mm * np.where(y < nipple, upper, lower)
    return _edge((reach**3 + axilla**3) ** (1 / 3), rng), nipple, reach.astype(np.float32)


def _held_rows(breast: NDArray[np.bool_]) -> tuple[int, int]:
    """The rows that hold a breast and a little air, in steps of 4: slices have three rows for four of the detector."""
    rows = np.flatnonzero(breast.any(axis=1))
    top = max(int(rows[0]) - 4, 0) // 4 * 4
    return top, min(-(-(int(rows[-1]) + 5) // 4) * 4, len(breast))


def _distance(breast: NDArray[np.bool_], pitch: float) -> Image:
    """Distance from the outline, mm, 0 outside; the chest wall and the image's ends are no outline."""
    # The staircase of the mask is not the skin's: the signed distance is smoothed across it.
    signed = distance_transform_edt(breast) - distance_transform_edt(~breast)
    smooth = gaussian_filter(signed.astype(np.float32), 1.3, mode="nearest", truncate=2.5)
    return np.where(breast, np.maximum(smooth, np.float32(0.15)), np.float32(0)) * np.float32(pitch)


def _fitting(
    view: str,
    volume_cm3: float,
    total_mm: float,
    depth_mm: float,
    half_mm: float,
    traits: Traits,
    y: Image,
    rng: np.random.Generator,
) -> tuple[Image, float, float]:
    """An outline whose plate with a round edge holds a volume: reach, row of the nipple, and half the width, mm.

    An outline's own shape decides how much it holds: the same draws are tried at a few sizes. The axilla of an MLO is
    seen besides and does not shrink with the breast, so a small breast's MLO holds more than its CC.
    """
    shape = int(rng.integers(2**32))
    pitch = float(y[1] - y[0])
    scale = 1.0
    for _ in range(4):
        _, _, own = _outline(view, scale * depth_mm, scale * half_mm, traits, y, np.random.default_rng(shape))
        # The rounded edge takes off what a plate of this perimeter loses.
        area = float(own.sum()) * pitch
        perimeter = float(np.hypot(np.diff(own), pitch)[own[1:] > 0].sum())
        held = (area * total_mm - perimeter * _EDGE_LOSS * total_mm**2) / 1000
        scale *= float(np.clip(np.sqrt(volume_cm3 / max(held, 0.2 * volume_cm3)), 0.7, 1.4))
    reach, nipple, _ = _outline(view, scale * depth_mm, scale * half_mm, traits, y, np.random.default_rng(shape))
    return reach, nipple, scale * half_mm


def _rounded(distance_mm: NDArray[np.floating], thickness_mm: float, radius_mm: float) -> Image:
    """Thickness of a plate with a round edge, by distance from the edge."""
    u = 1 - np.clip(distance_mm / radius_mm, 0, 1)
    return (thickness_mm * np.sqrt(np.maximum(1 - u * u, 0))).astype(np.float32)


def _plate(distance: Image, total_mm: float, radius_mm: float, skin_mm: float) -> tuple[Image, Image]:
    """All tissue along the ray, and the skin of it, of a plate with a round edge: mm."""
    thickness = _rounded(distance, total_mm, radius_mm)
    inner = _rounded(distance - skin_mm, total_mm - 2 * skin_mm, radius_mm - skin_mm)
    return thickness, thickness - np.minimum(np.where(distance > skin_mm, inner, 0), thickness)


def _pectoral_mm(view: str, traits: Traits, nipple_mm: float, y: Image, rng: np.random.Generator) -> Image:
    """How far the pectoral muscle reaches from the chest wall, `[rows, 1]` mm, 0 where there is none.

    A wedge at the top of an MLO, at times a sliver in CC.
    """
    if view == "CC":
        if rng.random() > 0.3:
            return np.zeros_like(y)
        middle, half = FIELD_ROWS_MM / 2 + rng.normal(0, 10), rng.uniform(20, 45)
        edge = rng.uniform(3, 9) * np.clip(1 - ((y - middle) / half) ** 2, 0, 1)
        return np.asarray(edge * (edge > 0.3))
    # The lower end reaches the nipple's line in more than four women of five.
    foot = min(traits.pectoral_top_mm / np.tan(np.radians(traits.pectoral_degrees)), 1.15 * nipple_mm)
    foot = max(foot, rng.uniform(0.98, 1.4) * nipple_mm)
    bow = rng.uniform(-0.25, 0.35)  # the edge may be convex or concave
    share = np.clip(1 - y / foot, 0, 1)
    edge = traits.pectoral_top_mm * share * (1 + bow * (1 - share))
    return np.asarray(edge * (edge > 0.5))


def _muscle(view: str, traits: Traits, edge: Image, x: Image) -> Image:
    """Share of the inner thickness that is pectoral muscle, by how far it reaches in each row."""
    if view == "CC":
        share = 0.6 * traits.pectoral_share / (1 + np.exp(np.clip((x - edge) / 1.0, -30, 30)))
    else:
        # The muscle thickens from its edge towards the chest wall.
        depth = np.clip((edge - x) / 40.0, 0, 1)
        share = (traits.pectoral_share + 0.07 * depth) / (1 + np.exp(np.clip((x - edge) / 0.9, -30, 30)))
    return (share * (edge > 0)).astype(np.float32)


def _fold(nipple_mm: float, half_mm: float, y: Image, x: Image, rng: np.random.Generator) -> Image:
    """Skin and fat of the abdomen below the fold of an MLO: thickness in mm."""
    start = nipple_mm + rng.uniform(0.75, 0.95) * half_mm
    width = rng.uniform(6.0, 22.0) * np.clip((y - start) / 25.0, 0, 1) ** 0.7
    inside = np.clip((width - x) / 4.0, 0, 1) * (y > start)
    return (rng.uniform(12.0, 30.0) * np.sqrt(inside)).astype(np.float32)


def _crease(distance: Image, reach: Image, view: str, y: Image, x: Image, rng: np.random.Generator) -> Image:
    """A skin fold, in one view of twelve: a bright band that runs in from the outline, most often near the axilla."""
    begins = rng.uniform(0.12, 0.45 if view == "MLO" else 0.8) * FIELD_ROWS_MM
    slope, length, width, skin_mm = (
        rng.uniform(-0.8, 0.8),
        rng.uniform(20, 55),
        rng.uniform(0.8, 2.0),
        rng.uniform(1, 3),
    )
    if rng.random() > 1 / 12:
        return np.zeros_like(distance)
    edge = float(reach[min(int(begins / FIELD_ROWS_MM * len(reach)), len(reach) - 1)])
    inward = edge - x
    off = (y - begins - slope * inward - 0.004 * inward**2) / width
    band = np.exp(-0.5 * off * off) * np.clip(1 - np.maximum(inward, 0) / length, 0, 1) ** 0.5
    return (skin_mm * band * (distance > 0) * (inward > -10)).astype(np.float32)


def build_anatomy(view: str, side: str, woman: Woman, traits: Traits, grid: Grid, rng: np.random.Generator) -> Anatomy:
    """Build one compressed breast.

    Args:
        view: `CC` or `MLO`.
        side: `L` or `R`.
        woman: Size and thickness.
        traits: What her views share.
        grid: The detector.
        rng: Draws of this breast in this view.
    """
    number = "LR".index(side)
    total_mm = woman.thickness_mm + (2.5 if view == "MLO" else -2.5)  # CC is about 5 mm thinner (Norway, n=14,698)
    half_mm, depth_mm = traits.size_mm(woman, side)
    pitch = grid.pitch_mm
    y = ((np.arange(grid.rows, dtype=np.float32) + 0.5) * pitch)[:, None]
    aim_cm3 = woman.volume_cm3 * traits.side_volume[number]
    reach, nipple, half_mm = _fitting(view, aim_cm3, total_mm, depth_mm, half_mm, traits, y[:, 0], rng)
    at_nipple = float(reach[min(int(nipple / pitch), len(reach) - 1)])
    columns = int((max(float(reach.max()), at_nipple + _NIPPLE_RADIUS_MM) + 3.0) / pitch) + 2
    columns = min(grid.columns, -(-columns // 4) * 4)  # slices have three columns for four of the detector
    x = ((np.arange(columns, dtype=np.float32) + 0.5) * pitch)[None, :]
    proud = rng.uniform(-1.0, 0.5) * _NIPPLE_RADIUS_MM  # in profile, or lying in the breast
    breast = (x < reach[:, None]) | ((x - at_nipple - proud) ** 2 + (y - nipple) ** 2 < _NIPPLE_RADIUS_MM**2)
    fold = np.zeros(breast.shape, dtype=np.float32)
    if view == "MLO" and traits.fold[number]:
        fold = _fold(nipple, half_mm, y, x, rng)
    top, bottom = _held_rows(breast | (fold > 0))
    y, breast, fold = y[top:bottom], breast[top:bottom], fold[top:bottom]
    distance = _distance(breast, pitch)
    thickness, skin = _plate(distance, total_mm, rng.uniform(0.4, 0.52) * total_mm, traits.skin_mm)
    pectoral_mm = _pectoral_mm(view, traits, nipple, y, rng)
    return Anatomy(
        top=top,
        breast=breast,
        thickness=thickness,
        skin=skin,
        muscle=_muscle(view, traits, pectoral_mm, x) * breast,
        pectoral=(x < pectoral_mm) & breast,
        fold=np.where(breast, np.float32(0), np.minimum(fold, np.float32(total_mm))),
        crease=_crease(distance, reach, view, y, x, rng),
        distance=distance,
        nipple_mm=nipple,
        depth_mm=at_nipple,
        half_mm=half_mm,
        total_mm=total_mm,
        layers=grid.layers(total_mm),
    )
