"""One exam in memory: every image of a woman, with the truth that belongs to it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.phantom import tomosynthesis, xray
from densityclip.phantom.anatomy import Anatomy, Traits, build_anatomy, draw_traits
from densityclip.phantom.extras import MAGNIFICATION, magnified, with_implant
from densityclip.phantom.grid import Grid
from densityclip.phantom.lines import Lines, draw_lines
from densityclip.phantom.looks import Look, draw_look
from densityclip.phantom.parenchyma import Parenchyma, draw_style, grow
from densityclip.phantom.population import Woman
from densityclip.phantom.presentation import Stored, present
from densityclip.phantom.processing import mammogram
from densityclip.phantom.randomness import keyed
from densityclip.phantom.resampling import smaller
from densityclip.phantom.sites import Site
from densityclip.phantom.tissue import Tissue, fill

SIDES, VIEWS = ("L", "R"), ("CC", "MLO")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewTruth:
    """What one view holds, in cm3 of compressed breast without its pectoral muscle.

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
        kind: `standard`, `spot` (a magnified part) or `implant`.
        stored: Pixels and window.
        gland_mm: `[rows, columns]` float16, fibroglandular tissue along the ray.
        breast: `[rows, columns]`, where there is breast.
        pectoral: `[rows, columns]`, where there is pectoral muscle; inside the breast.
        film: Whether it is film on a scanner.
        pitch_mm: Side of a pixel.
        slab_mm: Distance of slices.
        thickness_mm: Compressed thickness.
        truth: Volumes of this view.
    """

    modality: str
    side: str
    view: str
    kind: str
    stored: Stored
    gland_mm: NDArray[np.float16]
    breast: NDArray[np.bool_]
    pectoral: NDArray[np.bool_]
    film: bool
    pitch_mm: float
    slab_mm: float
    thickness_mm: float
    truth: ViewTruth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Breast:
    """What the views of one breast are cut from."""

    side: str
    fraction: float
    parenchyma: Parenchyma
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One breast between the plates, before any image of it is made."""

    woman: Woman
    site: Site
    seed: int
    grid: Grid
    look: Look
    side: str
    view: str
    anatomy: Anatomy
    tissue: Tissue
    truth: ViewTruth

    def draws(self, purpose: str, *what: str) -> np.random.Generator:
        """The random numbers of this view for one purpose."""
        return keyed(self.seed, self.site.name, purpose, self.woman.number, self.side, self.view, *what)


def exam_images(
    woman: Woman,
    site: Site,
    seed: int,
    grid: Grid,
    *,
    sides: tuple[str, ...] = SIDES,
    views: tuple[str, ...] = VIEWS,
) -> Iterator[GeneratedImage]:
    """Make every image of a woman's exam: LCC, LMLO, RCC, RMLO, each in the site's modalities, and spot views.

    Of a breast with an implant there is the full view, and for every second woman that with the implant pushed back.

    Args:
        woman: Whose exam.
        site: Where; its modalities and machines.
        seed: The user's seed.
        grid: The detector.
        sides: Of these breasts alone.
        views: Of these views alone; each image is the same as in the whole exam.
    """
    traits = draw_traits(site.name, seed, woman)
    look = look_of(woman, site, seed)
    for side in sides:
        breast = _breast(woman, traits, site, seed, side)
        for name in views:
            view = _compressed(woman, traits, breast, site, seed, name, grid, look)
            if woman.implants:
                for modality, values in _signals(view, implant=True):
                    yield _image(view, modality, "implant", values)
                if woman.number % 2:
                    continue
            for modality, values in _signals(view):
                yield _image(view, modality, "standard", values)
                if modality == "DM" and woman.spot == (side, name):
                    yield _spot(view, values)


def look_of(woman: Woman, site: Site, seed: int) -> Look:
    """The look of an exam: its machine's, or one of its own where the site's looks vary."""
    if site.varied_looks:
        return draw_look(keyed(seed, site.name, "look", woman.number))
    return site.machines[woman.machine].look


def _breast(woman: Woman, traits: Traits, site: Site, seed: int, side: str) -> _Breast:
    half_mm, depth_mm = traits.size_mm(woman, side)
    shared = keyed(seed, site.name, "tissue", woman.number)
    own = keyed(seed, site.name, "tissue", woman.number, side)
    style = draw_style(site.name, seed, woman.number)
    return _Breast(
        side=side,
        fraction=woman.fractions[SIDES.index(side)],
        parenchyma=grow(style, depth_mm, half_mm, shared, own),
        lines=draw_lines(woman, depth_mm, half_mm, keyed(seed, site.name, "lines", woman.number, side)),
    )


def _compressed(
    woman: Woman, traits: Traits, breast: _Breast, site: Site, seed: int, view: str, grid: Grid, look: Look
) -> _View:
    rng = keyed(seed, site.name, "view", woman.number, breast.side, view)
    anatomy = build_anatomy(view, breast.side, woman, traits, grid, rng)
    tissue = fill(anatomy, breast.fraction, breast.parenchyma, breast.lines, view, grid, rng)
    return _View(
        woman=woman,
        site=site,
        seed=seed,
        grid=grid,
        look=look,
        side=breast.side,
        view=view,
        anatomy=anatomy,
        tissue=tissue,
        truth=_truth(anatomy, tissue, grid),
    )


def _signals(view: _View, *, implant: bool = False) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Processed signal of each modality of the site, on the columns that the breast fits in."""
    wanted = view.site.modalities
    path, plain = xray.line_integrals(view.tissue, view.look.energy_kev)
    if implant:
        path = with_implant(path, view.anatomy, view.view, view.grid)
    if "DM" in wanted:
        yield "DM", mammogram(path, plain, view.anatomy, view.grid.pitch_mm, view.look, view.draws("exposure", "DM"))
    if {"s2D", "DBT"} & set(wanted):
        rng, look = view.draws("exposure", "DBT"), view.look.digital
        stack = tomosynthesis.slices(path, plain, view.anatomy, view.grid, look, rng)
        if "s2D" in wanted:
            pitch = view.grid.pitch_mm / tomosynthesis.TOMO_SCALE
            yield "s2D", tomosynthesis.synthesized(stack, pitch, view.anatomy.total_mm / len(stack), look)
        if "DBT" in wanted:
            yield "DBT", stack


def _image(view: _View, modality: str, kind: str, values: NDArray[np.float32]) -> GeneratedImage:
    """A signal as stored pixels, with the truth on the same grid."""
    gland, masks = view.tissue.gland.sum(axis=0), (view.anatomy.seen, view.anatomy.breast, view.anatomy.pectoral)
    shape, top, pitch = (view.grid.rows, view.grid.columns), view.anatomy.top, view.grid.pitch_mm
    if modality != "DM":
        shape, top = tomosynthesis.small_shape(*shape), round(top * tomosynthesis.TOMO_SCALE)
        gland = smaller(gland, *values.shape[-2:])
        seen, breast, pectoral = (smaller(mask.astype(np.float32), *values.shape[-2:]) > 0.4 for mask in masks)
        masks = (seen, breast, pectoral & breast)
        pitch /= tomosynthesis.TOMO_SCALE
    slab_mm = view.anatomy.total_mm / len(values) if values.ndim == 3 else view.grid.slice_mm
    seen, breast, pectoral, gland = (_on_detector(part, shape, top) for part in (*masks, gland))
    look = view.look if modality == "DM" else view.look.digital
    return _stored(view, modality, kind, values, top, seen, breast, pectoral, gland, pitch, slab_mm, look)


def _spot(view: _View, values: NDArray[np.float32]) -> GeneratedImage:
    """A part of the DM image, magnified under a small paddle."""
    part, seen, gland, pectoral = magnified(values, view.tissue.gland.sum(axis=0), view.anatomy, view.grid)
    look, pitch = replace(view.look, padding=False), view.grid.pitch_mm / MAGNIFICATION
    return _stored(view, "DM", "spot", part, 0, seen, seen, pectoral, gland, pitch, view.grid.slice_mm, look)


def _stored(
    view: _View,
    modality: str,
    kind: str,
    values: NDArray[np.float32],
    top: int,
    seen: NDArray[np.bool_],
    breast: NDArray[np.bool_],
    pectoral: NDArray[np.bool_],
    gland: NDArray[np.float32],
    pitch_mm: float,
    slab_mm: float,
    look: Look,
) -> GeneratedImage:
    rng = view.draws("presentation", modality, kind)
    stored = present(values, top, seen, kind=modality, side=view.side, view=view.view, look=look, rng=rng)
    return GeneratedImage(
        modality=modality,
        side=view.side,
        view=view.view,
        kind=kind,
        stored=stored,
        gland_mm=_as_seen(gland, view.side).astype(np.float16),
        breast=_as_seen(breast, view.side),
        pectoral=_as_seen(pectoral, view.side),
        film=look.film,
        pitch_mm=pitch_mm,
        slab_mm=slab_mm,
        thickness_mm=view.anatomy.total_mm,
        truth=view.truth,
    )


def _truth(anatomy: Anatomy, tissue: Tissue, grid: Grid) -> ViewTruth:
    cm3 = grid.pitch_mm**2 / 1000.0

    def volume(values: NDArray[np.float32]) -> float:
        return float(values.sum(dtype=np.float64)) * cm3

    return ViewTruth(
        whole_cm3=volume(anatomy.thickness) - volume(tissue.muscle),
        skin_cm3=volume(anatomy.skin),
        gland_cm3=volume(tissue.gland),
    )


def _on_detector(image: NDArray[Any], shape: tuple[int, int], top: int) -> NDArray[Any]:
    """The whole detector: air around the rows and columns that the breast fits in."""
    rows, columns = image.shape
    return np.pad(image, ((top, shape[0] - top - rows), (0, shape[1] - columns)))


def _as_seen(image: NDArray[Any], side: str) -> NDArray[Any]:
    """Mirror a right breast: its chest wall is at the last column."""
    return np.ascontiguousarray(image[:, ::-1]) if side == "R" else image
