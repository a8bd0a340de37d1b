"""The ceiling of noisy labels, against a simulation and against what was published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from densityclip.evaluation.label_noise import (
    ANOTHER_READER,
    SAME_READER,
    Reader,
    ceiling,
    published_readers,
    true_shares,
)
from densityclip.phantom.sites import REFERENCE_SHARES


def test_the_readers_reproduce_the_published_agreement_and_come_near_the_published_kappa():
    counts = [round(share * 1000) for share in REFERENCE_SHARES]
    same = ceiling(counts, published_readers()[SAME_READER][0])["second_reader"]
    assert same["accuracy"] == pytest.approx(0.772, abs=1e-3)
    # Not used in the fit: Spayne 2012 reports 0.70.
    assert same["linear_kappa"] == pytest.approx(0.70, abs=0.03)
    other = published_readers()[ANOTHER_READER][0]
    joint = other.against_reader(true_shares(counts, other))
    assert joint[:2, 2:].sum() + joint[2:, :2].sum() == pytest.approx(0.172, abs=1e-6)


def test_the_figures_are_those_of_simulated_readers():
    reader, shares = Reader(0.1), np.array([0.1, 0.4, 0.4, 0.1])
    random = np.random.default_rng(0)
    truth = random.choice(4, 400_000, p=shares)

    def reads() -> np.ndarray:
        return (random.random(len(truth))[:, None] > reader.matrix.cumsum(axis=1)[truth]).sum(axis=1)

    label, second = reads(), reads()
    found = ceiling(np.bincount(label, minlength=4).tolist(), reader)
    for shown, answer in ((found["perfect_model"], truth), (found["second_reader"], second)):
        assert shown["accuracy"] == pytest.approx(sk.accuracy_score(label, answer), abs=0.005)
        assert shown["linear_kappa"] == pytest.approx(sk.cohen_kappa_score(label, answer, weights="linear"), abs=0.005)
        assert shown["mean_absolute_error"] == pytest.approx(np.abs(label - answer).mean(), abs=0.005)


@given(st.lists(st.integers(0, 500), min_size=4, max_size=4).filter(sum), st.floats(0.0, 0.2))
def test_a_perfect_model_beats_a_second_reader_and_shares_stay_shares(counts, crossing):
    found = ceiling(counts, Reader(crossing))
    assert found["perfect_model"]["accuracy"] >= found["second_reader"]["accuracy"] - 1e-4
    assert all(share >= 0 for share in found["truth_shares"].values())
    assert sum(found["truth_shares"].values()) == pytest.approx(1.0, abs=1e-3)


def test_a_reader_who_never_errs_sets_no_ceiling():
    found = ceiling([10, 40, 40, 10], Reader(0.0))
    assert found["truth_shares"] == {"A": 0.1, "B": 0.4, "C": 0.4, "D": 0.1}
    assert found["perfect_model"]["accuracy"] == found["perfect_model"]["linear_kappa"] == 1.0


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="crosses a boundary"):
        Reader(0.7)
    with pytest.raises(ValueError, match="needs labels"):
        ceiling([0, 0, 0, 0], Reader(0.1))
