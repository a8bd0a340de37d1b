"""Maps that follow the image alone, and what stands where a patch was taken away."""

import numpy as np
import pytest

from densityclip.explain.followers import as_fat, follower_maps, patch_means


def breast_with_gland() -> tuple[np.ndarray, np.ndarray]:
    """A half disc of fat at 90, a rim at 40, gland at 200 in its upper part, air at 0."""
    rows, columns = np.indices((96, 80))
    distance = np.hypot(rows - 48, columns)
    mask = distance < 44
    pixels = np.where(mask, 90, 0)
    pixels[mask & (distance > 40)] = 40
    pixels[(np.hypot(rows - 35, columns - 15) < 10) & mask] = 200
    return pixels.astype(np.uint8), mask


def test_a_patch_mean_is_the_mean_of_its_pixels_and_the_rest_belongs_to_no_patch():
    values = np.random.default_rng(1).normal(size=(33, 26))
    found = patch_means(values, (4, 3))
    for row in range(4):
        for column in range(3):
            assert found[row, column] == pytest.approx(
                values[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean(), abs=1e-6
            )


def test_brightness_is_hottest_in_the_gland_and_the_centre_in_the_middle():
    pixels, mask = breast_with_gland()
    maps = follower_maps(pixels, mask, (12, 10))
    assert np.unravel_index(maps["brightness"].argmax(), (12, 10)) in {(4, 1), (4, 2), (3, 1), (3, 2)}
    row, column = np.unravel_index(maps["centre"].argmax(), (12, 10))
    inside = np.argwhere(mask).mean(axis=0) / 8 - 0.5
    assert np.abs(np.array([row, column]) - inside).max() <= 1
    assert set(np.unique(maps["breast"])) >= {0.0, 1.0}


def test_what_is_taken_away_becomes_fat_and_neither_air_nor_gland():
    pixels, mask = breast_with_gland()
    fat = as_fat(pixels, mask)
    assert fat.dtype == pixels.dtype
    assert (fat[pixels == 200] == 90).all()
    assert (fat[pixels == 90] == 90).all()
    assert (fat[mask & (pixels == 40)] == 40).all(), "the thin rim must not become brighter"
    assert (fat[~mask] == pixels[~mask]).all()


def test_an_image_without_a_breast_stays_as_it_is():
    pixels = np.full((16, 16), 7, np.uint8)
    assert (as_fat(pixels, np.zeros((16, 16), bool)) == pixels).all()
    assert np.isfinite(follower_maps(pixels, np.zeros((16, 16), bool), (2, 2))["centre"]).all()
