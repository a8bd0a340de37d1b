"""`densityclip evaluate`: what it leaves, and one line for each mistake."""

import sys
from pathlib import Path

import polars as pl
import pytest
from answers import one, predictions

from densityclip import cli
from densityclip.artifacts import read_json, write_table
from densityclip.probability.joining import Joining
from densityclip.steps import evaluate, joinings_beside, write_predictions


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The command in this process: its exit code."""
    monkeypatch.setattr(sys, "argv", ["densityclip", "evaluate", *map(str, arguments), "--resamples", "100"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


BAD = {
    "no labels": (pl.lit(None, dtype=pl.String).alias("label"), "have no labels"),
    "NaN": (pl.lit(float("nan")).alias("prob_b"), "missing or NaN probability"),
    "no distribution": ((pl.col("prob_a") + 1.0).alias("prob_a"), "do not sum to one"),
    "an image twice": (pl.lit("x").alias("image_id"), "occur more than once"),
    "two parts": (
        pl.when(pl.col("image_id") == "0DML").then(pl.lit("train")).otherwise("part").alias("part"),
        "1 patients are in two parts of one fold",
    ),
    "an empty cohort": (
        pl.when(pl.col("cohort") == "far").then(None).otherwise("label").alias("label"),
        "the cohort far has no image that can be scored (unlabelled 48)",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tmp_path, monkeypatch, capsys):
    change, says = BAD[mistake]
    table = pl.concat([predictions(arms=("m",)), predictions(arms=("m",), cohort="far", part="external")])
    write_table(table.with_columns(change), tmp_path / "predictions.parquet", "predictions")
    assert run(monkeypatch, tmp_path, "--out", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("densityclip:")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_against_writes_this_model_minus_the_other_on_the_same_images(tmp_path, monkeypatch):
    for name, seed in (("a", 1), ("b", 2)):
        write_predictions(predictions(arms=("model",), seed=seed), tmp_path / name, config={}, inputs={})
    assert run(monkeypatch, tmp_path / "b", "--against", tmp_path / "a", "--out", tmp_path / "out") == 0
    metrics = read_json(tmp_path / "out" / "metrics.json", "")
    assert metrics["schema_version"] == 2
    place = {"modality": "all", "level": "image"}
    difference = one(metrics["differences"], **place)
    assert difference["arms"] == ["model (first)", "model (second)"]
    values = [one(metrics["cells"], arm=arm, **place)["metrics"]["accuracy"]["value"] for arm in difference["arms"]]
    assert difference["metrics"]["accuracy"]["value"] == pytest.approx(values[0] - values[1])
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_against_a_file_of_several_arms_is_refused(tmp_path, monkeypatch, capsys):
    for name, arms in (("a", ("m",)), ("b", ("m", "n"))):
        write_predictions(predictions(arms=arms), tmp_path / name, config={}, inputs={})
    assert run(monkeypatch, tmp_path / "a", "--against", tmp_path / "b", "--out", tmp_path / "out") == 2
    assert "the second predictions hold several arms (m, n)" in capsys.readouterr().err


def test_the_rule_written_beside_predictions_is_the_one_that_is_used(tmp_path, monkeypatch):
    denser = {("m", 0, 0): Joining(rule="denser", denser_weight=1.0)}
    table = predictions(arms=("m",))
    write_predictions(table, tmp_path / "p", config={}, inputs={}, joinings=denser)
    assert joinings_beside(tmp_path / "p") == joinings_beside(tmp_path / "p" / "predictions.parquet") == denser
    assert run(monkeypatch, tmp_path / "p", "--out", tmp_path / "out") == 0
    by_command = read_json(tmp_path / "out" / "metrics.json", "")
    plain = evaluate(table, tmp_path / "plain", resamples=100)
    ruled = evaluate(table, tmp_path / "ruled", resamples=100, joinings=denser)
    exam = {"modality": "all", "level": "exam"}
    assert one(by_command["cells"], **exam)["metrics"] == one(ruled["cells"], **exam)["metrics"]
    assert one(by_command["cells"], **exam)["metrics"] != one(plain["cells"], **exam)["metrics"]
