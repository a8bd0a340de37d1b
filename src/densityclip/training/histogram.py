"""Baselines without a network: the class frequencies alone, and a logistic regression on grey levels."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from densityclip.model.classifier import grey_levels
from densityclip.training.batches import ImageStore
from densityclip.training.scoring import Scorer, macro_auc_by_modality

BINS = 32
# Inverse strengths of the ridge penalty that are tried; scikit-learn's default is 1.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_PIECE = 256


def frequencies(labels: NDArray[np.int64]) -> list[float]:
    """`[4]` share of each category, half an image added to each so that none is impossible."""
    counts = np.bincount(labels, minlength=4) + 0.5
    return [float(share) for share in counts / counts.sum()]


def frequency_scorer(shares: Sequence[float]) -> Scorer:
    """The same answer for every image."""
    logits = np.log(np.asarray(shares))
    return lambda pixels, modalities: np.tile(logits, (len(pixels), 1))


def features(pixels: Tensor, modalities: Sequence[str | None], known: Sequence[str]) -> NDArray[np.float64]:
    """What the regression sees of prepared images.

    Args:
        pixels: `[n, h, w]` as prepared: the air around the breast is 0 and the breast is not.
        modalities: Of each.
        known: The modalities trained on; of another one, none is set.

    Returns:
        `[n, 32 + 8 + modalities]`: shares of the breast in 32 grey bins; mean, standard deviation and five quantiles
        of its grey level; its share of the canvas; which modality it is.
    """
    grey = grey_levels(pixels).cpu().numpy().reshape(len(pixels), -1)
    rows = np.zeros((len(grey), BINS + 8 + len(known)))
    for row, image, modality in zip(rows, grey, modalities, strict=True):
        breast = image[image > 0]
        if len(breast):
            row[:BINS] = np.histogram(breast, BINS, (0.0, 1.0))[0] / len(breast)
            row[BINS : BINS + 2] = breast.mean(), breast.std()
            row[BINS + 2 : BINS + 7] = np.quantile(breast, _QUANTILES)
            row[BINS + 7] = len(breast) / len(image)
        row[BINS + 8 :] = [name == modality for name in known]
    return rows


def fit_histogram(train: ImageStore, validation: ImageStore, modalities: Sequence[str]) -> dict[str, Any]:
    """Fit the regression; the penalty is the one with the best worst modality on the validation part.

    Args:
        train: Its images; each counts once, however many slices it has.
        validation: Selects.
        modalities: Names in the order of the stores' modality index.

    Returns:
        Plain numbers: `mean`, `scale` and `coefficients` per feature, `intercepts`, and the history of the choice.
    """
    table, labels, weights = _table(train, modalities)
    mean, scale = np.average(table, axis=0, weights=weights), table.std(axis=0)
    scale[scale < 1e-9] = 1.0
    tried = []
    for strength in STRENGTHS:
        fitted = _regression((table - mean) / scale, labels, weights, strength)
        numbers = {"mean": mean.tolist(), "scale": scale.tolist(), "modalities": list(modalities)} | fitted
        scores = macro_auc_by_modality(histogram_scorer(numbers), validation, modalities)
        tried.append((min(scores.values()), -strength, numbers, scores))
    worst, strength, numbers, _ = max(tried, key=lambda one: one[:2])
    history = [{"strength": -negative, "worst": value, "by_modality": scores} for value, negative, _, scores in tried]
    return numbers | {"strength": -strength, "worst": worst, "tried": history}


def histogram_scorer(numbers: Mapping[str, Any]) -> Scorer:
    """The fitted regression as a function."""
    mean, scale = np.asarray(numbers["mean"]), np.asarray(numbers["scale"])
    coefficients, intercepts = np.asarray(numbers["coefficients"]), np.asarray(numbers["intercepts"])

    def score(pixels: Tensor, modalities: Sequence[str]) -> NDArray[np.float64]:
        table = features(pixels, modalities, numbers["modalities"])
        return np.asarray((table - mean) / scale @ coefficients.T + intercepts)

    return score


def _table(
    store: ImageStore, modalities: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Features, label and weight of every slice of a store."""
    items, slices = store.every_slice(np.arange(len(store)))
    names = [modalities[index] for index in store.modalities[items]]
    pieces = [
        features(store.read(items[k : k + _PIECE], slices[k : k + _PIECE]), names[k : k + _PIECE], modalities)
        for k in range(0, len(items), _PIECE)
    ]
    return np.concatenate(pieces), store.labels[items], 1.0 / store.slices[items]


def _regression(
    table: NDArray[np.float64], labels: NDArray[np.int64], weights: NDArray[np.float64], strength: float
) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000)
    with warnings.catch_warnings():
        # A weak penalty on few images goes on falling slowly; validation decides whether it is any good.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table, labels, sample_weight=weights)
    coefficients, intercepts = np.zeros((4, table.shape[1])), np.full(4, np.nan)
    if len(model.classes_) == 2:
        # Two categories have one set of coefficients, of the second against the first.
        coefficients[model.classes_[1]], intercepts[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        coefficients[model.classes_], intercepts[model.classes_] = model.coef_, model.intercept_
    # A category that was never seen stays possible, at half an image's odds.
    unseen = float(np.nanmean(intercepts)) - np.log(2.0 * weights.sum())
    intercepts[np.isnan(intercepts)] = unseen
    return {"coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()}
