"""Figures about maps against scikit-learn and sums by hand."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from densityclip.explain.agreement import energy_inside, gland_auc

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


def test_other_shapes_and_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="mask is"):
        energy_inside(np.zeros((2, 2)), np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="not finite"):
        gland_auc(np.full(SHAPE, np.nan), np.zeros(SHAPE), np.ones(SHAPE, dtype=bool))
