"""Bad input at the command line: one line with the next step, the right exit code, and nothing else lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from densityclip.artifacts import read_table


def assert_mistake(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """Exit code 2 and one sentence, with what it says."""
    assert done.returncode == 2, (done.returncode, done.stderr[-500:])
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("densityclip:")]
    assert len(lines) == 1, done.stderr[-500:]
    for words in says:
        assert words in lines[0]


@pytest.fixture
def bundle(road: Path) -> Path:
    return road / "arms" / "multi" / "bundle"


@pytest.fixture
def exam(road: Path) -> Path:
    """A folder of one generated patient's images."""
    return sorted((road / "cohorts" / "internal" / "exams" / "dicom").iterdir())[0]


@pytest.mark.parametrize("command", ["index", "predict", "explain"])
def test_an_empty_folder(command: str, bundle: Path, tmp_path: Path, densityclip):
    (tmp_path / "empty").mkdir()
    model = [] if command == "index" else ["--model", bundle]
    assert_mistake(
        densityclip(command, tmp_path / "empty", *model, "--out", tmp_path / "out"), "holds no files", "Give a folder"
    )


@pytest.mark.parametrize("command", ["index", "predict"])
def test_a_folder_of_text_files(command: str, bundle: Path, tmp_path: Path, densityclip):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("no image")
    model = [] if command == "index" else ["--model", bundle]
    assert_mistake(densityclip(command, folder, *model, "--out", tmp_path / "out"), "holds only")


def test_a_corrupt_dicom_among_good_ones_is_a_row_and_exit_code_1(
    bundle: Path, exam: Path, tmp_path: Path, densityclip
):
    folder = shutil.copytree(exam, tmp_path / "exam")
    good = sorted(folder.rglob("*.dcm"))
    (folder / "cut.dcm").write_bytes(good[0].read_bytes()[:5000])
    (folder / "html.dcm").write_text("<html>404</html>")
    done = densityclip("predict", folder, "--model", bundle, "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    table = read_table(tmp_path / "out" / "predictions.parquet", "predictions").filter(pl.col("level") == "image")
    # The cut file repeats the id of a good one, which was read first.
    assert table.filter(pl.col("status") == "ok")["image_id"].n_unique() == len(good)
    assert set(table.filter(pl.col("status") == "refused")["reason"]) <= {"duplicate", "truncated", "unreadable"}
    assert len(table.filter(pl.col("status") == "refused")) == 2
    refused = table.filter(pl.col("status") == "refused")["image_id"].to_list()
    assert refused == ["cut.dcm", "html.dcm"]
    assert f"{len(good)} of {len(good) + 2} images answered" in done.stdout


def test_a_test_pattern_without_a_breast_is_refused_for_that_reason(
    bundle: Path, real_images: Path, tmp_path: Path, densityclip
):
    folder = tmp_path / "patterns"
    folder.mkdir()
    for path in real_images.glob("mg_pattern_*.dcm"):
        shutil.copyfile(path, folder / path.name)
    assert_mistake(
        densityclip("predict", folder, "--model", bundle, "--out", tmp_path / "out"), "no image could be used"
    )
    table = read_table(tmp_path / "out" / "predictions.parquet", "predictions")
    images = table.filter(pl.col("level") == "image")
    assert len(images) == 2
    assert set(images["reason"]) <= {"no_breast", "unknown_view"}


@pytest.mark.parametrize("given", ["folder", "missing", "foundation"])
def test_a_bundle_that_is_not_one(given: str, road: Path, exam: Path, tmp_path: Path, densityclip):
    model = {"folder": exam, "missing": tmp_path / "nowhere", "foundation": road / "foundation"}[given]
    said = "does not exist" if given == "missing" else "is not a bundle"
    assert_mistake(densityclip("predict", exam, "--model", model, "--out", tmp_path / "out"), said, "bundle/")


@pytest.mark.slow
def test_a_cache_made_with_another_recipe(road: Path, bundle: Path, tmp_path: Path, densityclip):
    index = road / "cohorts" / "rsna-like"
    assert densityclip("prepare", index, "--out", tmp_path / "c", "--size", "96").returncode == 0
    assert_mistake(
        densityclip("predict", tmp_path / "c", "--model", bundle, "--out", tmp_path / "o"),
        "recipe",
        "Prepare the images",
    )
    again = densityclip("prepare", index, "--out", tmp_path / "c", "--size", "128")
    assert_mistake(again, "another recipe")
    both = [tmp_path / "c", road / "cohorts" / "internal" / "cache"]
    rest = ["--splits", road / "splits.parquet", "--foundation", road / "foundation", "--out", tmp_path / "m"]
    assert_mistake(densityclip("train", *both, *rest), "different recipes")
    assert_mistake(
        densityclip("train", tmp_path / "c", *rest, "--set", "modalities=[DM]"), "the train part has no labelled DM"
    )


def test_an_unknown_config_key_is_named_wherever_it_stands(road: Path, tmp_path: Path, densityclip):
    cache = road / "cohorts" / "internal" / "cache"
    rest = ["--splits", road / "splits.parquet", "--foundation", road / "foundation", "--out", tmp_path / "m"]
    assert_mistake(densityclip("train", cache, *rest, "--set", "stpes=3"), "stpes", "The keys are")
    assert_mistake(
        densityclip("prepare", road / "cohorts/internal", "--out", tmp_path / "c", "--set", "recipe.colour=red"),
        "colour",
    )
    study = tmp_path / "study.yaml"
    study.write_text("name: x\ntitle: x\nsurprise: 1\ncohorts: {}\n")
    assert_mistake(densityclip("study", study, "--out", tmp_path / "s"), "surprise", "foundation")


def test_a_label_outside_a_to_d_is_named_with_row_and_column(road: Path, tmp_path: Path, densityclip):
    exams = road / "cohorts" / "internal" / "exams"
    table = tmp_path / "labels.csv"
    lines = (exams / "labels.csv").read_text().splitlines()
    position = lines[0].split(",").index("density")
    cells = lines[3].split(",")
    cells[position] = "E"
    table.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]))
    done = densityclip("index", exams / "dicom", "--table", table, "--out", tmp_path / "i")
    assert_mistake(done, "row 3", "column density", "'E'")
    assert not (tmp_path / "i" / "index.parquet").exists()


def test_a_file_of_another_step_is_told_apart(road: Path, tmp_path: Path, densityclip):
    assert_mistake(
        densityclip("evaluate", road / "splits.parquet", "--out", tmp_path / "e"), "holds splits, not predictions"
    )
    assert_mistake(
        densityclip("split", road / "predictions.parquet", "--out", tmp_path / "s.parquet"),
        "holds predictions, not index",
    )


def test_a_wrong_option_is_exit_code_2(densityclip):
    done = densityclip("predict", "--nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.fixture
def tiny_disk(tmp_path: Path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if (
        not mounted
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("no right to mount a small file system to fill")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_with_what_to_do_and_leaves_no_half_file(
    road: Path, bundle: Path, exam: Path, tiny_disk: Path, densityclip
):
    assert_mistake(
        densityclip("prepare", road / "cohorts" / "internal", "--out", tiny_disk / "cache", "--size", "160"), "disk"
    )
    assert_mistake(
        densityclip("phantom", "--out", tiny_disk / "exams", "--exams", "2"),
        "disk is full",
        "run the same command again",
    )
    shutil.rmtree(tiny_disk / "exams")
    rest = ["--splits", road / "splits.parquet", "--foundation", road / "foundation"]
    small = ["--set", "steps=2", "--set", "validate_every=1", "--set", "batch_size=8"]
    small += ["--set", "allow_missing_categories=true"]
    assert_mistake(
        densityclip("train", road / "cohorts/internal/cache", *rest, "--out", tiny_disk / "model", *small),
        "disk is full",
    )
    shutil.rmtree(tiny_disk / "model")
    (tiny_disk / "filler").write_bytes(b"x" * 290_000)
    assert_mistake(densityclip("predict", exam, "--model", bundle, "--out", tiny_disk / "answers"), "disk is full")
    assert not list(tiny_disk.rglob("*.partial"))
    for path in tiny_disk.rglob("*.parquet"):
        assert len(read_table(path, "predictions"))


def test_help_answers_without_importing_anything_heavy():
    code = (
        "import sys, densityclip.cli\n"
        "heavy = {'torch', 'polars', 'numpy', 'pydicom', 'lightning', 'open_clip', 'pydantic', 'PIL', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


COMMANDS = ("phantom", "index", "split", "prepare", "train", "predict", "evaluate", "explain", "study", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, densityclip):
    done = densityclip(command, "--help")
    assert done.returncode == 0
    assert f"Example: densityclip {command}" in done.stdout


def test_a_study_whose_paths_were_wrong_can_be_mended_and_run_again(tmp_path: Path, densityclip):
    lines = [
        "name: s",
        "title: s",
        "cohorts: {c: {role: internal, source: SOURCE}}",
        "foundation: {small_seed: 1}",
        "arms: {a: {modalities: [DM]}, b: {modalities: [DM]}}",
        "primary: {cohort: c, contrast: [a, b]}",
        "explain: {arms: [a]}",
    ]
    study = tmp_path / "study.yaml"
    for source in ("nowhere", "elsewhere"):
        study.write_text("\n".join(lines).replace("SOURCE", source))
        done = densityclip("study", study, "--out", tmp_path / "out")
        # The path starts at the study file, and the second try is not told that another study is in the way.
        assert_mistake(done, f"{tmp_path / source} does not exist", "Correct `source`")
