"""The study on the three generated sites in miniature: every arm and baseline, in two folds, to its report."""

from pathlib import Path

import polars as pl
import pytest

from densityclip.artifacts import read_json, read_table
from densityclip.study import plan
from densityclip.study_file import shipped_study

pytestmark = pytest.mark.slow
SCALE = 0.06
ARMS = ("all-adaptive", "all-fixed", "s2d-only", "dm-only", "dbt-only")
BASELINES = ("majority", "histogram", "zero-shot", "linear-probe", "cross-entropy", "cnn")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, densityclip) -> Path:
    out = tmp_path_factory.mktemp("sites") / "study"
    done = densityclip("study", "sites", "--out", out, "--scale", SCALE, "--at-once", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_every_arm_and_baseline_answers_from_every_fold_for_every_image(sites: Path):
    predictions = read_table(sites / "predictions.parquet", "predictions").filter(level="image")
    assert set(predictions["arm"]) == {*ARMS, *BASELINES}
    images = {name: read_table(sites / f"cohorts/{name}/index.parquet", "index")["image_id"] for name in cohorts()}
    for (arm, fold), mine in predictions.group_by("arm", "fold"):
        assert fold in (0, 1), arm
        for name, wanted in images.items():
            assert sorted(mine.filter(cohort=name)["image_id"]) == sorted(wanted), (arm, fold, name)


def cohorts() -> tuple[str, ...]:
    return tuple(shipped_study("sites").cohorts)


def test_the_tested_patients_are_the_same_in_every_fold_and_validate_in_none(sites: Path):
    splits = read_table(sites / "splits.parquet", "splits").filter(cohort="internal")
    tested = [set(splits.filter(fold=fold, part="test")["patient_id"]) for fold in (0, 1)]
    assert tested[0] == tested[1]
    validates = [set(splits.filter(fold=fold, part="validation")["patient_id"]) for fold in (0, 1)]
    assert not validates[0] & validates[1]
    assert tested[0] | validates[0] | validates[1] == set(splits["patient_id"])


def test_a_cell_scores_the_mean_of_the_members(sites: Path):
    cells = read_json(sites / "metrics.json", "")["cells"]
    (cell,) = (
        cell
        for cell in cells
        if [cell[key] for key in ("arm", "cohort", "modality", "level", "site")]
        == ["cnn", "embed-like", "DBT", "image", cell["site"]]
    )
    assert (cell["members"], cell["folds"]) == (2, 2)
    rows = read_table(sites / "predictions.parquet", "predictions").filter(
        arm="cnn", cohort="embed-like", modality="DBT", level="image"
    )
    joined = rows.group_by("image_id", "label").agg(pl.col("prob_a", "prob_b", "prob_c", "prob_d").mean())
    predicted = joined.select("prob_a", "prob_b", "prob_c", "prob_d").to_numpy().argmax(axis=1)
    right = ["ABCD"[k] == label for k, label in zip(predicted, joined["label"], strict=True) if label]
    assert cell["metrics"]["accuracy"]["value"] == pytest.approx(sum(right) / len(right))


def test_run_again_nothing_is_trained_twice(sites: Path, densityclip):
    kept = [path for path in (sites / "arms").rglob("*") if path.is_file()] + [sites / "registration.json"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert densityclip("study", "sites", "--out", sites, "--scale", SCALE).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(line.done for line in plan(shipped_study("sites").scaled(SCALE), sites) if line.step != "report")


def test_the_report_carries_the_registration(sites: Path):
    page = (sites / "report.html").read_text()
    assert read_json(sites / "registration.json", "")["study"] in page
    assert "baseline: " in page


def test_maps_are_held_against_those_of_the_other_fold_and_of_shuffled_labels(sites: Path):
    for arm in ("all-adaptive", "s2d-only"):
        trained = read_json(sites / "arms" / arm / "shuffled-labels" / "bundle" / "provenance.json", "")
        assert trained["training"]["config"]["shuffle_labels"] is True
        told = read_json(sites / "arms" / arm / "maps" / "internal" / "explain.json", "")
        assert {row["map"] for row in told["figures"] if row["figure"] == "shuffled_labels"} == {"gradcam", "attention"}
        assert "member" in {row["kind"] for row in told["consistency"]}
        assert any("shuffled labels" in row["claim"] for row in told["verdicts"])
    page = (sites / "report.html").read_text()
    assert "What the maps passed" in page
    assert "shuffled" not in " ".join(read_table(sites / "predictions.parquet", "predictions")["arm"].unique())
    assert (sites / "tables" / "maps.csv").is_file()
