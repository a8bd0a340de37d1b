"""The pectoral muscle: planted triangles, what is no muscle, and generated exams whose muscle is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densityclip.explain.pectoral import find_pectoral
from densityclip.imaging.prepare import prepare_pixels
from densityclip.imaging.recipe import Recipe
from densityclip.phantom.exam import exam_images
from densityclip.phantom.grid import make_grid
from densityclip.phantom.population import draw_woman
from densityclip.phantom.sites import SITES

SIDE = 224
ROWS, COLUMNS = np.indices((SIDE, SIDE))
BREAST = (COLUMNS / 120) ** 2 + ((ROWS - 90) / 130) ** 4 < 1
TEXTURE = np.random.default_rng(3).normal(scale=9, size=(SIDE, SIDE))


def planted(top, foot, brighter=70):
    """Fat with grain and gland low in the middle, a bright triangle in the corner; the image and the triangle."""
    muscle = BREAST & (top * (1 - ROWS / foot) > COLUMNS)
    gland = 60 * np.exp(-((COLUMNS - 70) ** 2 + (ROWS - 150) ** 2) / 600)
    grey = np.where(BREAST, 70 + gland + TEXTURE + brighter * muscle, 0)
    return np.clip(grey, 0, 255).astype(np.uint8), muscle


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(35, 70), st.integers(90, 190))
def test_a_planted_triangle_is_found(top, foot):
    pixels, muscle = planted(top, foot)
    found = find_pectoral(pixels, BREAST)
    assert found is not None
    assert dice(found.region, muscle) > 0.87
    assert found.degrees == pytest.approx(np.degrees(np.arctan2(top, foot)), abs=3)
    assert found.support > 0.9
    assert found.step > 0.3
    assert not (found.region & ~BREAST).any()


@settings(max_examples=10, deadline=None)
@given(st.floats(0.2, 2.0), st.integers(0, 20))
def test_only_contrast_within_the_breast_counts_not_its_grey_scale(gain, offset):
    pixels, _ = planted(50, 150)
    found = find_pectoral(pixels, BREAST)
    other = find_pectoral(np.where(BREAST, gain * pixels.astype(float) + offset, 0), BREAST)
    np.testing.assert_array_equal(found.region, other.region)


def test_a_larger_canvas_gives_the_same_triangle():
    pixels, _ = planted(50, 150)
    found = find_pectoral(pixels, BREAST)
    large = find_pectoral(np.kron(pixels, np.ones((2, 2))), np.kron(BREAST, np.ones((2, 2), dtype=bool)))
    assert dice(np.kron(found.region, np.ones((2, 2), dtype=bool)), large.region) > 0.95


@pytest.mark.parametrize("case", ["no muscle", "dark triangle", "muscle below", "one grey", "no breast"])
def test_what_is_no_muscle_is_not_called_one(case):
    pixels, mask = planted(50, 150)[0], BREAST
    if case == "no muscle":
        pixels = planted(50, 150, brighter=0)[0]
    elif case == "dark triangle":
        pixels = planted(50, 150, brighter=-45)[0]
    elif case == "muscle below":
        pixels, mask = pixels[::-1], BREAST[::-1]
    elif case == "one grey":
        pixels = np.where(BREAST, 90, 0)
    else:
        mask = np.zeros_like(BREAST)
    assert find_pectoral(pixels, mask) is None


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="mask is"):
        find_pectoral(np.zeros((4, 5)), np.zeros((5, 4), dtype=bool))


@pytest.fixture(scope="module")
def generated():
    """View, found muscle and true muscle on the canvas, of 16 generated women at a site of digital images alone."""
    seen = []
    for number in range(16):
        woman = draw_woman("rsna-like", 31, number)
        if woman.implants:
            continue
        for image in exam_images(woman, SITES["rsna-like"], 31, make_grid(288), sides=("RL"[number % 2],)):
            stored = image.stored
            display = (4095 - stored.pixels if stored.inverted else stored.pixels) / np.float32(4095)
            prepared = prepare_pixels(display, Recipe())
            truth = prepared.geometry.to_canvas(image.pectoral) >= 0.5
            seen.append((image.view, find_pectoral(prepared.pixels, prepared.mask), truth))
    return seen


def test_what_is_accepted_on_generated_mlos_lies_on_the_true_muscle(generated):
    found = [(muscle, truth) for view, muscle, truth in generated if view == "MLO" and muscle is not None]
    assert len(found) >= 4
    agreement = [dice(muscle.region, truth) for muscle, truth in found]
    assert np.median(agreement) > 0.85
    assert min(agreement) > 0.4


def test_a_generated_cc_has_no_muscle_in_its_corner(generated):
    views = [(view, muscle) for view, muscle, _ in generated if view == "CC"]
    assert len(views) >= 12
    assert not [muscle for _, muscle in views if muscle is not None]
