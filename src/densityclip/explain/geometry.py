"""A map on the token grid, carried to the prepared canvas and back to the pixels of the original image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densityclip.imaging.geometry import Geometry


def to_canvas(tokens: NDArray[np.floating], rows: int, columns: int) -> NDArray[np.float32]:
    """Spread a token map over the prepared canvas.

    Args:
        tokens: `[grid rows, grid columns]`, any real scale.
        rows: Rows of the canvas, pixels.
        columns: Columns of the canvas, pixels.

    Returns:
        `[rows, columns]`, bilinear with pixel centres kept: a token's value stands at the centre of its patch.

    Raises:
        ValueError: The map is not two-dimensional, or finer than the canvas.
    """
    tokens = np.ascontiguousarray(tokens, dtype=np.float32)
    if tokens.ndim != 2 or tokens.shape[0] > rows or tokens.shape[1] > columns:
        raise ValueError(f"a token map of shape {tokens.shape} does not fit a canvas of {rows} x {columns}")
    return np.asarray(Image.fromarray(tokens).resize((columns, rows), Image.Resampling.BILINEAR))


def to_original(tokens: NDArray[np.floating], geometry: Geometry) -> NDArray[np.float32]:
    """Carry a token map `[grid rows, grid columns]` back to the original image.

    Returns:
        `[rows, columns]` of the original, in its own orientation and on the map's own scale; 0 outside the crop
        that the model saw.
    """
    return geometry.to_original(to_canvas(tokens, geometry.canvas_rows, geometry.canvas_columns))


def token_size_px(grid: tuple[int, int], geometry: Geometry) -> tuple[float, float]:
    """Height and width of one token, in pixels of the original image.

    Args:
        grid: Rows and columns of the token grid.
        geometry: Where the prepared image lies on the original.
    """
    return (
        geometry.canvas_rows / grid[0] * geometry.crop_rows / geometry.scaled_rows,
        geometry.canvas_columns / grid[1] * geometry.crop_columns / geometry.scaled_columns,
    )
