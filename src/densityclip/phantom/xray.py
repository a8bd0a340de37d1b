"""X-ray physics: the same tissue as a digital mammogram, as tomosynthesis slices and as a synthesized image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from densityclip.phantom.anatomy import SLABS, Anatomy, Grid
from densityclip.phantom.looks import Look

Image = NDArray[np.float32]

# Linear attenuation, 1/mm: Hammerstein 1979 compositions with the Elam tables.
_KEV = (15.0, 18.0, 20.0, 22.0, 25.0, 30.0, 35.0)
_ATTENUATION = {
    "fat": (0.0964, 0.0632, 0.0510, 0.0428, 0.0350, 0.0279, 0.0242),
    "gland": (0.1593, 0.1000, 0.0781, 0.0636, 0.0497, 0.0372, 0.0308),
    "skin": (0.1693, 0.1061, 0.0829, 0.0674, 0.0526, 0.0392, 0.0324),
    "muscle": (0.178, 0.111, 0.0865, 0.0700, 0.0542, 0.0400, 0.0326),
}
# Scatter to primary of about 0.12 a centimetre without a grid; a grid passes about 0.18 of it.
_SCATTER_PER_MM, _GRID_SHARE, _SCATTER_BLUR_MM = 0.012, 0.18, 12.0
# About 3,100 quanta in a 0.07 mm pixel of a DM image.
_QUANTA_PER_MM2 = 3100 / 0.07**2
TOMO_SCALE = 3 / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """What one view's rays cross.

    Attributes:
        thickness: `[rows, columns]` mm of all tissue.
        path: `[SLABS, rows, columns]`, attenuation line integral of each slab.
        baseline: `[rows, columns]`, attenuation line integral of the same breast without gland and muscle.
        coverage: `[SLABS, rows, columns]`, share of each voxel that is tissue.
        fat: Attenuation of fat, 1/mm.
        slab_mm: Height of a slab.
    """

    thickness: Image
    path: Image
    baseline: Image
    coverage: Image
    fat: float
    slab_mm: float


def attenuation(tissue: str, energy_kev: float) -> float:
    """Linear attenuation, 1/mm, interpolated on a log-log scale between 15 and 35 keV."""
    return float(np.exp(np.interp(np.log(energy_kev), np.log(_KEV), np.log(_ATTENUATION[tissue]))))


def line_integrals(anatomy: Anatomy, gland_slabs: Image, energy_kev: float) -> Tissue:
    """Attenuation of every slab: fat everywhere, and what gland, skin and muscle add to it."""
    fat, gland, skin, muscle = (np.float32(attenuation(t, energy_kev)) for t in ("fat", "gland", "skin", "muscle"))
    path = fat * anatomy.outer_slabs
    path += (gland - fat) * gland_slabs
    path += (skin - fat) * (anatomy.outer_slabs - anatomy.inner_slabs)
    path += ((muscle - fat) * anatomy.muscle) * anatomy.inner_slabs
    return Tissue(
        thickness=anatomy.thickness,
        path=path,
        baseline=fat * anatomy.thickness + (skin - fat) * anatomy.skin,
        coverage=anatomy.outer_slabs / np.float32(anatomy.slab_mm),
        fat=float(fat),
        slab_mm=anatomy.slab_mm,
    )


def digital_mammogram(tissue: Tissue, grid: Grid, look: Look, rng: np.random.Generator) -> Image:
    """Exposure with scatter, blur and quantum noise, then -log and the removal of most of the thickness.

    Returns:
        `[rows, columns]` on the field's grid: optical path above most of what fat and skin absorb.
    """
    primary = np.exp(-tissue.path.sum(axis=0))
    scatter_share = _SCATTER_PER_MM * _GRID_SHARE * tissue.thickness
    scatter = gaussian_filter(primary * scatter_share, _SCATTER_BLUR_MM / grid.pitch_mm, mode="nearest")
    exposure = gaussian_filter(primary, look.blur_mm / grid.pitch_mm, mode="nearest") + scatter
    quanta = np.maximum(exposure * (_QUANTA_PER_MM2 * grid.pitch_mm**2), 1.0)
    quanta += np.sqrt(quanta) * rng.standard_normal(quanta.shape, dtype=np.float32)
    signal = -np.log(np.maximum(quanta, 1.0) / (_QUANTA_PER_MM2 * grid.pitch_mm**2))
    smooth = gaussian_filter(tissue.baseline, 1.2 / grid.pitch_mm, mode="nearest")
    excess = signal - look.equalisation * smooth
    detail = excess - gaussian_filter(excess, 1.6, mode="nearest")
    grain = gaussian_filter(rng.standard_normal(excess.shape, dtype=np.float32), 0.5) * 1.7
    return excess + look.detail_gain * detail + look.noise * grain


def _tomo_filter(grid: Grid, slab_mm: float, look: Look, rows: int, columns: int) -> NDArray[np.complex64]:
    """Transfer of a filtered backprojection over a narrow arc, on the smaller grid of the slices.

    The tube travels along the rows, so a frequency is measured only where |kz| is below |ky| tan(half the sweep):
    structures blur into other slices all the more, the slower they vary along the travel. A ramp makes slices flatter
    than a projection, with undershoot at edges.
    """
    pitch = grid.pitch_mm / TOMO_SCALE
    kz = np.abs(fft.fftfreq(SLABS, slab_mm)).astype(np.float32)[:, None, None]
    signed_ky = fft.fftfreq(rows, pitch).astype(np.float32)[None, :, None]
    ky = np.abs(signed_ky)
    kx = fft.rfftfreq(columns, pitch).astype(np.float32)[None, None, :]
    reach = np.float32(np.tan(np.radians(look.tomo_degrees / 2))) * ky + np.float32(0.35 / (SLABS * slab_mm))
    wedge = 1 / (1 + (kz / reach) ** 4)
    ramp = 0.45 + 0.55 * np.minimum(ky / 0.10, 1.0)
    nyquist = 0.5 / pitch
    hann = 0.5 * (1 + np.cos(np.pi * np.minimum(np.sqrt(ky * ky + kx * kx) / nyquist, 1.0)))
    # Fewer samples of a spectrum keep the first pixel's centre; the larger pixels' centres lie a little further on.
    shift = np.exp(2j * np.pi * (signed_ky + kx) * (pitch - grid.pitch_mm) / 2)
    return (wedge * ramp * hann**0.6 * shift).astype(np.complex64)


def _shrink(spectrum: NDArray[np.complex64], rows: int, columns: int, full_columns: int) -> NDArray[np.complex64]:
    """Keep the low frequencies of a half spectrum, for a grid of `rows` by `columns`, with the mean kept."""
    full_rows = spectrum.shape[1]
    half = rows // 2
    kept = np.concatenate([spectrum[:, : rows - half], spectrum[:, full_rows - half :]], axis=1)
    scaled = kept[:, :, : columns // 2 + 1] * np.float32(rows * columns / (full_rows * full_columns))
    return np.asarray(scaled, dtype=np.complex64)


def tomosynthesis(tissue: Tissue, grid: Grid, look: Look, rng: np.random.Generator) -> Image:
    """Slices of a narrow-arc tomosynthesis, with limited depth resolution and correlated noise.

    Returns:
        `[SLABS, rows, columns]`, attenuation above fat in 1/mm, on 3/4 of the field's grid.
    """
    rows, columns = round(grid.field_rows * TOMO_SCALE), round(grid.field_columns * TOMO_SCALE)
    # What is above fat; thickness compensation fills most of the air above the rounded edge with fat.
    volume = tissue.path / np.float32(tissue.slab_mm) - np.float32(tissue.fat) * tissue.coverage
    volume -= np.float32(0.25 * tissue.fat) * (1 - tissue.coverage)
    # The margin continues the chest wall and the axilla, so that the periodic transform meets no edge there.
    volume[:, :, grid.columns :][:, :, -4:] = volume[:, :, :1]
    volume[:, grid.rows :][:, -4:] = volume[:, :1]
    spectrum = _shrink(fft.rfftn(volume), rows, columns, grid.field_columns)
    noise = rng.standard_normal((*spectrum.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    scale = 2.2e-3 * (look.noise / 0.012) * np.sqrt(SLABS * rows * columns / 2)
    noisy = (spectrum + np.float32(scale) * noise) * _tomo_filter(grid, tissue.slab_mm, look, rows, columns)
    return fft.irfftn(noisy, s=(SLABS, rows, columns), overwrite_x=True)


def synthesized(slices: Image, look: Look) -> Image:
    """A 2D image from the slices: maximum over depth blended with the mean, edges sharpened, noise smoothed.

    Returns:
        `[rows, columns]` on the grid of the slices, 1/mm.
    """
    inner = slices[1:-1]  # the outermost slices show skin
    flat = look.s2d_max_share * inner.max(axis=0) + (1 - look.s2d_max_share) * inner.mean(axis=0)
    smooth = gaussian_filter(flat, 0.6, mode="nearest")
    return smooth + 1.1 * (smooth - gaussian_filter(smooth, 2.2, mode="nearest"))
