"""Against class imbalance: weights of images, or logit adjustment; and the prior that a training then has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from densityclip.errors import UserError
from densityclip.training.config import ClassWeights

CLASS_WEIGHTS: tuple[str, ...] = get_args(ClassWeights)


@dataclass(frozen=True)
class ClassBalance:
    """What a training does about its categories' frequencies.

    Attributes:
        weights: `[4]` weight of an image by its category; mean one over the images drawn, 0 where there are none.
        adjustment: `[4]` added to the logits of a category's captions while training.
        prior: `[4]` what the trained logits carry as their prior, summing to one (`calibrate.prior_shift` takes it
            out again).
    """

    weights: NDArray[np.float64]
    adjustment: NDArray[np.float64]
    prior: NDArray[np.float64]


def class_weights(counts: Sequence[int], scheme: str, *, beta: float = 0.999) -> NDArray[np.float64]:
    """Weight of each category; the mean over the counted images is one.

    Args:
        counts: Training images per category.
        scheme: `none` and `logit-adjustment` (all equal), `inverse-frequency` (each category present has the same total
            weight), or `effective-number` (one over (1 - beta^n) / (1 - beta), arXiv:1901.05555).
        beta: Of `effective-number`: 0 weighs all alike, towards 1 it becomes the inverse frequency.

    Returns:
        `[4]`; a category without images has weight 0.

    Raises:
        UserError: The scheme is unknown.
    """
    if scheme not in CLASS_WEIGHTS:
        raise UserError(f"class weights {scheme!r} are unknown", f"use one of {', '.join(CLASS_WEIGHTS)}")
    number = np.asarray(counts, dtype=float)
    present = number > 0
    weights = present.astype(float)
    if scheme == "inverse-frequency":
        weights[present] = 1 / number[present]
    if scheme == "effective-number":
        weights[present] = (1 - beta) / -np.expm1(number[present] * np.log(beta)) if beta > 0 else 1.0
    return weights * number.sum() / (weights @ number)


def class_balance(
    counts: Sequence[int],
    drawn: Sequence[float],
    scheme: str,
    *,
    loss: str,
    beta: float = 0.999,
) -> ClassBalance:
    """What a training does about its categories' frequencies, and the prior that its logits then carry.

    A loss over the captions of a batch compares an image with n_k captions of category k, so the frequency cancels and
    the logits go to ln(w_k p(x|k)); a loss over the four categories has it and goes to ln(w_k f_k p(x|k)), where f are
    the frequencies drawn. Adding ln(f) to the logits while training takes f out of either.

    Args:
        counts: Training images per category.
        drawn: Share of each category among the images that the sampler draws.
        scheme: One of `CLASS_WEIGHTS`.
        loss: One of `config.Loss`.
        beta: Of `effective-number`.
    """
    share = np.asarray(drawn, dtype=float)
    present = share > 0
    weights = class_weights(counts, scheme, beta=beta)
    weights = weights / (weights @ share)
    log_share = np.log(np.where(present, share, 1.0))
    adjustment = log_share if scheme == "logit-adjustment" else np.zeros_like(share)
    prior = weights * np.exp(-adjustment) * (share if loss == "class-prompt" else 1.0)
    return ClassBalance(weights, adjustment, np.where(present, prior, 0.0) / prior[present].sum())
