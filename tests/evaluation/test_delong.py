"""AUCs by formula against two published examples, against the papers' double sums, and against simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from densityclip.errors import UserError
from densityclip.evaluation.delong import auc_difference, auc_estimate


def table(text: str) -> np.ndarray:
    """Rows of four numbers, several to a line."""
    return np.array(text.split(), dtype=float).reshape(-1, 4)


# Albumin, total protein, K-G score, benefit: 43 of the 49 ovarian cancer patients of DeLong et al. 1988, those with
# all three tests, as printed with the results below in the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver
# Operating Characteristic Curves".
OVARIAN = table(
    """
    3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1   3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1   4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1   4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1   3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1   3.7 6.9 5 1  3.6 6.6 5 1
    """
)
BENEFIT = OVARIAN[:, 3] == 1
TESTS = {"albumin": OVARIAN[:, 0], "protein": OVARIAN[:, 1], "k-g": -OVARIAN[:, 2]}

# Patient, significant stenosis, first and second reader's estimate: carotid arteries on MR angiography, the example
# of Obuchowski 1997 (table 3), complete records, with the results that Cleveland Clinic's help page on her method
# prints for it (clusteredROC_help.pdf).
CAROTIDS = table(
    """
    1 1 87 87    1 1 79 83     2 1 88 94    2 1 95 93     3 1 100 100  3 1 68 79     4 1 65 61    4 1 89 91
    5 1 97 97    5 1 100 100   6 1 100 99   6 1 89 88     7 1 77 77    8 1 94 89     8 0 45 44    9 1 89 92
    9 0 -11 -17  10 1 95 91    10 0 30 14   11 1 95 95    11 0 10 -122 12 1 100 100  12 0 19 -3   13 1 75 75
    14 0 70 73   14 1 70 81    15 0 26 27   15 1 86 93    16 0 0 8     16 1 65 70    17 0 6 23    17 1 100 100
    18 0 76 79   18 1 96 95    19 0 44 55   19 1 100 100  20 0 73 67   20 1 97 94    21 1 85 86   22 0 58 60
    22 1 100 99  23 0 -2 -2    23 1 100 100 24 0 -3 -14   24 0 0 -11   25 0 47 -3    25 0 -94 -90 26 0 -16 17
    26 0 75 85   27 0 5 -22    27 0 -1 -14  28 0 -6 -52   29 0 37 38   29 0 47 35    30 0 42 40   30 0 4 6
    31 0 55 23   31 0 55 45    32 0 4 -87   32 0 -13 -65  33 0 49 24   33 0 35 9     34 0 53 66   35 0 2 -15
    36 0 -48 -78
    """
)


def covariance(positive: np.ndarray, scores: list[np.ndarray], clusters: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Obuchowski 1997, equations 2 to 6, by double loops over rows and over clusters."""
    names = sorted(set(clusters.tolist()))
    m, n = int(positive.sum()), int((~positive).sum())
    areas, of_x, of_y = [], [], []
    for score in scores:
        x, y = score[positive], score[~positive]
        wins = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        area = wins.mean()
        areas.append(area)
        ours, theirs = clusters[positive], clusters[~positive]
        of_x.append([sum(wins[i].mean() - area for i in range(m) if ours[i] == name) for name in names])
        of_y.append([sum(wins[:, j].mean() - area for j in range(n) if theirs[j] == name) for name in names])
    i10 = sum(bool(positive[clusters == name].any()) for name in names)
    i01 = sum(bool((~positive)[clusters == name].any()) for name in names)
    found = np.empty((len(scores), len(scores)))
    for r in range(len(scores)):
        for s in range(len(scores)):
            s10 = i10 / ((i10 - 1) * m) * sum(a * b for a, b in zip(of_x[r], of_x[s], strict=True))
            s01 = i01 / ((i01 - 1) * n) * sum(a * b for a, b in zip(of_y[r], of_y[s], strict=True))
            s11 = len(names) / (len(names) - 1) * sum(a * b for a, b in zip(of_x[r], of_y[s], strict=True))
            s11_turned = len(names) / (len(names) - 1) * sum(a * b for a, b in zip(of_x[s], of_y[r], strict=True))
            found[r, s] = s10 / m + s01 / n + (s11 + s11_turned) / (m * n)
    return areas, found


def test_delong_gives_the_published_areas_and_standard_errors():
    published = {"albumin": (0.7366, 0.0927), "k-g": (0.7258, 0.1028), "protein": (0.6478, 0.1000)}
    for name, (value, se) in published.items():
        found = auc_estimate(BENEFIT, TESTS[name])
        assert (round(found.value, 4), round(found.se, 4), found.method) == (value, se, "delong")


def test_delong_gives_the_published_contrasts():
    published = {"albumin": (0.0108, 0.0953, 0.0127, 0.9102), "protein": (-0.0780, 0.1046, 0.5554, 0.4561)}
    for name, expected in published.items():
        difference, se, z, p = auc_difference(BENEFIT, TESTS[name], TESTS["k-g"])
        assert tuple(round(value, 4) for value in (difference, se, z**2, p)) == expected


def test_obuchowski_gives_the_published_areas_standard_errors_and_contrast():
    patient, positive, *readers = CAROTIDS.T
    found = [auc_estimate(positive == 1, reader, patient) for reader in readers]
    assert [round(one.value, 4) for one in found] == [0.9837, 0.9852]
    assert [round(one.se, 4) for one in found] == [0.0108, 0.0097]
    assert {one.method for one in found} == {"obuchowski"}
    contrast = auc_difference(positive == 1, readers[1], readers[0], patient)
    assert (round(contrast.difference, 4), round(contrast.se, 4), round(contrast.p, 4)) == (0.0014, 0.0066, 0.8271)


def test_obuchowski_gives_the_published_components_of_the_variance():
    patient, positive, *readers = CAROTIDS.T
    m, n = 29, 36
    variances = [
        0.0013151307 / m + 0.0022375873 / n + 2 * 0.0051785478 / (m * n),
        0.0009284122 / m + 0.0022598583 / n + 2 * -0.0005015760 / (m * n),
    ]
    shared = 0.0008484357 / m + 0.0019241250 / n + (0.0028648340 - 0.0015136931) / (m * n)
    for reader, variance in zip(readers, variances, strict=True):
        assert auc_estimate(positive == 1, reader, patient).se ** 2 == pytest.approx(variance, abs=1e-11)
    se = auc_difference(positive == 1, *readers, patient).se
    assert se**2 == pytest.approx(sum(variances) - 2 * shared, abs=1e-11)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30, deadline=None)
def test_fast_forms_equal_the_papers_double_sums(seed, ties):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 12, 40)
    positive = rng.random(40) < 0.4
    positive[clusters < 2], positive[(clusters >= 2) & (clusters < 4)] = True, False
    scores = [rng.normal(size=40) + positive for _ in range(2)]
    scores = [np.round(score, 0 if ties else 9) for score in scores]
    areas, expected = covariance(positive, scores, clusters)
    difference = auc_difference(positive, *scores, clusters)
    assert difference.difference == pytest.approx(areas[0] - areas[1], abs=1e-12)
    variance = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    if variance > 1e-12:
        assert difference.se == pytest.approx(np.sqrt(variance), rel=1e-9)
        assert difference.p == pytest.approx(2 * stats.norm.sf(abs(difference.z)), rel=1e-9)
    for score, area, variance in zip(scores, areas, np.diag(expected), strict=True):
        found = auc_estimate(positive, score, clusters)
        assert found.value == pytest.approx(area, abs=1e-12)
        if variance > 1e-12:
            assert found.se == pytest.approx(np.sqrt(variance), rel=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_one_row_a_cluster_is_delong(seed):
    rng = np.random.default_rng(seed)
    positive = np.arange(30) < 12
    scores = [np.round(rng.normal(size=30), 1) + positive for _ in range(2)]
    names = [f"patient {k}" for k in rng.permutation(30)]
    named, alone = auc_estimate(positive, scores[0], names), auc_estimate(positive, scores[0])
    assert (named.method, alone.method) == ("delong", "delong")
    assert [named.value, named.se, named.low, named.high] == pytest.approx(
        [alone.value, alone.se, alone.low, alone.high], rel=1e-12
    )
    assert auc_difference(positive, *scores, names) == pytest.approx(auc_difference(positive, *scores), rel=1e-12)
    # DeLong et al. 1988: sample variances of the components, over the positives and over the negatives.
    x, y = scores[0][positive][:, None], scores[0][~positive]
    wins = (x > y) + 0.5 * (x == y)
    variance = wins.mean(axis=1).var(ddof=1) / 12 + wins.mean(axis=0).var(ddof=1) / 18
    assert auc_estimate(positive, scores[0], names).se == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_rows_that_are_repeated_within_patients_do_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    positive, scores = np.arange(60) < 30, rng.normal(size=60) + (np.arange(60) < 30)
    once = auc_estimate(positive, scores)
    copies = auc_estimate(np.repeat(positive, 3), np.repeat(scores, 3), np.repeat(np.arange(60), 3))
    assert copies.se == pytest.approx(once.se, rel=1e-12)
    assert auc_estimate(np.repeat(positive, 3), np.repeat(scores, 3)).se < 0.6 * once.se


@given(st.integers(0, 10_000), st.floats(0.0, 4.0))
@settings(max_examples=40, deadline=None)
def test_the_interval_stays_within_0_and_1_and_holds_the_value(seed, apart):
    rng = np.random.default_rng(seed)
    positive = np.arange(20) < 8
    found = auc_estimate(positive, rng.normal(size=20) + apart * positive)
    if found.value < 1.0:
        assert 0.0 < found.low < found.value < found.high < 1.0
    else:
        assert found.se == 0.0
        assert np.isnan(found.low)
        assert np.isnan(found.high)


def test_two_scores_that_rank_alike_do_not_differ():
    scores = np.random.default_rng(0).normal(size=20)
    found = auc_difference(np.arange(20) < 9, scores, np.exp(scores))
    assert (found.difference, found.se, found.p) == (0.0, 0.0, 1.0)
    assert np.isnan(found.z)


def test_a_difference_without_spread_is_not_tested():
    positive = np.arange(10) < 5
    found = auc_difference(positive, positive.astype(float), -positive.astype(float))
    assert (found.difference, found.se) == (1.0, 0.0)
    assert np.isnan(found.p)


@pytest.mark.parametrize("positive", [[True, True, True], [False, False, False], []])
def test_without_positives_or_negatives_there_is_no_auc(positive):
    found = auc_estimate(positive, np.arange(len(positive), dtype=float))
    assert np.isnan([found.value, found.se, found.low, found.high]).all()
    assert np.isnan(auc_difference(positive, np.arange(len(positive)), np.arange(len(positive)))).all()


def test_positives_of_one_patient_alone_have_a_value_but_no_spread():
    found = auc_estimate([True, True, False, False], [3.0, 1.0, 2.0, 0.0], ["a", "a", "b", "c"])
    assert found.value == 0.75
    assert np.isnan([found.se, found.low, found.high]).all()


def test_nan_scores_and_lengths_that_differ_are_refused():
    with pytest.raises(UserError, match="NaN"):
        auc_estimate([True, False], [np.nan, 1.0])
    with pytest.raises(ValueError, match="do not match"):
        auc_estimate([True, False], [1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="do not match"):
        auc_estimate([True, False, True], [1.0, 2.0])


@pytest.mark.slow
def test_intervals_over_patients_with_several_alike_images_hold_the_truth_as_often_as_they_say():
    # Patients with 1 to 6 images; one part of the score is shared within the patient, and some patients have images
    # of both kinds. The true AUC is that of two normal distributions one apart with variance 1.5 each.
    truth = stats.norm.cdf(1.0 / np.sqrt(3.0))
    rng = np.random.default_rng(11)
    held = {"clustered": 0, "as if independent": 0}
    trials, errors, values = 3000, [], []
    for _ in range(trials):
        sizes = rng.integers(1, 7, 120)
        patient = np.repeat(np.arange(120), sizes)
        positive = rng.random(len(patient)) < rng.choice([0.1, 0.5, 0.9], 120)[patient]
        scores = rng.normal(size=120)[patient] + rng.normal(scale=np.sqrt(0.5), size=len(patient)) + positive
        for name, found in (
            ("clustered", auc_estimate(positive, scores, patient)),
            ("as if independent", auc_estimate(positive, scores)),
        ):
            held[name] += found.low <= truth <= found.high
            if name == "clustered":
                errors.append(found.se)
                values.append(found.value)
    # 3,000 trials have a standard error of 0.4 points; found: 94.7% and 83.5% (docs/statistics.md).
    assert 0.935 <= held["clustered"] / trials <= 0.965
    assert held["as if independent"] / trials < 0.86
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)
