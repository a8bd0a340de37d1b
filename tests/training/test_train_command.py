"""`densityclip train` as a person uses it: what it prints, what it leaves when it stops, and how one goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from tiny_data import write_cache, write_splits
from typer.testing import CliRunner

from densityclip.artifacts import hash_file, read_json, read_table, write_json
from densityclip.cli import app
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.model.biomedclip import load_foundation
from densityclip.model.bundle import load_bundle
from densityclip.model.classifier import check_captions
from densityclip.model.prompts import DEFAULT_PROMPTS, Prompts
from densityclip.steps import to_hub, train, training_outcome
from densityclip.training.config import TrainConfig
from densityclip.training.fit import fit
from densityclip.training.task import ContrastiveTask

SHORT = {"modalities": ("DM", "s2D"), "steps": 6, "validate_every": 2, "batch_size": 8, "warmup_steps": 0, "threads": 1}
SHORT |= {"learning_rate": 1e-3, "layer_decay": 1.0, "accelerator": "cpu", "loggers": (), "augment": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_cache(folder / "cache")
    write_splits(folder / "splits.parquet")
    return folder


def trained(data: Path, foundation: Path, out: Path, *, finish: bool = False, about=None, **settings) -> Path:
    splits = read_table(settings.pop("splits", data / "splits.parquet"), "splits")
    config = TrainConfig(**(SHORT | settings))
    return fit([Cache.open(data / "cache")], splits, foundation, out, config, data=about or {}, finish=finish)


@pytest.fixture(scope="module")
def whole(data: Path, small_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "model"
    trained(data, small_foundation, out)
    return out


class Kill(BaseException):
    """Ends a training where it is."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException | None = None) -> None:
    """Let the loss of a step be no number, or an error come in its place."""
    losses = ContrastiveTask.losses

    def spoilt(task, seen, number):
        found = losses(task, seen, number)
        if number != step:
            return found
        if error is not None:
            raise error
        return found * float("nan")

    monkeypatch.setattr(ContrastiveTask, "losses", spoilt)


def test_a_training_whose_folder_moved_between_kill_and_resume_ends_as_one_that_was_never_touched(
    data, small_foundation, whole, tmp_path, monkeypatch
):
    # The best round comes before the kill, and worse ones follow it.
    def scored(task: ContrastiveTask):
        score = {2: 0.9, 4: 0.7, 6: 0.8}[task.global_step]
        task.record({"validation/worst_macro_auc": score})
        return {"DM": score}

    monkeypatch.setattr(ContrastiveTask, "validate_now", scored)
    trained(data, small_foundation, tmp_path / "unbroken")
    with monkeypatch.context() as kill:
        stop_at(kill, 3, Kill())
        with pytest.raises(Kill):
            trained(data, small_foundation, tmp_path / "first")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "first").rename(tmp_path / "elsewhere/second")
    bundle = trained(data, small_foundation, tmp_path / "elsewhere/second")
    assert load_bundle(bundle).provenance["selected"]["step"] == 2
    for name in ("bundle/open_clip_model.safetensors", "training.csv"):
        assert hash_file(tmp_path / "elsewhere/second" / name) == hash_file(tmp_path / "unbroken" / name)


def test_a_loss_that_is_no_number_before_any_validation_leaves_nothing_and_says_so(
    data, small_foundation, tmp_path, monkeypatch
):
    stop_at(monkeypatch, 1)
    with pytest.raises(UserError, match="the loss is not finite at step 1") as caught:
        trained(data, small_foundation, tmp_path / "model")
    assert "no validation was reached, so nothing of this training is kept" in str(caught.value)
    assert "--finish" not in str(caught.value)
    found = read_json(tmp_path / "model/stopped.json", "")
    assert found["step"] == 1
    assert len(found["images"]) == 8
    assert all(image in str(caught.value) for image in found["images"])
    history = pl.read_csv(tmp_path / "model/training.csv")
    assert history.filter(pl.col("name") == "train/loss").height == 1
    with pytest.raises(UserError, match="holds no training to finish"):
        trained(data, small_foundation, tmp_path / "model", finish=True)
    # Nothing would be lost, so the settings may be corrected in the same folder.
    monkeypatch.undo()
    trained(data, small_foundation, tmp_path / "model", learning_rate=1e-4)
    assert not (tmp_path / "model/stopped.json").exists()


def test_a_loss_that_is_no_number_after_a_validation_leaves_a_bundle_by_the_command_that_is_named(
    data, small_foundation, tmp_path, monkeypatch
):
    stop_at(monkeypatch, 5)
    typed = command(data, small_foundation, tmp_path / "typed")[3:]
    stopped = CliRunner().invoke(app, typed).exception
    assert isinstance(stopped, UserError)
    assert stopped.next_step.endswith("is kept, and the same command with --finish makes the bundle of it")
    done = CliRunner().invoke(app, [*typed, "--finish"])
    assert done.exit_code == 0, done.exception
    assert "The training stopped after 4 steps and was finished there." in done.output
    assert "The trained model is" in done.output

    with pytest.raises(UserError, match=r"the best validation so far, 0\.\d+ at step \d, is kept\.$"):
        trained(data, small_foundation, tmp_path / "model", batch_size=10)
    with pytest.raises(UserError, match=r"10 images of its batch: listed in .*stopped\.json"):
        trained(data, small_foundation, tmp_path / "model", batch_size=10)
    history = pl.read_csv(tmp_path / "model/training.csv")
    assert history.filter(pl.col("name") == "validation/worst_macro_auc")["step"].to_list() == [2, 4]
    bundle = load_bundle(trained(data, small_foundation, tmp_path / "model", batch_size=10, finish=True))
    best = torch.load(tmp_path / "model/checkpoints/best.ckpt", weights_only=True)
    assert bundle.provenance["selected"]["step"] == best["global_step"]
    assert bundle.provenance["stopped_after"] == 4
    name = "visual.head.proj.weight"
    assert torch.equal(load_foundation(bundle.folder).clip.state_dict()[name], best["state_dict"][f"clip.{name}"])
    to_hub(bundle, tmp_path / "hub", redistribute=True)
    assert "stopped on its way, after 4 of the steps" in (tmp_path / "hub/README.md").read_text()


def test_memory_advice_names_what_is_left_to_lower(data, small_foundation, tmp_path, monkeypatch):
    stop_at(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(UserError, match="Set chunk_size to 2, which keeps the batch"):
        trained(data, small_foundation, tmp_path / "a")
    with pytest.raises(UserError, match="one at a time already: lower batch_size, or set text_tower to frozen") as one:
        trained(data, small_foundation, tmp_path / "b", chunk_size=1)
    assert "chunk_size to 1" not in str(one.value)
    with pytest.raises(UserError, match="lower batch_size, or prepare smaller images"):
        trained(data, small_foundation, tmp_path / "c", chunk_size=1, text_tower="frozen")


def test_the_provenance_says_on_what_and_with_what_it_was_made(whole):
    import open_clip

    found = load_bundle(whole).provenance["environment"]
    assert (found["device"], found["precision"], found["threads"], found["devices"]) == ("cpu", "32-true", 1, 1)
    assert found["libraries"]["torch"] == torch.__version__
    assert found["libraries"]["open_clip_torch"] == open_clip.__version__
    assert {"timm", "transformers", "lightning", "numpy"} <= set(found["libraries"])
    assert "environment" not in read_json(whole / "training.json", "")


def test_float16_on_a_cpu_is_refused_before_anything_is_written(data, small_foundation, tmp_path):
    with pytest.raises(UserError, match="16-mixed needs a GPU"):
        trained(data, small_foundation, tmp_path / "model", precision="16-mixed")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("patients", "says"),
    [
        (0, "Not calibrated: temperature not fitted on the calibration part: 0 patients with labels, 10 are needed."),
        (1, "Not calibrated: temperature not fitted on the calibration part: 1 patient with labels, 10 are needed."),
    ],
)
def test_too_few_patients_for_calibration_are_said_at_the_end(data, small_foundation, tmp_path, patients, says):
    splits = write_splits(tmp_path / "splits.parquet", calibration=patients)
    bundle = trained(data, small_foundation, tmp_path / "model", splits=splits)
    said = training_outcome(bundle)
    assert said[0].startswith("Selected: step ")
    assert says in said
    found = read_json(bundle / "calibration.json", "")
    assert (found["calibrated"], found["temperature"]) == (False, 1.0)


def licensed(data: Path, folder: Path, licence: dict | None) -> Path:
    shutil.copytree(data / "cache", folder)
    if licence is not None:
        write_json(folder / "licence.json", licence)
    return folder


@pytest.mark.parametrize(
    ("licence", "stated", "expected"),
    [
        ({"dataset": "dicom", "redistribute": None}, {}, None),
        (None, {}, None),
        ({"dataset": "dicom", "redistribute": None}, {"redistribute": True}, True),
        ({"dataset": "rsna", "redistribute": True}, {}, True),
        ({"dataset": "rsna", "redistribute": True}, {"redistribute": False}, False),
        ({"dataset": "embed", "redistribute": False}, {"redistribute": True}, False),
    ],
)
def test_nobody_claims_that_a_model_may_be_passed_on_but_its_licences_or_the_user(
    data, tmp_path, monkeypatch, licence, stated, expected
):
    given = {}
    monkeypatch.setattr("densityclip.training.fit.fit", lambda *_, data, **__: given.update(data))
    cache = licensed(data, tmp_path / "cache", licence)
    train([cache], data / "splits.parquet", tmp_path, tmp_path / "model", TrainConfig(), data=stated)
    assert given.get("redistribute") == expected


def test_a_bundle_of_a_plain_training_is_published_once_someone_says_that_it_may_be(whole, tmp_path, densityclip):
    refused = densityclip("export", whole, "--to", "hub", "--licence", "mit", "--out", tmp_path / "hub")
    assert refused.returncode == 2
    assert "does not say that it may be passed on" in refused.stderr
    assert "--redistribute" in refused.stderr
    assert not (tmp_path / "hub").exists()
    done = densityclip("export", whole, "--to", "hub", "--licence", "mit", "--redistribute", "--out", tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    assert "The provenance names no cohorts." in (tmp_path / "hub/README.md").read_text()
    assert load_bundle(tmp_path / "hub").provenance["data"]["redistribute"] is True


def same_words() -> dict:
    return DEFAULT_PROMPTS.to_dict() | {
        "plain": ["a mammogram, {density}"],
        "worded": ["{modality}, {density}"],
        "densities": {name: ["dense"] for name in "ABCD"},
    }


def long_preamble() -> dict:
    preamble = "a mammogram of breast density " * 30
    return DEFAULT_PROMPTS.to_dict() | {
        "plain": [preamble + "{density}"],
        "worded": [preamble + "{modality} {density}"],
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (same_words(), "cannot tell a caption of category A from one of B: 'a mammogram, dense'"),
        (
            long_preamble(),
            "captions are longer than the 64 tokens that the model reads, and would be cut: 'a mammogram of",
        ),
    ],
)
def test_words_that_do_not_tell_the_categories_apart_are_refused(data, small_foundation, tmp_path, content, says):
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=says):
        trained(data, small_foundation, tmp_path / "model", prompts=tmp_path / "words.yaml")
    assert not (tmp_path / "model").exists()


def test_our_own_words_fit_into_the_tokenizer_of_clip_as_well():
    from open_clip.tokenizer import SimpleTokenizer

    check_captions(SimpleTokenizer(context_length=77), DEFAULT_PROMPTS, ("DM", "s2D", "DBT"))
    with pytest.raises(UserError, match="longer than the 77 tokens"):
        check_captions(SimpleTokenizer(context_length=77), Prompts.from_dict(long_preamble()), ("DM",))


def command(data: Path, foundation: Path, out: Path, *more: str) -> list[str]:
    settings = {"modalities": "DM,s2D", "steps": 6, "validate_every": 2, "batch_size": 8, "threads": 1}
    settings |= {"learning_rate": 0.001, "layer_decay": 1, "accelerator": "cpu", "loggers": "[]", "augment": "false"}
    return [
        *(sys.executable, "-m", "densityclip.cli", "train", str(data / "cache"), "--out", str(out)),
        *("--splits", str(data / "splits.parquet"), "--foundation", str(foundation)),
        *(text for name, value in settings.items() for text in ("--set", f"{name}={value}")),
        *more,
    ]


def test_changed_settings_are_named_with_both_values(data, small_foundation, whole, tmp_path):
    with pytest.raises(UserError, match="holds another training") as caught:
        trained(data, small_foundation, whole, learning_rate=0.5, loggers=("csv",))
    assert "(learning_rate: 0.001 -> 0.5)" in str(caught.value)


def test_words_are_compared_by_what_they_are_and_not_by_where_they_lie(data, small_foundation, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(DEFAULT_PROMPTS.to_dict()))
    first = trained(data, small_foundation, tmp_path / "model", prompts=tmp_path / "a.yaml")
    before = (first / "provenance.json").stat().st_mtime_ns
    trained(data, small_foundation, tmp_path / "model", prompts=tmp_path / "b.yaml")
    assert (first / "provenance.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_processes_speak_as_one_and_say_only_what_is_for_the_user(data, small_foundation, tmp_path):
    done = subprocess.run(
        command(data, small_foundation, tmp_path / "model", "--set", "devices=2"),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith("train: ")] == []
    assert len([line for line in lines if line.startswith("train: 6 of 6")]) == 1
    assert done.stdout.startswith("Selected: step ")
    assert done.stdout.count("The trained model is") == 1
