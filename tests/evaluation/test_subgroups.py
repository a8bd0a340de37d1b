"""Figures by group: who is in which, what is withheld, and how far the worst is behind the best."""

import numpy as np
import polars as pl
import pytest
from answers import one, predictions
from sklearn import metrics as sk

from densityclip.evaluation.bootstrap import patient_weights
from densityclip.evaluation.evaluate import evaluate
from densityclip.evaluation.subgroups import GROUP_METRICS, with_age_band

FACTS = [
    {"vendor": "X", "age": 45.0, "race": "White"},
    {"vendor": "X", "age": 62.0, "race": "Black"},
    {"vendor": "Y", "age": 45.0, "race": "White"},
    {"vendor": None, "age": None, "race": "Black"},
    {"vendor": "Y", "age": 62.0, "race": "Black"},
]


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return predictions(patients=60, arms=("multi",), facts=FACTS, skill=2.0)


@pytest.fixture(scope="module")
def metrics(table) -> dict:
    return evaluate(table, resamples=200, smallest_group=12)


def test_ages_fall_into_bands_and_a_bound_belongs_to_the_older():
    ages = pl.DataFrame({"age": [12.0, 39.9, 40.0, 49.0, 50.0, 60.0, 69.9, 70.0, 95.0, None, float("nan")]})
    bands = ["<40", "<40", "40-49", "40-49", "50-59", "60-69", "60-69", "70+", "70+", None, None]
    assert with_age_band(ages)["age_band"].to_list() == bands


def test_a_group_holds_scikit_learns_figures_of_its_own_rows(table, metrics):
    group = one(metrics["groups"], level="image", by="vendor", group="X")
    mine = table.filter(pl.col("vendor") == "X")
    assert group["n"] == mine.height
    assert group["n_patients"] == 24
    assert group["metrics"]["accuracy"]["value"] == sk.accuracy_score(mine["label"], mine["predicted"])
    assert set(group["metrics"]) == set(GROUP_METRICS)
    crossed = one(metrics["groups"], level="image", by="age_band x race", group="60-69 x Black")
    assert crossed["n_patients"] == 24


def test_small_groups_show_neither_figures_nor_their_size(table):
    metrics = evaluate(table, resamples=20, smallest_group=24)
    shown = one(metrics["groups"], level="exam", by="vendor", group="unknown")
    assert shown == shown | {"suppressed": True, "n": None, "n_patients": "< 24", "label_counts": {}, "metrics": {}}
    assert not one(metrics["groups"], level="exam", by="vendor", group="X")["suppressed"]
    # Nothing of 12 patients, whatever they share.
    assert all(entry["suppressed"] or entry["n_patients"] >= 24 for entry in metrics["groups"])
    assert "40-49 x Black" not in {entry["group"] for entry in metrics["groups"]}


def test_a_fact_that_no_row_has_is_no_group(metrics):
    assert "machine" not in {entry["by"] for entry in metrics["groups"]}


def test_views_and_modalities_are_groups_of_images_not_of_exams(metrics):
    assert {entry["level"] for entry in metrics["groups"] if entry["by"] in ("view", "modality")} == {"image"}


def test_the_worst_group_is_named_and_the_unknown_one_is_no_candidate(table):
    def right(label: str) -> np.ndarray:
        return np.eye(4)["ABCD".index(label)]

    # X is always right, Y half of the time, the unknown vendor never.
    order = table.sort("image_id")
    answers = []
    for k, row in enumerate(order.iter_rows(named=True)):
        good = row["vendor"] == "X" or (row["vendor"] == "Y" and k % 2)
        answers.append(right(row["label"]) if good else np.roll(right(row["label"]), 1))
    names = ("prob_a", "prob_b", "prob_c", "prob_d")
    changed = order.with_columns(pl.Series(name, np.array(answers)[:, k]) for k, name in enumerate(names))
    worst = one(evaluate(changed, resamples=50)["worst"], level="image", by="vendor", metric="accuracy")
    assert (worst["best_groups"], worst["best_value"], worst["worst_groups"]) == (["X"], 1.0, ["Y"])
    assert worst["gap"]["value"] == pytest.approx(1.0 - worst["value"])
    error = one(evaluate(changed, resamples=50)["worst"], level="image", by="vendor", metric="mean_absolute_error")
    assert (error["best_groups"], error["worst_groups"]) == (["X"], ["Y"])


def test_groups_that_tie_are_all_named():
    # X and Z are always right, V and Y always wrong.
    facts = [{"vendor": name} for name in ("X", "V", "Z", "Y", "X", "Y", "Z", "V")]
    table = predictions(patients=80, arms=("multi",), facts=facts)
    right = pl.col("vendor").is_in(["X", "Z"])
    answers = [
        pl.when(right).then(pl.col("label") == letter).otherwise(pl.col("label") == other).cast(pl.Float64).alias(name)
        for letter, other, name in zip("ABCD", "BCDA", ("prob_a", "prob_b", "prob_c", "prob_d"), strict=True)
    ]
    worst = one(
        evaluate(table.with_columns(answers), resamples=20)["worst"], level="image", by="vendor", metric="accuracy"
    )
    assert (worst["worst_groups"], worst["best_groups"]) == (["V", "Y"], ["X", "Z"])
    assert (worst["value"], worst["best_value"], worst["gap"]["value"]) == (0.0, 1.0, 1.0)


def test_groups_of_one_patients_images_give_a_gap_without_an_interval():
    # Two groups of images, of one patient: there are no patients to resample, and there is no interval.
    table = predictions(patients=1, arms=("multi",))
    worst = one(
        evaluate(table, resamples=20, smallest_group=1)["worst"], level="image", by="modality", metric="accuracy"
    )
    assert worst["groups"] == 2
    assert (worst["gap"]["low"], worst["gap"]["high"]) == (None, None)


def test_the_gaps_interval_is_that_of_the_same_resampled_patients(table, metrics):
    rows = table.sort("image_id")
    position, counts = patient_weights(rows["patient_id"].to_list(), 200, 0)
    right = (rows["label"] == rows["predicted"]).to_numpy().astype(float)
    each = []
    for vendor in ("X", "Y"):
        mine = (rows["vendor"] == vendor).fill_null(False).to_numpy()
        weights = counts[position[mine]]
        each.append((right[mine] @ weights) / weights.sum(axis=0))
    expected = np.quantile(np.max(each, axis=0) - np.min(each, axis=0), [0.025, 0.975])
    gap = one(metrics["worst"], level="image", by="vendor", metric="accuracy")["gap"]
    assert [gap["low"], gap["high"]] == pytest.approx(expected, abs=1e-12)


def test_groups_without_the_same_categories_are_not_compared_by_means_over_categories():
    # Labels go A to D in turn, so with two vendors in turn X has A and C, and Y has B and D.
    table = predictions(patients=60, arms=("multi",), facts=[{"vendor": "X"}, {"vendor": "Y"}])
    compared = {entry["metric"] for entry in evaluate(table, resamples=20)["worst"] if entry["by"] == "vendor"}
    assert "accuracy" in compared
    assert "macro_auc" not in compared


def test_a_group_of_another_name_is_refused():
    with pytest.raises(ValueError, match="group by one of"):
        evaluate(predictions(), groups=("hospital",))
    with pytest.raises(ValueError, match="by two of them"):
        evaluate(predictions(), groups=("race x vendor x site",))
