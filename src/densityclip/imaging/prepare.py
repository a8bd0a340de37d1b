"""The recipe carried out: the one path from a file to the pixels that training, evaluation and serving see."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densityclip.dicom.header import is_dicom
from densityclip.dicom.image_file import read_image_file
from densityclip.dicom.pixels import FrameReader, read_frames
from densityclip.imaging.breast import Breast, find_breast
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.recipe import Recipe, slabs
from densityclip.reasons import Reason, Refused


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prepared:
    """One image, or one slice of a volume, as the model sees it.

    Attributes:
        pixels: `[height, width]` of the recipe's dtype, chest wall at the left, 0 outside the breast.
        mask: `[height, width]` bool, the breast.
        geometry: Where the pixels lie on the original.
        slice_index: Number of the frame in the file; 0 for a single image.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    geometry: Geometry
    slice_index: int = 0


def prepare_file(path: Path, recipe: Recipe) -> list[Prepared]:
    """Prepare a DICOM or image file.

    Of a volume the slices that the recipe names are read one at a time; the breast is found once, on the central one,
    so that all slices lie on the same grid.

    Returns:
        One per image or slice, in the order of the frames.

    Raises:
        Refused: The file cannot be read, or shows no breast.
    """
    if not is_dicom(path):
        return [prepare_pixels(read_image_file(path), recipe)]
    with read_frames(path) as reader:
        if reader.frames == 1:
            return [prepare_pixels(reader.frame(0), recipe)]
        return _prepare_volume(reader, recipe)


def prepare_pixels(
    image: NDArray[np.float32], recipe: Recipe, *, breast: Breast | None = None, slice_index: int = 0
) -> Prepared:
    """Prepare one image.

    Args:
        image: `[rows, columns]` float32 in `[0, 1]`, air dark.
        recipe: What to do.
        breast: The breast, if it was found on another slice of the same volume.
        slice_index: Passed on.

    Raises:
        Refused: `too_small`, `no_breast`, or `constant` inside the breast.
    """
    image = np.ascontiguousarray(image, dtype=np.float32)
    if image.ndim != 2:
        raise ValueError(f"an image has two axes, not shape {image.shape}")
    breast = breast or find_breast(image)
    geometry = place(image.shape, breast, recipe)
    values, inside = _resample(image, breast, geometry)
    canvas_pixels = np.zeros((recipe.height, recipe.width), dtype=recipe.dtype)
    white = np.iinfo(recipe.dtype).max
    canvas_mask = np.zeros((recipe.height, recipe.width), dtype=bool)
    covered = np.s_[
        geometry.top : geometry.top + geometry.scaled_rows, geometry.left : geometry.left + geometry.scaled_columns
    ]
    canvas_mask[covered] = inside
    low, high = _range(values[_core(inside)], recipe)
    scaled = np.clip((values[inside] - np.float32(low)) / np.float32(high - low), 0, 1)
    canvas_pixels[canvas_mask] = np.rint(scaled * np.float32(white)).astype(recipe.dtype)
    return Prepared(pixels=canvas_pixels, mask=canvas_mask, geometry=geometry, slice_index=slice_index)


def place(shape: tuple[int, ...], breast: Breast, recipe: Recipe) -> Geometry:
    """Where the breast of an image of a shape lands on the canvas: left, centred vertically, its aspect kept."""
    rows, columns = shape
    margin = round(recipe.margin * max(breast.rows, breast.columns))
    top, bottom = max(breast.top - margin, 0), min(breast.top + breast.rows + margin, rows)
    left, right = breast.left, breast.left + breast.columns
    if breast.chest_wall_right:
        left = max(left - margin, 0)
    else:
        right = min(right + margin, columns)
    scale = min(recipe.height / (bottom - top), recipe.width / (right - left))
    scaled_rows = min(max(round((bottom - top) * scale), 1), recipe.height)
    scaled_columns = min(max(round((right - left) * scale), 1), recipe.width)
    return Geometry(
        rows=rows,
        columns=columns,
        flipped=breast.chest_wall_right,
        crop_top=top,
        crop_left=columns - right if breast.chest_wall_right else left,
        crop_rows=bottom - top,
        crop_columns=right - left,
        canvas_rows=recipe.height,
        canvas_columns=recipe.width,
        top=(recipe.height - scaled_rows) // 2,
        left=0,
        scaled_rows=scaled_rows,
        scaled_columns=scaled_columns,
    )


def _prepare_volume(reader: FrameReader, recipe: Recipe) -> list[Prepared]:
    central = reader.frames // 2
    middle = reader.frame(central)
    breast = find_breast(middle)
    return [
        prepare_pixels(middle if index == central else reader.frame(index), recipe, breast=breast, slice_index=index)
        for index in (slab.middle for slab in slabs(reader.frames, recipe.dbt_slices))
    ]


def _resample(
    image: NDArray[np.float32], breast: Breast, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    left = geometry.columns - geometry.crop_left - geometry.crop_columns if geometry.flipped else geometry.crop_left
    top, right, bottom = geometry.crop_top, left + geometry.crop_columns, geometry.crop_top + geometry.crop_rows
    size = (geometry.scaled_columns, geometry.scaled_rows)
    crop = image[top:bottom, left:right]
    # Pillow's bilinear filter widens with the reduction, so that fine texture is averaged and not aliased.
    values = np.asarray(Image.fromarray(np.ascontiguousarray(crop)).resize(size, Image.Resampling.BILINEAR))
    cells = (left / breast.factor, top / breast.factor, right / breast.factor, bottom / breast.factor)
    mask = Image.fromarray(breast.mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR, box=cells)
    inside = np.asarray(mask) >= 0.5
    if geometry.flipped:
        values, inside = values[:, ::-1], inside[:, ::-1]
    return values, inside


def _core(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # The rim mixes tissue with air; the grey levels are taken from the pixels whose neighbours are breast too.
    wide = np.pad(inside, 1, mode="edge")
    core = inside & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return core if core.any() else inside


def _range(values: NDArray[np.float32], recipe: Recipe) -> tuple[float, float]:
    if values.size == 0 or float(values.max()) - float(values.min()) < 1e-6:
        raise Refused(Reason.CONSTANT, "the breast has one grey level")
    if recipe.intensity == "window":
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(values, (recipe.low_percentile, recipe.high_percentile)))
    if high <= low:
        raise Refused(Reason.CONSTANT, "the breast has one grey level")
    return low, high
