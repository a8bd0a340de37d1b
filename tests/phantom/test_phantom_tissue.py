from dataclasses import replace

import numpy as np
import pytest
from compressed import GRID, breast
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from densityclip.errors import UserError
from densityclip.phantom.anatomy import build_anatomy, draw_traits
from densityclip.phantom.grid import make_grid
from densityclip.phantom.lines import Specks, draw_lines, splat
from densityclip.phantom.parenchyma import _REACH, Field, cut, grow, pressed, sampled, turned
from densityclip.phantom.population import draw_woman
from densityclip.phantom.randomness import keyed
from densityclip.phantom.tissue import fill


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_layers_add_up_to_the_compressed_breast(view):
    woman, anatomy, _, _, tissue = breast(view)
    np.testing.assert_allclose(tissue.outer.sum(axis=0), anatomy.thickness, atol=1e-3)
    np.testing.assert_allclose(tissue.inner.sum(axis=0), anatomy.thickness - anatomy.skin, atol=1e-3)
    assert anatomy.thickness.max() == pytest.approx(woman.thickness_mm + (2.5 if view == "MLO" else -2.5), rel=1e-3)


@pytest.mark.parametrize("fraction", [0.15, 0.25, 0.35, 0.6])
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_gland_and_skin_make_up_the_wanted_fraction_of_the_breast_without_its_muscle(view, fraction):
    _, anatomy, _, _, tissue = breast(view, fraction=fraction)
    whole = anatomy.thickness.sum(dtype=float) - tissue.muscle.sum(dtype=float)
    held = tissue.gland.sum(dtype=float) + anatomy.skin.sum(dtype=float)
    assert held / whole == pytest.approx(fraction, rel=2e-3)


def test_every_voxel_has_room_for_its_gland():
    _, _, _, _, tissue = breast("MLO", fraction=0.6)
    assert tissue.gland.min() >= 0
    assert (tissue.gland <= tissue.inner - tissue.muscle + 1e-4).all()


def test_a_breast_that_skin_alone_fills_keeps_a_trace_of_gland():
    _, anatomy, _, _, tissue = breast(fraction=0.001)
    assert 0 < tissue.gland.sum() < 0.01 * anatomy.thickness.sum()


def test_the_outline_of_a_woman_is_the_same_at_every_size():
    woman = draw_woman("internal", 3, 8)
    traits = draw_traits("internal", 3, woman)
    areas = []
    for size in (160, 320):
        grid = make_grid(size)
        anatomy = build_anatomy("MLO", "L", woman, traits, grid, keyed(3, "view"))
        areas.append(anatomy.breast.sum() * grid.pitch_mm**2)
    assert areas[0] == pytest.approx(areas[1], rel=0.02)


@given(st.floats(-2, 2), st.floats(-2, 2), st.sampled_from(["CC", "MLO"]))
def test_turning_a_view_is_undone_by_pressing_and_keeps_lengths(up, through, view):
    u, v = turned(np.array(up), np.array(through), view)
    back = pressed(u, v, view)
    np.testing.assert_allclose(back, (up, through), atol=1e-6)
    assert np.hypot(u, v) == pytest.approx(np.hypot(up, through), abs=1e-6)


def test_row_0_is_the_outer_side_in_cc_and_the_upper_outer_part_in_mlo():
    one, none = np.array(1.0), np.array(0.0)
    np.testing.assert_allclose(turned(one, none, "CC"), (1, 0), atol=1e-6)
    np.testing.assert_allclose(turned(one, none, "MLO"), (0.5**0.5, 0.5**0.5), atol=1e-6)


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_a_field_is_read_as_scipy_interpolates_it(view):
    _, anatomy, _, _, _ = breast(view)
    place = cut(anatomy, view, GRID)
    values = np.random.default_rng(0).standard_normal((20, 20, 16)).astype(np.float32)
    field = Field(values=values, length_mm=130.0)
    got = sampled(field, place)

    def at(w):
        return (w / _REACH + 1) / 2 * 20 - 0.5

    x = np.clip(place.x_mm / 130.0 * 16 - 0.5, 0, 15)
    shape = (*place.u.shape, len(x))
    points = [np.broadcast_to(w, shape) for w in (at(place.v)[..., None], at(place.u)[..., None], x)]
    tiled = np.tile(values, (7, 7, 1))  # periodic in u and v
    expected = map_coordinates(tiled, [points[0] + 60, points[1] + 60, points[2]], order=1)
    np.testing.assert_allclose(got, expected, atol=0.02)


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_thin_things_lie_where_the_fields_say_and_keep_their_volume(view):
    _, anatomy, _, _, _ = breast(view)
    place = cut(anatomy, view, GRID)
    specks = Specks(
        place=np.array([[0.2, -0.15, 0.45]], dtype=np.float32), volume_mm3=np.array([7.0], dtype=np.float32)
    )
    volume = np.zeros((anatomy.layers, *anatomy.breast.shape), dtype=np.float32)
    splat(volume, specks, anatomy, view, GRID)
    assert volume.sum() * GRID.pitch_mm**2 == pytest.approx(7.0, rel=1e-5)
    layer, row, column = (int(np.average(axis, weights=volume)) for axis in np.indices(volume.shape))
    # The middle of a voxel is at most one voxel from the point.
    assert place.along[column] == pytest.approx(0.45, abs=2 * GRID.pitch_mm / anatomy.depth_mm)
    assert place.u[layer, row] == pytest.approx(0.2, abs=0.12)
    assert place.v[layer, row] == pytest.approx(-0.15, abs=0.12)


def profile(side: str, view: str, number: int) -> np.ndarray:
    """Share of gland along the way from chest wall to nipple, which CC and MLO have in common."""
    _, anatomy, _, _, tissue = breast(view, number=number, side=side, seed=5)
    along = tissue.gland.sum(axis=(0, 1)) / tissue.inner.sum(axis=(0, 1)).clip(1)
    x = (np.arange(len(along)) + 0.5) * GRID.pitch_mm / anatomy.depth_mm
    return np.interp(np.linspace(0.1, 0.9, 40), x, along)


def test_both_views_show_one_breast_and_the_other_breast_is_another():
    """Over 24 women a CC goes with the MLO of its own breast, and less with that of the other, which is alike."""
    same, other = [], []
    for number in range(24):
        craniocaudal = profile("L", "CC", number)
        same.append(np.corrcoef(craniocaudal, profile("L", "MLO", number))[0, 1])
        other.append(np.corrcoef(craniocaudal, profile("R", "MLO", number))[0, 1])
    assert np.median(same) > 0.8
    assert np.mean(same) - np.mean(other) > 0.05


def test_breasts_of_a_woman_are_alike_and_those_of_two_women_are_not():
    style = breast(number=8)[2].style
    left = grow(style, 90, 70, keyed(1, "woman"), keyed(1, "L")).clumps.values.ravel()
    right = grow(style, 90, 70, keyed(1, "woman"), keyed(1, "R")).clumps.values.ravel()
    other = grow(style, 90, 70, keyed(2, "woman"), keyed(2, "L")).clumps.values.ravel()
    assert np.corrcoef(left, right)[0, 1] == pytest.approx(style.alike, abs=0.25)
    assert abs(np.corrcoef(left, other)[0, 1]) < 0.25


def test_a_size_or_slice_distance_out_of_range_is_named():
    with pytest.raises(UserError, match="multiple of 16"):
        make_grid(100)
    with pytest.raises(UserError, match="slice distance"):
        make_grid(160, 0.1)


def test_a_skin_fold_is_seen_in_about_one_view_of_twelve():
    woman = draw_woman("internal", 3, 8)
    traits = draw_traits("internal", 3, woman)
    creased = 0
    for number in range(150):
        anatomy = build_anatomy("MLO", "L", woman, traits, make_grid(96), keyed(number, "fold"))
        creased += bool(anatomy.crease.any())
        assert not anatomy.crease[~anatomy.breast].any()
    assert 4 <= creased <= 25


def test_what_lies_beside_the_breast_or_is_folded_double_changes_no_truth():
    _, anatomy, parenchyma, lines, tissue = next(
        b for b in (breast("MLO", number=n) for n in range(20)) if b[1].fold.any()
    )
    assert not anatomy.fold[anatomy.breast].any()
    bare = replace(anatomy, fold=np.zeros_like(anatomy.fold), crease=np.ones_like(anatomy.crease))
    again = fill(bare, 0.25, parenchyma, lines, "MLO", GRID, keyed(3, "detail", "MLO"))
    np.testing.assert_array_equal(tissue.gland, again.gland)
    np.testing.assert_array_equal(tissue.outer, again.outer)


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_a_cc_holds_the_volume_that_was_drawn_and_an_mlo_some_of_the_axilla_more(view):
    ratios = []
    for number in range(40):
        woman = draw_woman("internal", 9, number)
        traits = draw_traits("internal", 9, woman)
        grid = make_grid(96)
        anatomy = build_anatomy(view, "L", woman, traits, grid, keyed(9, number, view))
        held = anatomy.thickness.sum(dtype=float) * grid.pitch_mm**2 / 1000
        ratios.append(held / (woman.volume_cm3 * traits.side_volume[0]))
    # An MLO shows the fold to the axilla besides, the more of it beside the smaller breast.
    low, high = (0.95, 1.05) if view == "CC" else (1.0, 1.25)
    assert low < np.median(ratios) < high
    assert np.quantile(ratios, 0.1) > 0.85
    assert np.quantile(ratios, 0.9) < (1.2 if view == "CC" else 1.6)


def test_a_calcification_is_no_thicker_than_it_is_wide():
    """On a fine detector, where a point would become a needle."""
    grid = make_grid(480)
    _, anatomy, _, _, _ = breast(grid=grid)
    woman = replace(draw_woman("internal", 3, 8), age=40)  # no calcified arteries
    for number in range(12):
        chalk = draw_lines(woman, 90, 70, keyed(number, "chalk")).calcifications
        volume = np.zeros((anatomy.layers, *anatomy.breast.shape), dtype=np.float32)
        splat(volume, chalk, anatomy, "CC", grid)
        assert volume.sum(axis=0).max() < 4.0  # at most two of 1.8 mm behind one another, and the points' graininess
