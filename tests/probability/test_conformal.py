"""Sets of neighbouring categories: coverage by simulation, and the sets against brute force."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from densityclip.probability.conformal import Conformal, one_row_a_patient
from prediction_rows import CUTS, posterior

simplex = hnp.arrays(np.float64, (6, 4), elements=st.floats(0.001, 1)).map(lambda v: v / v.sum(axis=1, keepdims=True))


def drawn(rng: np.random.Generator, number: int, noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    density = rng.normal(size=number)
    return posterior(density + noise * rng.normal(size=number), noise), np.searchsorted(CUTS, density)


def ids(number: int) -> list[str]:
    return [f"p{n}" for n in range(number)]


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("patients", [12, 60])
@pytest.mark.parametrize("sharpness", [1.0, 3.0])  # at 3 the model is far too sure of itself: the promise stands
def test_sets_hold_the_label_as_often_as_was_asked(coverage: float, patients: int, sharpness: float):
    rng = np.random.default_rng([7, patients])
    covered, trials, test = 0.0, 600, 50
    for _ in range(trials):
        values, labels = drawn(rng, patients + test)
        values = values**sharpness / (values**sharpness).sum(axis=1, keepdims=True)
        fitted = Conformal.fit(values[:patients], labels[:patients], ids(patients), coverage)
        covered += fitted.sets(values[patients:])[np.arange(test), labels[patients:]].mean() / trials
    # Coverage of one calibration part follows a beta distribution with a variance of at most this.
    error = np.sqrt(coverage * (1 - coverage) * (1 / (patients + 2) + 1 / test) / trials)
    assert covered >= coverage - 3 * error
    # With 12 patients all wanted shares are rounded up to thirteenths, and the first category comes free.
    assert covered <= coverage + 0.11


def grown(values: np.ndarray) -> list[set[int]]:
    """The nested runs of neighbours, by trying all runs of each length that hold the one before."""
    sets = [{int(values.argmax())}]
    while len(sets[-1]) < 4:
        runs = [set(range(a, a + len(sets[-1]) + 1)) for a in range(4 - len(sets[-1]))]
        # By the category that a run adds: sums of equal runs differ by the order in which they are added up.
        held = sets[-1]
        sets.append(max((run for run in runs if run > held), key=lambda run: (values[(run - held).pop()], -min(run))))
    return sets


@given(simplex, st.floats(0.05, 0.999))
def test_a_set_is_the_largest_grown_run_within_the_threshold(values: np.ndarray, threshold: float):
    found = Conformal(coverage=0.9, threshold=threshold, patients=50).sets(values)
    for row, held in zip(values, found, strict=True):
        runs = grown(row)
        masses = [row[sorted(run)].sum() for run in runs]
        if any(abs(mass - threshold) < 1e-9 for mass in masses):
            continue
        within = [run for run, mass in zip(runs[1:3], masses[1:3], strict=True) if mass < threshold]
        assert set(np.flatnonzero(held)) == (within[-1] if within else runs[0])


@given(simplex)
def test_sets_are_neighbours_and_never_empty_and_grow_with_the_threshold(values: np.ndarray):
    before = np.zeros((6, 4), dtype=bool)
    for threshold in (0.0, 0.3, 0.6, 0.9, 1.0, None):
        held = Conformal(coverage=0.9, threshold=threshold, patients=50).sets(values)
        places = [np.flatnonzero(one) for one in held]
        assert all(len(one) == one[-1] - one[0] + 1 for one in places)
        assert (held >= before).all()
        before = held
    assert before.all()


def test_the_threshold_is_the_smallest_that_covers_enough_of_the_calibration_patients():
    values, labels = drawn(np.random.default_rng(3), 37)
    fitted = Conformal.fit(values, labels, ids(37), 0.85)
    needed = int(np.ceil(38 * 0.85))

    def covered(threshold: float) -> int:
        held = Conformal(coverage=0.85, threshold=threshold, patients=37).sets(values)
        first = values.argmax(axis=1) == labels  # these come free, and count here only if their score is within
        scores = values.max(axis=1) <= threshold
        return int((held[np.arange(37), labels] & (~first | scores)).sum())

    candidates = [
        sum(row[sorted(run)]) for row in values for a, b in itertools.combinations(range(5), 2) for run in [range(a, b)]
    ]
    smallest = min(one for one in candidates if covered(one + 1e-12) >= needed)
    assert fitted.threshold == pytest.approx(smallest, abs=1e-9)


@pytest.mark.parametrize(("patients", "promised"), [(18, False), (19, True)])
def test_too_few_patients_get_all_four_categories(patients: int, promised: bool):
    values, labels = drawn(np.random.default_rng(1), patients)
    fitted = Conformal.fit(values, labels, ids(patients), 0.95)
    assert (fitted.threshold is not None) == promised
    if not promised:
        assert fitted.sets(values).all()
    assert Conformal.fit(np.empty((0, 4)), [], [], 0.9).sets(values).all()


def test_a_patient_counts_once_and_the_order_of_rows_changes_nothing():
    rng = np.random.default_rng(2)
    values, labels = drawn(rng, 300)
    patients = [f"p{n % 40}" for n in range(300)]
    fitted = Conformal.fit(values, labels, patients, 0.9)
    assert fitted.patients == 40
    order = rng.permutation(300)
    again = Conformal.fit(values[order], labels[order], [patients[n] for n in order], 0.9)
    assert again == fitted
    chosen = one_row_a_patient(values, labels, patients)
    assert len({patients[n] for n in chosen}) == 40
    # The choice is not always the first of a patient's sorted rows.
    assert any(values[n, 0] > min(values[m, 0] for m in range(300) if patients[m] == patients[n]) for n in chosen)


def test_it_survives_json_and_refuses_what_it_cannot_do():
    values, labels = drawn(np.random.default_rng(4), 30)
    for coverage in (0.9, 0.99):
        fitted = Conformal.fit(values, labels, ids(30), coverage)
        assert Conformal.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    with pytest.raises(ValueError, match="not between 0 and 1"):
        Conformal.fit(values, labels, ids(30), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        fitted.sets(np.full((1, 4), np.nan))
