"""Which image is drawn when: a function of (seed, place), so a killed training needs no sampler state."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from densityclip.training.config import SamplerName

SAMPLERS: tuple[str, ...] = get_args(SamplerName)

# Uniform numbers that belong to one draw of one image: slice, wording, caption, eight of the augmentation, noise seed.
DRAWS = 12


class Sampler:
    """Draws images group after group in turn; within a group every image comes once before any comes again.

    `natural` has one group, so an epoch has every image once. `class-balanced` has a group a category, and
    `modality-class` one for each pair of modality and category that has images.

    Attributes:
        shares: `[n]` expected share of each image among the draws; sums to one.
    """

    def __init__(self, scheme: str, labels: NDArray[np.int64], modalities: NDArray[np.int64], *, seed: int) -> None:
        if scheme not in SAMPLERS:
            raise ValueError(f"sampler {scheme!r} is not one of {SAMPLERS}")
        keys = {
            "natural": np.zeros(len(labels), dtype=np.int64),
            "class-balanced": labels,
            "modality-class": modalities * 16 + labels,
        }[scheme]
        self.seed = seed
        self.groups = [np.flatnonzero(keys == key) for key in np.unique(keys)]
        self.shares = np.zeros(len(labels))
        for group in self.groups:
            self.shares[group] = 1 / (len(self.groups) * len(group))
        self._passes: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.float64]]] = {}

    def at(self, places: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Images at some places of the endless sequence of draws.

        Args:
            places: Counted from 0; a batch of a training is a range of them.

        Returns:
            `[places]` index of each image, and `[places, DRAWS]` uniform numbers in [0, 1) for what is random about
            this draw of it.
        """
        indices, numbers = np.empty(len(places), dtype=np.int64), np.empty((len(places), DRAWS))
        for row, place in enumerate(places):
            turn, group = divmod(int(place), len(self.groups))
            number, position = divmod(turn, len(self.groups[group]))
            order, uniform = self._pass(group, number)
            indices[row], numbers[row] = self.groups[group][order[position]], uniform[position]
        return indices, numbers

    def _pass(self, group: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Order and numbers of one pass through a group, drawn at once: a generator an image took most of a step."""
        if (group, number) not in self._passes:
            # A batch touches the end of one pass and the beginning of the next, or several of a small group.
            for old in [key for key in self._passes if key[0] == group and key[1] < number - 1]:
                del self._passes[old]
            size = len(self.groups[group])
            order = np.random.default_rng([self.seed, 1, group, number]).permutation(size)
            uniform = np.random.default_rng([self.seed, 2, group, number]).random((size, DRAWS))
            self._passes[group, number] = (order, uniform)
        return self._passes[group, number]
