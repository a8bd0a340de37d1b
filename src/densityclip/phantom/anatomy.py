"""The compressed breast of one view: outline, thickness, skin, pectoral muscle, and where gland tends to lie.

Everything is drawn with the chest wall at column 0; the axilla of an MLO and the lateral side of a CC are at row 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from densityclip.phantom.population import Woman
from densityclip.phantom.randomness import keyed

FIELD_ROWS_MM = 240.0
SLABS = 12
_NIPPLE_RADIUS_MM = 4.0

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Pixels of the detector, and of the somewhat larger field on which tissue is made.

    The margin lies after the last row and column: it keeps the periodic Fourier transforms from wrapping tissue round.

    Attributes:
        rows: Rows of the DM image.
        columns: Columns of the DM image.
        field_rows: Rows with margin, a multiple of 4.
        field_columns: Columns with margin, a multiple of 4.
    """

    rows: int
    columns: int
    field_rows: int
    field_columns: int

    @property
    def pitch_mm(self) -> float:
        """Side of a DM pixel, mm."""
        return FIELD_ROWS_MM / self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the two breasts and both views of a woman share.

    Attributes:
        width_ratio: Width of a CC outline over its depth.
        pectoral_degrees: Angle of the pectoral edge with the chest wall in MLO.
        pectoral_top_mm: Width of the muscle at the top of an MLO.
        nipple_rise_mm: Nipple above the middle of the image.
        gland_centre: Centre of the gland between chest wall (0) and nipple (1).
        gland_depth: Half-depth of the gland, as a share of the breast's depth.
        texture_exponent: Power-law exponent of the tissue field before thresholding.
        clump_mm: Longest scale of the texture.
        softness: How soft the border between fat and gland is.
        strands: Strength of ligament-like strands.
        skin_mm: Thickness of the skin.
    """

    width_ratio: float
    pectoral_degrees: float
    pectoral_top_mm: float
    nipple_rise_mm: float
    gland_centre: float
    gland_depth: float
    texture_exponent: float
    clump_mm: float
    softness: float
    strands: float
    skin_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One compressed breast in one view, on the field's grid; lengths in mm.

    Attributes:
        breast: `[rows, columns]`, where there is breast; pectoral muscle counts as inside.
        thickness: `[rows, columns]`, of all tissue along the ray.
        skin: `[rows, columns]`, of skin along the ray.
        muscle: `[rows, columns]`, share of the inner thickness that is muscle, 0 to 1.
        outer_slabs: `[SLABS, rows, columns]`, of all tissue in each slab.
        inner_slabs: `[SLABS, rows, columns]`, of tissue within the skin in each slab.
        gland_bias: `[SLABS, rows, columns]`, where gland tends to lie, in standard deviations of the texture.
        slab_mm: Height of a slab.
    """

    breast: NDArray[np.bool_]
    thickness: Image
    skin: Image
    muscle: Image
    outer_slabs: Image
    inner_slabs: Image
    gland_bias: Image
    slab_mm: float


def draw_traits(site: str, seed: int, woman: Woman) -> Traits:
    """Draw what the views of one woman share."""
    rng = keyed(seed, site, "traits", woman.number)
    return Traits(
        width_ratio=float(np.clip(rng.normal(1.70, 0.12), 1.4, 2.0)),
        pectoral_degrees=float(rng.uniform(15.0, 28.0)),
        pectoral_top_mm=float(rng.uniform(28.0, 58.0)),
        nipple_rise_mm=float(rng.normal(-6.0, 5.0)),
        gland_centre=float(rng.normal(0.55, 0.05)),
        gland_depth=float(rng.uniform(0.34, 0.46)),
        texture_exponent=float(rng.uniform(3.5, 4.1)),
        clump_mm=float(rng.uniform(30.0, 60.0)),
        softness=float(rng.uniform(0.25, 0.5)),
        strands=float(rng.uniform(0.8, 1.6)),
        skin_mm=_skin_mm(woman, rng),
    )


def _skin_mm(woman: Woman, rng: np.random.Generator) -> float:
    """Thickness of the skin (breast CT: 1.44 +- 0.25 mm), thinner in large breasts.

    The fraction drawn for a woman counts skin. In the fattiest breasts skin as thick as the mean would leave nothing of
    it for gland, so skin takes half of the fraction at most.
    """
    usual = rng.normal(1.5, 0.2) - 0.0004 * (woman.volume_cm3 - 500.0)
    most = 0.5 * min(woman.fractions) * woman.thickness_mm / 2.2
    return float(np.clip(min(usual, most), 0.4, 2.1))


def _depth_mm(woman: Woman, traits: Traits) -> float:
    """Depth of a half-ellipse-like outline that holds the woman's volume at her thickness."""
    area_mm2 = 1000.0 * woman.volume_cm3 / (0.86 * woman.thickness_mm)
    return float(np.clip(np.sqrt(area_mm2 / (np.pi / 4 * traits.width_ratio)), 48.0, 150.0))


def _coordinates(grid: Grid) -> tuple[Image, Image]:
    y = ((np.arange(grid.field_rows, dtype=np.float32) + 0.5) * grid.pitch_mm)[:, None]
    x = ((np.arange(grid.field_columns, dtype=np.float32) + 0.5) * grid.pitch_mm)[None, :]
    return y, x


def _edge(profile_mm: NDArray[np.floating], rng: np.random.Generator) -> Image:
    """Add the slow irregularity of a real outline, a few per cent of the depth."""
    t = np.linspace(0, np.pi, len(profile_mm), dtype=np.float32)
    waves = sum(rng.normal(0.0, 0.018 / k) * np.sin(k * t + rng.uniform(0, 6.28)) for k in (2, 3, 4, 5))
    return (profile_mm * (1 + waves)).astype(np.float32)


def _outline(
    view: str, depth_mm: float, traits: Traits, grid: Grid, rng: np.random.Generator
) -> tuple[Image, float, float]:
    """How far the breast reaches from the chest wall in each row.

    Returns:
        `[rows]` mm, the row of the nipple in mm, and the half-width of the breast in mm.
    """
    y = _coordinates(grid)[0][:, 0]
    half = 0.5 * traits.width_ratio * depth_mm
    power = rng.uniform(2.0, 2.4)
    if view == "CC":
        nipple = FIELD_ROWS_MM / 2 + float(rng.normal(0.0, 5.0))
        width = np.where(y < nipple, 1.06 * half, 0.94 * half)
        reach = depth_mm * np.maximum(1 - np.abs((y - nipple) / width) ** power, 0) ** (1 / 2.1)
        return _edge(reach, rng), nipple, half
    nipple = 0.56 * FIELD_ROWS_MM - traits.nipple_rise_mm + float(rng.normal(0.0, 4.0))
    # Above the nipple the outline runs gently up to the axilla, below it turns back to the chest wall.
    above, below = max(1.3 * half, rng.uniform(0.95, 1.15) * nipple), 0.95 * half
    upper = np.maximum(1 - np.abs((nipple - y) / above) ** rng.uniform(1.45, 1.75), 0) ** 0.8
    lower = np.maximum(1 - np.abs((y - nipple) / below) ** power, 0) ** (1 / 2.1)
    axilla = (rng.uniform(0.20, 0.32) * depth_mm + 14.0) * np.clip((nipple - y) / nipple, 0, 1)
    reach = depth_mm * np.where(y < nipple, upper, lower)
    return _edge((reach**3 + axilla**3) ** (1 / 3), rng), nipple, half


def _rounded(distance_mm: NDArray[np.floating], thickness_mm: float, radius_mm: float) -> Image:
    """Thickness of a plate with a round edge, by distance from the edge."""
    u = 1 - np.clip(distance_mm / radius_mm, 0, 1)
    return (thickness_mm * np.sqrt(np.maximum(1 - u * u, 0))).astype(np.float32)


def _slabs(thickness: Image, total_mm: float) -> Image:
    """Cut a plate that is symmetric about its middle into slabs: `[SLABS, rows, columns]` mm."""
    slab = total_mm / SLABS
    top = np.linspace(-total_mm / 2, total_mm / 2, SLABS + 1, dtype=np.float32)[:-1, None, None]
    half = thickness[None] / 2
    return np.clip(np.minimum(half, top + slab) - np.maximum(-half, top), 0, slab)


def _muscle(view: str, traits: Traits, nipple_mm: float, grid: Grid, rng: np.random.Generator) -> Image:
    """Share of the inner thickness that is pectoral muscle: a wedge at the top of an MLO, at most a sliver in CC."""
    y, x = _coordinates(grid)
    if view == "CC":
        return np.zeros((grid.field_rows, grid.field_columns), dtype=np.float32)
    foot = min(traits.pectoral_top_mm / np.tan(np.radians(traits.pectoral_degrees)), 1.05 * nipple_mm)
    bow = rng.uniform(-0.25, 0.35)  # the edge may be convex or concave
    share = np.clip(1 - y / foot, 0, 1)
    edge = traits.pectoral_top_mm * share * (1 + bow * (1 - share))
    # The muscle thickens from its edge towards the chest wall.
    depth = np.clip((edge - x) / 40.0, 0, 1)
    wedge = (0.14 + 0.17 * depth) / (1 + np.exp(np.clip((x - edge) / 1.2, -30, 30)))
    return (wedge * (edge > 0.5)).astype(np.float32)


def _gland_bias(
    distance: Image,
    muscle: Image,
    nipple_mm: float,
    depth_mm: float,
    half_mm: float,
    view: str,
    traits: Traits,
    grid: Grid,
) -> Image:
    """Gland lies behind the nipple, within a layer of fat under the skin and before the chest wall."""
    y, x = _coordinates(grid)
    centre_y = nipple_mm - (0.14 * half_mm if view == "CC" else 0.26 * half_mm)  # the outer quadrants hold more
    across = (y - centre_y) / (0.62 * half_mm)
    along = (x / depth_mm - traits.gland_centre) / traits.gland_depth
    plane = -1.3 * across**2 - 1.1 * along**2 - 3.2 * np.exp(-distance / (0.055 * depth_mm)) - 9.0 * muscle
    plane = plane + 0.7 * np.exp(-((y - nipple_mm) ** 2 + (x - 0.93 * depth_mm) ** 2) / (0.16 * depth_mm) ** 2)
    z = (np.arange(SLABS, dtype=np.float32) + 0.5) / SLABS * 2 - 1
    return (plane[None] - 1.4 * np.abs(z[:, None, None]) ** 3).astype(np.float32)


def build_anatomy(view: str, woman: Woman, traits: Traits, grid: Grid, rng: np.random.Generator) -> Anatomy:
    """Build one compressed breast.

    Args:
        view: `CC` or `MLO`.
        woman: Size and thickness.
        traits: What her views share.
        grid: The detector.
        rng: Draws of this breast in this view.
    """
    total_mm = woman.thickness_mm + (2.5 if view == "MLO" else -2.5)  # CC is about 5 mm thinner (Norway, n=14,698)
    depth_mm = _depth_mm(woman, traits)
    reach, nipple, half = _outline(view, depth_mm, traits, grid, rng)
    y, x = _coordinates(grid)
    at_nipple = float(reach[min(int(nipple / grid.pitch_mm), len(reach) - 1)])
    breast = (x < reach[:, None]) | ((x - at_nipple) ** 2 + (y - nipple) ** 2 < _NIPPLE_RADIUS_MM**2)
    distance = distance_transform_edt(breast).astype(np.float32) * grid.pitch_mm
    # The pixel at the edge is half covered, and the staircase of the mask is not the skin's.
    distance = np.where(breast, np.maximum(gaussian_filter(distance, 1.0) - 0.25 * grid.pitch_mm, 0.1), 0)
    radius = 0.45 * total_mm
    thickness = _rounded(distance, total_mm, radius)
    skin = traits.skin_mm
    inner = _rounded(distance - skin, total_mm - 2 * skin, radius - skin)
    inner = np.minimum(np.where(distance > skin, inner, 0), thickness)
    muscle = _muscle(view, traits, nipple, grid, rng) * breast
    return Anatomy(
        breast=breast,
        thickness=thickness,
        skin=thickness - inner,
        muscle=muscle,
        outer_slabs=_slabs(thickness, total_mm),
        inner_slabs=_slabs(inner, total_mm),
        gland_bias=_gland_bias(distance, muscle, nipple, depth_mm, half, view, traits, grid),
        slab_mm=total_mm / SLABS,
    )
