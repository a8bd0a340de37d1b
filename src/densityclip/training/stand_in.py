"""The generated stand-in: the small CLIP, taught what generated images are of but not how dense they are."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from densityclip.imaging.cache import Cache
from densityclip.model.adapt import parameter_groups
from densityclip.model.biomedclip import load_foundation, save_foundation
from densityclip.model.classifier import grey_levels, normalise, pad_token, tokenise
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.model.small import make_small_foundation
from densityclip.model.weights_check import MADE, write_made
from densityclip.training.augmentation import apply_augmentation, augmentation_parameters
from densityclip.training.batches import seed_for
from densityclip.training.device import use_threads
from densityclip.training.losses import multi_positive
from densityclip.training.samplers import Sampler
from densityclip.training.schedule import warm_cosine

NAME = "generated stand-in"
_SIDES = {"L": "left", "R": "right"}
_VIEWS = {"CC": "craniocaudal", "MLO": "mediolateral oblique"}
_TEMPLATES = (
    "a {side} {view} {modality}, {thick} mm thick",
    "{modality}, {view} view of the {side} breast, {thick} mm",
)
_STEP_MM = 10


@dataclass(frozen=True)
class Pretraining:
    """How the stand-in is taught.

    Attributes:
        steps: Optimiser steps.
        batch_size: Images a step.
        learning_rate: Peak rate of AdamW.
        seed: Of weights, order, captions and augmentation.
        threads: CPU threads, part of the result.
    """

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 2


def captions_of(laterality: str, view: str, modality: str, thickness_mm: float) -> tuple[str, ...]:
    """What may be said of an image: side, view, modality and thickness to ten millimetres; never its density."""
    words = {
        "side": _SIDES[laterality],
        "view": _VIEWS[view],
        "modality": DEFAULT_PROMPTS.modalities[modality],
        "thick": _STEP_MM * round(thickness_mm / _STEP_MM),
    }
    return tuple(template.format(**words) for template in _TEMPLATES)


def pretrain(
    cache: Cache,
    thickness_mm: Mapping[str, float],
    out: Path,
    how: Pretraining,
    *,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Teach the small model and write it as a model folder; `foundation.json` comes last.

    Images of which the same can be said are each other's positives; densities are not looked at.

    Args:
        cache: Prepared images of generated exams.
        thickness_mm: Compressed thickness by image id.
        out: The model folder.
        how: The settings.
        about: What `foundation.json` says besides, such as where the exams are from.
        progress: Told (steps done, steps in all).
    """
    use_threads(how.threads)
    items = cache.rows.unique("row").sort("row")
    said = [
        captions_of(row["laterality"], row["view"], row["modality"], thickness_mm[row["image_id"]])
        for row in items.select("laterality", "view", "modality", "image_id").iter_rows(named=True)
    ]
    kinds = sorted(set(said))
    number = {captions: index for index, captions in enumerate(kinds)}
    labels = np.array([number[captions] for captions in said])
    make_small_foundation(out, seed=how.seed, texts=[text for captions in kinds for text in captions])
    (out / MADE).unlink()
    foundation = load_foundation(out)
    clip = foundation.clip.train()
    texts = [text for captions in kinds for text in captions]
    tokens = tokenise(foundation.tokenizer, texts, pad_token(clip))
    groups = parameter_groups(clip, rate=how.learning_rate, weight_decay=0.05, layer_decay=1.0)
    optimizer = torch.optim.AdamW(groups, fused=True)
    warmup = min(50, how.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, how.steps, warmup))
    sampler = Sampler("natural", labels, np.zeros_like(labels), seed=how.seed)
    for step in range(how.steps):
        rows, numbers = sampler.at(range(step * how.batch_size, (step + 1) * how.batch_size))
        pixels = grey_levels(torch.from_numpy(np.stack([cache.images[row] for row in rows])))
        parameters = torch.from_numpy(augmentation_parameters(numbers[:, 3:11]).astype(np.float32))
        pixels = apply_augmentation(pixels, parameters, (numbers[:, 11] * 2**48).astype(np.int64))
        torch.manual_seed(seed_for(how.seed, 4, step))
        images = clip.encode_image(normalise(pixels, foundation.config["preprocess_cfg"]), normalize=True)
        chosen = torch.from_numpy(len(_TEMPLATES) * labels[rows] + (numbers[:, 2] * len(_TEMPLATES)).astype(int))
        distinct, place = chosen.unique(return_inverse=True)
        captions = clip.encode_text(tokens[distinct], normalize=True)[place]
        kinds_of_rows = torch.from_numpy(labels[rows])
        multi_positive(images, captions, kinds_of_rows, clip.logit_scale.exp()).mean().backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0.0, math.log(100.0))
        if progress is not None and (step + 1) % 20 == 0:
            progress(step + 1, how.steps)
    clip.eval()
    save_foundation(foundation, out)
    _describe(out, items, how, about or {})


def _describe(out: Path, items: pl.DataFrame, how: Pretraining, about: Mapping[str, Any]) -> None:
    write_made(
        out,
        {
            "name": NAME,
            "weights": "trained on generated exams with captions of view, side, modality and thickness, never density",
            "images": items["image_id"].n_unique(),
            "patients": items["patient_id"].n_unique(),
            "steps": how.steps,
            "batch_size": how.batch_size,
            "learning_rate": how.learning_rate,
            "seed": how.seed,
            **about,
        },
    )
