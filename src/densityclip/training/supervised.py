"""Baselines with a network and no words: cross-entropy over the four categories, one plain loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from densityclip.errors import UserError
from densityclip.model.adapt import parameter_groups
from densityclip.model.biomedclip import Foundation
from densityclip.model.classifier import normalise
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.training.batches import CaptionTable, ImageStore, TrainingBatches, seed_for
from densityclip.training.config import TrainConfig
from densityclip.training.device import device_of, precision_of
from densityclip.training.schedule import warm_cosine
from densityclip.training.scoring import macro_auc_by_modality, scorer_of
from densityclip.training.task import SELECTED_BY


class PlainClassifier(nn.Module):
    """Prepared pixels to logits over the four categories, whatever the modality.

    Attributes:
        visual: The network up to its features, or to the logits.
        head: Features to logits.
        preprocess: `mean` and `std` per channel.
    """

    visual: nn.Module
    head: nn.Module

    def __init__(self, visual: nn.Module, head: nn.Module, preprocess: dict[str, Any]) -> None:
        super().__init__()
        self.visual, self.head, self.preprocess = visual, head, preprocess

    def forward(self, pixels: Tensor, modalities: Sequence[str | None] = ()) -> Tensor:
        """Logits `[batch, 4]` of `[batch, h, w]` pixels, as prepared or float in `[0, 1]`."""
        logits: Tensor = self.head(self.visual(normalise(pixels, self.preprocess)).float())
        return logits


def tower_classifier(foundation: Foundation) -> PlainClassifier:
    """The image tower of a foundation model with a linear head on its features; the head starts at zero."""
    head = nn.Linear(int(foundation.config["model_cfg"]["embed_dim"]), 4)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return PlainClassifier(foundation.clip.visual, head, foundation.config["preprocess_cfg"])


def cnn_classifier(name: str, weights: Path | None, *, seed: int) -> PlainClassifier:
    """A convolutional network of timm.

    Args:
        name: Its architecture.
        weights: A safetensors file of pretrained weights in timm's names, whose last layer is left out; None for
            random ones.
        seed: Of the random weights; the global generator is left as it was.

    Raises:
        UserError: timm knows no such architecture, or the file holds weights of another one.
    """
    import timm
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    # The hub would be asked for NAME of hf-hub:NAME, whatever `pretrained` says.
    if ":" in name or not timm.is_model(name):
        raise UserError(f"timm knows no network {name!r}", "set baseline_cnn.name to one of timm.list_models()")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, 7))
        network = timm.create_model(name, pretrained=False, num_classes=4)
    if weights is not None:
        _load_pretrained(network, name, weights)
    preprocess = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
    return PlainClassifier(network, nn.Identity(), preprocess)


def _load_pretrained(network: nn.Module, name: str, weights: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = f"set baseline_cnn.weights to timm's model.safetensors of {name}, or leave it out"
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights} is no readable safetensors file", remedy) from error
    own = network.state_dict()
    last = {key for key in own if own[key].shape[:1] == (4,) and key.rsplit(".", 1)[-1] in ("weight", "bias")}
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not set(own) - set(fitting) <= last or not set(state) <= set(own):
        raise UserError(f"the weights in {weights} are not those of {name}", remedy)
    network.load_state_dict(fitting, strict=False)


@dataclass(frozen=True)
class Trained:
    """What a plain training came to; its network holds the weights of the best validation.

    Attributes:
        history: Rows of `training.csv`.
        value: Best score of the worst modality.
        step: When it was reached, the earliest of equals.
    """

    history: list[tuple[int, str, float]]
    value: float
    step: int


def train_plainly(
    network: PlainClassifier,
    train: ImageStore,
    validation: ImageStore,
    config: TrainConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train by cross-entropy on the images that the sampler draws; afterwards the network has its best weights.

    Args:
        network: What is trained, all of it.
        train: Its images.
        validation: Selects the weights.
        config: Steps, batch, rates, sampler, augmentation and seed; what is about captions and weights is not used.
        progress: Told (steps done, steps in all).

    Raises:
        UserError: The loss is not finite.
    """
    device = device_of(config)
    batches = TrainingBatches(
        train,
        CaptionTable.build(DEFAULT_PROMPTS, config.modalities),
        batch_size=config.batch_size,
        seed=config.seed,
        plain_share=1.0,
        augment=config.augment,
        sampler=config.sampler,
    )
    network.to(device)
    groups = parameter_groups(
        network, rate=config.rate, weight_decay=config.weight_decay, layer_decay=config.layer_decay
    )
    optimizer = torch.optim.AdamW(groups, fused=True)
    warmup = min(config.warmup_steps, config.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, config.steps, warmup))
    history: list[tuple[int, str, float]] = []
    best: tuple[float, int] = (-1.0, 0)
    kept: dict[str, Tensor] = {}
    network.train()
    for step in range(config.steps):
        loss = _step(network, batches, optimizer, config, step)
        schedule.step()
        if step % 10 == 0:
            history.append((step, "train/loss", loss))
        done = step + 1
        if progress is not None:
            progress(done, config.steps)
        if done % config.validate_every == 0:
            scores = macro_auc_by_modality(scorer_of(network.eval()), validation, config.modalities)
            network.train()
            history += [(done, f"validation/macro_auc/{name}", score) for name, score in scores.items()]
            history.append((done, SELECTED_BY, min(scores.values())))
            if not kept or min(scores.values()) > best[0]:
                best = (min(scores.values()), done)
                kept = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    network.to("cpu").eval().load_state_dict(kept)
    return Trained(history, *best)


def _step(
    network: PlainClassifier,
    batches: TrainingBatches,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
) -> float:
    seen = batches.at(step)
    device = device_of(config)
    # Dropped paths follow from the number of the step, as everything else that is random.
    torch.manual_seed(seed_for(config.seed, 8, step))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision_of(config) == "bf16-mixed"):
        logits = network(seen.pixels.to(device))
    loss = functional.cross_entropy(logits.float(), seen.labels.to(device))
    if not bool(torch.isfinite(loss)):
        raise UserError(f"the loss of the baseline is not finite at step {step}", "lower learning_rate")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_gradient)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
