"""Probabilities and scores of the images of a part, as validation and calibration need them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densityclip.evaluation.metrics import macro_auc
from densityclip.probability.aggregate import softmax
from densityclip.training.batches import ImageStore

_PIECE = 128

# Prepared pixels `[n, h, w]` and the modality of each to uncalibrated logits `[n, 4]`.
Scorer = Callable[[Tensor, Sequence[str]], NDArray[np.float64]]


def scorer_of(classifier: nn.Module) -> Scorer:
    """A network as a function: it takes pixels and the names of their modalities, on the device it is on."""
    device = next(classifier.parameters()).device

    @torch.no_grad()
    def score(pixels: Tensor, modalities: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(classifier(pixels.to(device), modalities).double().cpu().numpy())

    return score


def mean_probabilities(scorer: Scorer, store: ImageStore, modalities: Sequence[str]) -> NDArray[np.float64]:
    """Uncalibrated probabilities of all images of a store, each the mean over its slices, as prediction joins them.

    Args:
        scorer: The model, for a network `scorer_of` it.
        store: The images.
        modalities: Names in the order of the store's modality index.

    Returns:
        `[images, 4]`.
    """
    pieces = [
        _of_some(scorer, store, np.arange(start, min(start + _PIECE, len(store))), modalities)
        for start in range(0, len(store), _PIECE)
    ]
    return np.concatenate([np.empty((0, 4)), *pieces])


def _of_some(
    scorer: Scorer, store: ImageStore, items: NDArray[np.int64], modalities: Sequence[str]
) -> NDArray[np.float64]:
    counts = store.slices[items]
    each, slices = store.every_slice(items)
    names = [modalities[index] for index in store.modalities[each]]
    probabilities = softmax(scorer(store.read(each, slices), names))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(probabilities, starts, axis=0) / counts[:, None])


def macro_auc_by_modality(scorer: Scorer, store: ImageStore, modalities: Sequence[str]) -> dict[str, float]:
    """Macro AUC of each modality's images in a store."""
    probabilities = mean_probabilities(scorer, store, modalities)
    return {
        name: macro_auc(store.labels[store.modalities == index], probabilities[store.modalities == index])
        for index, name in enumerate(modalities)
    }
