"""Images that a density study leaves out, and an archive holds all the same: implants and spot magnification."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from densityclip.phantom.anatomy import Anatomy
from densityclip.phantom.grid import Grid

Image = NDArray[np.float32]

# Silicone absorbs several times what fat does; behind it little more is seen.
_IMPLANT_PER_MM = 0.12
# The breast lies on a platform, this many times nearer to the focus than the detector.
MAGNIFICATION = 1.8
_PADDLE_MM = 38.0


def with_implant(path: Image, anatomy: Anatomy, view: str, grid: Grid) -> Image:
    """Put an implant before the chest wall: attenuation integrals `[layers, rows, columns]` with it in."""
    columns = anatomy.breast.shape[1]
    y = anatomy.y_mm(grid.pitch_mm)[:, None]
    x = ((np.arange(columns, dtype=np.float32) + 0.5) * np.float32(grid.pitch_mm))[None, :]
    z = anatomy.layer_centres[:, None, None] / np.float32(0.42 * anatomy.total_mm)
    across = (y - anatomy.nipple_mm + (0.1 * anatomy.half_mm if view == "MLO" else 0)) / (0.62 * anatomy.half_mm)
    along = (x - 0.18 * anatomy.depth_mm) / (0.52 * anatomy.depth_mm)
    inside = np.clip((1 - (across * across + along * along + z * z)) * 8, 0, 1) * anatomy.breast
    return path + np.float32(_IMPLANT_PER_MM * anatomy.layer_mm) * inside.astype(np.float32)


def magnified(
    values: Image, gland: Image, anatomy: Anatomy, grid: Grid
) -> tuple[Image, NDArray[np.bool_], Image, NDArray[np.bool_]]:
    """Magnify the part of a DM image with most gland, under a round paddle.

    Returns:
        Values, where they are seen, gland in mm, and where there is pectoral muscle, each `[rows, columns]` of the
        detector.
    """
    weight = gland.sum()
    rows, columns = np.indices(gland.shape)
    centre = [float((axis * gland).sum() / weight) for axis in (rows, columns)]
    y = (np.arange(grid.rows) - grid.rows / 2) / MAGNIFICATION + centre[0]
    x = (np.arange(grid.columns) - grid.columns / 2) / MAGNIFICATION + centre[1]
    at = np.meshgrid(y, x, indexing="ij")
    seen = np.hypot(at[0] - centre[0], at[1] - centre[1]) < _PADDLE_MM / grid.pitch_mm
    breast = map_coordinates(anatomy.breast.astype(np.float32), at, order=1, mode="constant") > 0.5
    pectoral = map_coordinates(anatomy.pectoral.astype(np.float32), at, order=1, mode="constant") > 0.5
    part = map_coordinates(values, at, order=1, mode="nearest")
    tissue = map_coordinates(gland, at, order=1, mode="constant") * seen
    return part.astype(np.float32), seen & breast, tissue.astype(np.float32), seen & pectoral
