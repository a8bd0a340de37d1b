"""How much a modality counts in the loss, moving with the training."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.training.config import ModalityWeightsName

MODALITY_WEIGHTS: tuple[str, ...] = get_args(ModalityWeightsName)

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

    def lag(self) -> Tensor | None:
        """`[m]` what the weights follow, for the log; none where they follow nothing."""
        return None

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


class LaggingWeights(ModalityWeights):
    """What weights that follow the modalities' losses have in common: by how much each modality lags.

    An image is compared with the other images of its category in its batch: its loss minus their mean loss. How large a
    loss must be depends on the category and on how many of it are in the batch (the floor of a multi-positive loss is
    the logarithm of that number), and both are the same for all images that are compared. So neither a modality's
    share of the images nor its mix of categories moves its lag; only what sets it apart within a category does.

    These differences are averaged for each pair of modality and category, over images and not over batches: both sums
    below fade by `momentum` at every step, whether the pair is in the batch or not, so all pairs look back equally far.
    The mean over a modality's categories is its lag.

    Attributes:
        sums: `[m, 4]` fading sum of the differences of a pair's images.
        seen: `[m, 4]` fading number of the images of a pair.
    """

    sums: Tensor
    seen: Tensor

    def __init__(self, shares: Sequence[float], *, momentum: float, prior: float) -> None:
        """Start with all alike; `prior` images without a lag count with every pair, so a handful moves little."""
        super().__init__(shares)
        self.momentum, self.prior = momentum, prior
        self.register_buffer("sums", torch.zeros(len(self.shares), len(CATEGORIES)))
        self.register_buffer("seen", torch.zeros(len(self.shares), len(CATEGORIES)))

    def lag(self) -> Tensor:
        """`[m]` in nats: by how much a modality's loss lies above that of its categories' images; 0 while unseen."""
        # Pairs that never came, such as a category that a modality does not have in training, are left out.
        known = (self.seen > 0).to(self.sums.dtype)
        means = self.sums / (self.seen + self.prior).clamp_min(1e-12)
        return (known * means).sum(dim=1) / known.sum(dim=1).clamp_min(1)

    @torch.no_grad()
    def update(self, losses: Tensor, labels: Tensor, modalities: Tensor) -> None:
        """Take in the differences of one batch."""
        category = functional.one_hot(labels, len(CATEGORIES)).to(losses.dtype)
        modality = functional.one_hot(modalities, len(self.shares)).to(losses.dtype)
        means = category.T @ losses / category.sum(dim=0).clamp_min(1)
        difference = losses - means[labels]
        self.sums.mul_(self.momentum).add_(modality.T @ (category * difference[:, None]))
        self.seen.mul_(self.momentum).add_(modality.T @ category)


class MovingAverageWeights(LaggingWeights):
    """Weights that follow a moving average of each modality's lag: proportional to exp(strength * lag).

    The mean weight over the samples drawn is one, so the step size does not change; weights are bounded, so that a
    modality with hopeless images cannot take the training over; equal losses give equal weights; one modality alone
    has weight one.
    """

    def __init__(
        self, shares: Sequence[float], *, momentum: float = 0.99, prior: float = 4.0, strength: float = 0.5
    ) -> None:
        super().__init__(shares, momentum=momentum, prior=prior)
        self.strength = strength

    def current(self) -> Tensor:
        """`[m]` weights from the losses seen so far; ones at first."""
        lag = self.lag()
        return self._bounded(torch.exp(self.strength * (lag - lag.max())))


class GroupDroWeights(LaggingWeights):
    """Exponentiated gradient ascent on the modalities' losses (group DRO, arXiv:1911.08731), from equal weights.

    A step multiplies a modality's weight by exp(rate * its lag), so equal losses change nothing. Then the weights go
    back by the share `pull` of their logarithms, as under a penalty on their divergence from equal ones: without it
    the noise of finite batches adds up, and equal modalities walk apart. A lasting lag of one nat thus leads to a
    weight that is exp(rate / pull) times larger, reached over 1 / pull steps. Weights are kept with mean one over the
    samples drawn and bounded, and the state is what was bounded: a modality that has long lagged gives way as soon as
    it does not.

    Attributes:
        weights: `[m]`.
    """

    weights: Tensor

    def __init__(
        self,
        shares: Sequence[float],
        *,
        momentum: float = 0.98,
        prior: float = 4.0,
        rate: float = 0.005,
        pull: float = 0.005,
    ) -> None:
        super().__init__(shares, momentum=momentum, prior=prior)
        self.rate, self.pull = rate, pull
        self.register_buffer("weights", torch.ones(len(self.shares)))

    def current(self) -> Tensor:
        """`[m]` weights."""
        return self.weights.clone()

    @torch.no_grad()
    def update(self, losses: Tensor, labels: Tensor, modalities: Tensor) -> None:
        """Take in one batch and ascend."""
        super().update(losses, labels, modalities)
        raw = self.weights.pow(1 - self.pull) * torch.exp(self.rate * self.lag())
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
