"""How much a modality counts in the loss, moving with the training."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densityclip.errors import UserError

MODALITY_WEIGHTS = ("none", "fixed", "moving-average", "group-dro", "uncertainty")

_LOW, _HIGH = 0.5, 2.0


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


def make_modality_weights(
    scheme: str, names: Sequence[str], shares: Sequence[float], fixed: Mapping[str, float]
) -> "ModalityWeights":
    """The weights of a scheme.

    Args:
        scheme: One of `MODALITY_WEIGHTS`.
        names: Modalities in the order of their index.
        shares: Share of each among the images that the sampler draws; sums to one.
        fixed: Relative weights by name, for `fixed`.

    Raises:
        UserError: The scheme is unknown, or `fixed` does not name every modality.
    """
    if scheme == "none":
        return ModalityWeights(shares)
    if scheme == "fixed":
        missing = [name for name in names if name not in fixed]
        if missing:
            raise UserError(
                f"fixed modality weights lack {', '.join(missing)}",
                "name each modality: fixed_modality_weights={DM: 1, s2D: 2, DBT: 1}",
            )
        return FixedWeights(shares, [fixed[name] for name in names])
    kinds = {"moving-average": MovingAverageWeights, "group-dro": GroupDroWeights, "uncertainty": UncertaintyWeights}
    if scheme not in kinds:
        raise UserError(f"modality weights {scheme!r} are unknown", f"use one of {', '.join(MODALITY_WEIGHTS)}")
    return kinds[scheme](shares)


class ModalityWeights(nn.Module):
    """All modalities count alike; the others build on this. The state lies in buffers and so travels in checkpoints.

    In a training over several processes every process sees the losses of the whole batch, so the weights agree.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        self.shares = tuple(shares)
        self.register_buffer("ones", torch.ones(len(self.shares)), persistent=False)

    ones: Tensor

    def current(self) -> Tensor:
        """`[m]` weights as they stand."""
        return self.ones

    def penalty(self, modalities: Tensor) -> Tensor:
        """What is added to the loss of a batch beside the weighted losses; nothing, but for learned weights."""
        return self.ones.new_zeros(())

    def update(self, losses: Tensor, labels: Tensor, modalities: Tensor) -> None:
        """Take in one batch; a modality that is not in it keeps its state.

        Args:
            losses: `[batch]` unweighted losses, without gradient.
            labels: `[batch]` category index.
            modalities: `[batch]` modality index.
        """

    def _bounded(self, raw: Tensor) -> Tensor:
        weights = bounded_mean_one(np.maximum(raw.double().cpu().numpy(), 1e-12), self.shares, _LOW, _HIGH)
        return torch.as_tensor(weights, dtype=raw.dtype, device=raw.device)


class FixedWeights(ModalityWeights):
    """Relative weights that the user gave, scaled to mean one over the samples drawn; not bounded."""

    values: Tensor

    def __init__(self, shares: Sequence[float], values: Sequence[float]) -> None:
        super().__init__(shares)
        relative = torch.tensor(values, dtype=torch.float64)
        mean = float(relative @ torch.tensor(self.shares, dtype=torch.float64))
        self.register_buffer("values", (relative / mean).float())

    def current(self) -> Tensor:
        """`[m]` weights."""
        return self.values


class MovingAverageWeights(ModalityWeights):
    """Weights that follow a moving average of each modality's class-balanced loss: who lags counts for more.

    The mean weight over the samples drawn is one, so the step size does not change; weights are bounded, so that a
    modality with hopeless images cannot take the training over; equal losses give equal weights; one modality alone
    has weight one.

    Attributes:
        average: `[m]` moving sum of each modality's loss, biased towards 0 at the start as in Adam.
        mass: `[m]` what the moving sum would be for a loss of one; divides the bias out.
    """

    average: Tensor
    mass: Tensor

    def __init__(self, shares: Sequence[float], *, momentum: float = 0.98) -> None:
        super().__init__(shares)
        self.momentum = momentum
        self.register_buffer("average", torch.zeros(len(self.shares)))
        self.register_buffer("mass", torch.zeros(len(self.shares)))

    def current(self) -> Tensor:
        """`[m]` weights from the losses seen so far; ones until every modality was seen."""
        if bool((self.mass == 0).any()):
            return self.ones
        return self._bounded(self.average / self.mass)

    @torch.no_grad()
    def update(self, losses: Tensor, labels: Tensor, modalities: Tensor) -> None:
        """Move the averages of the modalities in the batch."""
        for index, loss in class_balanced(losses, labels, modalities).items():
            self.average[index].lerp_(loss, 1 - self.momentum)
            self.mass[index].lerp_(torch.ones_like(self.mass[index]), 1 - self.momentum)


class GroupDroWeights(ModalityWeights):
    """Exponentiated gradient ascent on the modalities' losses (group DRO, arXiv:1911.08731), from equal weights.

    A step multiplies a modality's weight by exp(rate * (its class-balanced loss - the batch's mean over modalities)),
    so equal losses change nothing. Weights are kept with mean one over the samples drawn and bounded, and the state is
    what was bounded: a modality that has long lagged gives way as soon as it does not.

    Attributes:
        weights: `[m]`.
    """

    weights: Tensor

    def __init__(self, shares: Sequence[float], *, rate: float = 0.02) -> None:
        super().__init__(shares)
        self.rate = rate
        self.register_buffer("weights", torch.ones(len(self.shares)))

    def current(self) -> Tensor:
        """`[m]` weights."""
        return self.weights

    @torch.no_grad()
    def update(self, losses: Tensor, labels: Tensor, modalities: Tensor) -> None:
        """Ascend on the modalities in the batch."""
        found = class_balanced(losses, labels, modalities)
        mean = torch.stack(list(found.values())).mean()
        raw = self.weights.clone()
        for index, loss in found.items():
            raw[index] *= torch.exp(self.rate * (loss - mean)).to(raw.dtype)
        # One modality alone stays at exactly one: nothing lags.
        if len(found) > 1:
            self.weights.copy_(self._bounded(raw))


class UncertaintyWeights(ModalityWeights):
    """Learned task uncertainty (Kendall et al., arXiv:1705.07115): exp(-s) times the loss, plus s / 2.

    The other way round from the two above: a modality whose loss stays high is taken for noisy and counts for less.
    The mean is not kept at one.

    Attributes:
        log_variance: `[m]` s, trained with the model; kept within -3 and 3.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__(shares)
        self.log_variance = nn.Parameter(torch.zeros(len(self.shares)))

    def current(self) -> Tensor:
        """`[m]` weights, with their gradient."""
        return torch.exp(-self.log_variance.clamp(-3, 3))

    def penalty(self, modalities: Tensor) -> Tensor:
        """Mean of s / 2 over the batch."""
        return self.log_variance.clamp(-3, 3)[modalities].mean() / 2


def class_balanced(losses: Tensor, labels: Tensor, modalities: Tensor) -> dict[int, Tensor]:
    """Loss of each modality in a batch, its categories counting alike.

    Args:
        losses: `[batch]`.
        labels: `[batch]` category index.
        modalities: `[batch]` modality index.

    Returns:
        By modality index.
    """
    found = {}
    for index in modalities.unique().tolist():
        mine = modalities == index
        found[index] = torch.stack([losses[mine & (labels == label)].mean() for label in labels[mine].unique()]).mean()
    return found
