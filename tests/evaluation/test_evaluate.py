"""The cells of metrics.json: what is scored where, and what is refused."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as sk

from densityclip.artifacts import PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.evaluation.evaluate import evaluate
from densityclip.probability.aggregate import fill_derived, to_level


def predictions(patients: int = 12, arms: tuple[str, ...] = ("single", "multi"), sites=("S",), seed=0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(patients):
        for modality in ("DM", "s2D"):
            for side in "LR":
                for arm in arms:
                    probabilities = rng.dirichlet(np.ones(4))
                    rows.append(
                        {
                            "level": "image",
                            "image_id": f"{p}{modality}{side}",
                            "exam_id": f"e{p}",
                            "patient_id": f"p{p}",
                            "modality": modality,
                            "view": "CC",
                            "laterality": side,
                            "site": sites[p % len(sites)],
                            "cohort": "c",
                            "part": "test",
                            "fold": 0,
                            "arm": arm,
                            "seed": 0,
                            "label": "ABCD"[p % 4],
                            "status": "ok",
                            **dict(zip(PROBABILITIES, probabilities, strict=True)),
                            **{f"logit_{k}": float(np.log(v)) for k, v in zip("abcd", probabilities, strict=True)},
                        }
                    )
    return fill_derived(conform(pl.DataFrame(rows), "predictions"))


def one(metrics: dict, **keys: object) -> dict:
    found = [cell for cell in metrics["cells"] if all(cell[key] == value for key, value in keys.items())]
    assert len(found) == 1
    return found[0]


def test_every_arm_is_scored_per_modality_and_level_and_over_all():
    metrics = evaluate(predictions(), resamples=20)
    keys = {(c["arm"], c["modality"], c["level"]) for c in metrics["cells"]}
    levels = ("image", "breast", "exam")
    assert keys == {(a, m, k) for a in ("single", "multi") for m in ("DM", "s2D", "all") for k in levels}
    assert one(metrics, arm="multi", modality="all", level="image")["n"] == 48
    assert one(metrics, arm="multi", modality="DM", level="exam")["n"] == 12
    assert len(metrics["differences"]) == 9


def test_a_cell_holds_scikit_learns_figures_of_its_own_rows():
    table = predictions()
    cell = one(evaluate(table, resamples=20), arm="multi", modality="DM", level="exam")
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
    cell = one(metrics, arm="multi", modality="DM", level="image")
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
    assert one(metrics, arm="multi", modality="DM", level="image")["n_patients"] == 9


def test_arms_with_other_images_are_left_uncompared_and_the_rest_stands():
    table = predictions().filter(~((pl.col("arm") == "multi") & (pl.col("image_id") == "0DML")))
    metrics = evaluate(table, resamples=10)
    said = {d["modality"]: d["not_compared"] for d in metrics["differences"] if d["level"] == "image"}
    assert said["s2D"] is None
    assert "1 are in only one" in said["DM"]
    assert one(metrics, arm="multi", modality="DM", level="image")["n"] == 23


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
    ],
)
def test_a_bad_table_is_one_clear_error(change, message):
    with pytest.raises(UserError, match=message):
        evaluate(predictions().with_columns(change), resamples=5)


def test_no_rows_is_an_error():
    with pytest.raises(UserError, match="no rows"):
        evaluate(predictions().head(0))
