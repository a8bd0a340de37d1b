"""Thin things: ducts, vessels, benign calcifications and lymph nodes, as points in the breast that views are cut from.

A point has u, v and the way from chest wall (0) to nipple (1), as in `parenchyma`; so both views show the same ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densityclip.phantom.anatomy import Anatomy
from densityclip.phantom.grid import Grid
from densityclip.phantom.parenchyma import UNCOMPRESSED, pressed
from densityclip.phantom.population import Woman

Points = NDArray[np.float32]
_STEP_MM = 0.5
# Points for each step along a tube.
_FILLING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Specks:
    """Points, each standing for a little tissue.

    Attributes:
        place: `[n, 3]`: u, v, and the way from chest wall to nipple.
        volume_mm3: `[n]`, how much tissue a point stands for.
    """

    place: Points
    volume_mm3: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What of a breast is too thin for its fields.

    Attributes:
        ducts: Milk ducts, and strands of connective tissue through the fat: counts as gland.
        vessels: Blood vessels and lymph nodes: soft tissue, not gland.
        calcifications: Benign ones, in vessels and alone.
    """

    ducts: Specks
    vessels: Specks
    calcifications: Specks


def draw_lines(woman: Woman, depth_mm: float, half_mm: float, rng: np.random.Generator) -> Lines:
    """Draw the ducts, vessels and calcifications of one breast."""
    scale = np.array([UNCOMPRESSED * half_mm, UNCOMPRESSED * half_mm, depth_mm], dtype=np.float32)
    ducts = [branch for _ in range(int(rng.integers(6, 12))) for branch in _duct(scale, rng)]
    trees = [_vessel(scale, rng) for _ in range(int(rng.integers(4, 12)))]
    vessels = [part for tree in trees for part in tree]
    chalk = _calcifications(woman, [part for tree in trees[:1] for part in tree], scale, rng)
    strands = _strands(int(rng.integers(90, 380)), scale, rng)
    nipple = _oval(np.array([0.0, 0.0, 0.98]) * scale, np.array([4.0, 4.0, 4.0]), scale, 0.35, rng)
    return Lines(
        ducts=_joined([*ducts, strands]),
        vessels=_joined([*vessels, *_nodes(scale, rng), nipple]),
        calcifications=_joined(chalk),
    )


def _joined(parts: list[Specks]) -> Specks:
    if not parts:
        return Specks(place=np.zeros((0, 3), np.float32), volume_mm3=np.zeros(0, np.float32))
    return Specks(
        place=np.concatenate([part.place for part in parts]),
        volume_mm3=np.concatenate([part.volume_mm3 for part in parts]),
    )


def _wander(
    start: NDArray[np.floating], heading: NDArray[np.floating], length_mm: float, bend: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A smooth random path in mm, `[n, 3]`: the heading turns slowly."""
    steps = max(2, int(length_mm / _STEP_MM))
    turns = rng.standard_normal((steps, 3)).astype(np.float32)
    kernel = np.hanning(13)[1:-1]
    turns = np.stack([np.convolve(turns[:, axis], kernel / kernel.sum(), mode="same") for axis in range(3)], axis=1)
    heading = heading / np.linalg.norm(heading)
    headings = heading + np.cumsum(turns * np.float32(bend), axis=0)
    headings /= np.linalg.norm(headings, axis=1, keepdims=True)
    return np.asarray(start + np.cumsum(headings * _STEP_MM, axis=0), dtype=np.float32)


def _tube(
    path_mm: NDArray[np.float32],
    diameters_mm: NDArray[np.floating],
    scale: NDArray[np.float32],
    rng: np.random.Generator,
) -> Specks:
    """Points that fill a tube of the given diameters around a path; on a coarse detector they fall into one line."""
    diameters = np.repeat(np.broadcast_to(diameters_mm, len(path_mm)), _FILLING).astype(np.float32)
    off = rng.standard_normal((len(diameters), 3), dtype=np.float32) * (diameters / 4)[:, None]
    places = np.repeat(path_mm, _FILLING, axis=0) + off
    volume = np.pi / 4 * np.square(diameters) * (_STEP_MM / _FILLING)
    return Specks(place=(places / scale).astype(np.float32), volume_mm3=volume.astype(np.float32))


def _duct(scale: NDArray[np.float32], rng: np.random.Generator) -> list[Specks]:
    """One of the trees that run from the nipple into the gland, branching and thinning."""
    parts: list[Specks] = []
    heading = np.array([rng.normal(0, 0.45), rng.normal(0, 0.45), -1.0])
    open_ends = [(np.array([0.0, 0.0, 0.99]) * scale, heading, float(rng.uniform(0.6, 1.2)), 0)]
    while open_ends:
        start, direction, diameter, generation = open_ends.pop()
        length = float(rng.uniform(8.0, 22.0)) * (1.3 if generation == 0 else 1.0)
        path = _wander(start, direction, length, 0.10, rng)
        parts.append(_tube(path, np.full(len(path), diameter), scale, rng))
        if generation < 2:
            last = path[-1] - path[-2]
            last = last / np.linalg.norm(last)
            for _ in range(2 if rng.random() < 0.75 else 1):
                turn = last + rng.normal(0, 0.4, 3)
                open_ends.append((path[-1], turn, 0.75 * diameter, generation + 1))
    return parts


def _strands(number: int, scale: NDArray[np.float32], rng: np.random.Generator) -> Specks:
    """Thin strands of connective tissue in gentle arcs, most of them drawn out between chest wall and nipple."""
    steps = 120
    angle, ring = rng.uniform(0, 2 * np.pi, number), np.sqrt(rng.uniform(0.0, 0.95, number))
    ring *= np.where(rng.random(number) < 0.4, 0.6, 1.0)  # more of them where the gland is
    start = np.stack([ring * np.cos(angle), ring * np.sin(angle), rng.uniform(0.0, 0.85, number)], axis=1) * scale
    # They converge on the nipple, some more than others.
    aim = np.array([0.0, 0.0, 1.15]) * scale + rng.normal(0, 1, (number, 3)) * (0.32, 0.32, 0.2) * scale
    heading = (aim - start) / np.linalg.norm(aim - start, axis=1, keepdims=True)
    bend = rng.normal(0, 0.012, (1, number, 3)) + rng.normal(0, 0.02, (steps, number, 3))
    headings = heading[None] + np.cumsum(bend, axis=0)
    headings /= np.linalg.norm(headings, axis=2, keepdims=True)
    paths = start[None] + np.cumsum(headings, axis=0) * _STEP_MM
    length = rng.integers(25, steps, number)
    diameter = np.exp(rng.normal(np.log(1.15), 0.45, number))
    # Thickest in the middle, thinning towards both ends.
    along = (np.arange(steps)[:, None] + 0.5) / length[None, :]
    kept = along < 1
    diameters = np.broadcast_to(diameter[None] * np.sin(np.pi * np.clip(along, 0, 1)) ** 0.5, along.shape)
    return _tube(paths[kept].astype(np.float32), diameters[kept], scale, rng)


def _vessel(scale: NDArray[np.float32], rng: np.random.Generator) -> list[Specks]:
    """A vessel that enters at the chest wall, runs under the skin or through the fat and gives off branches."""
    angle, ring = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.8)
    start = np.array([ring * np.cos(angle), ring * np.sin(angle), rng.uniform(0.0, 0.15)]) * scale
    aim = np.array([rng.normal(0, 0.25), rng.normal(0, 0.25), rng.uniform(0.7, 1.0)]) * scale
    diameter = float(np.exp(rng.uniform(np.log(0.6), np.log(2.2))))
    trunk = _wander(start, aim - start, float(rng.uniform(0.5, 1.0)) * float(scale[2]), 0.05, rng)
    parts = [_tube(trunk, diameter * np.linspace(1.0, 0.3, len(trunk)), scale, rng)]
    for _ in range(int(rng.integers(0, 4))):
        at = int(rng.integers(len(trunk) // 4, len(trunk)))
        way = trunk[at] - trunk[max(at - 3, 0)] + rng.normal(0, 0.8, 3)
        branch = _wander(trunk[at], way, float(rng.uniform(12.0, 45.0)), 0.07, rng)
        parts.append(_tube(branch, diameter * np.linspace(0.7, 0.1, len(branch)), scale, rng))
    return parts


def _nodes(scale: NDArray[np.float32], rng: np.random.Generator) -> list[Specks]:
    """Lymph nodes in the upper outer part near the chest wall: ovals with a fatty middle."""
    nodes = []
    for _ in range(int(rng.poisson(0.8))):
        centre = np.array([rng.uniform(0.95, 1.3), rng.uniform(0.8, 1.2), rng.uniform(0.02, 0.35)]) * scale
        half = np.array([rng.uniform(2.5, 6.0), rng.uniform(3.0, 7.5), rng.uniform(2.5, 5.0)])
        nodes.append(_oval(centre, half, scale, 0.5, rng))
    return nodes


def _oval(
    centre: NDArray[np.floating],
    half_mm: NDArray[np.floating],
    scale: NDArray[np.float32],
    share: float,
    rng: np.random.Generator,
) -> Specks:
    """An ellipsoid filled to a share, thinner in its middle."""
    inside = rng.standard_normal((1500, 3))
    inside *= (rng.uniform(0.15, 1.0, 1500) ** 0.5 / np.linalg.norm(inside, axis=1))[:, None]
    volume = share * 4 / 3 * np.pi * float(np.prod(half_mm)) / 1500
    return Specks(
        place=((centre + inside * half_mm) / scale).astype(np.float32),
        volume_mm3=np.full(1500, volume, dtype=np.float32),
    )


def _calcifications(
    woman: Woman, arteries: list[Specks], scale: NDArray[np.float32], rng: np.random.Generator
) -> list[Specks]:
    """Benign ones: a few round ones, and in older women tracks in the wall of an artery."""
    parts = []
    for _ in range(int(rng.poisson(1.2))):
        centre = np.array([rng.normal(0, 0.4), rng.normal(0, 0.4), rng.uniform(0.15, 0.9)]) * scale
        parts.append(_oval(centre, np.full(3, rng.uniform(0.2, 0.9)), scale, 1.0, rng))
    if arteries and rng.random() < np.clip((woman.age - 50) / 60, 0, 0.45):
        for part in arteries:
            kept = rng.random(len(part.place)) < 0.4
            parts.append(Specks(place=part.place[kept], volume_mm3=0.12 * part.volume_mm3[kept]))
    return parts


def splat(volume: NDArray[np.float32], specks: Specks, anatomy: Anatomy, view: str, grid: Grid) -> None:
    """Add points to a view's voxels, `[layers, rows, columns]` mm along the ray, in place.

    Each point is shared out bilinearly to four pixels of its layer; points outside the breast are left out.
    """
    rows, columns = anatomy.breast.shape
    u, v, along = (specks.place[:, axis] for axis in range(3))
    up, through = pressed(u, v, view)
    y = (np.float32(anatomy.nipple_mm) - up * np.float32(anatomy.half_mm)) / np.float32(grid.pitch_mm)
    y -= np.float32(anatomy.top + 0.5)
    x = along * np.float32(anatomy.depth_mm / grid.pitch_mm) - 0.5
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    inside = (row >= 0) & (row < rows - 1) & (column >= 0) & (column < columns - 1)
    row, column, y, x, through = row[inside], column[inside], y[inside], x[inside], through[inside]
    height = anatomy.thickness[row, column]
    # At the height that the fields give, or under the skin where the breast is thinner.
    z = np.clip(through * np.float32(anatomy.total_mm), -0.92 * height, 0.92 * height) / 2
    layer = z / np.float32(anatomy.layer_mm) + anatomy.layers / 2
    layer = np.clip(layer.astype(np.int64), 0, anatomy.layers - 1)
    amount = specks.volume_mm3[inside] / np.float32(grid.pitch_mm**2) * (height > 2.0)
    fy, fx = y - row, x - column
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            np.add.at(volume, (layer, row + dy, column + dx), (amount * wy * wx).astype(np.float32))
