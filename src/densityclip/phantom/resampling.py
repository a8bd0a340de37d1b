"""Images on fewer and on more pixels."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def smaller(image: NDArray[np.floating], rows: int, columns: int) -> Image:
    """Bin `[..., many, many]` to fewer pixels: each new one is the mean of the area that it covers."""
    down, across = _areas(image.shape[-2], rows), _areas(image.shape[-1], columns)
    return np.matmul(np.matmul(down, image.astype(np.float32, copy=False)), across.T)


def larger(image: Image, rows: int, columns: int) -> Image:
    """Spread `[..., few, few]` over more pixels by linear interpolation between the centres."""
    down, across = _between(image.shape[-2], rows), _between(image.shape[-1], columns)
    return np.matmul(np.matmul(down, image), across.T)


@lru_cache(maxsize=64)
def _areas(many: int, few: int) -> Image:
    """`[few, many]`: how much of each pixel lies in each of the larger ones; rows sum to 1."""
    edges = np.arange(few + 1) * (many / few)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(many)[None, :]
    overlap = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=64)
def _between(few: int, many: int) -> Image:
    """`[many, few]`: linear weights of the two nearest of the few for each of the many."""
    at = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
    distance = np.abs(at[:, None] - np.arange(few)[None, :])
    return np.clip(1 - distance, 0, None).astype(np.float32)
