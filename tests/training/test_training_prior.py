"""The prior that a bundle states is the one that its logits learn: free logits, trained by each loss, give it back."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from densityclip.probability.calibrate import prior_shift
from densityclip.training.class_balance import class_balance
from densityclip.training.losses import batch_loss, class_prompt, infonce, multi_positive, ordinal

SHARES = np.array([0.11, 0.42, 0.39, 0.08])
# What an image looks like, of six kinds, in each category: `[category, kind]`.
LOOKS = np.array(
    [
        [0.50, 0.25, 0.12, 0.08, 0.03, 0.02],
        [0.20, 0.30, 0.25, 0.15, 0.07, 0.03],
        [0.03, 0.12, 0.24, 0.30, 0.20, 0.10],
        [0.02, 0.05, 0.10, 0.18, 0.30, 0.35],
    ]
)
LOSSES = {"multi-positive": multi_positive, "infonce": infonce, "class-prompt": class_prompt, "ordinal": ordinal}


def learned(loss: str, scheme: str, *, steps: int = 900, batch: int = 48) -> np.ndarray:
    """`[kind, category]` logits at the optimum of a loss over batches, one free number a kind and category."""
    balance = class_balance(SHARES * 10_000, SHARES, scheme, loss=loss)
    weights, adjustment = (torch.tensor(values) for values in (balance.weights, balance.adjustment))
    random = np.random.default_rng(3)
    table = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.05)
    mean, one = torch.zeros_like(table), torch.tensor(1.0, dtype=torch.float64)
    score = partial(LOSSES[loss], adjustment=adjustment)
    for step in range(steps):
        labels = random.choice(4, size=batch, p=SHARES)
        kinds = torch.tensor((random.random((batch, 1)) > LOOKS[labels].cumsum(axis=1)).sum(axis=1).clip(max=5))
        captions = functional.one_hot(torch.tensor(labels), 4).double()
        if loss == "class-prompt":
            captions = torch.eye(4, dtype=torch.float64).expand(batch, 4, 4)
        losses = score(table[kinds], captions, torch.tensor(labels), one)
        batch_loss(losses, weights[torch.tensor(labels)]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= steps // 3:  # the mean of the later steps: the last one is as noisy as its batch
            mean += table.detach() / (steps - steps // 3)
    return mean.numpy()


@pytest.mark.parametrize(
    ("loss", "scheme", "within"),
    [
        ("multi-positive", "none", 0.03),
        ("multi-positive", "inverse-frequency", 0.03),
        ("multi-positive", "logit-adjustment", 0.03),
        ("infonce", "inverse-frequency", 0.03),
        ("class-prompt", "none", 0.03),
        ("class-prompt", "inverse-frequency", 0.03),
        # Its optimum is the posterior blurred over neighbours.
        ("ordinal", "none", 0.08),
    ],
)
def test_with_the_stated_prior_taken_out_the_logits_are_the_posterior(loss: str, scheme: str, within: float):
    posterior = (SHARES[:, None] * LOOKS).T
    posterior /= posterior.sum(axis=1, keepdims=True)
    logits = learned(loss, scheme)

    def answer(shift: np.ndarray) -> np.ndarray:
        values = np.exp(logits + shift)
        return values / values.sum(axis=1, keepdims=True)

    balance = class_balance(SHARES * 10_000, SHARES, scheme, loss=loss)
    shift = np.array(prior_shift((SHARES * 10_000).tolist(), balance.prior))
    found = np.abs(answer(shift) - posterior).max()
    assert found < within
    if np.abs(shift).max() > 0.1:
        # And without it they are not: the test could fail.
        assert np.abs(answer(np.zeros(4)) - posterior).max() > 2 * within
