"""Fitting to a site: against other solvers, and against simulations whose truth is known."""

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from densityclip.artifacts import PROBABILITIES
from densityclip.probability.local import Recalibration, estimate_prior, fit_recalibration, local_curve
from prediction_rows import row, table


def ids(number: int) -> list[str]:
    return [f"p{n}" for n in range(number)]


def drawn(rng: np.random.Generator, number: int, prior: list[float], old: list[float], separation: float = 1.5):
    """Labels by `prior`, and the probabilities that a model calibrated for `old` gives them from one number each."""
    labels = rng.choice(4, size=number, p=prior)
    seen = rng.normal(labels * separation, 1.0)
    likelihood = norm.pdf(seen[:, None], loc=np.arange(4) * separation)
    joint = likelihood * np.array(old)
    return joint / joint.sum(axis=1, keepdims=True), labels


def penalised(parameters, values, labels) -> float:
    slope, biases = parameters[0], parameters[1:]
    raised = values**slope * np.exp(biases)
    given = raised / raised.sum(axis=1, keepdims=True)
    fit = -np.log(given[np.arange(len(labels)), labels]).sum()
    return fit + 0.5 * ((slope - 1) / 0.5) ** 2 + 0.5 * (np.square(biases) / 0.25).sum()


def test_the_recalibration_is_the_optimum_that_another_solver_finds():
    values, labels = drawn(np.random.default_rng(1), 80, [0.1, 0.2, 0.5, 0.2], [0.25] * 4)
    found = fit_recalibration(values, labels, ids(80))
    other = minimize(
        penalised, np.ones(5), args=(values, labels), method="Powell", options={"xtol": 1e-9, "ftol": 1e-13}
    )
    np.testing.assert_allclose([1 / found.temperature, *found.biases], other.x, atol=1e-4)
    assert sum(found.biases) == pytest.approx(0, abs=1e-6)


def test_with_many_exams_it_is_a_multinomial_regression_on_the_log_probabilities():
    # Two categories alone: slope and difference of the biases are those of an unpenalised logistic regression.
    rng = np.random.default_rng(2)
    score = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-(0.6 * score + 0.8)))).astype(int)
    two = 1 / (1 + np.exp(-np.stack([-score, score], axis=1)))
    values = np.concatenate([two, np.full((20_000, 2), 1e-200)], axis=1)
    found = fit_recalibration(values, labels, ids(20_000))
    other = LogisticRegression(C=1e9).fit(score[:, None], labels)
    assert 1 / found.temperature == pytest.approx(other.coef_[0, 0], rel=0.01)
    assert found.biases[1] - found.biases[0] == pytest.approx(other.intercept_[0], rel=0.01)


def test_no_label_changes_nothing_and_ten_of_one_category_do_not_make_the_model_certain():
    assert fit_recalibration(np.empty((0, 4)), [], []) == Recalibration()
    values = np.tile([0.05, 0.15, 0.3, 0.5], (10, 1))
    found = fit_recalibration(values, [2] * 10, ids(10))
    adapted = found.apply(values)[0]
    assert 0.4 < adapted[2] < 0.8
    np.testing.assert_allclose(Recalibration().apply(values), values)


def test_a_patient_counts_once_however_many_exams_she_has():
    values, labels = drawn(np.random.default_rng(3), 40, [0.25] * 4, [0.4, 0.3, 0.2, 0.1])
    once = fit_recalibration(values, labels, ids(40))
    repeats = np.repeat(np.arange(40), np.arange(40) % 4 + 1)
    many = fit_recalibration(values[repeats], labels[repeats], [f"p{n}" for n in repeats])
    np.testing.assert_allclose(many.biases, once.biases, atol=1e-6)


def site(rng: np.random.Generator, patients: int, exams: int = 1) -> pl.DataFrame:
    values, labels = drawn(rng, patients * exams, [0.1, 0.2, 0.4, 0.3], [0.4, 0.3, 0.2, 0.1])
    return table(
        *(
            row(
                f"{n}",
                list(values[n]),
                level="exam",
                patient_id=f"p{n % patients}",
                exam_id=f"e{n}",
                label="ABCD"[labels[n]],
            )
            for n in range(patients * exams)
        )
    )


def test_drawn_patients_are_never_scored_and_smaller_draws_lie_within_greater_ones():
    exams = site(np.random.default_rng(4), 50, exams=2)
    seen = {}
    for one in local_curve(exams, [0, 10, 25, 26, 1000], draws=3, seed=1):
        left = set(one.before["patient_id"])
        assert len(left) == 50 - one.k
        assert one.before["exam_id"].equals(one.after["exam_id"])
        np.testing.assert_allclose(
            one.after.select(PROBABILITIES).to_numpy(),
            one.recalibration.apply(one.before.select(PROBABILITIES).to_numpy()),
        )
        seen[one.draw, one.k] = left
    assert set(seen) == {(draw, k) for draw in range(3) for k in (0, 10, 25)}
    assert all(seen[draw, 25] < seen[draw, 10] for draw in range(3))
    assert seen[0, 10] != seen[1, 10]


def test_the_curve_is_the_same_for_any_order_of_rows_and_refuses_other_levels():
    exams = site(np.random.default_rng(5), 30, exams=2)
    one, other = (
        list(local_curve(rows, [10], draws=2, seed=3))
        for rows in (exams, exams.sample(fraction=1.0, shuffle=True, seed=1))
    )
    assert [a.recalibration for a in one] == [b.recalibration for b in other]
    assert all(a.after.equals(b.after) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="level exam"):
        next(local_curve(exams.with_columns(pl.lit("image").alias("level")), [1], draws=1, seed=0))


def test_labels_of_a_shifted_site_help_and_more_help_more():
    exams = site(np.random.default_rng(6), 1500)

    def loss(rows: pl.DataFrame) -> float:
        truth = rows["label"].replace_strict(list("ABCD"), range(4)).to_numpy()
        return float(-np.log(rows.select(PROBABILITIES).to_numpy()[np.arange(len(truth)), truth]).mean())

    gain = dict.fromkeys((10, 50, 500), 0.0)
    for one in local_curve(exams, list(gain), draws=8, seed=1):
        gain[one.k] += (loss(one.before) - loss(one.after)) / 8
    assert 0 < gain[10] < gain[50] < gain[500]


@pytest.mark.parametrize("shifted", [[0.05, 0.2, 0.35, 0.4], [0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]])
def test_a_known_shift_of_the_prior_is_found_without_labels(shifted: list[float]):
    old = [0.1, 0.4, 0.4, 0.1]
    values, labels = drawn(np.random.default_rng(7), 8000, shifted, old)
    found = estimate_prior(values, old, ids(8000))
    assert found.converged
    np.testing.assert_allclose(found.prior, np.bincount(labels, minlength=4) / 8000, atol=0.03)
    # Adapted, they are the probabilities of a model that was calibrated for the new prior.
    right = values * np.array(shifted) / old
    right /= right.sum(axis=1, keepdims=True)
    error, before = (np.abs(one - right).mean() for one in (found.probabilities, values))
    assert error < 0.015 < before / 2


def test_the_prior_is_the_maximum_of_the_likelihood_that_another_solver_finds():
    old = np.array([0.1, 0.4, 0.4, 0.1])
    values, _ = drawn(np.random.default_rng(8), 500, [0.3, 0.3, 0.2, 0.2], list(old))
    found = estimate_prior(values, old, ids(500), tolerance=1e-12)
    other = minimize(
        lambda prior: -np.log(values @ (prior / old)).mean(), old, method="SLSQP", bounds=[(1e-6, 1)] * 4,
        constraints={"type": "eq", "fun": lambda prior: prior.sum() - 1}, options={"ftol": 1e-14},
    )  # fmt: skip
    np.testing.assert_allclose(found.prior, other.x, atol=1e-4)
    assert found.prior.sum() == pytest.approx(1)


def test_where_nothing_shifted_nothing_moves_and_giving_up_is_said():
    old = [0.1, 0.4, 0.4, 0.1]
    certain = np.eye(4)[np.repeat(np.arange(4), [10, 40, 40, 10])]
    found = estimate_prior(certain, old, ids(100))
    np.testing.assert_allclose(found.prior, old)
    assert (found.iterations, found.converged) == (1, True)
    values, _ = drawn(np.random.default_rng(9), 300, [0.7, 0.1, 0.1, 0.1], old)
    assert not estimate_prior(values, old, ids(300), most_iterations=2).converged


def test_a_patient_with_many_exams_weighs_no_more_in_the_prior():
    old = [0.25] * 4
    values, _ = drawn(np.random.default_rng(10), 100, [0.1, 0.2, 0.3, 0.4], old)
    repeats = np.repeat(np.arange(100), np.arange(100) % 5 + 1)
    once, many = estimate_prior(values, old, ids(100)), estimate_prior(values[repeats], old, [f"p{n}" for n in repeats])
    np.testing.assert_allclose(many.prior, once.prior, atol=1e-6)


def test_a_prior_with_an_empty_category_or_values_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="not positive"):
        estimate_prior([[0.25] * 4], [0.0, 0.5, 0.3, 0.2], ["p"])
    with pytest.raises(ValueError, match="finite"):
        estimate_prior([[np.nan] * 4], [0.25] * 4, ["p"])
