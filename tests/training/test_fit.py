"""A whole training: what it leaves, and what a kill in the middle does to it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import read_table
from densityclip.density import category_index
from densityclip.errors import UserError
from densityclip.evaluation.metrics import macro_auc
from densityclip.imaging.cache import Cache
from densityclip.inference.predictor import Predictor
from densityclip.model.bundle import load_bundle
from densityclip.probability.aggregate import softmax
from densityclip.probability.calibrate import Calibration
from densityclip.training.config import TrainConfig
from densityclip.training.fit import fit

STEPS, EVERY = 160, 8


def command(road: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "densityclip.cli", "train", str(road / "cohorts/internal/cache")),
        *("--splits", str(road / "splits.parquet"), "--foundation", str(road / "foundation"), "--out", str(out)),
        *("--set", f"steps={STEPS}", "--set", f"validate_every={EVERY}", "--set", "batch_size=16"),
        *("--set", "warmup_steps=4", "--set", "seed=5", "--set", "threads=1", "--set", "learning_rate=0.001"),
        *("--set", "layer_decay=1", "--set", "allow_missing_categories=true", "--set", "ema_decay=0.9"),
    ]


@pytest.fixture(scope="module")
def unbroken(road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training") / "unbroken"
    done = subprocess.run(command(road, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(3, 5)])
def test_killed_twice_and_started_again_it_ends_with_the_same_files(road: Path, unbroken: Path, tmp_path: Path, kills):
    out = tmp_path / "broken"
    last = out / "checkpoints" / "last.ckpt"
    for number in kills:
        process = subprocess.Popen(command(road, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen, before = 0, last.stat().st_mtime_ns if last.is_file() else 0
        deadline = time.monotonic() + 240
        while seen < number and process.poll() is None and time.monotonic() < deadline:
            now = last.stat().st_mtime_ns if last.is_file() else 0
            if now != before:
                seen, before = seen + 1, now
            time.sleep(0.005)
        assert process.poll() is None, "the training was over before it could be killed"
        time.sleep(0.1)  # into the middle of the next round
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "bundle" / "provenance.json").exists()
    done = subprocess.run(command(road, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Each start has a log of its own; the whole history is in training.csv.
    files = [path.relative_to(unbroken) for path in unbroken.rglob("*") if path.is_file()]
    files = [name for name in files if name.suffix != ".ckpt" and name.parts[0] != "logs"]
    assert len(files) > 10
    for name in files:
        assert (out / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.slow
def test_a_finished_training_is_left_alone_and_another_in_its_folder_is_refused(road: Path, unbroken: Path):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    assert subprocess.run(command(road, unbroken), capture_output=True, check=False).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before
    other = subprocess.run([*command(road, unbroken), "--set", "seed=6"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "holds another training (seed: 5 -> 6)" in other.stderr


def test_every_step_and_every_validation_is_in_the_history_once(road: Path):
    history = pl.read_csv(road / "arms" / "multi" / "training.csv")
    request = json.loads((road / "arms" / "multi" / "training.json").read_text())["config"]
    assert history.select("step", "name").is_duplicated().sum() == 0
    validated = history.filter(pl.col("name") == "validation/worst_macro_auc")["step"].to_list()
    assert validated == list(range(request["validate_every"], request["steps"] + 1, request["validate_every"]))


def test_the_kept_checkpoint_is_the_best_by_its_worst_modality(road: Path):
    history = pl.read_csv(road / "arms" / "multi" / "training.csv")
    per_modality = history.filter(pl.col("name").str.starts_with("validation/macro_auc/"))
    worst = per_modality.group_by("step").agg(pl.col("value").min()).sort("value", "step", descending=[True, False])
    selected = load_bundle(road / "arms" / "multi").provenance["selected"]
    assert selected["step"] == worst["step"][0]
    assert selected["value"] == pytest.approx(worst["value"][0])


def test_the_bundle_scores_on_the_validation_part_what_the_training_said(road: Path):
    bundle = load_bundle(road / "arms" / "multi")
    predictor = Predictor(bundle)
    table = predictor.predict_cache(Cache.open(road / "cohorts" / "internal" / "cache"))
    splits = read_table(road / "splits.parquet", "splits").filter(pl.col("part") == "validation")
    table = table.join(splits.select("patient_id"), on="patient_id", how="semi")
    shift, scores = Calibration.from_dict(bundle.calibration).prior_shift, []
    for modality in ("DM", "s2D", "DBT"):
        mine = table.filter(pl.col("modality") == modality)
        labels = np.array([category_index(label) for label in mine["label"]])
        # The training scored what the bundle delivers, but for the temperature, which was fitted afterwards.
        logits = mine.select("logit_a", "logit_b", "logit_c", "logit_d").to_numpy()
        scores.append(macro_auc(labels, softmax(logits + np.array(shift))))
    assert min(scores) == pytest.approx(bundle.provenance["selected"]["value"], abs=1e-6)


def test_a_loss_that_is_not_finite_stops_with_the_images_named(road: Path, tmp_path: Path):
    config = TrainConfig(
        steps=4,
        validate_every=2,
        batch_size=8,
        learning_rate=1e30,
        warmup_steps=0,
        threads=1,
        layer_decay=1,
        allow_missing_categories=True,
    )
    with pytest.raises(UserError, match=r"the loss is not finite at step \d; the 8 images of its batch: "):
        fit(
            [Cache.open(road / "cohorts/internal/cache")],
            read_table(road / "splits.parquet", "splits"),
            road / "foundation",
            tmp_path / "model",
            config,
            data={},
        )
    assert not (tmp_path / "model" / "bundle").exists()


def trial(road: Path, out: Path, **settings) -> None:
    splits = read_table(road / "splits.parquet", "splits")
    internal, embed = (Cache.open(road / "cohorts" / name / "cache") for name in ("internal", "embed-like"))
    caches = settings.pop("caches", [internal])
    config = TrainConfig(steps=2, validate_every=1, allow_missing_categories=True, **settings)
    fit(
        [{"internal": internal, "embed": embed}.get(c, c) for c in caches],
        splits,
        road / "foundation",
        out,
        config,
        data={},
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 100_000}, "fewer than one batch of 100000"),
        ({"fold": 3}, "no fold 3"),
        ({"caches": ["embed"]}, "the train part has no labelled DM images"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_said_before_anything_is_written(
    road: Path, tmp_path: Path, settings, says
):
    with pytest.raises(UserError, match=says):
        trial(road, tmp_path / "model", **settings)
    assert not (tmp_path / "model").exists()
