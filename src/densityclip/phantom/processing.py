"""A digital mammogram for presentation: one exposure, thickness taken out, structures lifted, grain left over."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from densityclip.phantom.anatomy import Anatomy
from densityclip.phantom.looks import Look
from densityclip.phantom.xray import GRID_PASSES, exposed, scatter_correction, scatter_of

Image = NDArray[np.float32]

_BANDS_MM = (0.7, 2.0, 6.0)


def smooth_within(plain: Image, sigma_px: float) -> Image:
    """Smooth what the breast absorbs, `[rows, columns]`, without mixing in the air beside it."""
    inside = (plain > 0).astype(np.float32)
    weight = gaussian_filter(inside, sigma_px, mode="nearest", truncate=2.5)
    smooth = gaussian_filter(plain, sigma_px, mode="nearest", truncate=2.5)
    return smooth * inside / np.maximum(weight, np.float32(1e-3))


def mammogram(
    path: Image, plain: Image, anatomy: Anatomy, pitch_mm: float, look: Look, rng: np.random.Generator
) -> Image:
    """Expose a breast once and process the exposure as a vendor would.

    Args:
        path: `[layers, rows, columns]` attenuation line integrals.
        plain: The same for fat and skin alone: what peripheral equalisation estimates from the image.
        anatomy: Of the view.
        pitch_mm: Side of a pixel.
        look: The vendor.
        rng: Draws of this image.

    Returns:
        `[rows, columns]`: optical path above most of what fat and skin absorb.
    """
    absorbed, fatty = path.sum(axis=0), plain.sum(axis=0)
    thickness = anatomy.thickness + anatomy.fold
    scatter = scatter_of(absorbed, thickness, pitch_mm=pitch_mm, grid_passes=GRID_PASSES)
    signal = exposed(absorbed, scatter, pitch_mm=pitch_mm, blur_mm=look.blur_mm, kind="DM", rng=rng)
    signal += scatter_correction(
        fatty, thickness, pitch_mm=pitch_mm, grid_passes=GRID_PASSES, share=look.scatter_correction
    )
    return _processed(signal, fatty, pitch_mm, look, rng)


def _processed(signal: Image, fatty: Image, pitch_mm: float, look: Look, rng: np.random.Generator) -> Image:
    """Take the thickness out, lift structures, leave grain."""
    smooth = smooth_within(fatty, look.edge_mm / pitch_mm)
    excess: Image = signal - np.float32(look.equalisation) * smooth
    if look.film:
        # Without equalisation the range is set by the middle of the breast.
        excess -= np.asarray((1 - look.equalisation) * np.percentile(smooth, 90), dtype=np.float32)
    out = excess.copy()
    finer = excess
    for gain, scale_mm in zip(look.gains, _BANDS_MM, strict=True):
        coarser = gaussian_filter(excess, max(scale_mm, 0.8 * pitch_mm) / pitch_mm, mode="nearest", truncate=2.5)
        if gain:
            out += np.float32(gain) * (finer - coarser)
        finer = coarser
    grain = rng.standard_normal(excess.shape, dtype=np.float32)
    # Grain is finer than a pixel of a reduced image: it averages out there as the image's own noise does.
    grain *= np.float32(look.noise * min(1.0, np.sqrt(0.6 / pitch_mm)) * 1.7)
    out += gaussian_filter(grain, 0.5)
    return out
