import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from densityclip.probability.aggregate import softmax
from densityclip.probability.calibrate import Calibration, fit_calibration, prior_shift

NONE = (0.0, 0.0, 0.0, 0.0)


def drawn(rng: np.random.Generator, number: int, temperature: float, prior) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is off by a temperature, of labels drawn from the true probabilities."""
    true = rng.normal(0, 2, (number, 4))
    probabilities = softmax(true + np.log(prior))
    labels = np.array([rng.choice(4, p=row) for row in probabilities])
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature: float):
    logits, labels = drawn(np.random.default_rng(1), 6000, temperature, np.full(4, 0.25))
    found = fit_calibration(logits, labels, [str(n) for n in range(6000)], NONE)
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert (found.calibrated, found.images, found.patients) == (True, 6000, 6000)


def test_with_the_prior_put_back_probabilities_match_the_frequencies():
    prior = np.array([0.1, 0.45, 0.4, 0.05])
    logits, labels = drawn(np.random.default_rng(2), 20_000, 1.0, prior)
    counts = np.bincount(labels)
    # The logits are those of a model trained with inverse-frequency weights: they know no prior.
    shift = prior_shift((prior * 1000).astype(int).tolist(), 1 / prior)
    found = fit_calibration(logits, labels, [str(n) for n in range(len(labels))], shift)
    assert found.temperature == pytest.approx(1.0, rel=0.05)
    np.testing.assert_allclose(found.apply(logits).mean(0), counts / counts.sum(), atol=0.01)


def test_the_temperature_equals_a_one_parameter_logistic_regression():
    # Two classes far ahead of the others: the slope of a logistic regression without intercept is 1 / T.
    rng = np.random.default_rng(3)
    difference = rng.normal(0, 3, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-0.4 * difference))).astype(int)
    logits = np.stack([np.zeros(4000), difference, np.full(4000, -1e6), np.full(4000, -1e6)], axis=1)
    slope = LogisticRegression(fit_intercept=False, C=1e9).fit(difference[:, None], labels).coef_[0, 0]
    found = fit_calibration(logits, labels, [str(n) for n in range(4000)], NONE)
    assert 1 / found.temperature == pytest.approx(slope, rel=1e-3)


def test_a_patient_counts_once_however_many_images_she_has():
    logits, labels = drawn(np.random.default_rng(4), 60, 2.0, np.full(4, 0.25))
    once = fit_calibration(logits, labels, [str(n) for n in range(60)], NONE)
    repeats = np.repeat(np.arange(60), np.arange(60) % 5 + 1)
    many = fit_calibration(logits[repeats], labels[repeats], [str(n) for n in repeats], NONE)
    assert many.temperature == pytest.approx(once.temperature, rel=1e-4)


@given(st.lists(st.integers(0, 500), min_size=4, max_size=4).filter(lambda counts: sum(counts) > 0))
def test_equal_weights_need_no_shift(counts: list[int]):
    assert prior_shift(counts, np.ones(4)) == pytest.approx(NONE, abs=1e-9)


def test_without_patients_nothing_is_called_calibrated():
    found = fit_calibration(np.empty((0, 4)), [], [], NONE)
    assert found == Calibration()


def test_it_survives_the_round_trip_through_json():
    one = Calibration(temperature=1.7, prior_shift=(-0.5, 0.1, 0.2, 0.2), calibrated=True, images=9, patients=3)
    assert Calibration.from_dict(one.to_dict()) == one
