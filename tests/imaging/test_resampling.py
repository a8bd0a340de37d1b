"""Resampling against the triangle filter written out as matrices, and against what a shortcut would get wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densityclip.imaging import resample as module
from densityclip.imaging.resample import Picture, resample, sampled


def triangle(old: int, new: int) -> np.ndarray:
    """`[new, old]`: weights of a triangle twice as wide as a new pixel, centres on centres, each row of sum 1."""
    ratio = old / new
    centres = (np.arange(new) + 0.5) * ratio
    weights = np.clip(1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / max(ratio, 1), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def exact(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return triangle(image.shape[0], size[0]) @ image.astype(float) @ triangle(image.shape[1], size[1]).T


def whole(image: np.ndarray) -> tuple[slice, slice]:
    return slice(0, image.shape[0]), slice(0, image.shape[1])


def textured(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    return (0.5 + 0.3 * np.sin(y / 37) * np.cos(x / 23) + 0.1 * draw.standard_normal((rows, columns))).astype(
        np.float32
    )


@pytest.mark.parametrize("size", [(96, 80), (224, 128), (31, 57)])
def test_a_large_reduction_is_the_triangle_filter_to_two_of_255_levels(size) -> None:
    image = textured(1510, 1203)
    difference = np.abs(resample(Picture(image), *whole(image), size) - exact(image, size))
    # Rows are first averaged in groups of up to a quarter of a prepared pixel: measured 1.7 levels, at the last row.
    assert difference.max() < 2 / 255
    assert difference.mean() < 0.3 / 255


@settings(max_examples=30)
@given(
    rows=st.integers(30, 90),
    columns=st.integers(30, 90),
    height=st.integers(16, 120),
    width=st.integers(16, 120),
)
def test_a_small_reduction_or_enlargement_is_the_triangle_filter_exactly(rows, columns, height, width) -> None:
    image = textured(rows, columns)
    found = resample(Picture(image), *whole(image), (height, width))
    np.testing.assert_allclose(found, exact(image, (height, width)), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("period", [2, 3, 5, 7])
def test_a_grating_finer_than_the_prepared_pixels_is_grey_and_no_false_pattern(axis, period) -> None:
    phase = np.arange(1600) % period < period / 2
    image = np.broadcast_to(phase[:, None] if axis == 0 else phase, (1600, 1600)).astype(np.float32)
    found = resample(Picture(image), *whole(image), (100, 100))[2:-2, 2:-2]
    # Every 16th pixel alone, the naive reduction, would swing over the whole scale.
    assert np.ptp(found) < 0.03
    assert abs(found.mean() - phase.mean()) < 0.01


def test_a_table_is_looked_up_for_every_pixel_before_any_is_averaged() -> None:
    draw = np.random.default_rng(1)
    stored = draw.integers(-2048, 2048, (700, 500)).astype(np.int16)
    display = draw.random(4096).astype(np.float32)  # of -2048 to 2047; as wild as no window is
    table = np.roll(display, -2048)
    found = resample(Picture(stored, table), *whole(stored), (40, 30))
    by_hand = resample(Picture(display[stored.astype(int) + 2048]), *whole(stored), (40, 30))
    assert np.array_equal(found, by_hand)


def test_nothing_beside_the_crop_is_looked_at() -> None:
    image = np.full((900, 700), np.nan, dtype=np.float32)
    image[101:702, 53:404] = textured(601, 351)
    found = resample(Picture(image), slice(101, 702), slice(53, 404), (48, 28))
    assert np.array_equal(found, resample(Picture(textured(601, 351)), slice(0, 601), slice(0, 351), (48, 28)))


def test_the_size_of_the_blocks_does_not_change_a_pixel(monkeypatch) -> None:
    image = textured(1003, 410)
    usual = resample(Picture(image), *whole(image), (60, 44))
    for pixels in (1, 5_000, 10**9):
        monkeypatch.setattr(module, "_BLOCK_PIXELS", pixels)
        assert np.array_equal(resample(Picture(image), *whole(image), (60, 44)), usual)


@given(rows=st.integers(2, 3000), columns=st.integers(2, 300), longest=st.integers(10, 500))
@settings(max_examples=60)
def test_a_small_copy_covers_the_image_with_square_cells(rows, columns, longest) -> None:
    image = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None], (rows, columns))
    small, factor = sampled(Picture(image), longest)
    assert small.shape == (-(-rows // factor), -(-columns // factor))
    assert max(small.shape) <= longest
    # The value of a cell is the row of its middle, to within half a cell.
    middles = np.minimum(np.arange(small.shape[0]) * factor + (factor - 1) / 2, rows - 1)
    assert np.abs(small[:, 0] - middles).max() <= factor / 2
