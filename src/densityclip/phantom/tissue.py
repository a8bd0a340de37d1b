"""Fibroglandular tissue in three dimensions: clumped power-law texture and strands, scaled to a given volume."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from densityclip.phantom.anatomy import SLABS, Anatomy, Grid, Traits

Volume = NDArray[np.float32]

# Cooper's ligaments bound compartments of fat of 20-30 mm; seen as the zero level of a field of that scale.
_STRAND_SCALE_MM = 18.0
_STRAND_SHARPNESS = 0.22


def _wave_numbers(grid: Grid, slab_mm: float) -> Volume:
    """Spatial frequency of every term of the half spectrum, 1/mm: `[SLABS, rows, columns // 2 + 1]`."""
    kz = fft.fftfreq(SLABS, slab_mm).astype(np.float32)[:, None, None]
    ky = fft.fftfreq(grid.field_rows, grid.pitch_mm).astype(np.float32)[None, :, None]
    kx = fft.rfftfreq(grid.field_columns, grid.pitch_mm).astype(np.float32)[None, None, :]
    return np.sqrt(kz * kz + ky * ky + kx * kx)


def _field(amplitude: Volume, grid: Grid, rng: np.random.Generator) -> Volume:
    """A Gaussian field with the given amplitude spectrum, mean 0 and standard deviation 1."""
    spectrum = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32).view(np.complex64)[..., 0] * amplitude
    field = fft.irfftn(spectrum, s=(SLABS, grid.field_rows, grid.field_columns), overwrite_x=True)
    return (field - field.mean()) / field.std()


def texture(traits: Traits, grid: Grid, slab_mm: float, rng: np.random.Generator) -> Volume:
    """Power-law texture with strands: `[SLABS, rows, columns]`, standard deviation near 1.

    A threshold flattens a spectrum, so the exponent is above the 3.2 that projections show (Chen 2012).
    """
    k = _wave_numbers(grid, slab_mm)
    amplitude = (k * k + np.float32((1 / traits.clump_mm) ** 2)) ** np.float32(-traits.texture_exponent / 4)
    clumps = _field(amplitude, grid, rng)
    band = np.exp(-(((k * _STRAND_SCALE_MM - 1.0) / 0.5) ** 2))
    walls = _field(band, grid, rng)
    return clumps + np.float32(traits.strands) * np.exp(-((walls / np.float32(_STRAND_SHARPNESS)) ** 2))


def _sigmoid(values: Volume, level: float, softness: float) -> Volume:
    return 1 / (1 + np.exp(np.clip((np.float32(level) - values) / np.float32(softness), -40, 40)))


def _level(score: Volume, weight: Volume, volume: float, softness: float) -> float:
    """The level at which `sum(weight * sigmoid(score - level))` is the volume, by bisection."""
    low, high = float(score.min()) - 20 * softness, float(score.max()) + 20 * softness
    for _ in range(24):
        level = (low + high) / 2
        if float((weight * _sigmoid(score, level, softness)).sum(dtype=np.float64)) > volume:
            low = level
        else:
            high = level
    return (low + high) / 2


def fill_gland(anatomy: Anatomy, fraction: float, traits: Traits, grid: Grid, rng: np.random.Generator) -> Volume:
    """Distribute fibroglandular tissue so that gland and skin make up the given fraction of the breast.

    Args:
        anatomy: The breast in this view.
        fraction: Volumetric fraction of gland and skin, 0 to 1. Breasts so fatty that skin alone exceeds it keep
            0.4% of gland.
        traits: What the woman's views share.
        grid: The detector.
        rng: Draws of this breast in this view.

    Returns:
        `[SLABS, rows, columns]` mm of fibroglandular tissue in each slab.
    """
    room = anatomy.inner_slabs * (1 - anatomy.muscle)
    total, skin, free = (_seen(part, grid) for part in (anatomy.thickness, anatomy.skin, room))
    wanted = min(max(fraction * total - skin, 0.004 * total), 0.95 * free)
    score = anatomy.gland_bias + texture(traits, grid, anatomy.slab_mm, rng)
    weight = room[:, : grid.rows, : grid.columns].ravel()
    sample = np.flatnonzero(weight)[::29]
    weight = weight[sample] / weight[sample].sum()
    level = _level(score[:, : grid.rows, : grid.columns].ravel()[sample], weight, wanted / free, traits.softness)
    gland = room * _sigmoid(score, level, traits.softness)
    # The level came from a sample of voxels; a small stretch makes the volume exact and keeps every voxel in [0, room].
    have = _seen(gland, grid)
    if have >= wanted:
        exact = gland * np.float32(wanted / have)
    else:
        exact = gland + (room - gland) * np.float32((wanted - have) / (free - have))
    return np.asarray(exact, dtype=np.float32)


def _seen(volume: Volume, grid: Grid) -> float:
    """Sum over what the detector sees: the field without its margin."""
    return float(volume[..., : grid.rows, : grid.columns].sum(dtype=np.float64))
