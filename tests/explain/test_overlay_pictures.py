"""What a reader may rely on in a picture: colours mean heat, places mean places, words fit."""

import csv
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densityclip.explain import drawing
from densityclip.explain.drawing import Original, draw_sheet, overlay_pngs
from densityclip.explain.overlay import Panel, contact_sheet, draw_overlay
from densityclip.explain.paint import (
    OUTLINE,
    blend,
    cut_middle,
    draw_outline,
    font,
    heat_colours,
    heat_opacity,
    shared_scale,
    shrink,
    wrap,
)
from densityclip.explain.stored import StoredMap, exams_apart
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.recipe import Slab

KEY = ("gradcam", "density-score")

PICTURE = (slice(60, 740), slice(20, 590))  # where an overlay with one title line shows its image


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def colourful(rgb: np.ndarray) -> np.ndarray:
    """How far each pixel is from grey."""
    return rgb.max(axis=-1) - rgb.min(axis=-1)


def test_without_heat_the_grey_image_is_unchanged():
    grey = np.linspace(0, 1, 256).reshape(16, 16)
    for heat in (np.zeros((16, 16)), np.full((16, 16), -3.0)):
        plain = blend(grey, heat, 1.0)
        np.testing.assert_array_equal(plain, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


def test_equal_heat_has_equal_colour_whatever_else_the_map_holds():
    grey = np.full((4, 4), 0.5)
    weak, strong = np.full((4, 4), 0.2), np.full((4, 4), 0.2)
    strong[0, 0] = 50.0
    np.testing.assert_array_equal(blend(grey, weak, 1.0)[1:], blend(grey, strong, 1.0)[1:])


def test_heat_beyond_the_scale_looks_like_its_top():
    grey = np.full((2, 2), 0.3)
    np.testing.assert_array_equal(blend(grey, np.full((2, 2), 9.0), 1.0), blend(grey, np.full((2, 2), 1.0), 1.0))


@given(st.floats(0, 1), st.floats(0, 1))
def test_opacity_grows_with_heat_from_nothing_and_never_hides_the_tissue(one, other):
    low, high = heat_opacity(np.sort(np.array([one, other])))
    assert 0 <= low <= high < 0.8
    assert heat_opacity(np.array([0.0])).tolist() == [0.0]


def test_heat_colours_brighten_steadily():
    # Luminance by ITU-R BT.709 on linear light, the axis on which a perceptually uniform map rises without a turn.
    linear = (heat_colours() / 255) ** 2.2
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722]) > 0).all()


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("shape", [(425, 266), (200, 500), (40, 30)])
def test_heat_is_drawn_where_it_lies_on_the_image(corner, shape):
    rows, columns = shape
    heat = np.zeros(shape)
    half = (
        [slice(0, rows // 2), slice(rows // 2, rows)][corner[0]],
        [slice(0, columns // 2), slice(columns // 2, None)][corner[1]],
    )
    heat[half] = 1.0
    rgb = pixels(draw_overlay(np.full(shape, 0.5), heat, 1.0, title=["spot"]))[PICTURE]
    found = np.argwhere(colourful(rgb) > 60)
    shown = np.argwhere((rgb > 90).any(axis=-1))
    centre = (found.mean(axis=0) - shown.min(axis=0)) / np.ptp(shown, axis=0)
    np.testing.assert_allclose(centre, [0.25 + 0.5 * corner[0], 0.25 + 0.5 * corner[1]], atol=0.02)


@pytest.mark.parametrize("shape", [(266, 425), (425, 266), (7, 900), (900, 7), (1200, 1000)])
def test_every_image_gives_a_picture_of_the_same_size(shape):
    image = np.random.default_rng(0).random(shape)
    png = draw_overlay(
        image, image, 1.0, title=["a", "b", "c"], label="R MLO s2D", outline=image > 0.5,
        probabilities=[0.1, 0.2, 0.3, 0.4], token_px=(60, 60),
    )  # fmt: skip
    assert Image.open(io.BytesIO(png)).size == (880, 760)


def test_the_same_input_gives_the_same_bytes():
    image = np.random.default_rng(1).random((90, 70))
    make = [draw_overlay(image, image, 0.5, title=["x"], probabilities=[1, 0, 0, 0]) for _ in range(2)]
    assert make[0] == make[1]


def test_probability_bars_are_as_long_as_the_probabilities():
    image = np.zeros((50, 50))
    rgb = pixels(draw_overlay(image, image, 1.0, probabilities=[0.5, 0.0, 0.25, 0.25]))[:, 630:]
    filled = (np.abs(rgb - np.array([236, 238, 241])).max(-1) < 4) | (
        np.abs(rgb - np.array([116, 124, 136])).max(-1) < 4
    )
    longest = filled[:, 10:170].sum(axis=1)
    solid = sorted(int(n) for n in np.unique(longest) if (longest == n).sum() >= 13 and n > 20)
    assert solid[-1] / solid[-2] == pytest.approx(2.0, rel=0.05)


def test_outline_runs_along_the_mask_and_not_along_the_picture_edge():
    mask = np.zeros((100, 80), dtype=bool)
    mask[20:70, :40] = True
    picture = Image.new("RGB", (80, 100))
    draw_outline(picture, mask)
    drawn = (np.asarray(picture) == OUTLINE).all(axis=-1)
    expected = np.zeros_like(mask)
    expected[20, :40] = expected[69, :40] = expected[20:70, 39] = True
    np.testing.assert_array_equal(drawn, expected)


def test_shrinking_keeps_the_mean_and_ignores_what_is_not_finite():
    image = np.random.default_rng(2).random((800, 600))
    assert shrink(image, (75, 100)).mean() == pytest.approx(image.mean(), abs=2e-3)
    image[3, 3] = np.nan
    image[9, 9] = np.inf
    assert np.isfinite(shrink(image, (600, 800))).all()


def test_shrinking_by_a_whole_factor_is_close_to_block_means():
    smooth = np.add.outer(np.sin(np.linspace(0, 3, 800)), np.cos(np.linspace(0, 2, 600))).astype(np.float32)
    np.testing.assert_allclose(shrink(smooth, (60, 80)), smooth.reshape(80, 10, 60, 10).mean((1, 3)), atol=0.02)


def test_shared_scale_is_the_percentile_of_all_positive_values_and_never_zero():
    maps = [np.array([[1.0, -2.0]]), np.array([[0.0, 3.0]]), np.array([[np.nan, 5.0]])]
    assert shared_scale(maps, percentile=50) == pytest.approx(3.0)
    assert shared_scale([np.zeros((2, 2))]) == 1.0
    assert shared_scale([]) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abc WMi.", max_size=80), st.integers(60, 200), st.integers(1, 4))
def test_wrapped_text_never_leaves_its_width_or_its_lines(text, width, lines):
    made = wrap(text, font(16), width, lines)
    assert len(made) <= lines
    assert all(font(16).getlength(line) <= width for line in made)
    if not any("…" in line for line in made):
        assert " ".join(made).split() == text.split()


@pytest.mark.parametrize(
    "change",
    [
        {"heat": np.zeros((5, 6))},
        {"outline": np.zeros((5, 6), dtype=bool)},
        {"scale_max": 0.0},
        {"scale_max": float("nan")},
        {"probabilities": [0.5, 0.5, 0.5, 0.5]},
        {"probabilities": [0.5, 0.5]},
        {"probabilities": [float("nan"), 0, 0, 1]},
    ],
)
def test_what_cannot_be_drawn_truly_is_refused(change):
    good = {"image": np.zeros((5, 5)), "heat": np.zeros((5, 5)), "scale_max": 1.0}
    with pytest.raises(ValueError):
        draw_overlay(**(good | change))


def panel(category: str | None, modality: str, heat: float, **more: object) -> Panel:
    return Panel(
        image=np.full((90, 60), 0.5), heat=np.full((90, 60), heat), category=category, modality=modality, **more
    )


def test_a_sheet_puts_each_panel_into_the_row_of_its_category_and_the_column_of_its_modality():
    columns = ["DM", "s2D", "DBT"]
    for row, category in enumerate("ABCD"):
        for column, modality in enumerate(columns):
            png = contact_sheet([panel(category, modality, 1.0)], columns=columns, title="one", scale_max=1.0)
            rgb = pixels(png)
            hot = np.argwhere(colourful(rgb[:, : rgb.shape[1] - 190]) > 60).mean(axis=0)
            width = (rgb.shape[1] - 190 - 176) / 3
            assert int((hot[0] - 100) // ((rgb.shape[0] - 100) / 4)) == row
            assert int((hot[1] - 176) // width) == column


def test_a_sheet_shows_each_image_plain_beside_its_overlay():
    rgb = pixels(contact_sheet([panel("A", "DM", 1.0)], columns=["DM"], title="t", scale_max=1.0))
    region = rgb[102:318, 176 : 176 + 346]
    heated = colourful(region) > 60
    plain = (np.abs(region - 128).max(axis=-1) < 3) & ~heated
    assert heated.sum() == pytest.approx(plain.sum(), rel=0.03)
    assert np.argwhere(plain)[:, 1].max() < np.argwhere(heated)[:, 1].min()


def test_panels_without_a_label_get_a_row_of_their_own():
    labelled = contact_sheet([panel("A", "DM", 0.0)], columns=["DM"], title="t", scale_max=1.0)
    with_unknown = contact_sheet(
        [panel("A", "DM", 0.0), panel(None, "DM", 0.0)], columns=["DM"], title="t", scale_max=1.0
    )
    assert pixels(with_unknown).shape[0] > pixels(labelled).shape[0]


def test_a_panel_without_a_column_is_refused_rather_than_left_out():
    with pytest.raises(ValueError, match="DBT"):
        contact_sheet([panel("A", "DBT", 0.0)], columns=["DM"], title="t", scale_max=1.0)


def original(path: str = "a.png", **row: str | None) -> Original:
    """An image of 1000 x 700 with a map of its own shape, seen whole by the model on a canvas of 100 x 70."""
    rows, columns = np.mgrid[:1000, :700]
    image = (0.5 + 0.4 * np.sin(rows / 90) * np.cos(columns / 60)).astype(np.float32)
    outline = (rows - 500) ** 2 / 400**2 + columns**2 / 500**2 < 1
    place = Geometry(
        rows=1000, columns=700, flipped=False, crop_top=0, crop_left=0, crop_rows=1000, crop_columns=700,
        canvas_rows=100, canvas_columns=70, top=0, left=0, scaled_rows=100, scaled_columns=70,
    )  # fmt: skip
    facts = {"image_id": "a", "path": path, "modality": "DM", "density": "B", "exam_id": "e", **row}
    maps = StoredMap(
        row=facts,
        geometry=place,
        slab=Slab(range(1)),
        mask=outline[::10, ::10],
        tokens={KEY: image[50::100, 50::100]},
        probabilities=np.array([0.1, 0.6, 0.2, 0.1]),
    )
    return Original(maps, image, outline)


def test_a_shrunk_original_draws_the_same_sheet_but_for_resampling():
    full = original()
    small = full.shrunk(500)
    assert max(small.image.shape) == 500
    assert small.token_px(KEY) == pytest.approx((50, 50))
    assert full.token_px(KEY) == pytest.approx((100, 100))
    sheets = [pixels(draw_sheet([one], KEY, 1.0, "t")) for one in (full, small)]
    assert np.abs(sheets[0] - sheets[1]).mean() < 1.0


def test_what_a_picture_says_of_itself_is_whole_to_its_last_word():
    for note in (
        "The map is empty: nothing raised the score. Research use only. This model was trained on generated exams",
        "The map is empty: nothing raised the score. Research use only. Of 1,234,567 images that this model learned "
        "from, 1,234,567 were",
    ):
        image = np.zeros((50, 50))
        one, other = (draw_overlay(image, image, 1.0, title=["a", "b"], note=f"{note} {end}.") for end in ("x", "o"))
        assert one != other
        ends = [f"{note} {end}." for end in ("generated", "otherwise")]
        assert draw_sheet([original()], KEY, 1.0, "t", note=ends[0]) != draw_sheet(
            [original()], KEY, 1.0, "t", note=ends[1]
        )


def test_ids_that_differ_anywhere_near_their_ends_are_drawn_apart():
    image = np.zeros((50, 50))
    ids = [f"2.25.{start}735270742893239741037759458588763796375634899952094622{end}" for start in "12" for end in "12"]
    assert len({draw_overlay(image, image, 1.0, title=[name]) for name in ids}) == 4


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abc WMi.", max_size=80), st.integers(30, 200))
def test_a_text_without_its_middle_keeps_both_ends_and_its_width(text, width):
    made = cut_middle(text, font(16), width)
    assert font(16).getlength(made) <= width
    if made != text:
        start, _, end = made.partition("…")
        assert text.startswith(start)
        assert text.endswith(end)
        assert 0 <= len(start) - len(end) <= 1


def test_a_panel_without_a_stated_view_has_the_name_of_its_file(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(drawing, "contact_sheet", lambda panels, **_: seen.extend(panels) or b"")
    draw_sheet([original("c/one.png"), original("two.dcm", laterality="L", view="CC")], KEY, 1.0, "t")
    assert [panel.caption[0] for panel in seen] == ["one.png", "L CC"]


def test_where_there_is_no_answer_none_is_drawn(monkeypatch: pytest.MonkeyPatch):
    one = original()
    plain, held = (next(overlay_pngs(one, [(KEY, 1.0)], withheld=held)) for held in (False, True))
    differs = (pixels(plain) != pixels(held)).any(axis=-1)
    assert differs.any()
    # The reason is whole: another end would be another picture.
    monkeypatch.setattr(drawing, "_DISAGREE", f"{drawing._DISAGREE[:-1]}x")
    assert next(overlay_pngs(one, [(KEY, 1.0)], withheld=True)) != held
    # Only in the words beside the picture: the heat and the probabilities stay.
    assert np.argwhere(differs)[:, 1].min() >= 880 - 250 - 18


def test_exams_are_apart_whose_breasts_images_are_more_than_two_categories_apart():
    sure = {name: np.eye(4)[k] for k, name in enumerate("ABCD")}
    exams = {"far": ("L", "A", "L", "D"), "near": ("L", "A", "L", "C"), "sides": ("L", "A", "R", "D")}
    maps = [
        replace(original(exam_id=exam, laterality=side).maps, probabilities=sure[says])
        for exam, four in exams.items()
        for side, says in (four[:2], four[2:])
    ]
    assert exams_apart(maps) == {"far"}
    assert exams_apart([]) == set()


def test_cropping_keeps_image_heat_and_outline_together():
    outline = np.zeros((100, 80), dtype=bool)
    outline[30:60, 10:40] = True
    cut = Panel(image=outline * 1.0, heat=outline * 2.0, category="A", modality="DM", outline=outline).cropped()
    assert cut.outline is not None
    assert cut.image.shape == (34, 34)  # two pixels of air on each side
    np.testing.assert_array_equal(cut.heat, 2 * cut.image)
    np.testing.assert_array_equal(cut.image > 0, cut.outline)


@pytest.mark.skipif(not os.environ.get("DENSITYCLIP_REAL_IMAGES"), reason="DENSITYCLIP_REAL_IMAGES is not set")
def test_real_images_keep_their_tissue_beside_a_spot_of_heat():
    root = Path(os.environ["DENSITYCLIP_REAL_IMAGES"]) / "density_samples"
    with (root / "labels.csv").open() as handle:
        files = [row["file"] for row in csv.DictReader(handle)]
    for name in files[::5]:
        image = np.asarray(Image.open(root / name).convert("L"), dtype=np.float32) / 255
        heat = np.zeros_like(image)
        heat[: image.shape[0] // 4] = 1.0
        rgb = pixels(draw_overlay(image, heat, 1.0, title=[name]))[PICTURE]
        assert (colourful(rgb[:140]) > 40).mean() > 0.4
        assert (colourful(rgb[220:]) < 8).all()
