"""From an image of any size to the small grid: antialiased, and without ever working out what is not wanted.

On 13.6 megapixels a table look-up of the whole image and Pillow's resize of its crop took 37 and 13 ms (one core); here
the crop's rows are looked up a few at a time, summed in groups while they lie in the processor's cache, and resized
from there, in 13 ms for both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Rows are summed in groups so small that the filter still sees at least this many groups a prepared pixel.
_GROUPS = 4
_BLOCK_PIXELS = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image in display values that are worked out where they are asked for.

    Attributes:
        values: `[rows, columns]`, stored values, or display values in `[0, 1]` where there is no table.
        table: Display value in `[0, 1]` of each stored value, float32, as `FrameReader.table` gives it: it covers all
            values that occur, negative ones from its end.
    """

    values: NDArray[Any]
    table: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"an image has two axes, not shape {self.values.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.values.shape[0], self.values.shape[1]

    def part(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Display values of a part, `[rows, columns]` float32; slices may have steps."""
        values = self.values[rows, columns]
        if self.table is None:
            return np.asarray(values, dtype=np.float32)
        # `take` that wraps round finds negative values too, and is the fastest look-up by half.
        return np.take(self.table, values, mode="wrap")


def sampled(picture: Picture, longest: int) -> tuple[NDArray[np.float32], int]:
    """A small copy for finding things: every few pixels looked up, and their mean taken in square cells.

    Args:
        picture: The image.
        longest: Largest number of cells along a side.

    Returns:
        `[ceil(rows / factor), ceil(columns / factor)]` float32, and the factor. An image that is small enough is
        returned as it is, with factor 1.
    """
    rows, columns = picture.shape
    factor = -(-max(rows, columns) // longest)
    step = max(factor // 3, 1)
    cell = -(-factor // step)
    values = picture.part(slice(0, rows, step), slice(0, columns, step))
    if cell > 1:
        values = np.asarray(Image.fromarray(np.ascontiguousarray(values)).reduce(cell))
    return values, step * cell


def resample(picture: Picture, rows: slice, columns: slice, size: tuple[int, int]) -> NDArray[np.float32]:
    """A crop of an image on another grid, bilinear, the filter as wide as the reduction, so that nothing aliases.

    Args:
        picture: The image.
        rows: Of the crop.
        columns: Of the crop.
        size: Rows and columns of the result.

    Returns:
        `size` float32.
    """
    height, width = rows.stop - rows.start, columns.stop - columns.start
    group = max(height // (_GROUPS * size[0]), 1)
    means = _row_means(picture, rows, columns, group)
    box = (0, 0, width, height / group)
    return np.asarray(Image.fromarray(means).resize(size[::-1], Image.Resampling.BILINEAR, box=box))


def _row_means(picture: Picture, rows: slice, columns: slice, group: int) -> NDArray[np.float32]:
    """Means of groups of rows; the last group may be smaller."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    means = np.empty((-(-height // group), width), dtype=np.float32)
    block = max(_BLOCK_PIXELS // (width * group), 1) * group
    for start in range(0, height, block):
        values = picture.part(slice(rows.start + start, min(rows.start + start + block, rows.stop)), columns)
        whole = len(values) // group
        target = means[start // group : start // group + whole]
        grouped = values[: whole * group].reshape(whole, group, width)
        target[:] = grouped[:, 0]
        for place in range(1, group):
            target += grouped[:, place]
        target *= np.float32(1 / group)
        if whole * group < len(values):
            means[-1] = values[whole * group :].mean(axis=0, dtype=np.float32)
    return means
