"""Conformal sets in metrics.json: how often they hold the label, and where that was promised."""

import numpy as np
import polars as pl
import pytest
from answers import one, predictions

from densityclip.artifacts import PROBABILITIES
from densityclip.evaluation.evaluate import evaluate
from densityclip.probability.aggregate import to_level
from densityclip.probability.conformal import Conformal


def split(test: pl.DataFrame, calibration: pl.DataFrame) -> pl.DataFrame:
    """Two tables of one cohort, the second with patients of its own."""
    own = [pl.format("k-{}", pl.col(name)).alias(name) for name in ("patient_id", "exam_id", "image_id")]
    return pl.concat([test, calibration.with_columns(pl.lit("calibration").alias("part"), *own)])


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    facts = [{"race": "White"}, {"race": "White"}, {"race": "Black"}]
    test = predictions(90, ("multi",), seed=1, skill=4.0, facts=facts)
    calibration = predictions(80, ("multi",), seed=2, skill=4.0)
    far = predictions(40, ("multi",), seed=3, skill=1.0, cohort="far", part="external")
    return pl.concat([split(test, calibration), far])


@pytest.fixture(scope="module")
def metrics(table) -> dict:
    return evaluate(table, resamples=200)


def test_coverage_is_that_of_sets_fitted_on_the_calibration_exams(table, metrics):
    exams = {
        part: to_level(table.filter(pl.col("part") == part), "exam").sort("patient_id")
        for part in ("calibration", "test")
    }
    label = {part: np.array(["ABCD".index(x) for x in rows["label"]]) for part, rows in exams.items()}
    known = exams["calibration"]
    fitted = Conformal.fit(known.select(PROBABILITIES).to_numpy(), label["calibration"], known["patient_id"], 0.9)
    sets = fitted.sets(exams["test"].select(PROBABILITIES).to_numpy())
    entry = one(metrics["conformal"], cohort="c", modality="all", level="exam", by="all")
    assert entry["fitted_on_patients"] == 80
    assert entry["coverage"]["value"] == pytest.approx(sets[np.arange(90), label["test"]].mean())
    assert entry["size"]["value"] == pytest.approx(sets.sum(axis=1).mean())
    assert entry["sets"] == {str(k): int((sets.sum(axis=1) == k).sum()) for k in range(1, 5)}


def test_only_the_internal_test_is_promised(metrics):
    promised = {(entry["cohort"], entry["part"]) for entry in metrics["conformal"] if entry["promised"]}
    assert promised == {("c", "test")}
    assert {entry["cohort"] for entry in metrics["conformal"]} == {"c", "far"}


def test_coverage_is_given_by_modality_and_by_groups_with_enough_patients(metrics):
    of_test = [entry for entry in metrics["conformal"] if entry["cohort"] == "c" and entry["level"] == "image"]
    assert {(entry["modality"], entry["by"], entry["group"]) for entry in of_test} >= {
        ("DM", "all", "all"),
        ("s2D", "all", "all"),
        ("all", "race", "White"),
        ("all", "race", "Black"),
    }
    # Groups are not promised: exchangeability is of the whole.
    assert not any(entry["promised"] for entry in of_test if entry["by"] != "all")


def test_calibration_patients_that_differ_between_trainings_promise_nothing():
    test = predictions(30, ("multi",), seed=1, skill=4.0, folds=(0, 1))
    calibration = predictions(40, ("multi",), seed=2, skill=4.0, folds=(0, 1))
    fold = pl.when(pl.col("patient_id").str.ends_with("1")).then(1).otherwise(0)
    apart = split(test, calibration.filter(pl.col("fold") == fold))
    shared = split(test, calibration)
    assert not any(entry["promised"] for entry in evaluate(apart, resamples=5)["conformal"])
    assert any(entry["promised"] for entry in evaluate(shared, resamples=5)["conformal"])


def test_cohorts_that_were_calibrated_together_are_promised_nothing_each():
    # The threshold is that of the two mixed; patients of one of them are not drawn from that mixture.
    both = [
        split(predictions(30, ("multi",), seed=k, cohort=name), predictions(40, ("multi",), seed=9 + k, cohort=name))
        for k, name in enumerate(("near", "nearer"))
    ]
    entries = evaluate(pl.concat(both), resamples=5)["conformal"]
    assert {entry["cohort"] for entry in entries} == {"near", "nearer"}
    assert not any(entry["promised"] for entry in entries)
    alone = evaluate(both[0], resamples=5)["conformal"]
    assert any(entry["promised"] for entry in alone)


def test_without_calibration_rows_there_are_no_sets():
    assert evaluate(predictions(), resamples=5)["conformal"] == []


def test_a_patient_with_many_images_weighs_no_more_than_another():
    table = split(predictions(4, ("multi",), seed=1), predictions(80, ("multi",), seed=2, skill=2.0))
    many = table.filter(pl.col("patient_id") == "p0")
    copies = [many.with_columns(pl.format("{}-{}", pl.col("image_id"), pl.lit(k)).alias("image_id")) for k in range(5)]
    entries = [
        one(evaluate(rows, resamples=5)["conformal"], modality="all", level="image", by="all")
        for rows in (table, pl.concat([table, *copies]))
    ]
    assert entries[0]["n"] < entries[1]["n"]
    assert entries[0]["coverage"]["value"] == pytest.approx(entries[1]["coverage"]["value"])
