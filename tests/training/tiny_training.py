"""A training so small that each of its steps can be looked at: 48 drawn images, and a task that keeps what it did."""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import load_foundation
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.model.small import IMAGE_SIZE
from densityclip.training.batches import CaptionTable, ImageStore, TrainingBatches
from densityclip.training.config import TrainConfig
from densityclip.training.task import ContrastiveTask

# Neither the categories nor the modalities are balanced, and s2D has no A.
TRAINED_ON = {
    "DM": "AABBBBBBBBBBBCCCCCCCCCDD",
    "s2D": "BBBBBBCCCCCCCCDD",
    "DBT": "ABBBCCCD",
}
VALIDATED_ON = dict.fromkeys(TRAINED_ON, "AABBCCDD")
SETTINGS = {"steps": 4, "validate_every": 2, "batch_size": 16, "warmup_steps": 0, "threads": 1, "loggers": ()}
SETTINGS |= {"accelerator": "cpu", "precision": "32-true", "learning_rate": 1e-3}


def store(categories: dict[str, str]) -> ImageStore:
    """An image of each of the categories, noise about a grey that rises with the category."""
    pairs = [(modality, label) for modality, labels in categories.items() for label in labels]
    rng = np.random.default_rng(0)
    grey = np.array([60 + 30 * "ABCD".index(label) for _, label in pairs])[:, None, None]
    images = np.clip(grey + rng.normal(0, 40, (len(pairs), IMAGE_SIZE, IMAGE_SIZE)), 0, 255).astype(np.uint8)
    facts = {"slice_index": 0, "laterality": "L", "view": "CC", "density_source": "table"}
    rows = [
        {"row": number, "image_id": f"image-{number:02}", "modality": modality, "density": label} | facts
        for number, (modality, label) in enumerate(pairs)
    ]
    own = [{"patient_id": f"patient-{number}", "exam_id": f"exam-{number}"} for number in range(len(pairs))]
    rows = [row | ids for row, ids in zip(rows, own, strict=True)]
    cache = Cache(Path("nowhere"), images, pl.DataFrame(rows), Recipe(height=IMAGE_SIZE, width=IMAGE_SIZE))
    splits = pl.DataFrame({"patient_id": [row["patient_id"] for row in rows]}).with_columns(
        fold=pl.lit(0), part=pl.lit("train")
    )
    return ImageStore([cache], splits, part="train", fold=0, modalities=tuple(TRAINED_ON))


class WatchedTask(ContrastiveTask):
    """Keeps of every step: loss, gradients before and after the clipping, rates and decay by name, weights after it."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.losses_seen: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.clipped: list[dict[str, torch.Tensor]] = []
        self.rates: list[dict[str, float]] = []
        self.decays: dict[str, float] = {}
        self.weights: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses_seen.append(float(loss.detach()))
        return loss

    def configure_gradient_clipping(self, optimizer, *arguments, **keywords):
        names = {id(value): name for name, value in self.clip.named_parameters()}
        mine = [
            (names[id(value)], group)
            for group in optimizer.param_groups
            for value in group["params"]
            if id(value) in names
        ]
        self.rates.append({name: group["lr"] for name, group in mine})
        self.decays = {name: group["weight_decay"] for name, group in mine}
        self.gradients.append(gradients(self))
        super().configure_gradient_clipping(optimizer, *arguments, **keywords)
        self.clipped.append(gradients(self))

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        self.weights.append({name: value.detach().clone() for name, value in self.clip.named_parameters()})


def gradients(task: ContrastiveTask) -> dict[str, torch.Tensor]:
    """The gradient of every parameter that has one."""
    return {name: value.grad.detach().clone() for name, value in task.clip.named_parameters() if value.grad is not None}


def tiny_task(foundation: Path, **settings) -> WatchedTask:
    """A task over the 48 images, its dropout off until something trains it."""
    config = TrainConfig(**(SETTINGS | settings))
    batches = TrainingBatches(
        store(TRAINED_ON),
        CaptionTable.build(DEFAULT_PROMPTS, config.modalities),
        batch_size=config.batch_size,
        seed=config.seed,
        plain_share=config.plain_caption_share,
        augment=config.augment,
        sampler=config.sampler,
    )
    return WatchedTask(load_foundation(foundation), config, DEFAULT_PROMPTS, batches, store(VALIDATED_ON))


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, within: float = 1e-5
) -> None:
    """Parameter by parameter, relative to its gradient's norm; one that is zero but for rounding, to the largest."""
    assert set(found) == set(expected)
    largest = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        difference = float((found[name] - value).norm())
        assert difference <= within * max(float(value.norm()), 1e-2 * largest), (name, difference, float(value.norm()))
