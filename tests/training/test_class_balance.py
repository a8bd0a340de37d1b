import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from densityclip.errors import UserError
from densityclip.training.class_balance import CLASS_WEIGHTS, class_balance, class_weights

COUNTS = [12, 400, 350, 40]
SHARES = (np.array(COUNTS) / sum(COUNTS)).tolist()


def test_inverse_frequency_equals_scikit_learns_balanced_weights():
    labels = [0] * 5 + [1] * 40 + [2] * 30 + [3] * 2
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(np.bincount(labels).tolist(), "inverse-frequency"), expected)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(lambda counts: sum(counts) > 0))
def test_class_weights_have_mean_one_over_the_images(counts: list[int]):
    for scheme in CLASS_WEIGHTS:
        weights = class_weights(counts, scheme)
        assert np.dot(weights, counts) / sum(counts) == pytest.approx(1)
        assert (weights[np.array(counts) == 0] == 0).all()


def test_an_unknown_scheme_is_named():
    with pytest.raises(UserError, match="'sqrt' are unknown"):
        class_weights([1, 1, 1, 1], "sqrt")


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
def test_effective_number_is_the_papers_formula_up_to_scale(beta: float):
    weights = class_weights(COUNTS, "effective-number", beta=beta)
    paper = np.array([(1 - beta) / (1 - beta**n) for n in COUNTS])
    np.testing.assert_allclose(weights / weights[0], paper / paper[0], rtol=1e-9)


def test_effective_number_lies_between_no_weights_and_the_inverse_frequency():
    np.testing.assert_allclose(class_weights(COUNTS, "effective-number", beta=0.0), class_weights(COUNTS, "none"))
    near = class_weights(COUNTS, "effective-number", beta=1 - 1e-9)
    np.testing.assert_allclose(near, class_weights(COUNTS, "inverse-frequency"), rtol=1e-4)


def test_logit_adjustment_has_the_prior_of_the_inverse_frequency_without_weighing_images():
    adjusted = class_balance(COUNTS, SHARES, "logit-adjustment", loss="multi-positive")
    weighed = class_balance(COUNTS, SHARES, "inverse-frequency", loss="multi-positive")
    assert adjusted.weights.tolist() == pytest.approx([1] * 4)
    np.testing.assert_allclose(adjusted.prior, weighed.prior)
    np.testing.assert_allclose(adjusted.adjustment, np.log(SHARES))
    assert (weighed.adjustment == 0).all()


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.sampled_from(CLASS_WEIGHTS))
def test_weights_have_mean_one_over_what_the_sampler_draws(sizes: list[float], scheme: str):
    drawn = np.array(sizes) / sum(sizes)
    balance = class_balance(COUNTS, drawn.tolist(), scheme, loss="infonce")
    assert float(balance.weights @ drawn) == pytest.approx(1)
    assert balance.prior.sum() == pytest.approx(1)
