"""A map carried back lies where it belongs on the original, whatever was flipped, cut or scaled."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densityclip.explain.geometry import to_canvas, to_original, token_size_px
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe
from raw_exams import write_screen


@st.composite
def geometries(draw) -> Geometry:
    rows, columns = draw(st.integers(160, 420)), draw(st.integers(120, 400))
    crop_rows, crop_columns = draw(st.integers(100, rows)), draw(st.integers(60, columns))
    canvas = 160
    scale = canvas / max(crop_rows, crop_columns)
    scaled_rows, scaled_columns = max(1, round(crop_rows * scale)), max(1, round(crop_columns * scale))
    return Geometry(
        rows=rows,
        columns=columns,
        flipped=draw(st.booleans()),
        crop_top=draw(st.integers(0, rows - crop_rows)),
        crop_left=draw(st.integers(0, columns - crop_columns)),
        crop_rows=crop_rows,
        crop_columns=crop_columns,
        canvas_rows=canvas,
        canvas_columns=canvas,
        top=(canvas - scaled_rows) // 2,
        left=0,
        scaled_rows=scaled_rows,
        scaled_columns=scaled_columns,
    )


def prepared(original: np.ndarray, g: Geometry) -> np.ndarray:
    """The road to the canvas, written down again: mirror, cut, resize, place."""
    image = original[:, ::-1] if g.flipped else original
    crop = image[g.crop_top :, g.crop_left :][: g.crop_rows, : g.crop_columns]
    small = Image.fromarray(np.ascontiguousarray(crop)).resize((g.scaled_columns, g.scaled_rows), Image.Resampling.BOX)
    canvas = np.zeros((g.canvas_rows, g.canvas_columns), np.float32)
    canvas[g.top : g.top + g.scaled_rows, g.left : g.left + g.scaled_columns] = np.asarray(small)
    return canvas


def centroid(weights: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weights.shape)
    return np.array([(rows * weights).sum(), (columns * weights).sum()]) / weights.sum()


@settings(max_examples=60, deadline=None)
@given(geometries(), st.floats(0.25, 0.75), st.floats(0.25, 0.75))
def test_a_spot_on_the_original_comes_back_to_its_place(g, down, across):
    height, width = token_size_px((10, 10), g)
    row, column = g.crop_top + down * g.crop_rows, g.crop_left + across * g.crop_columns
    column = g.columns - 1 - column if g.flipped else column
    rows, columns = np.mgrid[: g.rows, : g.columns]
    spot = ((np.abs(rows - row) < height / 2) & (np.abs(columns - column) < width / 2)).astype(np.float32)
    tokens = prepared(spot, g).reshape(10, 16, 10, 16).mean(axis=(1, 3))
    back = to_original(tokens, g)
    assert back.shape == (g.rows, g.columns)
    away = np.abs(centroid(back) - centroid(spot))
    assert away[0] < 0.5 * height
    assert away[1] < 0.5 * width


def test_token_value_stands_at_the_hand_computed_centre_of_its_patch():
    g = Geometry(
        rows=400, columns=300, flipped=True, crop_top=40, crop_left=0, crop_rows=320, crop_columns=200,
        canvas_rows=160, canvas_columns=160, top=0, left=0, scaled_rows=160, scaled_columns=100,
    )  # fmt: skip
    tokens = np.zeros((10, 10), np.float32)
    tokens[2, 1] = 5.0
    back = to_original(tokens, g)
    # Token (2, 1) covers canvas rows 32..47, columns 16..31: crop rows 64..95, columns 32..63: mirrored to 236..267.
    assert token_size_px((10, 10), g) == (32.0, 32.0)
    peak = np.argwhere(back > 0.93 * back.max())
    np.testing.assert_allclose(peak.mean(axis=0), [40 + 79.5, 251.5], atol=1.0)
    assert back.max() == pytest.approx(5.0, rel=0.07)
    assert not back[:, :100].any()  # beyond the crop the model saw nothing
    assert not back[:40].any()
    assert not back[360:].any()


@pytest.mark.parametrize("grid, canvas", [((10, 10), (160, 160)), ((18, 11), (288, 176)), ((14, 14), (224, 224))])
def test_spreading_equals_torchs_bilinear_with_pixel_centres(grid, canvas):
    tokens = np.random.default_rng(5).normal(size=grid).astype(np.float32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(tokens)[None, None], size=canvas, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(to_canvas(tokens, *canvas), reference, atol=2e-6)


@given(st.floats(-1e3, 1e3, width=32))
def test_a_flat_map_stays_flat_and_keeps_its_scale(value):
    np.testing.assert_allclose(to_canvas(np.full((3, 5), value), 48, 80), value, rtol=1e-6)


def test_a_map_that_is_no_grid_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        to_canvas(np.zeros((1, 10, 10)), 160, 160)
    with pytest.raises(ValueError, match="does not fit"):
        to_canvas(np.zeros((200, 10)), 160, 160)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_token_map_goes_back_through_the_recipe_of_a_dicom_to_the_mark_that_it_shows(tmp_path, mirrored):
    rows, columns = np.indices((420, 300))
    breast = np.hypot((rows - 230) / 160, columns / 190) < 1
    picture = np.where(breast, 900 + 200 * np.cos(rows / 30) * np.sin(columns / 25), 0)
    mark = (slice(180, 204), slice(90, 114))
    picture[mark] = 3000
    picture = picture[:, ::-1] if mirrored else picture
    path = write_screen(tmp_path / "marked.dcm", np.ascontiguousarray(picture) / 4095)
    (prepared,) = prepare_file(path, Recipe(height=160, width=160))
    assert prepared.geometry.flipped == mirrored
    brightest = prepared.pixels.reshape(10, 16, 10, 16).max(axis=(1, 3)).astype(float)
    tokens = np.where(brightest == brightest.max(), 1.0, 0.0)
    found = centroid(to_original(tokens, prepared.geometry))
    middle = np.array([191.5, 101.5 if not mirrored else 299 - 101.5])
    assert np.abs(found - middle).max() < max(token_size_px((10, 10), prepared.geometry))
