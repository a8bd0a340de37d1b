"""Metrics and their weighting against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from densityclip.errors import UserError
from densityclip.evaluation.metrics import METRICS, Ranking, Sample, macro_auc, point_metrics, roc_points


def drawn(seed: int, n: int, classes: int = 4, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    probabilities = rng.dirichlet(np.ones(4), n)
    probabilities[np.arange(n), labels] += 0.3
    if ties:
        probabilities = np.round(probabilities, 1) + 1e-3
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


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
    }
    areas = [sk.roc_auc_score(labels == k, probabilities[:, k], **how) for k in present]
    return (
        found
        | {f"auc_{'abcd'[k]}": area for k, area in zip(present, areas, strict=True)}
        | {"macro_auc": float(np.mean(areas))}
    )


@given(st.integers(0, 10_000), st.integers(12, 80), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_metric_is_scikit_learns(seed, n, ties):
    labels, probabilities = drawn(seed, n, ties=ties)
    labels[:4] = range(4)
    ours = point_metrics(labels, probabilities)
    expected = references(labels, probabilities)
    assert set(expected) == set(ours) == set(METRICS)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_weighted_metrics_are_scikit_learns(seed):
    labels, probabilities = drawn(seed, 50)
    labels[:4] = range(4)
    weights = np.random.default_rng(seed + 1).integers(0, 4, (50, 3)).astype(float)
    weights[:4] += 1
    scores = Sample.of(labels, probabilities).score(weights)
    for k in range(3):
        for name, value in references(labels, probabilities, weights[:, k]).items():
            assert scores[name][k] == pytest.approx(value, abs=1e-9), name


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
    assert "D" not in roc_points(labels, probabilities)


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
