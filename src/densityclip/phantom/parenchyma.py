"""A breast before compression: random fields of gland, fat and ligaments that all of its views are cut from.

A breast's cross-section is a disc of radius 1 with u to the side (lateral positive) and v up; the third axis runs from
the chest wall (0) to the nipple (1). Compression turns the disc by the view's angle and squeezes it, so that the two
views show the same tissue from two directions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from densityclip.phantom.anatomy import Anatomy
from densityclip.phantom.grid import Grid
from densityclip.phantom.randomness import keyed

Volume = NDArray[np.float32]

# Grids of the fields: as coarse as linear interpolation between their points allows. Detail of gland finer than this is
# drawn for each view by itself.
_CLUMP_PITCH_MM, _SHEET_PITCH = 1.5, 0.2
_REACH = 1.15
# A breast hanging free is narrower than compressed: its half-width as a share of the compressed one.
UNCOMPRESSED = 0.65
VIEW_DEGREES = {"CC": 0.0, "MLO": 45.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How the tissue of one woman is arranged; both breasts share it.

    Attributes:
        exponent: Power-law exponent of the field before thresholding.
        clump_mm: Longest scale of the texture.
        elongation: How much structures are drawn out towards the nipple.
        softness: How soft the border between fat and gland is.
        ligaments: Strength of Cooper's ligaments, coarse and fine.
        compartment_mm: Size of the fat compartments that ligaments bound, coarse and fine.
        strands: How far gland follows the ligaments.
        centre: Middle of the gland between chest wall (0) and nipple (1).
        extent: Half-extent of the gland along that axis.
        spread: Radius of the gland at its middle, as a share of the breast's.
        focus: How strictly gland keeps to its place.
        outer: How far the gland lies towards the upper outer quadrant.
        fat_layer_mm: Thickness of the fat under the skin.
        alike: Correlation of the two breasts' fields.
    """

    exponent: float
    clump_mm: float
    elongation: float
    softness: float
    ligaments: tuple[float, float]
    compartment_mm: tuple[float, float]
    strands: float
    centre: float
    extent: float
    spread: float
    focus: float
    outer: float
    fat_layer_mm: float
    alike: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A random field of one breast, periodic in u and v, with mean 0 and standard deviation 1.

    Attributes:
        values: `[v, u, x]`.
        length_mm: Extent of the x axis in the breast, from the chest wall.
    """

    values: Volume
    length_mm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parenchyma:
    """What the views of one breast are cut from.

    Attributes:
        clumps: Where gland is more or less likely.
        coarse: A field whose zero surfaces are the large ligaments.
        fine: The same for small ones.
        style: How the tissue is arranged.
    """

    clumps: Field
    coarse: Field
    fine: Field
    style: Style


def draw_style(site: str, seed: int, number: int) -> Style:
    """Draw how the tissue of a woman is arranged."""
    rng = keyed(seed, site, "style", number)
    strength = float(np.exp(rng.normal(0.0, 0.35)))
    return Style(
        exponent=float(rng.uniform(4.0, 5.0)),
        clump_mm=float(rng.uniform(25.0, 60.0)),
        elongation=float(rng.uniform(1.1, 2.3)),
        softness=float(rng.uniform(0.06, 0.3)),
        ligaments=(0.14 * strength, 0.08 * strength * float(np.exp(rng.normal(0.0, 0.3)))),
        compartment_mm=(float(rng.uniform(13.0, 24.0)), float(rng.uniform(5.5, 9.0))),
        strands=float(rng.uniform(0.3, 1.5)),
        centre=float(rng.normal(0.56, 0.08)),
        extent=float(rng.uniform(0.34, 0.55)),
        spread=float(rng.uniform(0.50, 0.75)),
        focus=float(rng.uniform(0.5, 1.5)),
        outer=float(rng.uniform(0.0, 0.25)),
        fat_layer_mm=float(rng.uniform(3.0, 8.0)),
        alike=float(rng.uniform(0.6, 0.95)),
    )


def grow(
    style: Style, depth_mm: float, half_mm: float, shared: np.random.Generator, own: np.random.Generator
) -> Parenchyma:
    """Draw the fields of one breast.

    Args:
        style: How the tissue of the woman is arranged.
        depth_mm: From chest wall to nipple.
        half_mm: Half the compressed width.
        shared: The woman's draws: given the same for both breasts, they come out alike.
        own: This breast's draws.
    """
    mix = np.float32(np.sqrt(style.alike)), np.float32(np.sqrt(1 - style.alike))
    wide_mm, long_mm = 2 * _REACH * UNCOMPRESSED * half_mm, 1.12 * depth_mm / style.elongation

    def field(pitch_mm: float, amplitude: Callable[[Volume], Volume]) -> Field:
        across = fft.next_fast_len(round(wide_mm / pitch_mm), real=True)
        along = fft.next_fast_len(round(long_mm / pitch_mm) + 2, real=True)
        pitch_mm = wide_mm / across
        shape = (across, across, along)
        k2 = _squared_frequencies(shape, pitch_mm)
        noise = mix[0] * _spectrum(k2.shape, shared) + mix[1] * _spectrum(k2.shape, own)
        noise *= amplitude(k2)
        values = fft.irfftn(noise, s=shape, overwrite_x=True)
        values -= values.mean()
        values /= values.std()
        return Field(values=values, length_mm=along * pitch_mm * style.elongation)

    def sheets(scale_mm: float) -> Field:
        return field(
            _SHEET_PITCH * scale_mm, lambda k2: np.exp(-(((np.sqrt(k2) * np.float32(scale_mm) - 1) / 0.5) ** 2))
        )

    def power_law(k2: Volume) -> Volume:
        return np.asarray((k2 + np.float32(style.clump_mm**-2)) ** np.float32(-style.exponent / 4), dtype=np.float32)

    return Parenchyma(
        clumps=field(_CLUMP_PITCH_MM, power_law),
        coarse=sheets(style.compartment_mm[0]),
        fine=sheets(style.compartment_mm[1]),
        style=style,
    )


def _squared_frequencies(shape: tuple[int, int, int], pitch: float) -> Volume:
    kv, ku = (np.fft.fftfreq(n, pitch).astype(np.float32) for n in shape[:2])
    kx = np.fft.rfftfreq(shape[2], pitch).astype(np.float32)
    return np.asarray(kv[:, None, None] ** 2 + ku[None, :, None] ** 2 + kx[None, None, :] ** 2, dtype=np.float32)


def _spectrum(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex64]:
    return rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where the voxels of a compressed view lie in the breast's own disc.

    Attributes:
        u: `[layers, rows]`, to the side.
        v: `[layers, rows]`, up.
        upward: `[rows]`, above the nipple, in half-widths of the view.
        along: `[columns]`, from the chest wall (0) to the nipple (1).
        x_mm: `[columns]`, the same in mm.
    """

    u: NDArray[np.float32]
    v: NDArray[np.float32]
    upward: NDArray[np.float32]
    along: NDArray[np.float32]
    x_mm: NDArray[np.float32]


def cut(anatomy: Anatomy, view: str, grid: Grid) -> Cut:
    """Undo the compression of a view."""
    columns = anatomy.breast.shape[1]
    upward = (np.float32(anatomy.nipple_mm) - anatomy.y_mm(grid.pitch_mm)) / np.float32(anatomy.half_mm)
    through = (anatomy.layer_centres / np.float32(anatomy.total_mm / 2))[:, None]
    u, v = turned(upward[None, :], through, view)
    x = (np.arange(columns, dtype=np.float32) + 0.5) * np.float32(grid.pitch_mm)
    return Cut(u=u, v=v, upward=upward, along=x / np.float32(anatomy.depth_mm), x_mm=x)


def turned(
    upward: NDArray[np.float32], through: NDArray[np.float32], view: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From a view's axes (towards row 0, through the plates) to u and v.

    A CC has the outer side at row 0 and is pressed from above; an MLO is turned by 45 degrees. It is a reflection, and
    so its own inverse: see `pressed`.
    """
    angle = np.radians(VIEW_DEGREES[view])
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return upward * c + through * s, upward * s - through * c


def pressed(
    u: NDArray[np.float32], v: NDArray[np.float32], view: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From u and v to a view's axes: towards row 0, and through the plates."""
    return turned(u, v, view)


def sampled(field: Field, place: Cut) -> Volume:
    """Read a field at the voxels of a view, by linear interpolation: `[layers, rows, columns]`.

    The third axis is the same in every view, so the reading is one sparse product for u and v and one dense one for x.
    """
    nv, nu, nx = field.values.shape
    columns = len(place.x_mm)
    at = np.clip(place.x_mm / np.float32(field.length_mm) * nx - 0.5, 0, nx - 1.001)
    low = at.astype(np.int64)
    axis = np.zeros((nx, columns), dtype=np.float32)
    axis[low, np.arange(columns)] = 1 - (at - low)
    axis[low + 1, np.arange(columns)] += at - low
    flat = field.values.reshape(-1, nx) @ axis
    return np.asarray(_bilinear(place.v, place.u, nv, nu) @ flat).reshape(*place.u.shape, columns)


def _bilinear(v: NDArray[np.float32], u: NDArray[np.float32], nv: int, nu: int) -> sparse.csr_array:
    at_v = ((v.ravel() / _REACH + 1) / 2 * nv - 0.5) % nv
    at_u = ((u.ravel() / _REACH + 1) / 2 * nu - 0.5) % nu
    low_v, low_u = np.floor(at_v).astype(np.int64), np.floor(at_u).astype(np.int64)
    fv, fu = (at_v - low_v).astype(np.float32), (at_u - low_u).astype(np.float32)
    columns, weights = [], []
    for dv, wv in ((0, 1 - fv), (1, fv)):
        for du, wu in ((0, 1 - fu), (1, fu)):
            columns.append((low_v + dv) % nv * nu + (low_u + du) % nu)
            weights.append(wv * wu)
    points = v.size
    indices = np.stack(columns, axis=1).ravel()
    data = np.stack(weights, axis=1).ravel()
    return sparse.csr_array((data, indices, np.arange(0, 4 * points + 1, 4)), shape=(points, nv * nu))
