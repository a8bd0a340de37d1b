"""The training step against plain recomputation: weights, gradients, rates, bounds, chunks, processes."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from test_losses import plain_reference
from tiny_training import WatchedTask, assert_same_gradients, gradients, tiny_task
from torch import Tensor
from torch.nn import functional

from densityclip.model.classifier import normalise
from densityclip.training.engine import run

LAG = [0.4, -0.5, 0.9]  # of DM, s2D and DBT in the steps below
SHARES = [24 / 48, 16 / 48, 8 / 48]


def step_by_hand(task: WatchedTask, step: int) -> Tensor:
    """The loss of a step of `task`, before Lightning has it: a trainer in name only."""
    optimizer = task.configure_optimizers()["optimizer"]
    task.trainer = SimpleNamespace(
        world_size=1, global_rank=0, global_step=step, loggers=[], optimizers=[optimizer], precision_plugin=None
    )
    return task.training_step(None, 0)


def lagging(task: WatchedTask) -> list[float]:
    """Give the modalities a lag, and say which weights follow from it."""
    task.modality_weights.sums.copy_(torch.tensor(LAG)[:, None].expand(3, 4) * (10 + task.modality_weights.prior))
    task.modality_weights.seen.fill_(10.0)
    raw = [math.exp(0.5 * lag) for lag in LAG]
    mean = sum(share * value for share, value in zip(SHARES, raw, strict=True))
    return [value / mean for value in raw]


def multi_positive_image_by_image(task: WatchedTask, step: int, adjustment: list[float]) -> list[Tensor]:
    """The definition with gradients: every image and every caption goes through its tower alone."""
    seen = task.batches.at(step)
    labels, number = seen.labels.tolist(), len(seen.labels)
    images = [
        functional.normalize(task.clip.encode_image(normalise(seen.pixels[i : i + 1], task.preprocess)), dim=1)[0]
        for i in range(number)
    ]
    tokens = task.caption_tokens[seen.captions]
    texts = [functional.normalize(task.clip.encode_text(tokens[i : i + 1]), dim=1)[0] for i in range(number)]
    scale = task.clip.logit_scale.exp()
    logits = torch.stack([torch.stack([scale * (image @ text) for text in texts]) for image in images])
    shift = torch.tensor([adjustment[label] for label in labels])
    losses = []
    for i in range(number):
        positives = [j for j in range(number) if labels[j] == labels[i]]
        to_text = sum(torch.logsumexp(logits[i] + shift, 0) - logits[i, j] - shift[j] for j in positives)
        to_image = sum(torch.logsumexp(logits[:, j], 0) - logits[i, j] for j in positives)
        losses.append((to_text + to_image) / (2 * len(positives)))
    return losses


@pytest.mark.parametrize("scheme", ["inverse-frequency", "logit-adjustment"])
def test_a_step_is_the_plainly_weighted_loss_and_has_its_gradient(small_foundation: Path, scheme: str):
    task = tiny_task(small_foundation, class_weights=scheme)
    every = task.batches.store.labels
    by_modality = lagging(task)
    by_category = [1.0] * 4
    adjustment = [math.log((every == k).mean()) for k in range(4)]
    if scheme == "inverse-frequency":
        by_category, adjustment = compute_class_weight("balanced", classes=np.arange(4), y=every).tolist(), [0.0] * 4

    loss = step_by_hand(task, 3)
    loss.backward()
    found = gradients(task)
    task.zero_grad()

    seen = task.batches.at(3)
    losses = multi_positive_image_by_image(task, 3, adjustment)
    pairs = zip(seen.labels.tolist(), seen.modalities.tolist(), strict=True)
    weights = [by_category[label] * by_modality[modality] for label, modality in pairs]
    expected = sum(weight * one for weight, one in zip(weights, losses, strict=True)) / len(losses)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, gradients(task))


def test_the_reference_above_is_the_definition_that_the_losses_are_tested_against(small_foundation: Path):
    task = tiny_task(small_foundation)
    seen = task.batches.at(0)
    with torch.no_grad():
        images = task.clip.encode_image(normalise(seen.pixels, task.preprocess), normalize=True).double()
        texts = task.clip.encode_text(task.caption_tokens[seen.captions], normalize=True).double()
        found = multi_positive_image_by_image(task, 0, [-1.0, 0.0, 0.5, 0.0])
    scale = task.clip.logit_scale.exp().item()
    expected = plain_reference(images, texts, seen.labels.tolist(), scale, "multi-positive", [-1.0, 0.0, 0.5, 0.0])
    assert [float(one) for one in found] == pytest.approx(expected, rel=1e-4)


def test_a_step_moves_the_modality_weights_of_the_next_and_logs_those_it_used(small_foundation: Path):
    task = tiny_task(small_foundation)
    step_by_hand(task, 0)
    logged = {name: value for _, name, value in task.history}
    assert [logged[f"weight/{name}"] for name in ("DM", "s2D", "DBT")] == [1.0, 1.0, 1.0]
    with torch.no_grad():
        losses = [float(one) for one in multi_positive_image_by_image(task, 0, [0.0] * 4)]
    seen = task.batches.at(0)
    rows = list(zip(losses, seen.labels.tolist(), seen.modalities.tolist(), strict=True))
    means = {k: sum(a) / len(a) for k in range(4) if (a := [loss for loss, label, _ in rows if label == k])}
    lag = []
    for modality in range(3):
        cells = [[loss - means[k] for loss, label, m in rows if (label, m) == (k, modality)] for k in range(4)]
        present = [sum(cell) / (len(cell) + 4) for cell in cells if cell]
        lag.append(sum(present) / len(present))
    assert task.modality_weights.lag().tolist() == pytest.approx(lag, abs=1e-5)
    assert max(abs(value) for value in lag) > 1e-3
    assert float(logged["signal/DM"]) == 0.0


def test_chunks_have_the_gradient_of_the_whole_batch(small_foundation: Path):
    # 16 images in chunks of 5: the last chunk is shorter.
    found = []
    for chunk in (None, 5):
        task = tiny_task(small_foundation, chunk_size=chunk)
        step_by_hand(task, 1).backward()
        found.append(gradients(task))
    assert_same_gradients(found[1], found[0])


@pytest.mark.parametrize(("start", "bounded"), [(200.0, 50.0), (50.1, 50.0), (0.3, 1.0), (20.0, 20.0)])
def test_the_inverse_temperature_stays_between_one_and_its_bound(small_foundation: Path, start: float, bounded: float):
    task = tiny_task(small_foundation, max_logit_scale=50.0)
    task.trainer = SimpleNamespace(global_step=1)
    task.clip.logit_scale.data.fill_(math.log(start))
    task.on_train_batch_end()
    assert float(task.clip.logit_scale.exp()) == pytest.approx(bounded, rel=1e-6)


def test_a_training_keeps_the_inverse_temperature_within_its_bound_after_every_step(small_foundation, tmp_path):
    # It starts at 1 / 0.07; a bound below that holds from the first step on.
    task = tiny_task(small_foundation, max_logit_scale=10.0)
    assert float(task.clip.logit_scale.exp()) > 14
    run(task, tmp_path, task.config, None)
    assert all(float(weights["logit_scale"].exp()) <= 10.0 * (1 + 1e-6) for weights in task.weights)


def norm(values: dict[str, Tensor]) -> float:
    return float(torch.stack([value.norm() for value in values.values()]).norm())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_to_the_norm_and_keep_their_direction(small_foundation, tmp_path, precision: str):
    task = tiny_task(small_foundation, clip_gradient=0.01, precision=precision, steps=2)
    run(task, tmp_path, task.config, None)
    for before, after in zip(task.gradients, task.clipped, strict=True):
        assert norm(before) > 0.02
        assert norm(after) == pytest.approx(0.01, rel=1e-3)
        assert_same_gradients(after, {name: value * (0.01 / norm(before)) for name, value in before.items()})
    assert len(task.clipped) == 2


def test_gradients_below_the_norm_are_left_alone(small_foundation: Path, tmp_path: Path):
    task = tiny_task(small_foundation, clip_gradient=1e6, steps=2)
    run(task, tmp_path, task.config, None)
    for before, after in zip(task.gradients, task.clipped, strict=True):
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_bfloat16_has_the_gradient_of_float32_but_for_its_rounding(small_foundation: Path, tmp_path: Path):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        task = tiny_task(small_foundation, precision=precision, steps=2)
        run(task, tmp_path / precision, task.config, None)
        found.append(torch.cat([value.flatten() for value in task.gradients[0].values()]))
    assert not torch.equal(*found)
    assert float(functional.cosine_similarity(*found, dim=0)) > 0.99


def test_every_step_has_the_rate_of_the_schedule_and_of_its_depth(small_foundation: Path, tmp_path: Path):
    task = tiny_task(small_foundation, warmup_steps=2, steps=6, layer_decay=0.5, learning_rate=1e-4)
    run(task, tmp_path, task.config, None)
    # Two steps up; then a half cosine over four.
    shares = [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    for name, factor in {
        "visual.head.proj.weight": 1.0,
        "visual.trunk.blocks.5.attn.qkv.weight": 1 / 2,
        "visual.trunk.blocks.0.attn.qkv.weight": 1 / 64,
        "visual.trunk.patch_embed.proj.weight": 1 / 128,
        "text.transformer.encoder.layer.0.attention.self.query.weight": 1 / 4,
        "text.transformer.embeddings.word_embeddings.weight": 1 / 8,
    }.items():
        assert [rates[name] for rates in task.rates] == pytest.approx([1e-4 * factor * share for share in shares])
    assert task.decays["visual.head.proj.weight"] == task.config.weight_decay > 0
    assert task.decays["visual.trunk.norm.weight"] == task.decays["logit_scale"] == 0


def test_lp_ft_moves_the_projections_first_and_then_everything(small_foundation: Path, tmp_path: Path):
    task = tiny_task(small_foundation, adaptation="lp-ft", probe_share=0.5, steps=4)
    start = {name: value.detach().clone() for name, value in task.clip.named_parameters()}
    run(task, tmp_path, task.config, None)

    def moved(step: int) -> set[str]:
        return {name for name, value in start.items() if not torch.equal(value, task.weights[step][name])}

    projections = {"visual.head.proj.weight", "text.proj.0.weight", "text.proj.2.weight", "logit_scale"}
    assert moved(0) == moved(1) == projections
    assert {"visual.trunk.blocks.0.attn.qkv.weight", "visual.trunk.patch_embed.proj.weight"} <= moved(2)
    assert "text.transformer.embeddings.word_embeddings.weight" in moved(2)
    assert task.rates[0]["visual.head.proj.weight"] == pytest.approx(task.config.probe_rate)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adaptation": "lp-ft", "probe_share": 0.4, "modality_weights": "group-dro"},
        {"loss": "class-prompt", "chunk_size": 3, "modality_weights": "uncertainty"},
    ],
)
def test_two_processes_have_the_losses_and_gradients_of_one(small_foundation: Path, tmp_path: Path, settings):
    settings = {"steps": 3, "validate_every": 3} | settings
    one = tiny_task(small_foundation, **settings)
    run(one, tmp_path / "one", one.config, None)
    command = [sys.executable, Path(__file__).parent / "two_processes.py", small_foundation, tmp_path / "two"]
    command += [f"{name}={value}" for name, value in settings.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(first["losses"]) == len(one.losses_seen) == 3
    # One step's gradients, for later weights differ by what AdamW makes of the last bits of a gradient near zero.
    assert_same_gradients(first["gradients"][0], one.gradients[0])
    assert first["losses"] == pytest.approx(one.losses_seen, rel=1e-5)
    for name, value in one.weights[-1].items():
        torch.testing.assert_close(first["weights"][-1][name], value, rtol=0, atol=5e-4, msg=name)
    # The second process delivers nothing, yet must have weighted and stepped as the first did.
    assert second["losses"] == first["losses"]
    assert all(torch.equal(second["weights"][-1][name], value) for name, value in first["weights"][-1].items())
