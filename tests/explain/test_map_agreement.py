"""Figures about maps against scikit-learn and sums by hand."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from densityclip.explain.agreement import energy_inside, gland_auc, pointing_hit, rank_correlation

SHAPE = (6, 7)
FEW_VALUES = hnp.arrays(np.float64, SHAPE, elements=st.sampled_from([-1.0, 0.0, 0.5, 0.5 + 1e-9, 2.0, 7.0]))
MASKS = hnp.arrays(np.bool_, SHAPE)


@settings(max_examples=200, deadline=None)
@given(FEW_VALUES, FEW_VALUES, MASKS)
def test_gland_auc_equals_scikit_learn_with_ties_and_a_mask(heat, gland, mask):
    assume(mask.any())
    truth = gland[mask] > np.median(gland[mask])
    assume(truth.any())
    assert gland_auc(heat, gland, mask) == pytest.approx(roc_auc_score(truth, heat[mask]), abs=1e-12)


def test_gland_auc_equals_scikit_learn_on_a_continuous_map():
    rng = np.random.default_rng(11)
    gland = rng.gamma(2.0, 5.0, size=(60, 50))
    heat = gland + rng.normal(scale=20, size=gland.shape)
    mask = rng.random(gland.shape) < 0.6
    truth = gland[mask] > np.median(gland[mask])
    assert gland_auc(heat, gland, mask) == pytest.approx(roc_auc_score(truth, heat[mask]), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(FEW_VALUES, FEW_VALUES, MASKS)
def test_gland_auc_knows_only_ranks_and_turns_over_with_the_sign(heat, gland, mask):
    auc = gland_auc(heat, gland, mask)
    np.testing.assert_allclose(gland_auc(3 * heat - 1, gland, mask), auc, atol=1e-12)
    np.testing.assert_allclose(gland_auc(-heat, gland, mask), 1 - auc, atol=1e-12)


def test_gland_auc_is_not_a_number_where_nothing_can_be_ranked():
    ones = np.ones(SHAPE)
    assert math.isnan(gland_auc(ones, ones, ones > 0))
    assert math.isnan(gland_auc(ones, ones, ones < 0))


def test_energy_inside_is_the_hand_computed_share():
    heat = np.array([[1.0, 3.0], [-5.0, 4.0]])
    mask = np.array([[True, False], [True, True]])
    assert energy_inside(heat, mask) == pytest.approx(5 / 8)


@given(FEW_VALUES, MASKS)
def test_energy_inside_and_outside_add_to_one(heat, mask):
    assume((heat > 0).any())
    assert energy_inside(heat, mask) + energy_inside(heat, ~mask) == pytest.approx(1.0)


def test_a_flat_map_has_the_masks_share_of_the_area_inside():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:3] = True
    assert energy_inside(np.full(SHAPE, 0.3), mask) == pytest.approx(0.5)


def test_a_map_without_heat_has_no_share():
    assert math.isnan(energy_inside(np.full(SHAPE, -1.0), np.ones(SHAPE, dtype=bool)))


def pointed_by_loops(heat, gland, mask):
    """The pointing game, place by place."""
    places = [(row, column) for row in range(SHAPE[0]) for column in range(SHAPE[1])]
    inside = sorted(gland[place] for place in places if mask[place])
    middle = (inside[(len(inside) - 1) // 2] + inside[len(inside) // 2]) / 2
    hottest = [place for place in places if all(heat[place] >= heat[other] for other in places)]
    return sum(bool(mask[place]) and gland[place] > middle for place in hottest) / len(hottest)


@settings(max_examples=100, deadline=None)
@given(FEW_VALUES, FEW_VALUES, MASKS)
def test_pointing_equals_plain_loops_with_ties_and_a_mask(heat, gland, mask):
    assume(mask.any())
    assume((gland[mask] > np.median(gland[mask])).any())
    assert pointing_hit(heat, gland, mask) == pytest.approx(pointed_by_loops(heat, gland, mask), abs=1e-12)


def test_a_hottest_place_outside_the_breast_is_a_miss_whatever_lies_there():
    gland = np.arange(42.0).reshape(SHAPE)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:4] = True
    heat = np.zeros(SHAPE)
    heat[5, 6] = 1.0
    assert pointing_hit(heat, gland, mask) == 0.0
    heat[3, 6] = 2.0
    assert pointing_hit(heat, gland, mask) == 1.0


def test_a_flat_map_points_as_often_at_gland_as_chance_does():
    gland = np.arange(42.0).reshape(SHAPE)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:4] = True  # 28 of 42 places, 14 of them above the median
    assert pointing_hit(np.zeros(SHAPE), gland, mask) == pytest.approx(14 / 42)


def test_pointing_is_not_a_number_where_there_is_no_breast_or_all_of_it_is_alike():
    ones = np.ones(SHAPE)
    assert math.isnan(pointing_hit(ones, ones, ones > 0))
    assert math.isnan(pointing_hit(ones, np.arange(42.0).reshape(SHAPE), ones < 0))


@settings(max_examples=200, deadline=None)
@given(FEW_VALUES, FEW_VALUES, MASKS)
def test_rank_correlation_equals_scipy_with_ties_and_a_mask(first, second, mask):
    assume(mask.any())
    if np.ptp(first[mask]) == 0 or np.ptp(second[mask]) == 0:
        assert math.isnan(rank_correlation(first, second, mask))
    else:
        reference = spearmanr(first[mask], second[mask]).statistic
        assert rank_correlation(first, second, mask) == pytest.approx(reference, abs=1e-12)


def test_rank_correlation_of_no_place_is_not_a_number():
    assert math.isnan(rank_correlation(np.ones(SHAPE), np.ones(SHAPE), np.zeros(SHAPE, dtype=bool)))


def test_other_shapes_and_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="mask is"):
        energy_inside(np.zeros((2, 2)), np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="mask is"):
        rank_correlation(np.zeros((2, 3)), np.zeros((2, 2)), np.ones((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="not finite"):
        gland_auc(np.full(SHAPE, np.nan), np.zeros(SHAPE), np.ones(SHAPE, dtype=bool))
