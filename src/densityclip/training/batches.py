"""From caches to batches: a batch is a pure function of (seed, step), so a killed training needs no sampler state."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from densityclip.density import CATEGORIES, category_index
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.model.classifier import grey_levels
from densityclip.model.prompts import PLAIN, Prompts
from densityclip.training.augmentation import apply_augmentation, augmentation_parameters
from densityclip.training.samplers import Sampler

_FACTS = ("patient_id", "exam_id", "laterality", "view", "modality", "density", "density_source")


class ImageStore:
    """The labelled images of some caches that belong to one part of the split.

    Attributes:
        items: One row an image: `cache`, `first_row`, `slices` and some of the index's columns, sorted by image id.
    """

    def __init__(
        self,
        caches: Sequence[Cache],
        splits: pl.DataFrame,
        *,
        part: str,
        fold: int,
        modalities: Sequence[str],
        shuffle_seed: int | None = None,
    ) -> None:
        self._images = [cache.images for cache in caches]
        tables = [
            cache.rows.group_by("image_id", maintain_order=True)
            .agg(
                pl.col("row").min().alias("first_row"),
                pl.len().alias("slices"),
                *(pl.col(name).first() for name in _FACTS),
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
        if shuffle_seed is not None:
            self.items = _shuffled_among_patients(self.items, shuffle_seed)
        self.labels: NDArray[np.int64] = np.array(
            [category_index(label) for label in self.items["density"]], dtype=np.int64
        )
        self.modalities: NDArray[np.int64] = np.array(
            [list(modalities).index(name) for name in self.items["modality"]], dtype=np.int64
        )
        self._cache = self.items["cache"].to_numpy()
        self._first = self.items["first_row"].to_numpy()
        self.slices: NDArray[np.int64] = self.items["slices"].to_numpy().astype(np.int64)
        self._resident: Tensor | None = None
        self._resident_first: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.slices)[:-1]]).astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all slices of its images."""
        return int(self.slices.sum()) * int(self._images[0][0].nbytes)

    def move_to(self, device: torch.device) -> None:
        """Keep all slices in the memory of a device; from then on `read` gives tensors that live there."""
        items, slices = self.every_slice(np.arange(len(self)))
        # In pieces, so that the host never holds a second copy of the whole.
        pieces = [self.read(i, s).to(device) for i, s in _in_pieces(items, slices, 4096)]
        self._resident = torch.cat(pieces)

    def __len__(self) -> int:
        return len(self.items)

    def every_slice(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All slices of some items, one after the other: the item and the slice of each, as `read` takes them."""
        counts = self.slices[indices]
        return np.repeat(indices, counts), np.concatenate([np.arange(count) for count in counts])

    def read(self, indices: NDArray[np.int64], slices: NDArray[np.int64]) -> Tensor:
        """`[n, h, w]` pixels of the given slice of each item, of the recipe's depth."""
        if self._resident is not None:
            where = torch.from_numpy(self._resident_first[indices] + slices)
            return self._resident[where.to(self._resident.device)]
        rows = self._first[indices] + slices
        return torch.from_numpy(np.stack([self._images[c][r] for c, r in zip(self._cache[indices], rows, strict=True)]))


def _shuffled_among_patients(items: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Every patient's images with the category of another patient's denser breast."""
    patients = items.group_by("patient_id").agg(pl.col("density").max()).sort("patient_id")
    order = np.random.default_rng(seed).permutation(len(patients))
    given = patients.with_columns(pl.Series("density", patients["density"].to_numpy()[order], dtype=pl.String()))
    return items.drop("density").join(given, on="patient_id", how="left", maintain_order="left")


def _in_pieces(
    items: NDArray[np.int64], slices: NDArray[np.int64], size: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return [(items[start : start + size], slices[start : start + size]) for start in range(0, len(items), size)]


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

    def pick(self, wording: int, label: int, uniform: float) -> int:
        """The number of one caption of a (modality index or -1, category index), by a uniform number in [0, 1)."""
        numbers = self.choices[wording, label]
        return int(numbers[int(uniform * len(numbers))])


@dataclass(frozen=True)
class Batch:
    """What one training step sees. All but the pixels is that of the whole batch, in every process.

    Attributes:
        pixels: `[mine, h, w]` float in `[0, 1]`, augmented: the rows of this process, in the order of the batch.
        labels: `[batch]` category index.
        modalities: `[batch]` modality index.
        wordings: `[batch]` modality index that the caption names, -1 where it names none.
        captions: `[batch]` number of each image's caption.
        indices: `[batch]` items of the store, for messages.
    """

    pixels: Tensor
    labels: Tensor
    modalities: Tensor
    wordings: Tensor
    captions: Tensor
    indices: NDArray[np.int64]


class TrainingBatches:
    """Batches of a training, by step."""

    def __init__(
        self,
        store: ImageStore,
        captions: CaptionTable,
        *,
        batch_size: int,
        seed: int,
        plain_share: float,
        augment: bool,
        sampler: str = "natural",
    ) -> None:
        if len(store) < batch_size:
            raise UserError(
                f"the training part has {len(store)} images, fewer than one batch of {batch_size}",
                "lower batch_size, or add images",
            )
        self.store, self.captions = store, captions
        self.batch_size, self.plain_share, self.augment = batch_size, plain_share, augment
        self.sampler = Sampler(sampler, store.labels, store.modalities, seed=seed)

    def at(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step, counted from 0.

        Args:
            step: Optimiser steps done before.
            rank: This process, whose rows of the batch are read.
            world: Processes that share a batch; divides the batch size.
        """
        indices, numbers = self.sampler.at(range(step * self.batch_size, (step + 1) * self.batch_size))
        labels, modalities = self.store.labels[indices], self.store.modalities[indices]
        wordings = np.where(numbers[:, 1] < self.plain_share, -1, modalities)
        captions = np.array(
            [self.captions.pick(*key) for key in zip(wordings.tolist(), labels.tolist(), numbers[:, 2], strict=True)]
        )
        mine = slice(rank * self.batch_size // world, (rank + 1) * self.batch_size // world)
        return Batch(
            self._pixels(indices[mine], numbers[mine]),
            torch.from_numpy(labels),
            torch.from_numpy(modalities),
            torch.from_numpy(wordings),
            torch.from_numpy(captions),
            indices,
        )

    def _pixels(self, indices: NDArray[np.int64], numbers: NDArray[np.float64]) -> Tensor:
        slices = (numbers[:, 0] * self.store.slices[indices]).astype(np.int64)
        pixels = grey_levels(self.store.read(indices, slices))
        if not self.augment:
            return pixels
        parameters = torch.from_numpy(augmentation_parameters(numbers[:, 3:11]).astype(np.float32))
        return apply_augmentation(pixels, parameters.to(pixels.device), (numbers[:, 11] * 2**48).astype(np.int64))


def seed_for(*key: int) -> int:
    """A seed for torch from a key such as (seed, purpose, step), spread over 32 bits."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])
