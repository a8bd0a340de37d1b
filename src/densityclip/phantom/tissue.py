"""What a compressed view is made of: gland of a given volume, ligaments, and the fat between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from densityclip.phantom.anatomy import Anatomy
from densityclip.phantom.grid import Grid
from densityclip.phantom.lines import Lines, splat
from densityclip.phantom.parenchyma import Cut, Parenchyma, cut, sampled

Volume = NDArray[np.float32]

# Ligaments and strands take at most this share of the connective tissue, nearly all of it in fatty breasts; the rest is
# gland.
_MOST_LIGAMENT, _MOST_IN_FAT = 0.45, 0.9
_FATTY_FRACTION = 0.06
_DETAIL_TILES = 7
_DETAIL_BELOW_MM = 3.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Volumes of one view, `[layers, rows, columns]` in mm along the ray.

    Attributes:
        outer: All tissue.
        inner: What lies within the skin.
        gland: Fibroglandular tissue, ligaments included.
        muscle: Pectoral muscle.
        vessels: Blood vessels, lymph nodes and folded skin: soft, and not gland.
        chalk: Calcifications.
        beside: What lies below the fold of an MLO, no part of the breast.
    """

    outer: Volume
    inner: Volume
    gland: Volume
    muscle: Volume
    vessels: Volume
    chalk: Volume
    beside: Volume


def fill(
    anatomy: Anatomy,
    fraction: float,
    parenchyma: Parenchyma,
    lines: Lines,
    view: str,
    grid: Grid,
    rng: np.random.Generator,
) -> Tissue:
    """Distribute fibroglandular tissue so that gland and skin make up a fraction of the breast without its muscle.

    Args:
        anatomy: The breast in this view.
        fraction: Volumetric fraction of gland and skin, 0 to 1. Breasts so fatty that skin alone exceeds it keep
            0.4% of gland.
        parenchyma: The breast's fields.
        lines: Its ducts, vessels, nodes and calcifications.
        view: `CC` or `MLO`.
        grid: The detector.
        rng: Draws of this view: detail finer than the fields.
    """
    outer = anatomy.in_layers(anatomy.thickness)
    inner = anatomy.in_layers(anatomy.thickness - anatomy.skin)
    place = cut(anatomy, view, grid)
    muscle = inner * anatomy.muscle
    if anatomy.muscle.any():  # bundles of fibres
        muscle *= np.clip(1 + 0.2 * sampled(parenchyma.coarse, place), 0.4, 1.6)
    room = inner - muscle
    free = float(room.sum(dtype=np.float64))
    skin = float(anatomy.skin.sum(dtype=np.float64))
    whole = free + skin
    wanted = min(max(fraction * whole - skin, 0.004 * whole), 0.95 * free)
    score, ligaments = _arrangement(anatomy, parenchyma, place, grid, rng)
    ligaments *= room
    splat(ligaments, lines.ducts, anatomy, view, grid)
    gland = _to_volume(score, ligaments, room, wanted, free, parenchyma.style.softness)
    vessels, chalk = np.zeros_like(gland), np.zeros_like(gland)
    splat(vessels, lines.vessels, anatomy, view, grid)
    vessels[-1] += anatomy.crease
    splat(chalk, lines.calcifications, anatomy, view, grid)
    np.minimum(chalk, inner, out=chalk)
    beside = anatomy.in_layers(anatomy.fold)
    return Tissue(outer=outer, inner=inner, gland=gland, muscle=muscle, vessels=vessels, chalk=chalk, beside=beside)


def _arrangement(
    anatomy: Anatomy, parenchyma: Parenchyma, place: Cut, grid: Grid, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Where gland tends to lie, in standard deviations of the texture, and the share of ligaments in each voxel."""
    style = parenchyma.style
    voxel_mm = max(grid.pitch_mm, 0.45 * anatomy.layer_mm)
    ridges = []
    for field, scale_mm in zip((parenchyma.coarse, parenchyma.fine), style.compartment_mm, strict=True):
        # A sheet must be as thick as a voxel to be seen whole; its tissue is thinned accordingly.
        sharp = np.float32(max(0.13, 0.55 * 6.28 * voxel_mm / scale_mm))
        values = sampled(field, place)
        values /= sharp
        np.square(values, out=values)
        np.negative(values, out=values)
        ridges.append((np.exp(values, out=values), 0.13 / float(sharp)))
    (coarse, coarse_share), (fine, fine_share) = ridges
    score = sampled(parenchyma.clumps, place)
    _add_detail(score, style.exponent, style.clump_mm, grid, rng)
    score += np.float32(style.strands) * coarse
    score += np.float32(0.4 * style.strands) * fine
    _add_bias(score, anatomy, parenchyma, place)
    coarse *= np.float32(style.ligaments[0] * coarse_share)
    fine *= np.float32(style.ligaments[1] * fine_share)
    coarse += fine
    return score, np.minimum(coarse, 0.6, out=coarse)


def _add_detail(score: Volume, exponent: float, clump_mm: float, grid: Grid, rng: np.random.Generator) -> None:
    """Continue the texture's spectrum beyond the fields' grid, by a few tiles laid on the layers in turn."""
    begins = 1 / _DETAIL_BELOW_MM
    if 0.5 / grid.pitch_mm <= begins:
        return
    rows, columns = score.shape[1:]
    shape = (fft.next_fast_len(rows, real=True), fft.next_fast_len(columns, real=True))
    ky = np.fft.fftfreq(shape[0], grid.pitch_mm).astype(np.float32)[:, None]
    kx = np.fft.rfftfreq(shape[1], grid.pitch_mm).astype(np.float32)[None, :]
    k = np.sqrt(ky * ky + kx * kx)
    amplitude = np.where(k > begins, np.maximum(k, begins) ** np.float32(-(exponent - 1) / 2), 0)
    # Variance of a three-dimensional power law between two frequencies falls with k to the power of 3 - exponent.
    power, nyquist = exponent - 3.0, 0.5 / grid.pitch_mm
    share = (begins**-power - nyquist**-power) / (clump_mm**power - nyquist**-power)
    tiles = []
    for _ in range(_DETAIL_TILES):
        noise = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        tile = fft.irfft2(noise * amplitude, s=shape, overwrite_x=True)
        tiles.append(tile * np.float32(0.7 * np.sqrt(share) / tile.std()))
    for layer, values in enumerate(score):
        tile = np.roll(tiles[layer % _DETAIL_TILES], int(rng.integers(shape[0])), axis=0)
        values += tile[:rows, :columns]


def _add_bias(score: Volume, anatomy: Anatomy, parenchyma: Parenchyma, place: Cut) -> None:
    """Gland lies behind the nipple, more in the upper outer part, under a layer of fat."""
    style = parenchyma.style
    side = np.float32(style.outer)
    off = np.square(place.u - side) + np.square(place.v - side)  # [layers, rows]
    # The gland narrows towards the nipple and ends before the chest wall.
    along = place.along
    radius = np.float32(style.spread) * (1.15 - 0.5 * np.clip(along, 0, 1.1))
    score -= (np.float32(style.focus) * off)[:, :, None] / np.square(radius)[None, None, :]
    score -= (np.float32(style.focus) * np.square((along - style.centre) / style.extent)).astype(np.float32)
    layer = np.float32(style.fat_layer_mm)
    surface = -3.0 * np.exp(-anatomy.distance / layer)
    behind = 1.2 * np.exp(-np.square((1 - along) / 0.16))[None, :] * np.exp(-np.square(place.upward / 0.22))[:, None]
    score += (surface + behind - 9.0 * anatomy.muscle)[None]
    above = (anatomy.thickness / 2)[None] - np.abs(anatomy.layer_centres)[:, None, None]
    score -= 2.0 * np.exp(-np.maximum(above, 0) / (0.7 * layer))


def _sigmoid(values: Volume, level: float, softness: float) -> Volume:
    out = (np.float32(level) - values) / np.float32(softness)
    np.clip(out, -40, 40, out=out)
    np.exp(out, out=out)
    out += 1
    return np.reciprocal(out, out=out)


def _level(score: Volume, weight: Volume, share: float, softness: float) -> float:
    """The level at which `sum(weight * sigmoid(score - level))` is the share, by bisection."""
    low, high = float(score.min()) - 20 * softness, float(score.max()) + 20 * softness
    for _ in range(18):
        level = (low + high) / 2
        if float((weight * _sigmoid(score, level, softness)).sum(dtype=np.float64)) > share:
            low = level
        else:
            high = level
    return (low + high) / 2


def _to_volume(score: Volume, ligaments: Volume, room: Volume, wanted: float, free: float, softness: float) -> Volume:
    """Gland, ligaments and ducts of the wanted volume, in mm; the gland's level is found on a sample of voxels."""
    np.minimum(ligaments, 0.9 * room, out=ligaments)
    held = float(ligaments.sum(dtype=np.float64))
    most = _MOST_LIGAMENT + (_MOST_IN_FAT - _MOST_LIGAMENT) * np.exp(-wanted / free / _FATTY_FRACTION)
    if held > most * wanted:
        ligaments *= np.float32(most * wanted / held)
        held = most * wanted
    left = room - ligaments
    sample = np.flatnonzero(left.ravel() > 0)[::53]
    weight = left.ravel()[sample]
    level = _level(score.ravel()[sample], weight / weight.sum(), (wanted - held) / (free - held), softness)
    gland = _sigmoid(score, level, softness)
    gland *= left
    # The level came from a sample; a small stretch makes the volume exact and keeps every voxel within its room.
    have, aim = float(gland.sum(dtype=np.float64)), wanted - held
    if have >= aim:
        gland *= np.float32(aim / have)
    else:
        gland += (left - gland) * np.float32((aim - have) / (free - held - have))
    gland += ligaments
    return np.asarray(np.minimum(gland, room, out=gland), dtype=np.float32)
