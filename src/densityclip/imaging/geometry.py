"""Where the prepared image lies on the original: recorded while preparing, so that a map can be carried back."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The steps original -> flipped -> cropped -> resized -> placed on the canvas, all in whole pixels.

    Attributes:
        rows: Rows of the original image.
        columns: Columns of the original image.
        flipped: Whether the original was mirrored left-right first (its chest wall was on the right).
        crop_top: First row of the crop, in the (possibly mirrored) original.
        crop_left: First column of the crop, in the (possibly mirrored) original.
        crop_rows: Rows of the crop.
        crop_columns: Columns of the crop.
        canvas_rows: Rows of the prepared image.
        canvas_columns: Columns of the prepared image.
        top: First row on the canvas that the crop covers.
        left: First column on the canvas that the crop covers.
        scaled_rows: Rows of the resized crop on the canvas.
        scaled_columns: Columns of the resized crop on the canvas.
    """

    rows: int
    columns: int
    flipped: bool
    crop_top: int
    crop_left: int
    crop_rows: int
    crop_columns: int
    canvas_rows: int
    canvas_columns: int
    top: int
    left: int
    scaled_rows: int
    scaled_columns: int

    def __post_init__(self) -> None:
        inside = (
            0 <= self.crop_top <= self.crop_top + self.crop_rows <= self.rows
            and 0 <= self.crop_left <= self.crop_left + self.crop_columns <= self.columns
            and 0 <= self.top <= self.top + self.scaled_rows <= self.canvas_rows
            and 0 <= self.left <= self.left + self.scaled_columns <= self.canvas_columns
        )
        if not inside or min(self.crop_rows, self.crop_columns, self.scaled_rows, self.scaled_columns) < 1:
            raise ValueError(f"crop or placement outside the image: {asdict(self)}")

    def as_row(self) -> dict[str, int | bool]:
        """The geometry as a row of the cache's table."""
        return asdict(self)

    def to_canvas(self, original: NDArray[np.floating], fill: float = 0.0) -> NDArray[np.float32]:
        """Carry an image from the original grid to the prepared grid: the way there of `to_original`.

        Args:
            original: `[rows, columns]`, any real scale.
            fill: Value where the crop does not reach.

        Returns:
            `[canvas_rows, canvas_columns]` float32, resized bilinearly with the filter as wide as the reduction.
        """
        original = np.asarray(original, dtype=np.float32)
        if original.shape != (self.rows, self.columns):
            raise ValueError(f"image is {original.shape}, the original is {(self.rows, self.columns)}")
        seen = original[:, ::-1] if self.flipped else original
        crop = seen[self.crop_top : self.crop_top + self.crop_rows, self.crop_left : self.crop_left + self.crop_columns]
        size = (self.scaled_columns, self.scaled_rows)
        canvas = np.full((self.canvas_rows, self.canvas_columns), fill, dtype=np.float32)
        canvas[self.top : self.top + self.scaled_rows, self.left : self.left + self.scaled_columns] = np.asarray(
            Image.fromarray(np.ascontiguousarray(crop)).resize(size, Image.Resampling.BILINEAR)
        )
        return canvas

    def to_original(self, canvas: NDArray[np.floating], fill: float = 0.0) -> NDArray[np.float32]:
        """Carry a map from the prepared grid back to the original grid.

        Args:
            canvas: `[canvas_rows, canvas_columns]`, any real scale.
            fill: Value outside the crop.

        Returns:
            `[rows, columns]` float32, resized bilinearly with pixel centres kept.
        """
        canvas = np.asarray(canvas, dtype=np.float32)
        if canvas.shape != (self.canvas_rows, self.canvas_columns):
            raise ValueError(f"map is {canvas.shape}, the canvas is {(self.canvas_rows, self.canvas_columns)}")
        covered = canvas[self.top : self.top + self.scaled_rows, self.left : self.left + self.scaled_columns]
        crop = np.asarray(
            Image.fromarray(covered).resize((self.crop_columns, self.crop_rows), Image.Resampling.BILINEAR)
        )
        original = np.full((self.rows, self.columns), fill, dtype=np.float32)
        original[
            self.crop_top : self.crop_top + self.crop_rows, self.crop_left : self.crop_left + self.crop_columns
        ] = crop
        return original[:, ::-1].copy() if self.flipped else original
