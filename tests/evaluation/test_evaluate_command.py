"""`densityclip evaluate`: what it leaves, and one line for each mistake."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from answers import one, predictions

from densityclip import cli
from densityclip.artifacts import read_json, read_table, write_table
from densityclip.evaluation.evaluate import evaluate as scored
from densityclip.probability.joining import Joining
from densityclip.steps import compare, evaluate, joinings_beside, write_predictions


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
    assert metrics["schema_version"] == 3
    place = {"modality": "all", "level": "image"}
    difference = one(metrics["differences"], **place)
    assert difference["arms"] == ["model (first)", "model (second)"]
    values = [one(metrics["cells"], arm=arm, **place)["metrics"]["accuracy"]["value"] for arm in difference["arms"]]
    assert difference["metrics"]["accuracy"]["value"] == pytest.approx(values[0] - values[1])
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.fixture
def study(tmp_path) -> Path:
    """Predictions of two arms, each with a rule of its own."""
    rules = {("m", 0, 0): Joining(rule="denser", denser_weight=1.0), ("n", 0, 0): Joining()}
    write_predictions(predictions(arms=("m", "n")), tmp_path / "study", config={}, inputs={}, joinings=rules)
    write_predictions(predictions(arms=("m",), seed=4), tmp_path / "one", config={}, inputs={})
    return tmp_path / "study"


def test_one_arm_of_a_study_is_scored_alone_with_its_own_rule(study, tmp_path, monkeypatch):
    assert run(monkeypatch, study, "--arm", "m", "--out", tmp_path / "out") == 0
    alone = read_json(tmp_path / "out" / "metrics.json", "")
    whole = evaluate(predictions(arms=("m", "n")), tmp_path / "w", resamples=100, joinings=joinings_beside(study))
    place = {"modality": "all", "level": "exam"}
    assert {cell["arm"] for cell in alone["cells"]} == {"m"}
    assert alone["differences"] == []
    assert one(alone["cells"], **place)["metrics"] == one(whole["cells"], arm="m", **place)["metrics"]


def test_two_arms_of_one_file_are_compared_by_name(study, tmp_path, monkeypatch):
    given = ["--arm", "m", "--against", study, "--against-arm", "n"]
    assert run(monkeypatch, study, *given, "--out", tmp_path / "out") == 0
    (difference,) = [
        entry
        for entry in read_json(tmp_path / "out" / "metrics.json", "")["differences"]
        if (entry["modality"], entry["level"]) == ("all", "image")
    ]
    assert difference["arms"] == ["m", "n"]
    assert difference["not_compared"] is None


def test_an_arm_is_compared_with_the_one_of_its_name_in_another_file(study, tmp_path):
    several, single = (
        read_table(folder / "predictions.parquet", "predictions") for folder in (study, tmp_path / "one")
    )
    compared = compare(single, several, arms=("m", None))
    assert compared.arms == ("m (first)", "m (second)")
    assert compared.predictions.height == 2 * single.height
    back = compare(several, single, (joinings_beside(study), {}), arms=("m", None))
    assert back.joinings == {("m (first)", 0, 0): Joining(rule="denser", denser_weight=1.0)}


def test_the_file_of_figures_holds_what_was_computed_to_seven_digits_in_little_more_than_half_the_space(tmp_path):
    table = predictions(patients=24, arms=("m", "n", "o"), folds=(0, 1, 2))
    given = evaluate(table, tmp_path, resamples=100)
    assert read_json(tmp_path / "metrics.json", "") == given
    exact = scored(table, resamples=100)
    numbers = [list(numbers_of(content)) for content in (given, exact)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)
    assert numbers[0] != numbers[1]
    spaced = len(json.dumps(exact, indent=2))
    assert (tmp_path / "metrics.json").stat().st_size < 0.6 * spaced
    # An estimate stands on a line of its own.
    line = next(line for line in (tmp_path / "metrics.json").read_text().splitlines() if '"accuracy": {' in line)
    assert set(json.loads("{" + line.strip().removesuffix(",") + "}")["accuracy"]) >= {"value", "low", "high"}


def numbers_of(content: object) -> Iterator[float]:
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for part in inside:
        yield from numbers_of(part)
    if isinstance(content, int | float):
        yield float(content)


WRONG = {
    "several in the first": (["--against", "one"], "the predictions hold several arms (m, n)", "--arm NAME"),
    "several in the other": (
        ["--arm", "n", "--against", "many"], "predictions of --against hold several arms (m, o)", "--against-arm NAME"
    ),
    "no such arm": (["--arm", "x"], "the predictions have no arm x", "Choose one of m, n"),
    "no such arm there": (["--arm", "m", "--against", "one", "--against-arm", "x"], "have no arm x", "Choose one of m"),
    "itself": (["--arm", "m", "--against", "study"], "both sides of the comparison are the same", "--against-arm"),
    "nothing to compare": (["--arm", "m", "--against-arm", "n"], "--against-arm names an arm", "Give --against"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_or_missing_arm_is_one_sentence_with_the_arms_there_are(mistake, study, tmp_path, monkeypatch, capsys):
    write_predictions(predictions(arms=("m", "o")), tmp_path / "many", config={}, inputs={})
    given, *says = WRONG[mistake]
    given = [tmp_path / word if word in ("one", "many", "study") else word for word in given]
    assert run(monkeypatch, study, *given, "--out", tmp_path / "out") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("densityclip:")]
    for words in says:
        assert words in line


def test_predictions_that_name_no_arm_are_told_so(tmp_path, monkeypatch, capsys):
    nameless = predictions(arms=("m",)).with_columns(pl.lit(None, dtype=pl.String).alias("arm"))
    write_predictions(nameless, tmp_path / "p", config={}, inputs={})
    assert run(monkeypatch, tmp_path / "p", "--arm", "m", "--out", tmp_path / "out") == 2
    assert "the predictions name no arm" in capsys.readouterr().err


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
