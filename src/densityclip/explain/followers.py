"""Simple maps that know nothing of the model: what any map must beat to mean something."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BRIGHTNESS, BREAST, CENTRE = "brightness", "breast", "centre"
FOLLOWER_WORDS = {
    BRIGHTNESS: "the image's own brightness",
    BREAST: "the breast mask",
    CENTRE: "a blob in the middle of the breast",
}
# Fat is the darker part of the inner breast; the rim is darker still, because the breast is thin there.
_FAT_QUANTILE = 0.15
_RIM_SHARE = 0.08


def patch_means(values: NDArray[np.generic], grid: tuple[int, int]) -> NDArray[np.float32]:
    """The mean of a picture over each token's patch.

    Args:
        values: `[h, w]`; a bool mask gives each token's share of it.
        grid: Rows and columns of the token grid, which need not divide the picture: what is left over at the lower and
            right edge belongs to no token, as in the tower.

    Returns:
        `[grid rows, grid columns]` float32.
    """
    rows, columns = values.shape[0] // grid[0], values.shape[1] // grid[1]
    cut = np.asarray(values[: rows * grid[0], : columns * grid[1]], dtype=np.float32)
    return np.asarray(cut.reshape(grid[0], rows, grid[1], columns).mean(axis=(1, 3)), dtype=np.float32)


def follower_maps(
    pixels: NDArray[np.generic], mask: NDArray[np.bool_], grid: tuple[int, int]
) -> dict[str, NDArray[np.float32]]:
    """Maps on the token grid that follow the image alone, as coarse as the model's maps are.

    Args:
        pixels: `[h, w]` prepared grey levels, 0 outside the breast.
        mask: `[h, w]`, the breast.
        grid: Rows and columns of the token grid.

    Returns:
        `brightness` (mean grey), `breast` (share of the breast), `centre` (falls with the distance from the breast's
        centre of mass), each `[grid rows, grid columns]`.
    """
    share = patch_means(mask, grid)
    rows, columns = np.indices(grid)
    total = max(float(share.sum()), 1e-12)
    from_centre = np.hypot(rows - (rows * share).sum() / total, columns - (columns * share).sum() / total)
    return {
        BRIGHTNESS: patch_means(pixels, grid),
        BREAST: share,
        CENTRE: np.asarray(share / (1.0 + from_centre), dtype=np.float32),
    }


def as_fat(pixels: NDArray[np.generic], mask: NDArray[np.bool_]) -> NDArray[np.generic]:
    """The image with all of its breast turned to fat: what stands where a patch was taken away.

    Air in its place would be a hole in the breast, which no model has seen.

    Args:
        pixels: `[h, w]` prepared grey levels.
        mask: `[h, w]`, the breast.

    Returns:
        `[h, w]` of the same dtype: one grey, the 15% quantile of the breast without its rim, but nowhere brighter than
        the image is; untouched outside the breast.
    """
    if not mask.any():
        return pixels.copy()
    rim = _RIM_SHARE * np.sqrt(mask.sum())
    inner = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > rim
    fat = np.quantile(pixels[inner if inner.any() else mask], _FAT_QUANTILE)
    return np.where(mask, np.minimum(pixels, fat.astype(pixels.dtype)), pixels)
