"""One exam in memory: every image of a woman, with the truth that belongs to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import zoom

from densityclip.errors import UserError
from densityclip.phantom import xray
from densityclip.phantom.anatomy import Anatomy, Grid, Traits, build_anatomy, draw_traits
from densityclip.phantom.population import Woman
from densityclip.phantom.presentation import Stored, present
from densityclip.phantom.randomness import keyed
from densityclip.phantom.looks import Look
from densityclip.phantom.sites import Site
from densityclip.phantom.tissue import fill_gland

_MARGIN = 8
_ASPECT = 0.78


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewTruth:
    """What one view holds, in cm3 of compressed breast, pectoral muscle included in the whole.

    Attributes:
        whole_cm3: All tissue.
        skin_cm3: Skin.
        gland_cm3: Fibroglandular tissue.
    """

    whole_cm3: float
    skin_cm3: float
    gland_cm3: float

    @property
    def with_skin(self) -> float:
        """Fraction of gland and skin in the whole."""
        return (self.gland_cm3 + self.skin_cm3) / self.whole_cm3

    @property
    def without_skin(self) -> float:
        """Fraction of gland in what lies within the skin."""
        return self.gland_cm3 / (self.whole_cm3 - self.skin_cm3)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """One image and its truth, as it lies in the DICOM file.

    Attributes:
        modality: `DM`, `s2D` or `DBT`.
        side: `L` or `R`.
        view: `CC` or `MLO`.
        stored: Pixels and window.
        gland_mm: `[rows, columns]` float16, fibroglandular tissue along the ray.
        breast: `[rows, columns]`, where there is breast.
        pitch_mm: Side of a pixel.
        slab_mm: Distance of slices.
        thickness_mm: Compressed thickness.
        truth: Volumes of this view.
    """

    modality: str
    side: str
    view: str
    stored: Stored
    gland_mm: NDArray[np.float16]
    breast: NDArray[np.bool_]
    pitch_mm: float
    slab_mm: float
    thickness_mm: float
    truth: ViewTruth


def make_grid(size: int) -> Grid:
    """The detector for a DM image of `size` rows.

    Raises:
        UserError: `size` is not a multiple of 16 between 96 and 1024.
    """
    if size % 16 or not 96 <= size <= 1024:
        raise UserError(f"size {size} is not a multiple of 16 between 96 and 1024", "give --size 288, for example")
    columns = round(size * _ASPECT / 16) * 16
    rows, wide = (4 * fft.next_fast_len(-(-(side + _MARGIN) // 4), real=True) for side in (size, columns))
    return Grid(rows=size, columns=columns, field_rows=rows, field_columns=wide)


def view_images(
    woman: Woman, traits: Traits, site: Site, seed: int, side: str, view: str, grid: Grid
) -> Iterator[GeneratedImage]:
    """Make every image of one view of one breast, all from the same tissue."""
    look = site.machines[woman.machine].look
    rng = keyed(seed, site.name, "tissue", woman.number, side, view)
    anatomy = build_anatomy(view, woman, traits, grid, rng)
    fraction = woman.fractions["LR".index(side)]
    slabs = fill_gland(anatomy, fraction, traits, grid, rng)
    tissue = xray.line_integrals(anatomy, slabs, look.energy_kev)
    gland = slabs.sum(axis=0)[: grid.rows, : grid.columns]
    breast = anatomy.breast[: grid.rows, : grid.columns]
    truth = _truth(anatomy, gland, grid)
    small_gland, small_breast = _smaller(gland), _smaller(breast.astype(np.float32)) > 0.4
    for modality, values in _signals(tissue, grid, look, site, seed, woman, side, view):
        full = modality == "DM"
        mask = breast if full else small_breast
        values = values[..., : mask.shape[0], : mask.shape[1]]
        rng = keyed(seed, site.name, "presentation", woman.number, side, view, modality)
        stored = present(values, mask, kind=modality, side=side, view=view, look=look, rng=rng)
        along = gland if full else small_gland
        yield GeneratedImage(
            modality=modality,
            side=side,
            view=view,
            stored=stored,
            gland_mm=_as_seen(along, side).astype(np.float16),
            breast=_as_seen(mask, side),
            pitch_mm=grid.pitch_mm if full else grid.pitch_mm / xray.TOMO_SCALE,
            slab_mm=anatomy.slab_mm,
            thickness_mm=float(anatomy.thickness.max()),
            truth=truth,
        )


def exam_images(woman: Woman, site: Site, seed: int, grid: Grid) -> Iterator[GeneratedImage]:
    """Make every image of a woman's exam: LCC, LMLO, RCC, RMLO, each in the site's modalities."""
    traits = draw_traits(site.name, seed, woman)
    for side in ("L", "R"):
        for view in ("CC", "MLO"):
            yield from view_images(woman, traits, site, seed, side, view, grid)


def _signals(
    tissue: xray.Tissue, grid: Grid, look: Look, site: Site, seed: int, woman: Woman, side: str, view: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Processed signal of each modality of the site, on the field's grid."""
    if "DM" in site.modalities:
        rng = keyed(seed, site.name, "exposure", woman.number, side, view, "DM")
        yield "DM", xray.digital_mammogram(tissue, grid, look, rng)
    if {"s2D", "DBT"} & set(site.modalities):
        rng = keyed(seed, site.name, "exposure", woman.number, side, view, "DBT")
        slices = xray.tomosynthesis(tissue, grid, look, rng)
        if "s2D" in site.modalities:
            yield "s2D", xray.synthesized(slices, look)
        if "DBT" in site.modalities:
            yield "DBT", slices


def _truth(anatomy: Anatomy, gland: NDArray[np.float32], grid: Grid) -> ViewTruth:
    cm3 = grid.pitch_mm**2 / 1000.0
    inside = (slice(0, grid.rows), slice(0, grid.columns))
    return ViewTruth(
        whole_cm3=float(anatomy.thickness[inside].sum(dtype=np.float64)) * cm3,
        skin_cm3=float(anatomy.skin[inside].sum(dtype=np.float64)) * cm3,
        gland_cm3=float(gland.sum(dtype=np.float64)) * cm3,
    )


def _smaller(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Carry an image to the grid of the slices, pixel centres kept."""
    return zoom(image, xray.TOMO_SCALE, order=1, mode="nearest", grid_mode=True)


def _as_seen(image: NDArray[Any], side: str) -> NDArray[Any]:
    """Mirror a right breast: its chest wall is at the last column."""
    return np.ascontiguousarray(image[:, ::-1]) if side == "R" else image
