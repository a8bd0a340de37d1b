"""Every way to adapt, whole trainings in miniature: what moves, what stays, and what does not change the result."""

from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from densityclip.artifacts import read_table
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.model.biomedclip import load_foundation
from densityclip.model.bundle import load_bundle
from densityclip.training.config import TrainConfig
from densityclip.training.fit import fit

SHORT = {"steps": 4, "validate_every": 2, "batch_size": 16, "warmup_steps": 0, "threads": 1, "loggers": ()}
SHORT |= {"learning_rate": 1e-3, "layer_decay": 1.0, "allow_missing_categories": True, "accelerator": "cpu"}


def trained(road: Path, out: Path, **settings) -> dict[str, torch.Tensor]:
    config = TrainConfig(**(SHORT | settings))
    splits = read_table(road / "splits.parquet", "splits")
    bundle = fit([Cache.open(road / "cohorts/internal/cache")], splits, road / "foundation", out, config, data={})
    return load_file(bundle / "open_clip_model.safetensors")


@pytest.fixture(scope="module")
def start(road: Path) -> dict[str, torch.Tensor]:
    return load_foundation(road / "foundation").clip.state_dict()


@pytest.fixture(scope="module")
def full(road: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(road, tmp_path_factory.mktemp("full") / "model")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert set(before) == set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


PROJECTIONS = ("visual.head.proj", "text.proj", "logit_scale")
ATTENTION = ("attn.qkv", "attn.proj", "attention.self.query", "attention.self.value")


@pytest.mark.parametrize(
    ("settings", "may_move"),
    [
        ({"adaptation": "linear-probe"}, PROJECTIONS),
        ({"adaptation": "linear-probe", "text_tower": "frozen"}, ("visual.head.proj", "logit_scale")),
        ({"adaptation": "lora"}, PROJECTIONS + ATTENTION),
        ({"adaptation": "full", "text_tower": "frozen"}, ("visual.", "logit_scale")),
        ({"adaptation": "zero-shot"}, ()),
    ],
)
def test_an_adaptation_moves_what_it_names_and_nothing_else(road, tmp_path, start, settings, may_move):
    names = moved(start, trained(road, tmp_path / "model", **settings))
    assert {name for name in names if not any(part in name for part in may_move)} == set()
    assert all(any(part in name for name in names) for part in may_move)
    load_bundle(tmp_path / "model").classifier()


def test_full_moves_both_towers(start, full):
    moving = moved(start, full)
    assert {"visual.trunk.patch_embed.proj.weight", "text.transformer.embeddings.word_embeddings.weight"} <= moving


def test_chunks_give_the_weights_of_the_whole_batch(road: Path, tmp_path: Path, full):
    # 16 images in chunks of 5: the last chunk is shorter. The small text tower's dropout is the same in both.
    chunked = trained(road, tmp_path / "model", chunk_size=5)
    for name, value in full.items():
        torch.testing.assert_close(chunked[name], value, rtol=0, atol=2e-4, msg=name)


def test_interpolation_delivers_weights_on_the_line_to_the_foundation_model(road, tmp_path, start, full):
    half = trained(road, tmp_path / "model", interpolation=0.5)
    for name, value in full.items():
        torch.testing.assert_close(half[name], (start[name] + value) / 2, rtol=1e-5, atol=1e-6)


def test_an_average_of_the_weights_is_what_is_delivered(road: Path, tmp_path: Path, full, start):
    averaged = trained(road, tmp_path / "model", ema_decay=0.9)
    checkpoint = torch.load(tmp_path / "model" / "checkpoints" / "best.ckpt", weights_only=True)
    name = "visual.head.proj.weight"
    assert torch.equal(averaged[name], checkpoint["average"][name])
    assert not torch.equal(averaged[name], checkpoint["state_dict"][f"clip.{name}"])
    # It lags behind the weights that it follows, on their side of the start.
    assert (averaged[name] - start[name]).norm() < (checkpoint["state_dict"][f"clip.{name}"] - start[name]).norm()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "infonce"},
        {"loss": "ordinal", "class_weights": "effective-number"},
        {"loss": "class-prompt", "text_tower": "frozen"},
        {"loss": "class-prompt", "class_weights": "logit-adjustment", "modality_weights": "uncertainty"},
        {"sampler": "modality-class", "class_weights": "none", "modality_weights": "group-dro"},
        {
            "sampler": "class-balanced",
            "class_weights": "none",
            "modality_weights": "fixed",
            "fixed_modality_weights": {"DM": 1, "s2D": 2, "DBT": 1},
        },
    ],
)
def test_every_choice_trains_and_its_curves_are_in_the_log(road: Path, tmp_path: Path, start, settings):
    assert moved(start, trained(road, tmp_path / "model", **settings))
    history = pl.read_csv(tmp_path / "model" / "training.csv")
    assert history["value"].is_finite().all()
    assert history.filter(pl.col("name") == "weight/s2D").height > 0
    loaded = load_bundle(tmp_path / "model")
    assert sum(loaded.provenance["data"]["training_prior"].values()) == pytest.approx(1, abs=1e-5)


def test_lightnings_loggers_are_on_by_default(road: Path, tmp_path: Path):
    trained(road, tmp_path / "model", loggers=TrainConfig().loggers)
    logs = tmp_path / "model" / "logs"
    assert list(logs.glob("tensorboard/*/events*"))
    (table,) = logs.glob("csv/*/metrics.csv")
    assert "validation/worst_macro_auc" in pl.read_csv(table).columns


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sampler": "class-balanced"}, "would both correct the imbalance"),
        ({"modality_weights": "fixed"}, "needs a positive number for DM, s2D, DBT"),
        ({"devices": 3}, "must be a multiple of the devices"),
        ({"steps": 3}, "must be a multiple of validate_every"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig(**(SHORT | {"class_weights": "inverse-frequency"} | settings))


def test_a_category_without_images_stops_the_training_unless_it_may(road: Path, tmp_path: Path):
    counts = Cache.open(road / "cohorts/internal/cache").rows.join(
        read_table(road / "splits.parquet", "splits").filter(pl.col("part") == "train"), on="patient_id", how="semi"
    )["density"]
    missing = sorted(set("ABCD") - set(counts.drop_nulls()))
    assert missing, "the miniature has every category in its training part: make a smaller one"
    with pytest.raises(UserError, match=f"no image of category {', '.join(missing)}"):
        trained(road, tmp_path / "model", allow_missing_categories=False)


def test_memory_that_does_not_suffice_says_what_to_lower(road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from densityclip.training.task import ContrastiveTask

    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ContrastiveTask, "losses", too_much)
    with pytest.raises(UserError, match="out of memory with 16 images a step") as caught:
        trained(road, tmp_path / "model")
    assert "chunk_size to 4" in str(caught.value)
    monkeypatch.undo()
    trained(road, tmp_path / "model", chunk_size=4)  # as advised, in the same folder


def test_a_model_that_was_not_trained_carries_no_prior(road: Path, tmp_path: Path):
    trained(road, tmp_path / "model", adaptation="zero-shot")
    prior = load_bundle(tmp_path / "model/bundle").provenance["data"]["training_prior"]
    assert len({share for share in prior.values() if share}) == 1  # equal for all categories that were there


def test_weights_that_are_not_finite_stop_the_training(road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from densityclip.training.task import ContrastiveTask

    def spoil(task: ContrastiveTask, *_) -> None:
        next(task.clip.visual.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(ContrastiveTask, "on_train_batch_end", spoil)
    monkeypatch.setattr(ContrastiveTask, "losses", lambda self, seen, step: torch.ones(16) * self.clip.logit_scale)
    with pytest.raises(UserError, match="weights are not finite after 2 steps"):
        trained(road, tmp_path / "model")


@pytest.mark.parametrize("settings", [{"accelerator": "cuda"}, {"strategy": "deepspeed"}, {"strategy": "nonsense"}])
def test_a_device_or_strategy_that_is_not_there_is_told(road: Path, tmp_path: Path, settings):
    if settings.get("accelerator") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="Lightning refuses these settings"):
        trained(road, tmp_path / "model", **settings)


def test_the_probes_rate_is_not_that_of_the_modality_weights(road: Path, tmp_path: Path):
    trained(road, tmp_path / "model", adaptation="lp-ft", modality_weights="uncertainty", learning_rate=1e-5, steps=6)
    history = pl.read_csv(tmp_path / "model/training.csv").filter(pl.col("name").str.starts_with("weight/"))
    assert history["value"].is_between(0.3, 3).all()


def test_words_of_the_users_own_travel_with_the_bundle(road: Path, tmp_path: Path):
    words = tmp_path / "words.yaml"
    words.write_text(
        "plain: ['mammogram, {density}']\nworded: ['{modality}, {density}']\n"
        "densities: {A: [fatty], B: [scattered], C: [heterogeneous], D: [extreme]}\n"
        "modalities: {DM: digital, s2D: synthesized, DBT: tomosynthesis}\n"
    )
    trained(road, tmp_path / "model", prompts=words)
    assert load_bundle(tmp_path / "model").prompts.captions("D", "DBT") == ("tomosynthesis, extreme",)
