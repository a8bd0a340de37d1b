"""The prepared grid and the original: the way there and the way back belong together."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densityclip.imaging.geometry import Geometry
from densityclip.imaging.prepare import prepare_pixels
from densityclip.imaging.recipe import Recipe


@st.composite
def geometries(draw) -> Geometry:
    rows, columns = draw(st.integers(60, 200)), draw(st.integers(60, 200))
    crop_rows, crop_columns = draw(st.integers(40, rows)), draw(st.integers(40, columns))
    scaled_rows, scaled_columns = draw(st.integers(20, 96)), draw(st.integers(20, 80))
    return Geometry(
        rows=rows,
        columns=columns,
        flipped=draw(st.booleans()),
        crop_top=draw(st.integers(0, rows - crop_rows)),
        crop_left=draw(st.integers(0, columns - crop_columns)),
        crop_rows=crop_rows,
        crop_columns=crop_columns,
        canvas_rows=96,
        canvas_columns=80,
        top=draw(st.integers(0, 96 - scaled_rows)),
        left=draw(st.integers(0, 80 - scaled_columns)),
        scaled_rows=scaled_rows,
        scaled_columns=scaled_columns,
    )


def inside(g: Geometry) -> tuple[slice, slice]:
    """What the crop covers on the original, away from its edge.

    The filter is as wide as the reduction and is cut off at the edge of the crop, which biases the outermost prepared
    pixel; on the way back that reaches one and a half prepared pixels inwards.
    """
    left = g.columns - g.crop_left - g.crop_columns if g.flipped else g.crop_left
    away = [
        max(2, math.ceil(1.5 * g.crop_rows / g.scaled_rows)),
        max(2, math.ceil(1.5 * g.crop_columns / g.scaled_columns)),
    ]
    return (
        slice(g.crop_top + away[0], g.crop_top + g.crop_rows - away[0]),
        slice(left + away[1], left + g.crop_columns - away[1]),
    )


@settings(max_examples=100, deadline=None)
@given(geometries(), st.floats(-1, 1), st.floats(-1, 1))
def test_to_the_canvas_and_back_leaves_a_slope_as_it_was(g, down, across):
    rows, columns = np.mgrid[: g.rows, : g.columns]
    slope = (down * rows + across * columns).astype(np.float32)
    back = g.to_original(g.to_canvas(slope))
    # Half a prepared pixel of the original at most, and nothing where the scale is one.
    np.testing.assert_allclose(back[inside(g)], slope[inside(g)], atol=1e-2 + 0.2 * (abs(down) + abs(across)))


@settings(max_examples=100, deadline=None)
@given(geometries(), st.randoms(use_true_random=False))
def test_at_scale_one_the_canvas_is_the_mirrored_crop_and_comes_back_exactly(g, random):
    size = (min(g.crop_rows, g.canvas_rows - g.top), min(g.crop_columns, g.canvas_columns - g.left))
    g = replace(g, crop_rows=size[0], crop_columns=size[1], scaled_rows=size[0], scaled_columns=size[1])
    image = np.random.default_rng(random.randrange(2**32)).random((g.rows, g.columns), dtype=np.float32)
    canvas = g.to_canvas(image, fill=-1)
    mirrored = np.fliplr(image) if g.flipped else image
    for row, column in ((0, 0), (size[0] - 1, 0), (size[0] // 2, size[1] - 1)):
        assert canvas[g.top + row, g.left + column] == mirrored[g.crop_top + row, g.crop_left + column]
    assert (canvas == -1).sum() == canvas.size - size[0] * size[1]
    np.testing.assert_array_equal(g.to_canvas(g.to_original(canvas)), np.where(canvas == -1, 0, canvas))


@pytest.mark.parametrize("right", [False, True])
def test_the_original_lands_where_preparing_puts_it(right):
    rows, columns = np.mgrid[:400, :300]
    breast = (columns / 150) ** 2 + ((rows - 200) / 150) ** 2 < 1
    image = np.where(breast, 0.4 + 0.3 * np.sin(rows / 25) * np.cos(columns / 20), 0.0).astype(np.float32)
    image = image[:, ::-1].copy() if right else image
    prepared = prepare_pixels(image, Recipe(height=160, width=160, intensity="window"))
    canvas = prepared.geometry.to_canvas(image)
    assert prepared.geometry.flipped == right
    np.testing.assert_allclose(canvas[prepared.mask], prepared.pixels[prepared.mask] / 255, atol=0.01)


def test_an_image_of_another_size_is_refused():
    g = Geometry(
        rows=100, columns=90, flipped=False, crop_top=0, crop_left=0, crop_rows=100, crop_columns=90,
        canvas_rows=50, canvas_columns=50, top=0, left=0, scaled_rows=50, scaled_columns=45,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the original is"):
        g.to_canvas(np.zeros((90, 100)))
