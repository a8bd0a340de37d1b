"""X-ray physics of one exposure: attenuation by tissue, scatter, blur, quantum noise."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from densityclip.phantom.resampling import larger, smaller
from densityclip.phantom.tissue import Tissue

Image = NDArray[np.float32]

# Linear attenuation, 1/mm: Hammerstein 1979 compositions with the Elam tables.
_KEV = (15.0, 18.0, 20.0, 22.0, 25.0, 30.0, 35.0)
_ATTENUATION = {
    "fat": (0.0964, 0.0632, 0.0510, 0.0428, 0.0350, 0.0279, 0.0242),
    "gland": (0.1593, 0.1000, 0.0781, 0.0636, 0.0497, 0.0372, 0.0308),
    "skin": (0.1693, 0.1061, 0.0829, 0.0674, 0.0526, 0.0392, 0.0324),
    "muscle": (0.178, 0.111, 0.0865, 0.0700, 0.0542, 0.0400, 0.0326),
    "calcification": (1.85, 1.10, 0.82, 0.63, 0.44, 0.27, 0.18),
}
# Below the fold lie skin and fat doubled up: as bright as this share of muscle.
_BESIDE_SOFT = 0.35
# Scatter to primary of about 0.12 a centimetre without a grid; a grid passes about 0.18 of it.
_SCATTER_PER_MM, GRID_PASSES, NO_GRID, _SCATTER_BLUR_MM = 0.012, 0.18, 1.0, 12.0
# About 3,100 quanta in a 0.07 mm pixel behind the breast in a DM image; 1,500 in a 0.14 mm pixel of one tomosynthesis
# projection. Exposure control sees to it.
QUANTA_PER_MM2 = {"DM": 3100 / 0.07**2, "DBT": 1500 / 0.14**2}


def attenuation(tissue: str, energy_kev: float) -> float:
    """Linear attenuation, 1/mm, interpolated on a log-log scale between 15 and 35 keV."""
    return float(np.exp(np.interp(np.log(energy_kev), np.log(_KEV), np.log(_ATTENUATION[tissue]))))


def line_integrals(tissue: Tissue, energy_kev: float) -> tuple[Image, Image]:
    """Attenuation of every layer: fat everywhere, and what other tissue adds to it.

    Returns:
        `[layers, rows, columns]` of the breast, and the same of a breast of fat and skin alone.
    """
    fat, gland, skin, muscle, chalk = (np.float32(attenuation(name, energy_kev)) for name in _ATTENUATION)
    plain = fat * tissue.outer
    plain += (skin - fat) * (tissue.outer - tissue.inner)
    plain += fat * tissue.beside
    path = (gland - fat) * tissue.gland
    path += (muscle - fat) * (tissue.muscle + tissue.vessels)
    path += (chalk - fat) * tissue.chalk
    path += (np.float32(_BESIDE_SOFT) * (muscle - fat)) * tissue.beside
    path += plain
    return path, plain


def scatter_of(path: Image, thickness_mm: Image, *, pitch_mm: float, grid_passes: float) -> Image:
    """Scatter that reaches the detector, `[rows, columns]`: made along the rays, spread over centimetres.

    Args:
        path: `[rows, columns]` attenuation line integral.
        thickness_mm: `[rows, columns]` of tissue, from which scatter comes.
        pitch_mm: Side of a pixel.
        grid_passes: Share of the scatter that reaches the detector.
    """
    made = np.exp(-path) * (np.float32(_SCATTER_PER_MM * grid_passes) * thickness_mm)
    # It varies so slowly that pixels of a few millimetres hold it.
    rows, columns = (max(8, round(side * pitch_mm / 3.0)) for side in path.shape)
    coarse = smaller(made, rows, columns)
    coarse = gaussian_filter(coarse, _SCATTER_BLUR_MM / pitch_mm * rows / path.shape[0], mode="nearest", truncate=2.5)
    return larger(coarse, *path.shape)


def exposed(
    path: Image, scatter: Image, *, pitch_mm: float, blur_mm: float, kind: str, rng: np.random.Generator
) -> Image:
    """One exposure, as minus the logarithm of what the detector counts.

    Args:
        path: `[rows, columns]` attenuation line integral.
        scatter: `[rows, columns]`, of `scatter_of`.
        pitch_mm: Side of a pixel.
        blur_mm: Standard deviation of detector and focal-spot blur.
        kind: `DM` or `DBT`: how many quanta.
        rng: Draws of this exposure.

    Returns:
        `[rows, columns]`, 0 for an empty beam without scatter.
    """
    exposure = gaussian_filter(np.exp(-path), blur_mm / pitch_mm, mode="nearest", truncate=3.0)
    exposure += scatter
    # Exposure control aims at the quanta behind the thick part of the breast.
    behind = np.median(exposure[path > 0.8 * np.percentile(path, 95)])
    empty = np.float32(QUANTA_PER_MM2[kind] * pitch_mm**2 / behind)
    exposure *= empty
    np.maximum(exposure, 1.0, out=exposure)
    exposure += np.sqrt(exposure) * rng.standard_normal(exposure.shape, dtype=np.float32)
    np.maximum(exposure, 1.0, out=exposure)
    return -np.log(exposure / empty)


def scatter_correction(
    plain: Image, thickness_mm: Image, *, pitch_mm: float, grid_passes: float, share: float
) -> Image:
    """What processing adds to an exposure's -log for the scatter that it expects of a breast of fat and skin.

    Args:
        plain: `[rows, columns]` attenuation line integral of fat and skin.
        thickness_mm: `[rows, columns]` of tissue.
        pitch_mm: Side of a pixel.
        grid_passes: Share of the scatter that reaches the detector.
        share: How much of it is corrected, 0 to 1.
    """
    expected = scatter_of(plain, thickness_mm, pitch_mm=pitch_mm, grid_passes=grid_passes)
    return np.log1p(np.float32(share) * expected * np.exp(plain))
