"""Metrics and their weighting against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from densityclip.errors import UserError
from densityclip.evaluation.calibration_error import bin_of
from densityclip.evaluation.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    Sample,
    Scoring,
    macro_auc,
    point_metrics,
    reliability,
    roc_points,
)
from densityclip.evaluation.ranking import Ranking


def drawn(seed: int, n: int, classes: int = 4, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    probabilities = rng.dirichlet(np.ones(4), n)
    probabilities[np.arange(n), labels] += 0.3
    if ties:
        probabilities = np.round(probabilities, 1) + 1e-3
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None) -> float:
    """Guo et al. 2017, equation 3, in plain loops: 15 bins, each with its upper end."""
    weights = np.ones(len(labels)) if weights is None else weights
    bins: list[list[int]] = [[] for _ in range(15)]
    for row, p in enumerate(probabilities.max(axis=1)):
        bins[next(k for k in range(15) if p <= (k + 1) / 15 or k == 14)].append(row)
    error = 0.0
    for rows in (rows for rows in bins if weights[rows].sum() > 0):
        right = np.average(probabilities[rows].argmax(axis=1) == labels[rows], weights=weights[rows])
        said = np.average(probabilities[rows].max(axis=1), weights=weights[rows])
        error += weights[rows].sum() / weights.sum() * abs(right - said)
    return error


def references(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    predicted = probabilities.argmax(axis=1)
    present = np.unique(labels)
    how = {"sample_weight": weights}
    found = {
        "accuracy": sk.accuracy_score(labels, predicted, **how),
        "balanced_accuracy": sk.recall_score(labels, predicted, labels=present, average="macro", **how),
        "macro_f1": sk.f1_score(labels, predicted, labels=present, average="macro", zero_division=0, **how),
        "linear_kappa": sk.cohen_kappa_score(labels, predicted, labels=range(4), weights="linear", **how),
        "quadratic_kappa": sk.cohen_kappa_score(labels, predicted, labels=range(4), weights="quadratic", **how),
        "mean_absolute_error": sk.mean_absolute_error(labels, predicted, **how),
        "two_or_more_off": np.average(np.abs(labels - predicted) >= 2, weights=weights),
        "dense_auc": sk.roc_auc_score(labels >= 2, probabilities[:, 2:].sum(axis=1), **how),
        "dense_auprc": sk.average_precision_score(labels >= 2, probabilities[:, 2:].sum(axis=1), **how),
        "dense_sensitivity": sk.recall_score(labels >= 2, predicted >= 2, **how),
        "dense_specificity": sk.recall_score(labels >= 2, predicted >= 2, pos_label=False, **how),
        # Its mean runs over the four columns too; the Brier score of several categories sums over them.
        "brier": 4 * sk.mean_squared_error(np.eye(4)[labels], probabilities, **how),
        "ece": calibration_error(labels, probabilities, weights),
    }
    of_each = {
        "auc": [sk.roc_auc_score(labels == k, probabilities[:, k], **how) for k in present],
        "auprc": [sk.average_precision_score(labels == k, probabilities[:, k], **how) for k in present],
    }
    per_category = {"average": None, "labels": range(4), "zero_division": np.nan}
    of_each["precision"] = sk.precision_score(labels, predicted, **per_category, **how)[present]
    of_each["recall"] = sk.recall_score(labels, predicted, **per_category, **how)[present]
    for name, values in of_each.items():
        found |= {f"{name}_{'abcd'[k]}": value for k, value in zip(present, values, strict=True)}
    return found | {f"macro_{name}": float(np.mean(of_each[name])) for name in ("auc", "auprc")}


@given(st.integers(0, 10_000), st.integers(12, 80), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_metric_is_scikit_learns(seed, n, ties):
    labels, probabilities = drawn(seed, n, ties=ties)
    labels[:4] = range(4)
    ours = point_metrics(labels, probabilities)
    expected = references(labels, probabilities)
    assert set(expected) == set(ours) == set(METRICS)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_weighted_metrics_are_scikit_learns(seed):
    labels, probabilities = drawn(seed, 50)
    labels[:4] = range(4)
    weights = np.random.default_rng(seed + 1).integers(0, 4, (50, 3)).astype(float)
    weights[:4] += 1
    scores = Sample.of(labels, probabilities).score(weights)
    for k in range(3):
        for name, value in references(labels, probabilities, weights[:, k]).items():
            assert scores[name][k] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_balanced_accuracy_is_scikit_learns_own():
    labels, probabilities = drawn(3, 60)
    assert point_metrics(labels, probabilities)["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    )


def test_macro_auc_with_all_categories_is_scikit_learns_ovr():
    labels, probabilities = drawn(5, 200)
    assert macro_auc(labels, probabilities) == pytest.approx(sk.roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_tied_scores_count_one_half():
    ranking = Ranking.of([0.5, 0.5, 0.5, 0.5], [True, True, False, False])
    assert ranking.auc(np.ones((4, 1))).tolist() == [0.5]


def test_an_absent_category_is_not_estimable_and_never_zero():
    labels, probabilities = drawn(1, 60, classes=3)
    found = point_metrics(labels, probabilities)
    assert np.isnan(found["auc_d"])
    assert found["macro_auc"] == pytest.approx(np.mean([found[f"auc_{k}"] for k in "abc"]))
    assert all(np.isnan(found[name]) for name in ("auprc_d", "recall_d"))
    assert "D" not in roc_points(labels, probabilities)


def test_a_category_that_is_never_chosen_has_no_precision_and_a_recall_of_zero():
    found = point_metrics([0, 1, 2, 3], [[0.4, 0.3, 0.2, 0.1]] * 4)
    assert [found[f"precision_{k}"] for k in "abcd"] == pytest.approx([0.25, np.nan, np.nan, np.nan], nan_ok=True)
    assert [found[f"recall_{k}"] for k in "abcd"] == [1.0, 0.0, 0.0, 0.0]
    assert (found["dense_sensitivity"], found["dense_specificity"]) == (0.0, 1.0)


def test_only_dense_rows_have_no_specificity():
    found = point_metrics([2, 3], [[0.1, 0.2, 0.4, 0.3]] * 2)
    assert found["dense_sensitivity"] == 1.0
    assert np.isnan(found["dense_specificity"])
    assert np.isnan(found["dense_auc"])


def test_one_score_for_all_ranks_like_chance():
    labels = np.array([0] * 6 + [3] * 2)
    found = point_metrics(labels, np.full((8, 4), 0.25))
    assert (found["auc_d"], found["auprc_d"]) == (0.5, 0.25)


def test_perfect_and_certain_answers_have_no_calibration_error_and_certain_wrong_ones_have_all_of_it():
    labels = np.array([0, 1, 2, 3])
    right, wrong = point_metrics(labels, np.eye(4)), point_metrics(labels, np.eye(4)[::-1])
    assert (right["ece"], right["brier"]) == (0.0, 0.0)
    assert (wrong["ece"], wrong["brier"]) == (1.0, 2.0)


def test_what_is_better_when_lower_is_worst_for_the_wrong_answer():
    labels, _ = drawn(4, 200)
    good, bad = point_metrics(labels, np.eye(4)[labels]), point_metrics(labels, np.eye(4)[3 - labels])
    for name in METRICS:
        assert (good[name] < bad[name]) == (name in LOWER_IS_BETTER), name


@pytest.mark.parametrize("names", [("macro_auprc",), ("ece", "auc_b"), ("dense_auprc", "dense_auc"), ("recall_d",)])
def test_asking_for_some_metrics_gives_just_those_and_the_same(names):
    labels, probabilities = drawn(6, 80)
    sample, everything = Sample.of(labels, probabilities), point_metrics(labels, probabilities)
    found = sample.score(names=names)
    assert {name: value[0] for name, value in found.items()} == {name: everything[name] for name in names}


def test_only_the_rankings_that_are_asked_for_are_sorted():
    sample = Sample.of(*drawn(6, 80))
    assert set(Scoring.of(sample, ("accuracy", "ece")).rankings) == set()
    assert set(Scoring.of(sample, ("auc_b",)).rankings) == {"b"}
    assert set(Scoring.of(sample, ("macro_auprc",)).rankings) == set("abcd")


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="unknown metrics: auroc"):
        point_metrics([0], [[1.0, 0.0, 0.0, 0.0]], ("auroc",))


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_weights_of_units_are_weights_of_their_rows(seed, ties):
    labels, probabilities = drawn(seed, 60, ties=ties)
    units = np.random.default_rng(seed).integers(0, 9, 60)
    weights = np.random.default_rng(seed + 1).integers(0, 4, (9, 5)).astype(float)
    sample = Sample.of(labels, probabilities)
    by_unit, by_row = Scoring.of(sample, None, units, 9).score(weights), sample.score(weights[units])
    for name in METRICS:
        np.testing.assert_allclose(by_unit[name], by_row[name], atol=1e-12, err_msg=name)


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_blocks_of_levels_change_no_area(seed, levels):
    labels, probabilities = drawn(seed, 60)
    weights = np.random.default_rng(seed).integers(0, 4, (60, 3)).astype(float)
    whole = Ranking.of(probabilities[:, 1], labels == 1).areas(weights, precision=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densityclip.evaluation.ranking._LEVELS_AT_ONCE", levels)
        pieces = Ranking.of(probabilities[:, 1], labels == 1).areas(weights, precision=True)
    np.testing.assert_array_equal(whole[0], pieces[0])
    np.testing.assert_allclose(whole[1], pieces[1], rtol=1e-12)


def test_a_bin_has_its_upper_end_and_the_first_has_0():
    said = np.array([0.0, 0.1, 0.25, 0.26, 0.5, 0.75, 0.8, 1.0])
    assert bin_of(said, 4).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_a_reliability_curve_is_a_plain_loop_over_its_bins(seed, bins):
    labels, probabilities = drawn(seed, 50)
    found = reliability(Sample.of(labels, probabilities), bins)
    asked = {
        "chosen": (probabilities.max(axis=1), probabilities.argmax(axis=1) == labels),
        "dense": (probabilities[:, 2] + probabilities[:, 3], labels >= 2),
    }
    for name, (said, happened) in asked.items():
        assert sum(point["count"] for point in found[name]) == 50
        for k, point in enumerate(found[name]):
            inside = [i for i in range(50) if (said[i] > k / bins or k == 0) and said[i] <= (k + 1) / bins]
            if name == "chosen" or not np.any(np.abs(said * bins - np.round(said * bins)) < 1e-9):
                assert point["count"] == len(inside)
            if point["count"] == 0:
                assert point["mean_probability"] is None
                assert point["observed"] is None
            elif point["count"] == len(inside):
                assert point["mean_probability"] == pytest.approx(said[inside].mean())
                assert point["observed"] == pytest.approx(happened[inside].mean())


def test_one_category_alone_has_no_auc_and_no_kappa_from_agreement_by_chance():
    found = point_metrics([2, 2, 2], [[0.1, 0.1, 0.7, 0.1]] * 3)
    assert found["accuracy"] == 1.0
    assert all(np.isnan(found[name]) for name in ("macro_auc", "dense_auc", "linear_kappa", "quadratic_kappa"))
    assert np.isnan(macro_auc([2, 2], [[0.1, 0.1, 0.7, 0.1]] * 2))


def test_no_rows_at_all_are_nan_everywhere():
    assert all(np.isnan(value) for value in point_metrics([], np.empty((0, 4))).values())


def test_a_category_that_vanishes_from_a_weighting_makes_its_mean_nan():
    labels, probabilities = drawn(2, 40)
    weights = np.where(labels == 0, 0.0, 1.0)[:, None]
    scores = Sample.of(labels, probabilities).score(weights)
    assert np.isnan(scores["macro_auc"][0])
    assert np.isnan(scores["balanced_accuracy"][0])
    assert np.isfinite(scores["accuracy"][0])


def test_nan_probabilities_are_refused():
    with pytest.raises(UserError, match="NaN"):
        point_metrics([0], [[np.nan, 0.5, 0.25, 0.25]])


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_area_under_the_drawn_curve_is_the_auc(seed):
    labels, probabilities = drawn(seed, 60)
    labels[:4] = range(4)
    found = point_metrics(labels, probabilities)
    for letter, curve in roc_points(labels, probabilities).items():
        assert sk.auc(curve["fpr"], curve["tpr"]) == pytest.approx(found[f"auc_{letter.lower()}"], abs=2e-4)
        assert curve["fpr"][0] == curve["tpr"][0] == 0.0
        assert curve["fpr"][-1] == curve["tpr"][-1] == 1.0


def test_a_long_curve_is_thinned_with_its_ends():
    labels, probabilities = drawn(0, 3000, ties=False)
    for curve in roc_points(labels, probabilities, most=50).values():
        assert len(curve["fpr"]) <= 50
        assert (curve["fpr"][0], curve["tpr"][-1]) == (0.0, 1.0)
