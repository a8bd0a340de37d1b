"""The rule for exams is chosen by evidence, and each level is calibrated: simulations whose truth is known."""

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize_scalar

from densityclip.artifacts import PROBABILITIES
from densityclip.probability.aggregate import to_level
from densityclip.probability.exam_rule import fit_joining
from densityclip.probability.joining import PLAIN, Joining
from prediction_rows import exams

DENSER = Joining(rule="denser", denser_weight=1.0)


def over_call(images: pl.DataFrame, joining: Joining) -> float:
    """Mean expected category less mean category, of exams."""
    rows = to_level(images, "exam", joining)
    expected = rows.select(PROBABILITIES).to_numpy() @ np.arange(4)
    return float((expected - rows["label"].replace_strict(list("ABCD"), range(4)).to_numpy()).mean())


def test_the_greater_of_two_noisy_breasts_over_calls_and_what_is_learned_does_not():
    rng = np.random.default_rng(1)
    alike = {"noise": 0.7, "alike": 1.0}
    joining = fit_joining(exams(rng, 400, **alike), exams(rng, 150, **alike))
    test = exams(rng, 4000, **alike)
    assert over_call(test, DENSER) > 0.15
    assert abs(over_call(test, joining)) < 0.04
    assert (joining.rule, joining.chosen_on, joining.fitted_on) == ("mean", 400, 150)


def test_where_breasts_differ_and_are_seen_well_the_mean_under_calls_and_is_not_chosen():
    rng = np.random.default_rng(2)
    apart = {"noise": 0.2, "alike": 0.3}
    joining = fit_joining(exams(rng, 400, **apart), exams(rng, 150, **apart))
    test = exams(rng, 4000, **apart)
    assert over_call(test, PLAIN) < -0.3
    assert abs(over_call(test, joining)) < 0.05
    assert joining.denser_weight >= 0.7


def test_in_between_a_weight_is_learned_that_is_better_than_both_simple_rules():
    rng = np.random.default_rng(3)
    some = {"noise": 0.7, "alike": 0.9}
    joining = fit_joining(exams(rng, 1500, **some), exams(rng, 300, **some))
    assert joining.rule == "learned"
    test = exams(rng, 4000, **some)
    found = abs(over_call(test, joining))
    assert found < 0.04 < min(abs(over_call(test, PLAIN)), over_call(test, DENSER))


def log_loss(temperature: float, probabilities: np.ndarray, labels: np.ndarray) -> float:
    sharp = probabilities ** (1 / temperature)
    return float(-np.log((sharp / sharp.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]).mean())


def test_a_mean_of_two_looks_is_too_unsure_and_the_level_s_temperature_mends_it():
    rng = np.random.default_rng(4)
    alike = {"noise": 1.0, "alike": 1.0}
    joining = fit_joining(exams(rng, 50, **alike), exams(rng, 3000, **alike))
    test = to_level(exams(rng, 3000, **alike), "exam", Joining(rule=joining.rule, denser_weight=joining.denser_weight))
    labels = test["label"].replace_strict(list("ABCD"), range(4)).to_numpy()
    values = test.select(PROBABILITIES).to_numpy()
    best = minimize_scalar(log_loss, bounds=(0.1, 5), args=(values, labels), method="bounded").x
    assert best < 0.9  # two looks say more than one
    assert joining.temperatures["exam"] == pytest.approx(best, rel=0.08)
    # A breast alone was calibrated as it was, so its level needs nothing.
    assert joining.temperatures["breast"] == pytest.approx(1.0, rel=0.08)


def test_a_patient_counts_once_however_many_exams_she_has():
    rng = np.random.default_rng(5)
    once = exams(rng, 60, noise=0.5, alike=0.5)
    copies = [
        once.with_columns(pl.format("{}-{}", "exam_id", pl.lit(n)).alias("exam_id"),
                          pl.format("{}-{}", "image_id", pl.lit(n)).alias("image_id"))
        .filter(pl.col("patient_id").str.slice(1).cast(pl.Int32) % 3 >= n)
        for n in range(3)
    ]  # fmt: skip
    many = pl.concat(copies)
    assert many.height > once.height
    of_once, of_many = fit_joining(once, once), fit_joining(many, many)
    assert (of_once.rule, of_once.denser_weight) == (of_many.rule, of_many.denser_weight)
    assert (of_once.chosen_on, of_many.chosen_on) == (60, 60)
    for level in ("breast", "exam", "patient"):
        assert of_many.temperatures[level] == pytest.approx(of_once.temperatures[level], rel=1e-3)


def test_too_few_patients_or_one_category_choose_nothing_and_say_so():
    rng = np.random.default_rng(6)
    few, enough = exams(rng, 9, noise=0.5, alike=0.5), exams(rng, 40, noise=0.5, alike=0.5)
    joining = fit_joining(few, few)
    assert (joining.rule, joining.chosen_on, joining.fitted_on) == ("mean", 0, 0)
    assert set(joining.temperatures.values()) == {1.0}
    assert len(joining.notes) == 4
    assert "9 patients" in joining.notes[0]
    same = enough.with_columns(pl.lit("C").alias("label"))
    assert "all labels are C" in fit_joining(same, enough).notes[0]
    unlabelled = enough.with_columns(pl.lit(None, pl.String()).alias("label"))
    assert fit_joining(unlabelled.head(0), unlabelled).temperatures == PLAIN.temperatures


def test_few_patients_who_are_all_answered_rightly_do_not_make_the_model_certain():
    rng = np.random.default_rng(7)
    seen = exams(rng, 12, noise=0.01, alike=1.0)
    mild = seen.with_columns((0.6 * pl.col(name) + 0.1).alias(name) for name in PROBABILITIES)
    temperature = fit_joining(mild, mild).temperatures["exam"]
    assert 0.3 < temperature < 0.8


def test_the_temperatures_come_from_the_calibration_part_and_the_rule_from_validation():
    rng = np.random.default_rng(8)
    one, other = exams(rng, 60, noise=0.3, alike=0.3), exams(rng, 60, noise=0.9, alike=1.0)
    mixed = fit_joining(one, other)
    assert mixed.denser_weight == fit_joining(one, one).denser_weight
    swapped = fit_joining(one, one)
    assert mixed.temperatures != swapped.temperatures
