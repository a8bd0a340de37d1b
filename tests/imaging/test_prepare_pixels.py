"""Prepared images against the drawing they come from, and Pillow's own resize."""

import json

import numpy as np
import pytest
from breast_samples import drawn, write_dicom, write_png
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from densityclip.errors import UserError
from densityclip.imaging.prepare import prepare_file, prepare_pixels
from densityclip.imaging.recipe import INTENSITIES, Recipe, prepared_count, slabs
from densityclip.reasons import Reason, Refused

SMALL = Recipe(height=96, width=80)


def test_outside_the_breast_is_black_and_inside_spans_the_grey_scale() -> None:
    image, _ = drawn(air=0.08, noise=0.01)
    prepared = prepare_pixels(image, SMALL)
    assert prepared.pixels.dtype == np.uint8
    assert not prepared.pixels[~prepared.mask].any()
    assert (prepared.pixels[prepared.mask].min(), prepared.pixels[prepared.mask].max()) == (0, 255)


def test_the_pixels_are_pillows_resize_of_the_crop_between_the_percentiles() -> None:
    image, _ = drawn()
    prepared = prepare_pixels(image, SMALL)
    g = prepared.geometry
    crop = image[g.crop_top : g.crop_top + g.crop_rows, g.crop_left : g.crop_left + g.crop_columns]
    size = (g.scaled_columns, g.scaled_rows)
    values = np.asarray(Image.fromarray(crop.copy()).resize(size, Image.Resampling.BILINEAR), dtype=float)
    placed = np.zeros((96, 80))
    placed[g.top : g.top + g.scaled_rows, g.left : g.left + g.scaled_columns] = values
    inside = placed[prepared.mask]
    # Grey levels are taken one pixel away from the outline (not from the canvas's or the crop's edge).
    mask = prepared.mask[g.top : g.top + g.scaled_rows, g.left : g.left + g.scaled_columns]
    core = values[ndimage.binary_erosion(mask, border_value=1)]
    low, high = np.percentile(core, [2.0, 99.5])
    expected = np.clip((inside - low) / (high - low), 0, 1) * 255
    assert np.abs(prepared.pixels[prepared.mask] - expected).max() <= 0.51


def test_the_mask_carried_back_is_the_drawn_breast() -> None:
    image, truth = drawn(600, 420)
    image, truth = np.ascontiguousarray(image[:, ::-1]), truth[:, ::-1]
    prepared = prepare_pixels(image, Recipe(height=160, width=160))
    back = prepared.geometry.to_original(prepared.mask.astype(np.float32)) > 0.5
    assert prepared.geometry.flipped
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.97


def test_a_mirrored_image_is_prepared_alike() -> None:
    image, _ = drawn()
    one, other = prepare_pixels(image, SMALL), prepare_pixels(np.ascontiguousarray(image[:, ::-1]), SMALL)
    assert (one.geometry.flipped, other.geometry.flipped) == (False, True)
    assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(80, 400), columns=st.integers(80, 400), height=st.integers(32, 300), width=st.integers(32, 300))
def test_the_aspect_is_kept_and_the_breast_lies_left_and_centred(rows, columns, height, width) -> None:
    image, _ = drawn(rows, columns)
    g = prepare_pixels(image, Recipe(height=height, width=width)).geometry
    scale = min(height / g.crop_rows, width / g.crop_columns)
    assert abs(g.scaled_rows - scale * g.crop_rows) <= 0.5 + 1e-9
    assert abs(g.scaled_columns - scale * g.crop_columns) <= 0.5 + 1e-9
    assert (g.scaled_rows, g.scaled_columns)[0 if height / g.crop_rows <= width / g.crop_columns else 1] == (
        height if height / g.crop_rows <= width / g.crop_columns else width
    )
    assert g.left == 0
    assert abs(2 * g.top + g.scaled_rows - height) <= 1


def test_brightness_and_contrast_of_a_vendor_leave_the_prepared_image() -> None:
    image, mask = drawn()
    darker = np.where(mask, 0.05 + 0.4 * image, 0).astype(np.float32)
    one, other = prepare_pixels(image, SMALL), prepare_pixels(darker, SMALL)
    # The rim mixes tissue with air and so depends on the look; one pixel further in it does not.
    core = one.mask & other.mask
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        core &= np.roll(one.mask, step, axis)
    assert np.abs(one.pixels.astype(int) - other.pixels)[core].max() <= 8


def test_the_window_intensity_keeps_the_files_own_values() -> None:
    image, mask = drawn()
    image[mask] = 0.5
    image[140:160, 20:60] = 0.75
    prepared = prepare_pixels(image, Recipe(height=96, width=80, intensity="window"))
    assert set(np.unique(prepared.pixels[prepared.mask])) >= {128, 191}


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_sixteen_bits_are_the_same_grey_levels_finer(intensity) -> None:
    image, _ = drawn(noise=0.002)
    fine = prepare_pixels(image, Recipe(height=96, width=80, intensity=intensity, depth="uint16"))
    coarse = prepare_pixels(image, Recipe(height=96, width=80, intensity=intensity))
    assert (fine.pixels.dtype, coarse.pixels.dtype) == (np.uint16, np.uint8)
    assert np.array_equal(fine.mask, coarse.mask)
    assert np.abs(fine.pixels / 65535 - coarse.pixels / 255).max() <= 0.5 / 255 + 1e-4
    assert len(np.unique(fine.pixels)) > 2 * len(np.unique(coarse.pixels))


def window_and(intensity: str, image: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """Display values and prepared levels of the breast's pixels, both in `[0, 1]` in steps of 1/65535."""
    options = {"height": 96, "width": 80, "depth": "uint16"} | options
    shown = prepare_pixels(image, Recipe(intensity="window", **options))
    matched = prepare_pixels(image, Recipe(intensity=intensity, **options))
    return shown.pixels[shown.mask] / 65535, matched.pixels[matched.mask] / 65535


@pytest.mark.parametrize("intensity", INTENSITIES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), gain=st.floats(0.1, 1.0))
def test_what_is_brighter_never_becomes_darker(intensity, seed, gain) -> None:
    image, _ = drawn(seed=seed)
    shown, matched = window_and(intensity, image * np.float32(gain))
    assert (np.diff(matched[np.lexsort((matched, shown))]) >= 0).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_histogram_of_the_breast_becomes_the_reference_whatever_the_look(gamma) -> None:
    image, mask = drawn(fat=0.1)
    look = np.where(mask, 0.1 + 0.8 * image**gamma, 0).astype(np.float32)
    reference = (0.0, 0.1, 0.3, 0.6, 1.0)
    options = {"reference": reference, "low_percentile": 0.0, "high_percentile": 100.0}
    _, matched = window_and("breast-histogram", look, **options)
    # Percentiles are taken one pixel within the outline, so the rim shifts them a little.
    np.testing.assert_allclose(np.percentile(matched, [0, 25, 50, 75, 100]), reference, atol=0.05)


def test_a_histogram_of_two_points_is_the_stretch_between_the_percentiles() -> None:
    image, _ = drawn()
    _, matched = window_and("breast-histogram", image, reference=(0.0, 1.0))
    _, stretched = window_and("breast-percentile", image)
    assert np.array_equal(matched, stretched)


def test_grey_levels_that_many_pixels_share_are_matched_without_a_hole() -> None:
    image, mask = drawn()
    steps = np.where(mask, np.floor(image * 4) / 5 + 0.2, 0).astype(np.float32)
    shown, matched = window_and("breast-histogram", steps)
    assert (np.diff(matched[np.lexsort((matched, shown))]) >= 0).all()
    assert matched.max() > 0.6


def test_dicom_and_image_file_of_the_same_picture_are_prepared_alike(tmp_path) -> None:
    image, _ = drawn()
    image = (np.rint(image * 4095) / 4095).astype(np.float32)
    (from_dicom,) = prepare_file(write_dicom(tmp_path / "a.dcm", image), SMALL)
    (from_png,) = prepare_file(write_png(tmp_path / "a.png", image), SMALL)
    assert np.array_equal(from_dicom.mask, from_png.mask)
    assert np.abs(from_dicom.pixels.astype(int) - from_png.pixels).max() <= 1


def test_all_slices_of_a_volume_lie_on_the_grid_of_the_central_one(tmp_path) -> None:
    image, _ = drawn()
    faint = image.copy()
    faint[:, 60:] = 0
    volume = np.stack([faint, faint, faint, image, faint, faint, faint])
    path = write_dicom(tmp_path / "v.dcm", volume)
    slices = prepare_file(path, SMALL)
    assert [one.slice_index for one in slices] == [1, 3, 5]
    assert {one.geometry for one in slices} == {slices[1].geometry}
    assert all(np.array_equal(one.mask, slices[1].mask) for one in slices)
    (central,) = prepare_file(path, Recipe(height=96, width=80, dbt_slices="central"))
    assert np.array_equal(central.pixels, slices[1].pixels)


@given(frames=st.integers(1, 300), wanted=st.integers(1, 99))
def test_slices_are_spread_evenly_and_never_repeat(frames, wanted) -> None:
    chosen = [slab.middle for slab in slabs(frames, f"spread:{wanted}")]
    assert all(len(slab.frames) == 1 for slab in slabs(frames, f"spread:{wanted}"))
    assert len(set(chosen)) == len(chosen) == min(frames, wanted)
    assert chosen == sorted(chosen)
    assert chosen[0] >= 0
    assert chosen[-1] < frames
    gaps = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    assert [slab.middle for slab in slabs(frames, "central")] == [frames // 2]


@given(frames=st.integers(1, 300), wanted=st.integers(1, 99))
def test_slabs_hold_every_frame_once_and_are_equally_thick(frames, wanted) -> None:
    cut = slabs(frames, f"slab:{wanted}")
    assert [frame for slab in cut for frame in slab.frames] == list(range(frames))
    thickness = [len(slab.frames) for slab in cut]
    assert len(cut) == min(frames, wanted) == prepared_count(frames, Recipe(dbt_slices=f"slab:{wanted}"))
    assert max(thickness) - min(thickness) <= 1
    assert all(slab.middle in slab.frames and slab.projection == "mean" for slab in cut)
    (whole,) = slabs(frames, "max")
    assert (list(whole.frames), whole.projection, whole.middle) == (list(range(frames)), "max", frames // 2)


def test_a_breast_of_one_grey_is_refused() -> None:
    image, mask = drawn()
    image[mask] = 0.5
    image[~mask] = 0
    with pytest.raises(Refused) as refused:
        prepare_pixels(image, SMALL)
    assert refused.value.reason == Reason.CONSTANT


def test_a_recipe_survives_json_and_its_hash_changes_with_every_key() -> None:
    recipe = Recipe()
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    changed = Recipe().with_overrides(
        ["recipe.height=160", "width=128", "dbt_slices=central", "intensity=window", "margin=0.1", "low_percentile=1"]
    )
    assert (changed.height, changed.width, changed.dbt_slices, changed.margin) == (160, 128, "central", 0.1)
    finer = recipe.with_overrides(["depth=uint16"])
    other = recipe.with_overrides(["intensity=breast-histogram", "recipe.reference=0, 0.5, 1"])
    assert (finer.dtype, other.reference) == (np.dtype("uint16"), (0.0, 0.5, 1.0))
    assert Recipe.from_dict(json.loads(json.dumps(other.to_dict()))) == other
    assert json.loads(json.dumps(other.to_dict())) == other.to_dict()
    hashes = {one.recipe_hash for one in (recipe, changed, recipe.sized(160), finer, other)}
    assert len(hashes) == 5
    assert len(recipe.recipe_hash) >= 12
    assert recipe.recipe_hash == Recipe().recipe_hash


@pytest.mark.parametrize(
    "override",
    [
        "recipe.colour=red",
        "height=two",
        "height=8",
        "height=160.5",
        "dbt_slices=all",
        "intensity=best",
        "margin",
        "version=1",
        "reference=0,0.6,0.5,1",
        "reference=0.1,1",
        "reference=0,one",
        "reference=1",
        "depth=float32",
        "dbt_slices=slab:0",
        "dbt_slices=slab",
        "dbt_slices=max:2",
    ],
)
def test_a_wrong_recipe_is_a_mistake_of_the_user_with_a_next_step(override) -> None:
    with pytest.raises(UserError):
        Recipe().with_overrides([override])
