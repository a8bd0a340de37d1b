"""Images on fewer and on more pixels."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def smaller(image: NDArray[np.floating], rows: int, columns: int) -> Image:
    """Bin `[..., many, many]` to fewer pixels: each new one is the mean of the area that it covers."""
    return _binned(_binned(image.astype(np.float32, copy=False), columns, image.ndim - 1), rows, image.ndim - 2)


def larger(image: Image, rows: int, columns: int) -> Image:
    """Spread `[..., few, few]` over more pixels by linear interpolation between the centres."""
    down, across = _between(image.shape[-2], rows), _between(image.shape[-1], columns)
    return np.matmul(np.matmul(down, image), across.T)


def _binned(image: Image, few: int, axis: int) -> Image:
    """Bin along one axis. Each new pixel touches a handful of old ones: a matrix of all pairs would be mostly zeros."""
    out: Image | None = None
    for sources, weights in _overlaps(image.shape[axis], few):
        part = np.take(image, sources, axis=axis)
        part *= weights.reshape(-1, *[1] * (image.ndim - 1 - axis))
        out = part if out is None else np.add(out, part, out=out)
    assert out is not None
    return out


@lru_cache(maxsize=64)
def _overlaps(many: int, few: int) -> list[tuple[NDArray[np.int64], Image]]:
    """For the first, second, ... old pixel under each new one: its number, and the share of the new one it covers."""
    edges = np.arange(few + 1) * (many / few)
    first = np.floor(edges[:-1] + 1e-9).astype(np.int64)
    pairs = []
    for step in range(int(np.ceil(many / few)) + 1):
        cells = first + step
        overlap = np.minimum(edges[1:], cells + 1) - np.maximum(edges[:-1], cells)
        weights = np.clip(overlap, 0, None) * (few / many)
        if weights.any():
            pairs.append((np.minimum(cells, many - 1), weights.astype(np.float32)))
    return pairs


@lru_cache(maxsize=64)
def _between(few: int, many: int) -> Image:
    """`[many, few]`: linear weights of the two nearest of the few for each of the many."""
    at = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
    distance = np.abs(at[:, None] - np.arange(few)[None, :])
    return np.clip(1 - distance, 0, None).astype(np.float32)
