"""Tests of differences: what p and the interval say together, margins in both directions, and Holm's correction."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from densityclip.errors import UserError
from densityclip.evaluation.bootstrap import Estimate, interval
from densityclip.evaluation.compare import excludes_zero
from densityclip.evaluation.hypotheses import NonInferiority, Superiority, holm, one_sided_p, two_sided_p

# Steps of 1/40 give many ties with the value that is tested, as differences of accuracies do.
steps = st.integers(-20, 20).map(lambda k: k / 40)
some_replicates = st.lists(steps, min_size=40, max_size=130).map(np.array)


def judged(test: Superiority | NonInferiority, replicated: np.ndarray):
    return test.judge(interval(float(np.median(replicated)), replicated, 9), replicated)


@given(some_replicates)
@settings(max_examples=150, deadline=None)
def test_p_is_below_5_percent_exactly_where_the_interval_excludes_zero(replicated):
    found, p = interval(0.1, replicated, 9), two_sided_p(replicated)
    # At 0.05 itself, where the interval ends in 0, rounding may turn either.
    assume(abs(p - 0.05) > 1e-12)
    assert (p < 0.05) == excludes_zero(found)


@given(some_replicates, st.floats(-1, 1))
@settings(max_examples=100, deadline=None)
def test_p_is_the_level_at_which_the_percentile_interval_starts_to_exclude_the_value(replicated, at):
    p = two_sided_p(replicated, at)
    floor = 2 / (len(replicated) + 1)
    assert floor <= p <= 1.0
    inside = np.quantile(replicated, [p / 2 * 0.999, 1 - p / 2 * 0.999])
    if p > floor:
        assert inside[0] <= at + 1e-12
        assert at - 1e-12 <= inside[1]
    if p < 1.0:
        outside = np.quantile(replicated, [p / 2 * 1.001, 1 - p / 2 * 1.001])
        assert at < outside[0] + 1e-12 or outside[1] - 1e-12 < at


def test_p_by_hand():
    # Replicates 1 to 101: the quantile at 0.1 is 11, so two-sided p against 11 is 0.2.
    replicated = np.arange(1.0, 102.0)
    assert one_sided_p(replicated, 11.0) == pytest.approx(0.1)
    assert two_sided_p(replicated, 11.0) == pytest.approx(0.2)
    assert two_sided_p(replicated, 91.0) == pytest.approx(0.2)
    assert two_sided_p(replicated, 11.5) == pytest.approx(0.21)
    assert two_sided_p(replicated, 51.0) == 1.0


def test_the_smallest_p_is_two_over_the_replicates_and_one():
    assert two_sided_p(np.arange(1.0, 1000.0)) == pytest.approx(2 / 1000)


def test_replicates_that_are_not_estimable_are_left_out_and_none_is_no_p():
    values = np.linspace(-1, 3, 200)
    assert two_sided_p(np.append(values, [np.nan] * 50)) == two_sided_p(values)
    assert np.isnan(two_sided_p(np.full(5, np.nan)))
    assert np.isnan(two_sided_p(np.empty(0)))


def test_p_is_close_to_that_of_a_normal_test_of_a_mean():
    # The bootstrap of a mean of 400 values: the interval is normal but for its 20,000 resamples.
    rng = np.random.default_rng(0)
    replicated = rng.normal(0.11, 0.05, 20_000)
    assert two_sided_p(replicated) == pytest.approx(0.0278, abs=0.004)  # 2 * Phi(-2.2)


@given(some_replicates)
@settings(max_examples=100, deadline=None)
def test_p_does_not_ask_which_arm_comes_first(replicated):
    assert two_sided_p(replicated) == two_sided_p(-replicated)


def around(low: float, high: float) -> np.ndarray:
    """Replicates from low to high; their 95% percentile interval is a little shorter."""
    return np.linspace(low, high, 2001)


@pytest.mark.parametrize(
    "metric, low, high, verdict",
    [
        ("macro_auc", 0.01, 0.05, "superior"),
        ("macro_auc", -0.05, -0.01, "inferior"),
        ("macro_auc", -0.01, 0.05, "not shown"),
        ("brier", 0.01, 0.05, "inferior"),
        ("brier", -0.05, -0.01, "superior"),
        ("ece", -0.05, 0.01, "not shown"),
    ],
)
def test_superiority_knows_which_direction_is_better(metric, low, high, verdict):
    found = judged(Superiority(metric=metric), around(low, high))
    assert found.verdict == verdict
    assert (found.p < found.level) == (verdict != "not shown")


@pytest.mark.parametrize(
    "metric, low, high, verdict",
    [
        ("accuracy", -0.01, 0.03, "non-inferior"),
        ("accuracy", -0.015, -0.005, "non-inferior"),
        ("accuracy", -0.03, 0.05, "non-inferiority not shown"),
        ("accuracy", -0.09, -0.05, "non-inferiority not shown"),
        ("mean_absolute_error", -0.03, 0.01, "non-inferior"),
        ("mean_absolute_error", -0.05, 0.03, "non-inferiority not shown"),
    ],
)
def test_non_inferiority_holds_the_worse_end_against_the_margin(metric, low, high, verdict):
    found = judged(NonInferiority(metric=metric, margin=0.02), around(low, high))
    assert found.verdict == verdict
    assert (found.p < found.level) == (verdict == "non-inferior")


@given(some_replicates, st.sampled_from([0.05, 0.1, 0.2]), st.sampled_from(["accuracy", "brier"]))
@settings(max_examples=100, deadline=None)
def test_the_verdict_and_p_agree(replicated, margin, metric):
    for test in (NonInferiority(metric=metric, margin=margin), Superiority(metric=metric)):
        found = judged(test, replicated)
        assume(abs(found.p - found.level) > 1e-12)
        assert (found.p < found.level) == (not found.verdict.endswith("not shown"))


@pytest.mark.parametrize("test", [Superiority(metric="accuracy"), NonInferiority(metric="accuracy", margin=0.1)])
def test_without_an_interval_nothing_is_shown(test):
    found = test.judge(Estimate(0.3, float("nan"), float("nan"), 0), np.empty(0))
    assert found.verdict.endswith("not shown")
    assert np.isnan(found.p)


@pytest.mark.parametrize("margin", [0.0, -0.02, float("nan"), float("inf")])
def test_a_margin_that_allows_nothing_or_anything_is_refused(margin):
    with pytest.raises(UserError, match="margin"):
        NonInferiority(metric="accuracy", margin=margin)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="auroc"):
        Superiority(metric="auroc")


def test_holm_by_hand():
    # 0.01 x 4; 0.02 x 3; 0.03 x 2 = 0.06; 0.04 x 1, which may not fall below the one before it.
    assert holm([0.02, 0.01, 0.04, 0.03]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.integers(1, 40).map(lambda k: k / 40), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_holm_is_the_closed_test_of_bonferronis_intersections(p_values):
    n = len(p_values)
    for k, corrected in enumerate(holm(p_values)):
        families = (set(family) for size in range(1, n + 1) for family in combinations(range(n), size))
        needed = max(min(1.0, len(f) * min(p_values[j] for j in f)) for f in families if k in f)
        assert corrected == pytest.approx(needed)


def test_a_test_that_could_not_be_made_does_not_ease_the_others():
    found = holm([0.01, float("nan"), 0.04])
    assert np.isnan(found[1])
    assert [found[0], found[2]] == pytest.approx([0.03, 0.08])
