"""From caches to batches: a batch is a pure function of (seed, step), so a killed training needs no sampler state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from densityclip.density import CATEGORIES, category_index
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.model.classifier import grey_levels
from densityclip.model.prompts import PLAIN, Prompts


class ImageStore:
    """The labelled images of some caches that belong to one part of the split.

    Attributes:
        items: One row an image: `cache`, `first_row`, `slices` and the index's columns, sorted by image id.
    """

    def __init__(
        self, caches: Sequence[Cache], splits: pl.DataFrame, *, part: str, fold: int, modalities: Sequence[str]
    ) -> None:
        self._images = [cache.images for cache in caches]
        tables = [
            cache.rows.group_by("image_id", maintain_order=True)
            .agg(
                pl.col("row").min().alias("first_row"),
                pl.len().alias("slices"),
                *(pl.col(name).first() for name in ("patient_id", "modality", "density", "density_source")),
            )
            .with_columns(pl.lit(number).alias("cache"))
            for number, cache in enumerate(caches)
        ]
        chosen = splits.filter((pl.col("part") == part) & (pl.col("fold") == fold)).select("patient_id")
        self.items = (
            pl.concat(tables)
            .filter(pl.col("modality").is_in(list(modalities)) & pl.col("density").is_not_null())
            .join(chosen, on="patient_id", how="semi")
            .sort("image_id")
        )
        self.labels: NDArray[np.int64] = np.array(
            [category_index(label) for label in self.items["density"]], dtype=np.int64
        )
        self.modalities: NDArray[np.int64] = np.array(
            [list(modalities).index(name) for name in self.items["modality"]], dtype=np.int64
        )
        self._cache = self.items["cache"].to_numpy()
        self._first = self.items["first_row"].to_numpy()
        self.slices: NDArray[np.int64] = self.items["slices"].to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, indices: NDArray[np.int64], slices: NDArray[np.int64]) -> Tensor:
        """`[n, h, w]` pixels of the given slice of each item, of the recipe's depth."""
        rows = self._first[indices] + slices
        return torch.from_numpy(np.stack([self._images[c][r] for c, r in zip(self._cache[indices], rows, strict=True)]))


@dataclass(frozen=True)
class CaptionTable:
    """Every caption that training may draw.

    Attributes:
        texts: The captions.
        choices: Their numbers for each (modality index or -1 for plain, category index).
    """

    texts: tuple[str, ...]
    choices: dict[tuple[int, int], NDArray[np.int64]]

    @classmethod
    def build(cls, prompts: Prompts, modalities: Sequence[str]) -> "CaptionTable":
        """The captions of some modalities, and the plain ones."""
        texts: list[str] = []
        choices = {}
        for number, name in enumerate((PLAIN, *modalities), start=-1):
            for label, category in enumerate(CATEGORIES):
                captions = prompts.captions(category, name)
                choices[number, label] = np.arange(len(texts), len(texts) + len(captions))
                texts += captions
        return cls(tuple(texts), choices)


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        pixels: `[batch, h, w]` float in `[0, 1]`, augmented.
        labels: `[batch]` category index.
        modalities: `[batch]` modality index.
        captions: `[batch]` number of each image's caption.
        indices: `[batch]` items of the store, for messages.
    """

    pixels: Tensor
    labels: Tensor
    modalities: Tensor
    captions: Tensor
    indices: NDArray[np.int64]


class TrainingBatches:
    """Batches of a training, by step; each epoch has every image once, in a new random order."""

    def __init__(
        self,
        store: ImageStore,
        captions: CaptionTable,
        *,
        batch_size: int,
        seed: int,
        plain_share: float,
        augment: bool,
    ) -> None:
        if len(store) < batch_size:
            raise UserError(
                f"the training part has {len(store)} images, fewer than one batch of {batch_size}",
                "lower batch_size, or add images",
            )
        self.store, self.captions = store, captions
        self.batch_size, self.seed, self.plain_share, self.augment = batch_size, seed, plain_share, augment
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.store)))
        return self._order[1]

    def at(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = places // len(self.store)
        indices = np.array(
            [self._epoch_order(int(e))[p % len(self.store)] for e, p in zip(epochs, places, strict=True)]
        )
        draws = [np.random.default_rng([self.seed, 2, int(e), int(i)]) for e, i in zip(epochs, indices, strict=True)]
        slices = np.array([d.integers(n) for d, n in zip(draws, self.store.slices[indices], strict=True)])
        labels, modalities = self.store.labels[indices], self.store.modalities[indices]
        captions = [
            int(d.choice(self.captions.choices[-1 if d.random() < self.plain_share else int(m), int(y)]))
            for d, m, y in zip(draws, modalities, labels, strict=True)
        ]
        pixels = grey_levels(self.store.read(indices, slices))
        if self.augment:
            parameters = np.stack([draw_augmentation(d) for d in draws]).astype(np.float32)
            noise = torch.Generator().manual_seed(seed_for(self.seed, 3, step))
            pixels = apply_augmentation(pixels, torch.from_numpy(parameters), noise)
        return Batch(pixels, torch.from_numpy(labels), torch.from_numpy(modalities), torch.tensor(captions), indices)


def seed_for(*key: int) -> int:
    """A seed for torch from a key such as (seed, purpose, step), spread over 32 bits."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def draw_augmentation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the parameters for one image.

    Returns:
        `[8]`: rotation (radians), log scale, shift across and down (share of the canvas), whether upside down (0 or 1),
        log gamma, contrast factor, noise SD (share of the grey range).
    """
    return np.array(
        [
            rng.uniform(-0.14, 0.14),
            rng.uniform(-0.12, 0.12),
            rng.uniform(-0.04, 0.04),
            rng.uniform(-0.06, 0.06),
            float(rng.random() < 0.5),
            rng.normal(0.0, 0.2),
            rng.uniform(0.85, 1.1),
            rng.uniform(0.0, 0.03),
        ]
    )


def apply_augmentation(pixels: Tensor, parameters: Tensor, generator: torch.Generator) -> Tensor:
    """Apply drawn parameters, batch-wise; the air around the breast stays 0.

    The chest wall stays on the left: a prepared image is never mirrored left-right.

    Args:
        pixels: `[batch, h, w]` in `[0, 1]`.
        parameters: `[batch, 8]` of `draw_augmentation`.
        generator: Draws the noise.

    Returns:
        `[batch, h, w]` in `[0, 1]`.
    """
    angle, log_scale, across, down, flip, log_gamma, contrast, noise = parameters.unbind(dim=1)
    height, width = pixels.shape[1:]
    cosine, sine, scale = angle.cos(), angle.sin(), (-log_scale).exp()
    upright = 1 - 2 * flip
    # Pixel centres in [-1, 1] as affine_grid places them; written out, because that call took a third of the time.
    x = ((2 * torch.arange(width) + 1) / width - 1)[None, None, :]
    y = ((2 * torch.arange(height) + 1) / height - 1)[None, :, None]
    each = (slice(None), None, None)
    # The aspect keeps a rotation a rotation on a canvas that is not square.
    grid_x = (scale * cosine)[each] * x - (scale * sine * upright * height / width)[each] * y + 2 * across[each]
    grid_y = (scale * sine * width / height)[each] * x + (scale * cosine * upright)[each] * y + 2 * down[each]
    grid = torch.stack([grid_x, grid_y], dim=-1)
    moved = functional.grid_sample(pixels.unsqueeze(1), grid, align_corners=False).squeeze(1)
    grey = moved.clamp(min=0).pow(log_gamma.exp()[each]) * contrast[each]
    speckle = noise[each] * torch.randn(grey.shape, generator=generator)
    return torch.where(moved > 0, grey + speckle, moved).clamp(0, 1)
