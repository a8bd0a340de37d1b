"""Fitting the guard of a bundle: what its image tower makes of training images, and of images that it never saw."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densityclip.errors import UserError
from densityclip.inference.guard import Guard, fit_guard
from densityclip.training.scoring import mean_over_slices

if TYPE_CHECKING:
    from densityclip.model.classifier import DensityClassifier
    from densityclip.training.batches import ImageStore

# Images of each side at most: mean and covariance of some hundred dimensions gain nothing from more, and a training on
# a million images is not to read them all once again.
_MOST = 20_000


def guard_of(
    classifier: "DensityClassifier", train: "ImageStore", beside: Sequence["ImageStore"]
) -> tuple[Guard | None, dict[str, Any]]:
    """Fit the guard of a trained model.

    Args:
        classifier: The model, on its device.
        train: The images that it learned from, which say what it knows.
        beside: Images of other patients (the validation and the calibration part), which place the threshold.

    Returns:
        The guard, and what the provenance says of it; None, and why, where the images are too few.
    """
    known = mean_features(classifier, train)
    held = np.concatenate([mean_features(classifier, store) for store in beside])
    try:
        guard = fit_guard(known, held)
    except UserError as error:
        return None, {"fitted": False, "why": error.fact}
    return guard, {
        "fitted": True,
        "share": guard.share,
        "threshold": guard.threshold,
        "images": {"training": len(known), "threshold": guard.images},
    }


def mean_features(classifier: "DensityClassifier", store: "ImageStore") -> NDArray[np.float64]:
    """The features of a store's images, each the mean of its slices' unit features, as prediction takes it.

    Args:
        classifier: The model, on its device.
        store: The images; of more than 20,000, as many at equal distances in the order of their ids.

    Returns:
        `[images, d]`.
    """
    chosen = np.unique(np.linspace(0, len(store) - 1, min(len(store), _MOST)).astype(np.int64))

    @torch.no_grad()
    def features(pixels: Tensor, _: NDArray[np.int64]) -> NDArray[np.float64]:
        found = classifier.features(pixels.to(classifier.prompts.device))
        return np.asarray(found.double().cpu().numpy())

    return mean_over_slices(features, store, chosen, classifier.prompts.shape[-1])
