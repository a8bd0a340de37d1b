"""How much an image counts: by its category, against imbalance; by its modality, moving with the training."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densityclip.errors import UserError

CLASS_WEIGHTS = ("none", "inverse-frequency")
MODALITY_WEIGHTS = ("none", "adaptive")


def class_weights(counts: Sequence[int], scheme: str) -> NDArray[np.float64]:
    """Weight of each category; the mean over the counted images is one.

    Args:
        counts: Training images per category.
        scheme: `none`, or `inverse-frequency` (each category present has the same total weight).

    Returns:
        `[4]`; a category without images has weight 0.

    Raises:
        UserError: The scheme is unknown.
    """
    if scheme not in CLASS_WEIGHTS:
        raise UserError(f"class weights {scheme!r} are unknown", f"use one of {', '.join(CLASS_WEIGHTS)}")
    number = np.asarray(counts, dtype=float)
    if scheme == "none":
        return (number > 0).astype(float)
    present = number > 0
    weights = np.zeros_like(number)
    weights[present] = number.sum() / (present.sum() * number[present])
    return weights


def bounded_mean_one(raw: Sequence[float], shares: Sequence[float], low: float, high: float) -> NDArray[np.float64]:
    """Scale and clip positive numbers so that their mean over the shares is one and all lie within the bounds.

    Args:
        raw: Relative sizes, positive.
        shares: Share of each among the samples drawn; sums to one.
        low: Lower bound, below one.
        high: Upper bound, above one.

    Returns:
        `clip(s * raw, low, high)` for the s that makes the mean one. The mean is piecewise linear in s and never
        falls, with corners where a weight reaches a bound, so s lies by interpolation between two corners.
    """
    size, share = np.asarray(raw, dtype=float), np.asarray(shares, dtype=float)
    corners = np.sort(np.concatenate([low / size, high / size]))
    means = np.clip(corners[:, None] * size, low, high) @ share
    return np.clip(np.interp(1.0, means, corners) * size, low, high)


class AdaptiveModalityWeights(nn.Module):
    """Weights that follow a moving average of each modality's class-balanced loss: who lags counts for more.

    The mean weight over the samples drawn is one, so the step size does not change; weights are bounded, so that a
    modality with hopeless images cannot take the training over; equal losses give equal weights; one modality alone
    has weight one. The state lies in buffers and so travels in checkpoints.

    Attributes:
        average: `[m]` moving sum of each modality's loss, biased towards 0 at the start as in Adam.
        mass: `[m]` what the moving sum would be for a loss of one; divides the bias out.
    """

    average: Tensor
    mass: Tensor

    def __init__(self, shares: Sequence[float], *, momentum: float = 0.98, low: float = 0.5, high: float = 2.0) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.momentum, self.low, self.high = momentum, low, high
        self.register_buffer("average", torch.zeros(len(self.shares)))
        self.register_buffer("mass", torch.zeros(len(self.shares)))

    def current(self) -> Tensor:
        """`[m]` weights from the losses seen so far; ones until every modality was seen."""
        if bool((self.mass == 0).any()):
            return torch.ones_like(self.mass)
        losses = (self.average / self.mass).double().cpu().numpy()
        weights = bounded_mean_one(np.maximum(losses, 1e-12), self.shares, self.low, self.high)
        return torch.as_tensor(weights, dtype=self.mass.dtype, device=self.mass.device)

    @torch.no_grad()
    def update(self, losses: Tensor, labels: Tensor, modalities: Tensor) -> None:
        """Take in one batch; a modality that is not in it keeps its average.

        Args:
            losses: `[batch]` unweighted losses.
            labels: `[batch]` category index.
            modalities: `[batch]` modality index.
        """
        for index in range(len(self.shares)):
            mine = modalities == index
            if bool(mine.any()):
                per_class = [losses[mine & (labels == label)].mean() for label in labels[mine].unique()]
                self.average[index].lerp_(torch.stack(per_class).mean(), 1 - self.momentum)
                self.mass[index].lerp_(torch.ones_like(self.mass[index]), 1 - self.momentum)
