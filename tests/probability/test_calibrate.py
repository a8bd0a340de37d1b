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


def contrastive_optimum(likelihood: np.ndarray, prior: np.ndarray, balance, kind: str) -> np.ndarray:
    """Logits that the project's own losses drive to, for images of eight kinds whose densities are known exactly.

    Kinds stand in one large batch as often as prior and likelihood say, so that the batch is the population.
    """
    import torch

    from densityclip.training import losses

    torch.manual_seed(0)
    copies = np.rint(1000 * prior[None, :] * likelihood.T).astype(int)  # [kinds, 4]
    kinds, labels = (torch.tensor(a) for a in np.nonzero(np.ones_like(copies)))
    repeat = torch.tensor(copies[kinds, labels])
    kinds, labels = kinds.repeat_interleave(repeat), labels.repeat_interleave(repeat)
    scores = torch.zeros(likelihood.shape[1], 4, requires_grad=True)  # [kinds, 4]
    optimiser = torch.optim.LBFGS([scores], max_iter=200, line_search_fn="strong_wolfe")
    eye = torch.eye(4)
    function = {"multi-positive": losses.multi_positive, "infonce": losses.infonce, "class-prompt": losses.class_prompt}
    # An "embedding" whose product with the caption's is the free score of its kind and category.
    texts = eye.expand(len(labels), 4, 4) if kind == "class-prompt" else eye[labels]
    weights, adjustment = (torch.tensor(a, dtype=torch.float32) for a in (balance.weights, balance.adjustment))

    def closure():
        optimiser.zero_grad()
        each = function[kind](scores[kinds], texts, labels, torch.tensor(1.0), adjustment)
        loss = losses.batch_loss(each, weights[labels])
        loss.backward()
        return loss

    optimiser.step(closure)
    return scores.detach().numpy()


@pytest.mark.parametrize("kind", ["multi-positive", "infonce", "class-prompt"])
@pytest.mark.parametrize("scheme", ["inverse-frequency", "none", "logit-adjustment", "effective-number"])
def test_the_shift_turns_what_a_contrastive_loss_learns_into_the_true_posterior(scheme: str, kind: str):
    from densityclip.training.class_balance import class_balance

    rng = np.random.default_rng(5)
    prior = np.array([0.1, 0.4, 0.35, 0.15])
    likelihood = rng.dirichlet(np.ones(8), size=4)  # p(kind | category), [4, 8]
    balance = class_balance((1000 * prior).astype(int).tolist(), prior.tolist(), scheme, loss=kind)
    logits = contrastive_optimum(likelihood, prior, balance, kind)
    posterior = (prior[:, None] * likelihood).T
    posterior /= posterior.sum(1, keepdims=True)
    shifted = Calibration(prior_shift=prior_shift((10_000 * prior).astype(int).tolist(), balance.prior)).apply(logits)
    mass = (prior[:, None] * likelihood).sum(0)
    error, naive = (float(mass @ np.abs(found - posterior).sum(1)) for found in (shifted, Calibration().apply(logits)))
    assert error < 0.06
    if (scheme, kind) != ("none", "class-prompt"):  # there the logits carry the true prior, and nothing is shifted
        assert naive > 3 * error
    np.testing.assert_allclose(mass @ shifted, prior, atol=0.02)


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


@given(st.lists(st.integers(1, 500), min_size=4, max_size=4))
def test_weights_that_follow_the_frequencies_need_no_shift(counts: list[int]):
    assert prior_shift(counts, np.array(counts) + 0.5) == pytest.approx(NONE, abs=1e-9)


@pytest.mark.parametrize("patients", [0, 1, 9])
def test_with_too_few_patients_nothing_is_fitted_and_nothing_is_called_calibrated(patients: int):
    # All answered rightly: the likelihood would ask for certainty.
    logits, labels = 3 * np.eye(4)[np.arange(4 * patients) % 4], np.arange(4 * patients) % 4
    found = fit_calibration(logits, labels, [str(n // 4) for n in range(4 * patients)], NONE)
    said = f"{patients} patient{'s' * (patients != 1)} with labels, 10 are needed"
    assert found == Calibration(why=f"temperature not fitted on the calibration part: {said}")


def test_labels_of_one_category_calibrate_nothing():
    logits, _ = drawn(np.random.default_rng(6), 40, 2.0, np.full(4, 0.25))
    found = fit_calibration(logits, np.full(40, 2), [str(n) for n in range(40)], NONE)
    assert found == Calibration(why="temperature not fitted on the calibration part: all labels are C")


@pytest.mark.parametrize(("sign", "bound"), [(1, "lower bound, 0.05"), (-1, "upper bound, 20")])
def test_a_fit_that_ends_at_a_bound_calibrates_nothing(sign: int, bound: str):
    # All answered rightly, or all wrongly: the likelihood grows towards certainty, or towards knowing nothing.
    labels = np.arange(40) % 4
    found = fit_calibration(sign * 3 * np.eye(4)[labels], labels, [str(n) for n in range(40)], (0.1, 0.2, -0.2, -0.1))
    assert (found.calibrated, found.temperature, found.patients) == (False, 1.0, 0)
    assert found.prior_shift == (0.1, 0.2, -0.2, -0.1)
    assert f"the fit ended at its {bound}" in (found.why or "")
    assert Calibration.from_dict(found.to_dict()) == found


def test_it_survives_the_round_trip_through_json():
    one = Calibration(temperature=1.7, prior_shift=(-0.5, 0.1, 0.2, 0.2), calibrated=True, images=9, patients=3)
    assert Calibration.from_dict(one.to_dict()) == one
