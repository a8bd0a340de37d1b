"""The cells of metrics.json: what is scored where, and what is refused."""

import json

import numpy as np
import polars as pl
import pytest
from answers import one, predictions
from sklearn import metrics as sk

from densityclip.artifacts import PROBABILITIES
from densityclip.errors import UserError
from densityclip.evaluation.evaluate import evaluate
from densityclip.probability.aggregate import to_level
from densityclip.probability.joining import Joining


def test_every_arm_is_scored_per_modality_and_level_and_over_all():
    metrics = evaluate(predictions(), resamples=20)
    keys = {(c["arm"], c["modality"], c["level"]) for c in metrics["cells"]}
    levels = ("image", "breast", "exam", "patient")
    assert keys == {(a, m, k) for a in ("single", "multi") for m in ("DM", "s2D", "all") for k in levels}
    assert one(metrics["cells"], arm="multi", modality="all", level="image")["n"] == 48
    assert one(metrics["cells"], arm="multi", modality="DM", level="exam")["n"] == 12
    assert len(metrics["differences"]) == 12


def test_a_cell_holds_scikit_learns_figures_of_its_own_rows():
    table = predictions()
    cell = one(evaluate(table, resamples=20)["cells"], arm="multi", modality="DM", level="exam")
    exams = to_level(table.filter((pl.col("arm") == "multi") & (pl.col("modality") == "DM")), "exam")
    assert cell["metrics"]["accuracy"]["value"] == sk.accuracy_score(exams["label"], exams["predicted"])
    assert cell["confusion"] == sk.confusion_matrix(exams["label"], exams["predicted"], labels=list("ABCD")).tolist()
    assert cell["label_counts"] == {"A": 3, "B": 3, "C": 3, "D": 3}
    assert set(cell["roc"]) == set("ABCD")


def test_several_sites_are_scored_each_and_together():
    metrics = evaluate(predictions(sites=("N", "S")), resamples=10)
    counts = {c["site"]: c["n"] for c in metrics["cells"] if c["level"] == "image" and c["modality"] == "DM"}
    assert counts == {"all": 24, "N": 12, "S": 12}


def test_the_order_of_rows_changes_nothing():
    table = predictions()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    assert json.dumps(evaluate(table, resamples=20)) == json.dumps(evaluate(shuffled, resamples=20))


def test_what_cannot_be_estimated_is_null_in_json():
    metrics = evaluate(predictions().filter(pl.col("label") != "D"), resamples=20)
    cell = one(metrics["cells"], arm="multi", modality="DM", level="image")
    assert cell["metrics"]["auc_d"] == {"value": None, "low": None, "high": None, "resamples_used": 0}
    json.dumps(metrics, allow_nan=False)


def test_rows_that_are_not_scored_are_counted_by_reason():
    table = predictions().with_columns(
        pl.when(pl.col("patient_id") == "p0").then(pl.lit("refused")).otherwise("status").alias("status"),
        pl.when(pl.col("patient_id") == "p0").then(pl.lit("constant")).otherwise("reason").alias("reason"),
        pl.when(pl.col("patient_id") == "p1").then(None).otherwise("label").alias("label"),
        pl.when(pl.col("patient_id") == "p2").then(pl.lit("train")).otherwise("part").alias("part"),
    )
    metrics = evaluate(table, resamples=10)
    assert metrics["refused"] == {"part_train": 8, "constant": 8, "unlabelled": 8}
    assert one(metrics["cells"], arm="multi", modality="DM", level="image")["n_patients"] == 9


def test_arms_with_other_images_are_left_uncompared_and_the_rest_stands():
    table = predictions().filter(~((pl.col("arm") == "multi") & (pl.col("image_id") == "0DML")))
    metrics = evaluate(table, resamples=10)
    said = {d["modality"]: d["not_compared"] for d in metrics["differences"] if d["level"] == "image"}
    assert said["s2D"] is None
    assert "1 are in only one" in said["DM"]
    assert one(metrics["cells"], arm="multi", modality="DM", level="image")["n"] == 23


@pytest.mark.parametrize(
    "change, message",
    [
        (pl.lit(None, dtype=pl.String).alias("label"), "have no labels"),
        (pl.lit("E").alias("label"), "labels E are not among"),
        (pl.lit(float("nan")).alias("prob_b"), "missing or NaN"),
        (pl.lit(None, dtype=pl.Float64).alias("prob_b"), "missing or NaN"),
        ((pl.col("prob_a") + 1.0).alias("prob_a"), "do not sum to one"),
        (pl.lit("x").alias("image_id"), "more than once"),
        (pl.lit(None, dtype=pl.String).alias("patient_id"), "no image_id or patient_id"),
        (pl.lit("train").alias("part"), "no row is left"),
        (pl.lit(-0.5).alias("prob_a"), "negative"),
        (pl.when(pl.col("image_id") == "0DML").then(pl.lit("train")).otherwise("part").alias("part"), "in two parts"),
    ],
)
def test_a_bad_table_is_one_clear_error(change, message):
    with pytest.raises(UserError, match=message):
        evaluate(predictions().with_columns(change), resamples=5)


def test_trainings_that_were_not_given_the_same_images_are_refused_with_the_count():
    table = predictions(arms=("multi",), folds=(0, 1, 2))
    lost = (pl.col("fold") == 1) & pl.col("patient_id").is_in(["p0", "p1"])
    with pytest.raises(UserError, match="of multi were not given the same images: of the test images of c, 8 of 48"):
        evaluate(table.filter(~lost), resamples=5)


def test_trainings_that_each_scored_the_patients_of_their_fold_are_pooled():
    # Cross-validation in which every fold tests its own patients: one training a row, and no ensemble anywhere.
    table = predictions(arms=("multi",), folds=(0, 1, 2))
    fold = pl.col("patient_id").str.slice(1).cast(pl.Int64) % 3
    cell = one(evaluate(table.filter(pl.col("fold") == fold), resamples=5)["cells"], modality="all", level="image")
    assert (cell["n"], cell["n_patients"], cell["members"]) == (48, 12, 3)


def test_an_image_that_one_training_did_not_answer_is_scored_for_none_of_them():
    table = predictions(arms=("multi",), folds=(0, 1, 2))
    held = (pl.col("fold") == 1) & (pl.col("image_id") == "0DML")
    held_back = table.with_columns(
        pl.when(held).then(pl.lit("abstained")).otherwise("status").alias("status"),
        pl.when(held).then(pl.lit("unlike")).otherwise("reason").alias("reason"),
    )
    metrics = evaluate(held_back, resamples=5)
    assert metrics["refused"] == {"not_answered_by_every_training": 2, "unlike": 1}
    cell = one(metrics["cells"], modality="all", level="image")
    assert (cell["n"], {member["n"] for member in cell["each_member"]}) == (47, {47})
    without = evaluate(table.filter(pl.col("image_id") != "0DML"), resamples=5)
    assert cell == one(without["cells"], modality="all", level="image")


def test_an_id_in_two_cohorts_is_said_and_each_cohort_keeps_its_own_figures():
    here, there = predictions(), predictions(cohort="far", part="external", seed=1)
    collide = pl.when(pl.col("patient_id") == "far-p3").then(pl.lit("p3")).otherwise("patient_id").alias("patient_id")
    metrics = evaluate(pl.concat([here, there.with_columns(collide)]), resamples=5)
    (note,) = metrics["notes"]
    assert note.startswith("1 scored patient id stands in more than one cohort (c, far).")
    assert "learned from" not in note
    alone = evaluate(pl.concat([here, there]), resamples=5)
    assert alone["notes"] == []
    values = [
        {name: value["value"] for name, value in cell["metrics"].items()}
        for cell in (one(m["cells"], cohort="far", arm="multi", modality="all", level="exam") for m in (metrics, alone))
    ]
    assert values[0] == pytest.approx(values[1], nan_ok=True)
    trained = here.with_columns(pl.lit("train").alias("part"))
    (note,) = evaluate(pl.concat([trained, there.with_columns(collide)]), resamples=5)["notes"]
    assert "1 of them was learned from in one and scored in another" in note


def test_no_rows_is_an_error():
    with pytest.raises(UserError, match="no rows"):
        evaluate(predictions().head(0))


def test_a_cohort_whose_images_were_all_refused_is_an_error_that_names_it():
    refused = predictions(cohort="far", part="external").with_columns(
        pl.lit("refused").alias("status"), pl.lit("constant").alias("reason")
    )
    with pytest.raises(UserError, match=r"cohort far has no image that can be scored \(constant 96\)"):
        evaluate(pl.concat([predictions(), refused]), resamples=5)


def test_a_cohort_that_only_trained_is_counted_and_no_error():
    trained = predictions(cohort="far", part="train")
    assert evaluate(pl.concat([predictions(), trained]), resamples=5)["refused"] == {"part_train": 96}


def test_a_cell_scores_the_mean_of_the_trainings_and_shows_each():
    table = predictions(arms=("multi",), folds=(0, 1, 2))
    cell = one(evaluate(table, resamples=20)["cells"], modality="DM", level="image")
    mine = table.filter(pl.col("modality") == "DM").sort("image_id", "fold")
    mean = mine[:, :].select(PROBABILITIES).to_numpy().reshape(-1, 3, 4).mean(axis=1)
    truth = np.array(["ABCD".index(label) for label in mine["label"].gather_every(3)])
    assert (cell["n"], cell["members"], cell["folds"], cell["seeds"]) == (24, 3, 3, 1)
    assert cell["metrics"]["accuracy"]["value"] == np.mean(mean.argmax(axis=1) == truth)
    assert cell["metrics"]["auc_a"]["value"] == pytest.approx(sk.roc_auc_score(truth == 0, mean[:, 0]), abs=1e-12)
    for fold, shown in enumerate(cell["each_member"]):
        of_fold = mine.filter(pl.col("fold") == fold)
        assert shown["fold"] == fold
        assert shown["metrics"]["accuracy"] == sk.accuracy_score(of_fold["label"], of_fold["predicted"])


def test_each_training_joins_by_its_own_rule():
    table = predictions(arms=("multi",), folds=(0, 1))
    denser = Joining(rule="denser", denser_weight=1.0)
    metrics = evaluate(table, joinings={("multi", 1, 0): denser}, resamples=5)
    shown = one(metrics["cells"], modality="all", level="exam")["each_member"]
    for fold, joining in ((0, Joining()), (1, denser)):
        exams = to_level(table.filter(pl.col("fold") == fold), "exam", joining)
        assert shown[fold]["metrics"]["accuracy"] == sk.accuracy_score(exams["label"], exams["predicted"])
    plain = one(evaluate(table, resamples=5)["cells"], modality="all", level="exam")["each_member"]
    assert plain[0] == shown[0]
    assert plain[1] != shown[1]


def test_rows_of_training_validation_and_calibration_change_conformal_sets_alone():
    def whole(seed: int) -> dict:
        others = [
            predictions(40, ("multi",), cohort="c2", part=part, seed=seed, skill=3.0)
            for part in ("train", "validation", "calibration")
        ]
        renamed = [
            table.with_columns(
                pl.format("{}-{}", pl.lit(part), pl.col(name)).alias(name) for name in ("patient_id", "image_id")
            )
            for table, part in zip(others, ("train", "validation", "calibration"), strict=True)
        ]
        return evaluate(pl.concat([predictions(patients=24), *renamed]), resamples=20)

    first, second = whole(1), whole(2)
    assert first.pop("conformal") != second.pop("conformal")
    assert first == second


def test_patients_with_exams_of_different_labels_are_counted_and_not_scored():
    table = predictions()
    second = table.filter(pl.col("patient_id") == "p0").with_columns(
        pl.lit("e0b").alias("exam_id"), pl.lit("D").alias("label"), (pl.col("image_id") + "b").alias("image_id")
    )
    metrics = evaluate(pl.concat([table, second]), resamples=5)
    cell = one(metrics["cells"], arm="multi", modality="all", level="patient")
    assert (cell["n"], cell["n_conflicting"]) == (11, 1)
    assert one(metrics["cells"], arm="multi", modality="all", level="exam")["n"] == 13


def test_analytic_intervals_are_delong_by_patient_and_clustered_by_image():
    cells = evaluate(predictions(), resamples=5)["cells"]
    methods = {cell["level"]: cell["auc"]["auc_a"]["method"] for cell in cells if cell["modality"] == "all"}
    assert methods == {"image": "obuchowski", "breast": "obuchowski", "exam": "delong", "patient": "delong"}
    for cell in cells:
        assert cell["auc"]["auc_a"]["value"] == pytest.approx(cell["metrics"]["auc_a"]["value"], abs=1e-12)


def test_with_a_primary_question_only_pairs_with_its_arms_are_compared():
    table = predictions(arms=("a", "b", "c", "d"))
    primary = {"metric": "accuracy", "level": "exam", "modality": "all", "cohort": "c", "contrast": ("b", "a")}
    pairs = {tuple(entry["arms"]) for entry in evaluate(table, resamples=5, primary=primary)["differences"]}
    assert pairs == {("b", "a"), ("b", "c"), ("b", "d"), ("a", "c"), ("a", "d")}
