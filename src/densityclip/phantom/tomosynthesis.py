"""Tomosynthesis: exposures over a narrow arc, reconstructed into slices, and the 2D image computed from these.

The tube travels along the rows, and rays are taken as parallel: tissue at a height z then moves by z tan(angle) along
the rows. In the Fourier transform over the rows projecting and backprojecting are small matrix products, one for each
spatial frequency.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, uniform_filter1d

from densityclip.phantom.anatomy import Anatomy
from densityclip.phantom.grid import Grid
from densityclip.phantom.looks import Look
from densityclip.phantom.processing import smooth_within
from densityclip.phantom.resampling import larger, smaller
from densityclip.phantom.xray import NO_GRID, attenuation, exposed, scatter_correction, scatter_of

Volume = NDArray[np.float32]

# Pixels of projections and slices are larger than those of a mammogram.
TOMO_SCALE = 3 / 4
_FINEST_MM = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arc:
    """The angles, and the shifts that they mean, in pixels per mm of height."""

    angles: NDArray[np.float64]
    pitch_mm: float

    @property
    def slopes(self) -> NDArray[np.float64]:
        return np.tan(self.angles) / self.pitch_mm


def small_shape(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of slices for those of the detector."""
    return round(rows * TOMO_SCALE), round(columns * TOMO_SCALE)


def slices(path: Volume, plain: Volume, anatomy: Anatomy, grid: Grid, look: Look, rng: np.random.Generator) -> Volume:
    """Expose, filter and backproject.

    Args:
        path: `[layers, rows, columns]` attenuation line integrals, on the detector's grid.
        plain: The same for fat and skin alone.
        anatomy: Of the view.
        grid: The detector.
        look: Arc, number of projections, blur, equalisation.
        rng: Draws of these exposures.

    Returns:
        `[slices, rows, columns]` on 3/4 of the grid, attenuation above fat in 1/mm.
    """
    rows, columns = small_shape(*path.shape[1:])
    pitch = grid.pitch_mm / TOMO_SCALE
    arc = _Arc(angles=np.radians(np.linspace(-0.5, 0.5, look.projections) * look.tomo_degrees), pitch_mm=pitch)
    margin = 2 * int(anatomy.total_mm / 2 * np.max(arc.slopes)) + 6
    # The axilla goes on above the image: rows are continued there, so that no edge is backprojected into the breast.
    volume = np.pad(smaller(path, rows, columns), ((0, 0), (margin, margin), (0, 0)), mode="edge")
    empty = np.pad(smaller(plain, rows, columns), ((0, 0), (margin, margin), (0, 0)), mode="edge")
    length = fft.next_fast_len(volume.shape[1], real=True)
    seen = _project(volume, anatomy.layer_centres, arc, length)
    fatty = _project(empty, anatomy.layer_centres, arc, length)
    # Slices hold little of the slow variation, and what equalisation leaves of the thickness would stand out.
    equalised = np.float32(1 - 0.4 * (1 - look.equalisation))
    # Scatter is smooth and changes little over a narrow arc: that of the straight ray serves for all.
    middle = len(seen) // 2
    thickness = fatty[middle] / np.float32(attenuation("fat", look.energy_kev))
    scatter = scatter_of(np.maximum(seen[middle], 0), thickness, pitch_mm=pitch, grid_passes=NO_GRID)
    correction = scatter_correction(
        fatty[middle], thickness, pitch_mm=pitch, grid_passes=NO_GRID, share=look.scatter_correction
    )
    signal = np.empty_like(seen)
    for number, oblique in enumerate((1 / np.cos(arc.angles)).astype(np.float32)):
        path_seen = np.maximum(seen[number] * oblique, 0)
        counted = exposed(path_seen, scatter, pitch_mm=pitch, blur_mm=look.blur_mm, kind="DBT", rng=rng)
        counted += correction
        signal[number] = counted - equalised * oblique * smooth_within(fatty[number], 0.25 * look.edge_mm / pitch)
    stack = _backproject(signal, arc, anatomy.total_mm, grid.slices(anatomy.total_mm), look, length)
    return stack[:, margin : margin + rows] / np.float32(anatomy.total_mm)


def _project(volume: Volume, heights: NDArray[np.float32], arc: _Arc, length: int) -> Volume:
    """`[angles, rows, columns]` sums of shifted layers."""
    spectrum = fft.rfft(volume, n=length, axis=1)
    shifts = _shifts(arc.slopes[:, None] * heights[None, :], length)  # [frequencies, angles, layers]
    sums = np.matmul(shifts, spectrum.transpose(1, 0, 2))
    return fft.irfft(sums.transpose(1, 0, 2), n=length, axis=1)[:, : volume.shape[1]].astype(np.float32)


def _shifts(pixels: NDArray[np.floating], length: int) -> NDArray[np.complex64]:
    frequencies = np.fft.rfftfreq(length)[:, None, None]
    return np.exp(-2j * np.pi * frequencies * pixels[None]).astype(np.complex64)


def _backproject(signal: Volume, arc: _Arc, total_mm: float, number: int, look: Look, length: int) -> Volume:
    """Ramp along the travel of the tube, rounded off by a weak Hann window, then shift and add for every slice."""
    spectrum = fft.rfft(signal, n=length, axis=1)
    frequencies = np.fft.rfftfreq(length) / arc.pitch_mm  # 1/mm
    ramp = look.ramp_floor + (1 - look.ramp_floor) * np.minimum(frequencies / 0.3, 1.0)
    hann = 0.5 * (1 + np.cos(np.pi * np.minimum(frequencies * arc.pitch_mm / 0.5, 1.0)))
    spectrum *= (ramp * hann**0.3)[None, :, None].astype(np.float32)
    heights = ((np.arange(number) + 0.5) / number - 0.5) * total_mm
    back = np.conj(_shifts(arc.slopes[None, :] * heights[:, None], length)) / np.float32(len(arc.angles))
    stack = np.matmul(back, spectrum.transpose(1, 0, 2))
    return fft.irfft(stack.transpose(1, 0, 2), n=length, axis=1)[:, : signal.shape[1]].astype(np.float32)


def synthesized(stack: Volume, pitch_mm: float, slice_mm: float, look: Look) -> NDArray[np.float32]:
    """A 2D image from the slices: each sharpened, then maximum over depth blended with the mean.

    Vendors do this in ways they do not publish; sharpening by centre and surround before a maximum follows Klein 2023.

    Returns:
        `[rows, columns]` on the grid of the slices.
    """
    smooth = uniform_filter1d(stack, max(1, round(5.0 / slice_mm)), axis=0, mode="nearest")
    # The surround varies slowly: pixels of a few millimetres hold it.
    few = [max(4, round(side * pitch_mm / 2.5)) for side in smooth.shape[1:]]
    sigma = (0.0, 0.8, 0.8)
    wide = larger(gaussian_filter(smaller(smooth, *few), sigma, mode="nearest", truncate=2.5), *smooth.shape[1:])
    sharp = smooth + np.float32(look.s2d_sharpening) * (smooth - wide)
    inner = sharp[1:-1] if len(sharp) > 3 else sharp  # the outermost slices show skin
    share = np.float32(look.s2d_max_share)
    flat = share * inner.max(axis=0) + (1 - share) * inner.mean(axis=0)
    # What is finer than the depth resolution is left out: synthesized images are smoother than DM at high frequency.
    return gaussian_filter(flat, _FINEST_MM / pitch_mm, mode="nearest")
