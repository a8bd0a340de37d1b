"""The whole road, run once in miniature by its command: what it leaves, and what it says."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import read_json, read_table
from densityclip.study import plan
from densityclip.study_file import parse_study, shipped_study


def test_every_file_of_the_road_is_there(road: Path):
    for name in (
        "report.html",
        "metrics.json",
        "predictions.parquet",
        "predictions.csv",
        "splits.parquet",
        "study.json",
        "registration.json",
        "local.json",
    ):
        assert (road / name).stat().st_size > 0, name
    for cohort in ("internal", "rsna-like", "embed-like"):
        for name in ("index.parquet", "excluded.parquet", "audit.json", "audit.html", "cache/images.npy"):
            assert (road / "cohorts" / cohort / name).is_file(), (cohort, name)
    assert not list(road.rglob("*.partial"))


def test_every_generated_image_is_predicted_by_both_arms_or_refused_by_both(road: Path):
    predictions = read_table(road / "predictions.parquet", "predictions").filter(pl.col("level") == "image")
    for cohort in ("internal", "rsna-like", "embed-like"):
        index = read_table(road / "cohorts" / cohort / "index.parquet", "index")
        excluded = read_table(road / "cohorts" / cohort / "excluded.parquet", "excluded")
        assert len(index) + len(excluded) == images_of(road / "cohorts" / cohort / "exams", cohort)
        for arm in ("single", "multi"):
            mine = predictions.filter((pl.col("arm") == arm) & pl.col("image_id").is_in(index["image_id"].implode()))
            assert sorted(mine["image_id"]) == sorted(index["image_id"])


def images_of(exams: Path, cohort: str) -> int:
    """Images that a generated site names: in its table, or as files where the table is of labels."""
    tables = {"rsna-like": "train.csv", "embed-like": "tables/EMBED_OpenData_metadata.csv"}
    if cohort not in tables:
        return len(list((exams / "dicom").rglob("*.dcm")))
    return len(pl.read_csv(exams / tables[cohort], infer_schema=False))


def test_each_site_came_in_through_the_reader_of_its_layout_and_is_known_as_generated(road: Path):
    readers = {"internal": "dicom", "rsna-like": "rsna", "embed-like": "embed"}
    for cohort, dataset in readers.items():
        folder = road / "cohorts" / cohort
        manifest = read_json(folder / "index.manifest.json", "densityclip index")
        assert manifest["config"]["dataset"] == dataset
        index = read_table(folder / "index.parquet", "index")
        assert set(index["density_source"].drop_nulls()) == {"simulated reader"}
        assert all("(invented)" in name for name in index["institution"])
    assert read_json(road / "arms" / "multi" / "bundle" / "provenance.json", "")["data"]["generated"] is True


def test_both_arms_saw_the_same_patients_for_the_same_number_of_steps(road: Path):
    said = {arm: read_json(road / "arms" / arm / "bundle" / "provenance.json", "") for arm in ("single", "multi")}
    assert said["single"]["data"]["patients"] == said["multi"]["data"]["patients"]
    configs = {arm: one["training"]["config"] for arm, one in said.items()}
    assert configs["single"] == configs["multi"] | {"modalities": ["s2D"]}


def test_no_patient_of_a_scored_part_is_in_another(road: Path):
    splits = read_table(road / "splits.parquet", "splits")
    assert splits.group_by("patient_id", "fold").agg(pl.col("part").n_unique())["part"].max() == 1
    predictions = read_table(road / "predictions.parquet", "predictions")
    trained = splits.filter(pl.col("part") == "train")["patient_id"].n_unique()
    for arm in ("single", "multi"):
        said = read_json(road / "arms" / arm / "bundle" / "provenance.json", "")["data"]
        assert said["patients"] == trained
    cells = read_json(road / "metrics.json", "")["cells"]
    scored = {cell["cohort"]: cell["n_patients"] for cell in cells if cell["modality"] != "all"}
    for cohort, part in (("internal", "test"), ("rsna-like", "external"), ("embed-like", "external")):
        mine = splits.filter((pl.col("cohort") == cohort) & (pl.col("part") == part))
        index = read_table(road / "cohorts" / cohort / "index.parquet", "index").drop_nulls("density")
        assert scored[cohort] == len(set(mine["patient_id"]) & set(index["patient_id"]))
    assert set(predictions.filter(pl.col("cohort") != "internal")["part"]) == {"external"}


def test_the_metrics_hold_every_arm_on_every_modality_of_every_site_at_every_level(road: Path):
    cells = read_json(road / "metrics.json", "")["cells"]
    found = {(cell["arm"], cell["cohort"], cell["modality"], cell["level"]) for cell in cells}
    sites = {"internal": ("DM", "s2D", "DBT", "all"), "embed-like": ("DM", "s2D", "DBT", "all"), "rsna-like": ("DM",)}
    assert found == {
        (arm, cohort, modality, level)
        for arm in ("single", "multi")
        for cohort, modalities in sites.items()
        for modality in modalities
        for level in ("image", "breast", "exam", "patient")
    }


def test_a_cells_accuracy_is_that_of_the_rows(road: Path):
    images = read_table(road / "predictions.parquet", "predictions").filter(
        (pl.col("level") == "image")
        & (pl.col("cohort") == "embed-like")
        & (pl.col("modality") == "DBT")
        & (pl.col("arm") == "multi")
    )
    probabilities = images.select("prob_a", "prob_b", "prob_c", "prob_d").to_numpy()
    labels = np.array(["ABCD".index(label) for label in images["label"]])
    (cell,) = (
        cell
        for cell in read_json(road / "metrics.json", "")["cells"]
        if (cell["arm"], cell["cohort"], cell["modality"], cell["level"]) == ("multi", "embed-like", "DBT", "image")
    )
    assert cell["n"] == len(images)
    assert cell["metrics"]["accuracy"]["value"] == pytest.approx((probabilities.argmax(1) == labels).mean())
    assert np.array(cell["confusion"]).sum() == len(images)


def test_the_report_is_one_file_that_says_first_that_the_exams_were_generated(road: Path):
    page = (road / "report.html").read_text()
    text = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    words = " ".join(re.sub(r"<[^>]+>", " ", text[text.index("<body") :]).split())
    assert "generated" in words[:200]
    for site in ("internal", "rsna-like", "embed-like"):
        assert f"The class mix of {site}" in words[:1500]
    assert not re.search(r"""(src|href)=["'](https?:|//|/|\.)""", page)
    assert "<script" not in page
    assert page.count("data:image/") >= 10


def test_the_terminal_shows_the_result_table_and_the_path_of_the_report(road: Path):
    printed = (road.parent / "stdout.txt").read_text()
    assert str(road / "report.html") in printed
    assert "macro AUC" in printed
    assert re.search(r"multi\s+internal\s+s2D\s+\d+\s+\d+\s+[01]\.\d\d", printed)


@pytest.mark.slow
def test_run_again_it_does_nothing_twice(road: Path, densityclip):
    # What tells of the study is written anew: it is made in seconds, and never out of date.
    told = ("study.json", "report.html", "checklist.md", "model-card.md")
    watched = [path for path in road.rglob("*") if path.is_file() and path.name not in told]
    before = {
        path: path.stat().st_mtime_ns for path in watched if "predictions.p" not in path.name and path.suffix != ".csv"
    }
    done = densityclip("demo", "--out", road, "--scale", "0.1")
    assert done.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_plan_of_a_finished_study_has_every_step_marked_as_done(road: Path):
    lines = plan(shipped_study("demo").scaled(0.1), road)
    assert [line.step for line in lines if not line.done] == ["report"]


def test_another_study_in_the_same_folder_is_refused(road: Path, densityclip):
    done = densityclip("demo", "--out", road, "--scale", "0.2")
    assert done.returncode == 2
    assert "holds another study" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_is_nothing_but_a_study_file(tmp_path: Path):
    study = shipped_study("demo")
    assert study.generated
    assert parse_study(study.model_dump(mode="json"), "again") == study
    steps = [line.step for line in plan(study, tmp_path)]
    assert steps[0] == "phantom internal"
    assert steps[-1] == "report"
    assert len(steps) == len(set(steps))
