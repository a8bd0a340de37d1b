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

    def score(pixels: Tensor, items: NDArray[np.int64]) -> NDArray[np.float64]:
        return softmax(scorer(pixels, [modalities[index] for index in store.modalities[items]]))

    return mean_over_slices(score, store, np.arange(len(store)), 4)


def mean_over_slices(
    read: Callable[[Tensor, NDArray[np.int64]], NDArray[np.float64]],
    store: ImageStore,
    chosen: NDArray[np.int64],
    width: int,
) -> NDArray[np.float64]:
    """What a model makes of the slices of some images, each image the mean of its slices, in pieces.

    Args:
        read: Pixels `[n, h, w]` and the place in the store of each to `[n, width]`.
        store: The images.
        chosen: Places in the store.
        width: Numbers of a slice.

    Returns:
        `[chosen, width]`.
    """
    if not len(chosen):
        return np.empty((0, width))
    each, slices = store.every_slice(chosen)
    # Slices are counted, not images: a volume of which many slices are used must not need many times the memory.
    places = [slice(start, start + PIECE) for start in range(0, len(each), PIECE)]
    pieces = [read(store.read(each[some], slices[some]), each[some]) for some in places]
    counts = store.slices[chosen]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(np.concatenate(pieces), starts, axis=0) / counts[:, None])


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
