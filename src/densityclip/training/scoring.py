"""Probabilities of the images of a part, as validation and calibration need them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from densityclip.model.classifier import DensityClassifier
from densityclip.probability.aggregate import softmax
from densityclip.training.batches import ImageStore


@torch.no_grad()
def mean_probabilities(
    classifier: DensityClassifier, store: ImageStore, items: NDArray[np.int64], modalities: Sequence[str]
) -> NDArray[np.float64]:
    """Uncalibrated probabilities of images, each the mean over its slices, as prediction joins them.

    Args:
        classifier: The model.
        store: The images.
        items: Which of them.
        modalities: Names in the order of the store's modality index.

    Returns:
        `[items, 4]`.
    """
    counts = store.slices[items]
    each = np.repeat(items, counts)
    slices = np.concatenate([np.arange(count) for count in counts])
    names = [modalities[index] for index in store.modalities[each]]
    pixels = store.read(each, slices).to(classifier.prompts.device)
    probabilities = softmax(classifier(pixels, names).double().cpu().numpy())
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(probabilities, starts, axis=0) / counts[:, None])
