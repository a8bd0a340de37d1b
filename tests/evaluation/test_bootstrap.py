"""The bootstrap over patients and paired differences, against plain loops."""

import numpy as np
import pytest

from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import (
    Estimate,
    interval,
    mean_of_rows,
    patient_weights,
    replicates,
    replicates_of_part,
    row_weights,
)
from densityclip.evaluation.compare import ScoredArm, compare, excludes_zero
from densityclip.evaluation.metrics import METRICS, Sample, point_metrics


def sample(seed: int = 0, patients: int = 20) -> tuple[Sample, list[str]]:
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
    labels = rng.integers(0, 4, patients)[who]
    probabilities = np.round(rng.dirichlet(np.ones(4), len(who)), 2) + 1e-3
    return Sample.of(labels, probabilities / probabilities.sum(axis=1, keepdims=True)), [f"p{k}" for k in who]


def test_weighted_replicates_equal_a_loop_that_repeats_rows():
    rows, patients = sample()
    found = replicates(rows, patients, resamples=40, seed=7)
    position, counts = patient_weights(patients, 40, 7)
    for k in range(40):
        repeated = np.repeat(np.arange(len(patients)), counts[position, k])
        expected = point_metrics(rows.labels[repeated], rows.probabilities[repeated])
        whole = set(rows.labels[repeated]) == {0, 1, 2, 3}
        for name in METRICS:
            if not whole and name in ("macro_auc", "macro_auprc", "balanced_accuracy", "macro_f1"):
                assert np.isnan(found[name][k])
            else:
                np.testing.assert_allclose(found[name][k], expected[name], atol=1e-12, err_msg=name)


def test_a_mean_over_rows_is_resampled_by_patient_as_a_loop_that_repeats_rows():
    _, patients = sample()
    values = np.random.default_rng(1).normal(size=len(patients))
    found = mean_of_rows(values, row_weights(patients, 40, 7), len(set(patients)))
    position, counts = patient_weights(patients, 40, 7)
    means = [np.repeat(values, counts[position, k]).mean() for k in range(40)]
    assert (found.value, found.resamples_used) == (pytest.approx(values.mean()), 40)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)
    assert np.isnan(mean_of_rows(values, row_weights(patients, 40, 7), 1).low)


def test_an_estimate_survives_the_file():
    for one in (Estimate(0.5, 0.25, 0.75, 9), Estimate(0.5, float("nan"), float("nan"), 0)):
        assert str(Estimate.from_json(one.as_json() | {"p": 0.1})) == str(one)


def test_each_resample_draws_as_many_patients_as_there_are():
    _, counts = patient_weights(["a", "a", "b", "c"], 100, 0)
    assert counts.shape == (3, 100)
    assert (counts.sum(axis=0) == 3).all()


def test_the_draw_follows_the_seed_and_the_patients_not_their_order():
    position, counts = patient_weights(["b", "a", "c"], 50, 1)
    other_position, other_counts = patient_weights(["a", "b", "c"], 50, 1)
    np.testing.assert_array_equal(counts[position[[1, 0, 2]]], other_counts[other_position])
    assert (patient_weights(["a", "b", "c"], 50, 2)[1] != other_counts).any()


@pytest.mark.parametrize(
    "settings", [{"_CELLS_AT_ONCE": 140}, {"_RESAMPLES_AT_ONCE": 7}, {"_RESAMPLES_AT_ONCE": 2, "_WORTH_THREADS": 0}]
)
def test_neither_pieces_nor_threads_change_a_figure_or_a_draw(monkeypatch, settings):
    rows, patients = sample()
    monkeypatch.setattr("densityclip.evaluation.bootstrap.cores", lambda: 3)
    whole, draw = replicates(rows, patients, resamples=30, seed=0), patient_weights(patients, 30, 0)[1]
    for name, value in settings.items():
        monkeypatch.setattr(f"densityclip.evaluation.bootstrap.{name}", value)
    pieces = replicates(rows, patients, resamples=30, seed=0)
    np.testing.assert_array_equal(patient_weights(patients, 30, 0)[1], draw)
    for name in METRICS:
        np.testing.assert_allclose(whole[name], pieces[name], rtol=1e-13, err_msg=name)


def test_named_metrics_alone_are_replicated_and_the_same():
    rows, patients = sample()
    whole = replicates(rows, patients, resamples=30, seed=0)
    some = replicates(rows, patients, resamples=30, seed=0, names=("auc_c", "accuracy"))
    assert set(some) == {"auc_c", "accuracy"}
    for name, value in some.items():
        np.testing.assert_array_equal(value, whole[name])


def test_part_of_the_rows_is_scored_on_the_draw_of_all_patients():
    rows, patients = sample()
    position, counts = patient_weights(patients, 40, 7)
    part = np.flatnonzero(rows.labels > 0)
    mine = Sample.of(rows.labels[part], rows.probabilities[part])
    found = replicates_of_part(mine, position[part], counts)
    expected = mine.score(counts[position[part]].astype(float))
    for name in METRICS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)


def test_no_resamples_are_no_replicates():
    rows, patients = sample()
    assert all(len(value) == 0 for value in replicates(rows, patients, resamples=0, seed=0).values())


def test_the_interval_is_numpys_percentiles_and_leaves_out_nan():
    values = np.append(np.arange(101.0), [np.nan, np.nan])
    found = interval(50.0, values, n_patients=9)
    assert (found.low, found.high) == (pytest.approx(2.5), pytest.approx(97.5))
    assert found.resamples_used == 101


def test_one_patient_has_no_interval():
    found = interval(0.5, np.full(10, 0.5), n_patients=1)
    assert np.isnan(found.low)
    assert found.as_json()["low"] is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Accuracy of 200 independent patients, true value 0.7: the share of intervals that hold it, 95% expected;
    # 300 trials have a standard error of 1.3%, and small-sample percentile intervals run slightly short.
    rng = np.random.default_rng(0)
    held, patients = 0, [str(k) for k in range(200)]
    for trial in range(300):
        right = rng.random(200) < 0.7
        _, counts = patient_weights(patients, 200, trial)
        position = patient_weights(patients, 1, trial)[0]
        means = right[np.argsort(position)].astype(float) @ counts / 200
        found = interval(right.mean(), means, 200)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_a_difference_says_its_p_in_json():
    found = compare(arm(1), arm(2))["accuracy"].as_json()
    assert set(found) == {"value", "low", "high", "resamples_used", "excludes_zero", "p"}
    assert 0.0 < found["p"] <= 1.0


def test_without_an_interval_a_difference_has_no_p():
    rows = Sample.of([0, 1], [[0.7, 0.1, 0.1, 0.1]] * 2)
    one = ScoredArm.of(["a", "b"], ["p", "p"], rows, resamples=20, seed=0)
    assert compare(one, one)["accuracy"].as_json()["p"] is None


def arm(seed: int, ids: list[str] | None = None) -> ScoredArm:
    rows, patients = sample()
    rng = np.random.default_rng(seed)
    other = Sample.of(rows.labels, rng.dirichlet(np.ones(4), len(patients)))
    return ScoredArm.of(ids or [str(k) for k in range(len(patients))], patients, other, resamples=50, seed=3)


def test_an_arm_differs_from_itself_by_exactly_zero():
    for name, difference in compare(arm(1), arm(1)).items():
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0), name
        assert difference.p == 1.0
        assert excludes_zero(difference) is False


def test_the_difference_turns_its_sign_with_the_arms():
    there, back = compare(arm(1), arm(2)), compare(arm(2), arm(1))
    for name in METRICS:
        assert there[name].value == -back[name].value
        assert there[name].low == pytest.approx(-back[name].high)


def test_differences_are_taken_within_each_resample():
    first, second = arm(1), arm(2)
    gaps = second.replicated["accuracy"] - first.replicated["accuracy"]
    found = compare(first, second)["accuracy"]
    assert found.low == pytest.approx(np.quantile(gaps, 0.025))


def test_other_images_are_refused():
    first = arm(1)
    with pytest.raises(UserError, match="same images: 2 are in only one"):
        compare(first, arm(2, ids=["x", *first.ids[1:]]))
