"""The recipe carried out: the one path from a file to the pixels that training, evaluation and serving see."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from densityclip.imaging.recipe import Recipe, Slab, slabs
from densityclip.imaging.resample import Picture, resample
from densityclip.reasons import Reason, Refused

_ALONE = Slab(range(1))
_TRIED_SLICES = 9


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prepared:
    """One image, or one slice of a volume, as the model sees it.

    Attributes:
        pixels: `[height, width]` of the recipe's dtype, chest wall at the left, 0 outside the breast.
        mask: `[height, width]` bool, the breast.
        geometry: Where the pixels lie on the original.
        slab: The frames of the file that it shows; the one frame of a single image.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    geometry: Geometry
    slab: Slab = _ALONE

    @property
    def slice_index(self) -> int:
        """Number of its frame in the file; of a slab, of the middle one; 0 for a single image."""
        return self.slab.middle


def prepare_file(path: Path, recipe: Recipe) -> list[Prepared]:
    """Prepare a DICOM or image file.

    Of a volume the frames that the recipe names are read one at a time, and no more than one is in memory. The breast
    is found once, on the central one, so that all slices lie on the same grid.

    Returns:
        One per image, slice or slab, in the order of the frames.

    Raises:
        Refused: The file cannot be read, shows no breast, or is raw where the recipe is not or the other way round.
    """
    if not is_dicom(path):
        _check_intent(recipe, for_processing=False)
        return [prepare_pixels(read_image_file(path), recipe)]
    with read_frames(path) as reader:
        _check_intent(recipe, for_processing=reader.for_processing)
        if reader.frames == 1:
            return [prepare_pixels(_frame(reader, 0), recipe)]
        return _prepare_volume(reader, recipe)


def _check_intent(recipe: Recipe, *, for_processing: bool) -> None:
    if recipe.for_processing != for_processing:
        raise Refused(Reason.FOR_PROCESSING if for_processing else Reason.FOR_PRESENTATION)


def prepare_pixels(image: Picture | NDArray[np.float32], recipe: Recipe) -> Prepared:
    """Prepare one image.

    Args:
        image: A picture, or `[rows, columns]` display values in `[0, 1]`; air dark.
        recipe: What to do.

    Raises:
        Refused: `too_small`, `no_breast`, or `constant` inside the breast.
    """
    picture = image if isinstance(image, Picture) else Picture(image)
    breast = find_breast(picture)
    geometry = place(picture.shape, breast, recipe)
    return _painted(_cropped(picture, geometry), breast, geometry, recipe)


def display_image(path: Path, slab: Slab) -> NDArray[np.float32]:
    """What a prepared image shows, in the size and orientation of the file, as a screen shows it.

    Args:
        path: The file that it was prepared from.
        slab: Its slab.

    Returns:
        `[rows, columns]` in `[0, 1]`, air dark.

    Raises:
        Refused: The file cannot be read.
    """
    if not is_dicom(path):
        return read_image_file(path)
    with read_frames(path) as reader:
        return _projection(reader, slab, np.s_[:], np.s_[:])


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


def _frame(reader: FrameReader, index: int) -> Picture:
    return Picture(reader.raw_frame(index), reader.table(index))


def _prepare_volume(reader: FrameReader, recipe: Recipe) -> list[Prepared]:
    breast = _breast_of(reader)
    geometry = place((reader.rows, reader.columns), breast, recipe)
    return [
        replace(_painted(_projected(reader, slab, geometry), breast, geometry, recipe), slab=slab)
        for slab in slabs(reader.frames, recipe.dbt_slices)
    ]


def _breast_of(reader: FrameReader) -> Breast:
    """The breast on the central slice, or on the nearest that is not blank."""
    middle = reader.frames // 2
    nearest = sorted(range(reader.frames), key=lambda index: abs(index - middle))
    for index in nearest[:_TRIED_SLICES]:
        try:
            return find_breast(_frame(reader, index))
        except Refused as refused:
            if refused.reason is not Reason.CONSTANT:
                raise
    raise Refused(Reason.CONSTANT, "the slices in the middle of the volume are blank")


def _projected(reader: FrameReader, slab: Slab, geometry: Geometry) -> NDArray[np.float32]:
    if slab.projection == "max":
        brightest = _projection(reader, slab, *_crop(geometry))
        return _cropped(Picture(brightest), _of_crop_alone(geometry))
    # A mean may be taken after the resampling, which is a mean too: one frame and one small sum are in memory.
    return _mean(_cropped(picture, geometry) for picture in _shown_frames(reader, slab))


def _projection(reader: FrameReader, slab: Slab, rows: slice, columns: slice) -> NDArray[np.float32]:
    parts = (picture.part(rows, columns) for picture in _shown_frames(reader, slab))
    if slab.projection == "mean":
        return _mean(parts)
    brightest = next(parts)
    for part in parts:
        np.maximum(brightest, part, out=brightest)
    return brightest


def _mean(parts: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    total, number = next(parts).copy(), 1
    for part in parts:
        total += part
        number += 1
    return total / np.float32(number)


def _shown_frames(reader: FrameReader, slab: Slab) -> Iterator[Picture]:
    blank = None
    shown = 0
    for index in slab.frames:
        try:
            yield _frame(reader, index)
            shown += 1
        except Refused as refused:
            # A volume may be padded with empty slices; a slab is what its other slices show.
            if refused.reason != Reason.CONSTANT:
                raise
            blank = refused
    if blank is not None and not shown:
        raise blank


def _of_crop_alone(geometry: Geometry) -> Geometry:
    return replace(geometry, rows=geometry.crop_rows, columns=geometry.crop_columns, crop_top=0, crop_left=0)


def _cropped(picture: Picture, geometry: Geometry) -> NDArray[np.float32]:
    """The crop on the prepared grid, mirrored if the geometry says so."""
    rows, columns = _crop(geometry)
    values = resample(picture, rows, columns, (geometry.scaled_rows, geometry.scaled_columns))
    return values[:, ::-1] if geometry.flipped else values


def _crop(geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns of the crop in the original, which is not mirrored."""
    left = geometry.crop_left
    if geometry.flipped:
        left = geometry.columns - geometry.crop_left - geometry.crop_columns
    return slice(geometry.crop_top, geometry.crop_top + geometry.crop_rows), slice(left, left + geometry.crop_columns)


def _painted(values: NDArray[np.float32], breast: Breast, geometry: Geometry, recipe: Recipe) -> Prepared:
    """The resampled crop in the recipe's grey levels on its canvas, black outside the breast."""
    inside = _resampled_mask(breast, geometry)
    covered = np.s_[
        geometry.top : geometry.top + geometry.scaled_rows, geometry.left : geometry.left + geometry.scaled_columns
    ]
    mask = np.zeros((recipe.height, recipe.width), dtype=bool)
    mask[covered] = inside
    grey = np.interp(values[inside], *_tone_curve(values[_core(inside)], recipe))
    pixels = np.zeros(mask.shape, dtype=recipe.dtype)
    pixels[mask] = np.rint(grey * np.iinfo(recipe.dtype).max).astype(recipe.dtype)
    return Prepared(pixels=pixels, mask=mask, geometry=geometry)


def _resampled_mask(breast: Breast, geometry: Geometry) -> NDArray[np.bool_]:
    rows, columns = _crop(geometry)
    cells = tuple(edge / breast.factor for edge in (columns.start, rows.start, columns.stop, rows.stop))
    size = (geometry.scaled_columns, geometry.scaled_rows)
    mask = Image.fromarray(breast.mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR, box=cells)
    inside = np.asarray(mask) >= 0.5
    return inside[:, ::-1] if geometry.flipped else inside


def _core(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # The rim mixes tissue with air; the grey levels are taken from the pixels whose neighbours are breast too.
    wide = np.pad(inside, 1, mode="edge")
    core = inside & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return core if core.any() else inside


def _tone_curve(breast: NDArray[np.float32], recipe: Recipe) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Display values, rising, and the grey levels in `[0, 1]` that they become; straight lines between."""
    if breast.size == 0 or float(breast.max()) - float(breast.min()) < 1e-6:
        raise Refused(Reason.CONSTANT, "the breast has one grey level")
    if recipe.intensity == "window":
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    levels = np.array(recipe.reference if recipe.intensity == "breast-histogram" else (0.0, 1.0))
    values = np.percentile(breast, np.linspace(recipe.low_percentile, recipe.high_percentile, len(levels)))
    # Where many pixels share one value several points fall together; the last of them counts.
    kept = np.append(np.diff(values) > 0, True)
    if kept.sum() < 2:
        raise Refused(Reason.CONSTANT, "the breast has one grey level")
    return values[kept], levels[kept]
