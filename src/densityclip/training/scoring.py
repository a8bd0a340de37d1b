"""Probabilities and scores of the images of a part, as validation and calibration need them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densityclip.evaluation.metrics import macro_auc
from densityclip.probability.aggregate import log_probabilities, softmax
from densityclip.probability.calibrate import Calibration
from densityclip.training.batches import ImageStore

# Slices that go through the tower at a time.
PIECE = 128

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
    if not len(store):
        return np.empty((0, 4))
    each, slices = store.every_slice(np.arange(len(store)))
    pieces = []
    # Slices are counted, not images: a volume of which many slices are used must not need many times the memory.
    for start in range(0, len(each), PIECE):
        some = slice(start, start + PIECE)
        names = [modalities[index] for index in store.modalities[each[some]]]
        pieces.append(softmax(scorer(store.read(each[some], slices[some]), names)))
    starts = np.concatenate([[0], np.cumsum(store.slices)[:-1]])
    return np.asarray(np.add.reduceat(np.concatenate(pieces), starts, axis=0) / store.slices[:, None])


def macro_auc_by_modality(
    scorer: Scorer, store: ImageStore, modalities: Sequence[str], shift: tuple[float, ...] = Calibration().prior_shift
) -> dict[str, float]:
    """Macro AUC of each modality's images in a store.

    One category's AUC against the rest depends on the prior that the probabilities carry: what is to be compared must
    be scored as it would be delivered.

    Args:
        scorer: The model.
        store: The images.
        modalities: Names in the order of the store's modality index.
        shift: What puts the frequencies back, of `calibrate.prior_shift`. No temperature: none is fitted yet.
    """
    delivered = Calibration(prior_shift=shift)
    probabilities = delivered.apply(log_probabilities(mean_probabilities(scorer, store, modalities)))
    return {
        name: macro_auc(store.labels[store.modalities == index], probabilities[store.modalities == index])
        for index, name in enumerate(modalities)
    }
