import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch.nn import functional

from densityclip.training.losses import batch_loss, multi_positive


def unit(seed: int, rows: int, columns: int = 6) -> torch.Tensor:
    return functional.normalize(
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double(), dim=1
    )


def plain_reference(images, texts, labels, scale) -> list[float]:
    """The definition, one image and one pair at a time."""
    number = len(labels)
    similarity = [[scale * float(images[i] @ texts[j]) for j in range(number)] for i in range(number)]
    losses = []
    for i in range(number):
        positives = [j for j in range(number) if labels[j] == labels[i]]
        to_text = to_image = 0.0
        for j in positives:
            row = sum(math.exp(similarity[i][k]) for k in range(number))
            column = sum(math.exp(similarity[k][j]) for k in range(number))
            to_text -= math.log(math.exp(similarity[i][j]) / row) / len(positives)
            to_image -= math.log(math.exp(similarity[i][j]) / column) / len(positives)
        losses.append((to_text + to_image) / 2)
    return losses


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=2, max_size=9), st.floats(0.5, 20))
def test_equals_the_plain_definition(seed: int, labels: list[int], scale: float):
    images, texts = unit(seed, len(labels)), unit(seed + 1, len(labels))
    found = multi_positive(images, texts, torch.tensor(labels), torch.tensor(scale, dtype=torch.float64))
    assert found.tolist() == pytest.approx(plain_reference(images, texts, labels, scale), rel=1e-9)


def test_is_open_clips_loss_where_no_two_images_share_a_label():
    images, texts = unit(3, 4), unit(4, 4)
    scale = torch.tensor(14.0, dtype=torch.float64)
    losses = multi_positive(images, texts, torch.arange(4), scale)
    assert float(batch_loss(losses, torch.ones(4))) == pytest.approx(float(ClipLoss()(images, texts, scale)), rel=1e-9)


def test_equal_density_is_positive_whatever_the_caption_says():
    # Two images of one category with different captions: swapping the captions changes nothing.
    images, texts, labels = unit(5, 4), unit(6, 4), torch.tensor([2, 2, 0, 1])
    scale = torch.tensor(5.0)
    swapped = texts[torch.tensor([1, 0, 2, 3])]
    first, second = (multi_positive(images, t, labels, scale) for t in (texts, swapped))
    assert torch.allclose(first, second)


def test_the_order_of_the_batch_does_not_matter():
    images, texts, labels = unit(7, 6), unit(8, 6), torch.tensor([0, 1, 1, 2, 3, 3])
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    scale = torch.tensor(3.0)
    assert torch.allclose(
        multi_positive(images, texts, labels, scale)[order],
        multi_positive(images[order], texts[order], labels[order], scale),
    )


def test_perfect_embeddings_reach_the_floor_of_uniform_targets():
    # Every image on the axis of its category: what is left is the entropy of choosing among equal captions.
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    axes = torch.eye(4, dtype=torch.float64)[labels]
    losses = multi_positive(axes, axes, labels, torch.tensor(100.0, dtype=torch.float64))
    counts = torch.bincount(labels)[labels]
    assert torch.allclose(losses, counts.double().log(), atol=1e-9)


def test_a_weight_scales_its_images_gradient_in_both_directions():
    images, texts, labels = unit(9, 5), unit(10, 5), torch.tensor([0, 1, 2, 3, 1])
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]).double()
    images.requires_grad_(True)
    losses = multi_positive(images, texts, labels, torch.tensor(4.0))
    (weighted,) = torch.autograd.grad(batch_loss(losses, weights), images, retain_graph=True)
    (alone,) = torch.autograd.grad(losses[0] / 5, images)
    assert torch.allclose(weighted, alone)
