"""Where heat lies: labels and muscle planted at known places, and shares summed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densityclip.explain.regions import energy_shares, regions_of
from densityclip.imaging.prepare import prepare_pixels
from densityclip.imaging.recipe import Recipe
from densityclip.phantom.exam import exam_images
from densityclip.phantom.grid import make_grid
from densityclip.phantom.population import draw_woman
from densityclip.phantom.presentation import marker
from densityclip.phantom.sites import SITES

ROWS, COLUMNS = np.mgrid[:448, :360]
BREAST = (COLUMNS / 220) ** 2 + ((ROWS - 180) / 215) ** 4 < 1
MUSCLE = BREAST & (100 * (1 - ROWS / 300) > COLUMNS)
LETTERS = marker("LMLO", 24)
PARTITION = ("breast", "markers", "border", "air")


def film(*, label=True, fold=False, right=False):
    """An MLO with a bright muscle; a label in the crop's upper right corner; tissue below the breast."""
    grain = np.random.default_rng(1).normal(scale=0.03, size=BREAST.shape)
    image = np.where(BREAST, 0.4 + 0.3 * MUSCLE + grain, 0.02)
    if label:
        image[20 : 20 + LETTERS.shape[0], 140 : 140 + LETTERS.shape[1]][LETTERS] = 0.98
    if fold:
        image[(ROWS > 425) & (COLUMNS < 20)] = 0.8
    image = np.clip(image, 0, 1).astype(np.float32)
    return image[:, ::-1].copy() if right else image


# The label lies beside the breast, in what the crop shows; cut off the corner of the breast there.
BREAST &= ~((ROWS < 60) & (COLUMNS > 125))


def cut(image, view="MLO", recipe=Recipe(height=224, width=224, margin=0.05), **options):  # noqa: B008
    prepared = prepare_pixels(image, recipe)
    regions = regions_of(image, prepared.geometry, prepared.mask, view, prepared.pixels, **options)
    return prepared, regions


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("view", ["MLO", "CC", None])
def test_breast_markers_border_and_air_share_out_the_canvas(view, right):
    prepared, regions = cut(film(right=right, fold=True), view)
    counted = sum(regions[name].astype(int) for name in PARTITION)
    np.testing.assert_array_equal(counted, 1)
    np.testing.assert_array_equal(regions["breast"], prepared.mask)


@pytest.mark.parametrize("right", [False, True])
def test_a_label_is_found_where_it_was_burned_in(right):
    image = film(right=right)
    prepared, regions = cut(image)
    letters = np.zeros(image.shape)
    letters[20 : 20 + LETTERS.shape[0], 140 : 140 + LETTERS.shape[1]] = 1
    box = prepared.geometry.to_canvas(letters[:, ::-1] if right else letters) >= 0.5
    assert box.sum() > 200
    found = regions["markers"]
    assert (found & box).sum() / (found | box).sum() > 0.8


def test_without_a_label_there_are_no_markers():
    _, regions = cut(film(label=False))
    assert not regions["markers"].any()


def test_tissue_below_the_breast_is_no_marker():
    prepared, regions = cut(film(label=False, fold=True), recipe=Recipe(margin=0.15))
    below = prepared.geometry.to_canvas(((ROWS > 430) & (COLUMNS < 15)).astype(float)) > 0.9
    assert below.any()
    assert not prepared.mask[below].any()
    assert not regions["markers"].any()


def test_the_border_is_one_token_wide_and_no_breast():
    prepared, regions = cut(film(label=False), token_px=(28, 32))
    ring = np.ones((224, 224), dtype=bool)
    ring[28:196, 32:192] = False
    np.testing.assert_array_equal(regions["border"], ring & ~prepared.mask)


def test_the_muscle_is_a_part_of_the_breast_and_only_looked_for_in_an_mlo():
    prepared, regions = cut(film())
    muscle = prepared.geometry.to_canvas(MUSCLE.astype(float)) >= 0.5
    assert 2 * (regions["pectoral"] & muscle).sum() / (regions["pectoral"].sum() + muscle.sum()) > 0.9
    assert not (regions["pectoral"] & ~regions["breast"]).any()
    assert "pectoral" not in cut(film(), "CC")[1]
    assert "pectoral" not in cut(film(), None)[1]


def test_every_generated_label_in_the_crop_is_found_and_nothing_else():
    found = 0
    for number in range(8):
        woman = draw_woman("rsna-like", 31, number)
        for image in exam_images(woman, SITES["rsna-like"], 31, make_grid(288), sides=("RL"[number % 2],)):
            stored = image.stored
            display = (4095 - stored.pixels if stored.inverted else stored.pixels) / np.float32(4095)
            prepared, regions = cut(display.astype(np.float32), image.view, recipe=Recipe(margin=0.1))
            lit = prepared.geometry.to_canvas((display > 0.97) & ~image.breast) > 0.5
            lit &= ~prepared.mask
            assert (regions["markers"] & lit).sum() >= 0.9 * lit.sum()
            # No further than the letters and the gaps between them.
            rows, columns = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
            if len(rows):
                beyond = regions["markers"].copy()
                beyond[max(rows[0] - 2, 0) : rows[-1] + 3, max(columns[0] - 2, 0) : columns[-1] + 3] = False
                assert not beyond.any()
                found += lit.sum() > 20
            else:
                assert not regions["markers"].any()
    assert found >= 4


def test_shares_of_heat_are_the_hand_computed_ones():
    regions = {
        "breast": np.array([[True, True, False], [False, False, False]]),
        "pectoral": np.array([[True, False, False], [False, False, False]]),
        "air": np.array([[False, False, True], [True, True, True]]),
    }
    heat = np.array([[1.0, 2.0, 5.0], [-3.0, 0.0, 2.0]])
    shares = energy_shares(heat, regions)
    assert shares == pytest.approx(
        {
            "energy_breast": 0.3, "area_breast": 2 / 6,
            "energy_pectoral": 0.1, "area_pectoral": 1 / 6,
            "energy_air": 0.7, "area_air": 4 / 6,
        }
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shares_of_breast_markers_border_and_air_add_up_to_one(seed):
    _, regions = cut(film())
    shares = energy_shares(np.random.default_rng(seed).normal(size=(224, 224)), regions)
    assert sum(shares[f"energy_{name}"] for name in PARTITION) == pytest.approx(1)
    assert sum(shares[f"area_{name}"] for name in PARTITION) == pytest.approx(1)


def test_a_flat_map_has_the_areas_share_everywhere_and_an_empty_one_none():
    _, regions = cut(film())
    flat = energy_shares(np.full((224, 224), 0.7), regions)
    empty = energy_shares(np.zeros((224, 224)), regions)
    for name in regions:
        assert flat[f"energy_{name}"] == pytest.approx(flat[f"area_{name}"])
        assert math.isnan(empty[f"energy_{name}"])
        assert empty[f"area_{name}"] == flat[f"area_{name}"]


def test_another_canvas_than_the_geometrys_is_refused():
    image = film()
    prepared = prepare_pixels(image, Recipe())
    with pytest.raises(ValueError, match="canvas"):
        regions_of(image, replace(prepared.geometry, canvas_rows=300), prepared.mask, "MLO", prepared.pixels)
