"""Probabilities and scores of the images of a part, as validation and calibration need them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from densityclip.evaluation.metrics import macro_auc
from densityclip.model.classifier import DensityClassifier
from densityclip.probability.aggregate import softmax
from densityclip.training.batches import ImageStore

_PIECE = 128


@torch.no_grad()
def mean_probabilities(
    classifier: DensityClassifier, store: ImageStore, modalities: Sequence[str]
) -> NDArray[np.float64]:
    """Uncalibrated probabilities of all images of a store, each the mean over its slices, as prediction joins them.

    Args:
        classifier: The model.
        store: The images.
        modalities: Names in the order of the store's modality index.

    Returns:
        `[images, 4]`.
    """
    pieces = [
        _of_some(classifier, store, np.arange(start, min(start + _PIECE, len(store))), modalities)
        for start in range(0, len(store), _PIECE)
    ]
    return np.concatenate([np.empty((0, 4)), *pieces])


def _of_some(
    classifier: DensityClassifier, store: ImageStore, items: NDArray[np.int64], modalities: Sequence[str]
) -> NDArray[np.float64]:
    counts = store.slices[items]
    each, slices = store.every_slice(items)
    names = [modalities[index] for index in store.modalities[each]]
    pixels = store.read(each, slices).to(classifier.prompts.device)
    probabilities = softmax(classifier(pixels, names).double().cpu().numpy())
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(probabilities, starts, axis=0) / counts[:, None])


def macro_auc_by_modality(
    classifier: DensityClassifier, store: ImageStore, modalities: Sequence[str]
) -> dict[str, float]:
    """Macro AUC of each modality's images in a store."""
    probabilities = mean_probabilities(classifier, store, modalities)
    return {
        name: macro_auc(store.labels[store.modalities == index], probabilities[store.modalities == index])
        for index, name in enumerate(modalities)
    }
