import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch.nn import functional

from densityclip.training.losses import batch_loss, class_prompt, infonce, multi_positive, ordinal


def unit(seed: int, rows: int, columns: int = 6) -> torch.Tensor:
    return functional.normalize(
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double(), dim=1
    )


def soft_targets(labels, kind: str, neighbour: float) -> tuple[list[list[float]], list[list[float]]]:
    """Targets of images over captions and of captions over images, both `[image][caption]`, from their definitions."""
    number = len(labels)
    share = {"infonce": None, "multi-positive": lambda d: float(d == 0), "ordinal": lambda d: neighbour ** (d * d)}[
        kind
    ]
    if share is None:
        own = [[float(i == j) for j in range(number)] for i in range(number)]
        return own, own
    counts = {label: labels.count(label) for label in labels}
    # A category's share is spread over those that have it.
    to_text = [[share(abs(a - b)) / counts[b] for b in labels] for a in labels]
    to_image = [[share(abs(a - b)) / counts[a] for b in labels] for a in labels]
    rows = [sum(row) for row in to_text]
    columns = [sum(to_image[i][j] for i in range(number)) for j in range(number)]
    return (
        [[value / rows[i] for value in to_text[i]] for i in range(number)],
        [[to_image[i][j] / columns[j] for j in range(number)] for i in range(number)],
    )


def plain_reference(images, texts, labels, scale, kind, adjustment, neighbour=0.1) -> list[float]:
    """The definition, one image and one pair at a time."""
    number = len(labels)
    to_text_target, to_image_target = soft_targets(labels, kind, neighbour)
    similarity = [[scale * float(images[i] @ texts[j]) for j in range(number)] for i in range(number)]
    shifted = [[similarity[i][j] + adjustment[labels[j]] for j in range(number)] for i in range(number)]
    losses = []
    for i in range(number):
        to_text = to_image = 0.0
        row = sum(math.exp(shifted[i][k]) for k in range(number))
        for j in range(number):
            column = sum(math.exp(similarity[k][j]) for k in range(number))
            to_text -= to_text_target[i][j] * math.log(math.exp(shifted[i][j]) / row)
            to_image -= to_image_target[i][j] * math.log(math.exp(similarity[i][j]) / column)
        losses.append((to_text + to_image) / 2)
    return losses


ADJUSTMENT = [-1.5, -0.3, -0.6, -2.0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 3), min_size=2, max_size=9),
    st.floats(0.5, 20),
    st.sampled_from(["infonce", "multi-positive", "ordinal"]),
    st.booleans(),
)
def test_equals_the_plain_definition(seed: int, labels: list[int], scale: float, kind: str, adjusted: bool):
    images, texts = unit(seed, len(labels)), unit(seed + 1, len(labels))
    function = {"infonce": infonce, "multi-positive": multi_positive, "ordinal": ordinal}[kind]
    adjustment = ADJUSTMENT if adjusted else [0.0] * 4
    found = function(
        images,
        texts,
        torch.tensor(labels),
        torch.tensor(scale, dtype=torch.float64),
        torch.tensor(adjustment).double() if adjusted else None,
    )
    expected = plain_reference(images, texts, labels, scale, kind, adjustment)
    assert found.tolist() == pytest.approx(expected, rel=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=2, max_size=9), st.floats(0.5, 20), st.booleans())
def test_class_prompt_equals_the_plain_definition(seed: int, labels: list[int], scale: float, adjusted: bool):
    number = len(labels)
    images, classes = unit(seed, number), unit(seed + 1, 4 * number).view(number, 4, -1)
    adjustment = ADJUSTMENT if adjusted else [0.0] * 4
    expected = []
    for i, label in enumerate(labels):
        scores = [scale * float(images[i] @ classes[i, k]) + adjustment[k] for k in range(4)]
        to_text = math.log(sum(math.exp(score) for score in scores)) - scores[label]
        to_image = 0.0
        positives = [j for j in range(number) if labels[j] == label]
        for j in positives:  # the prompts that image j's wording gives its category, over all images
            column = [scale * float(images[k] @ classes[j, labels[j]]) for k in range(number)]
            to_image += (math.log(sum(math.exp(score) for score in column)) - column[i]) / len(positives)
        expected.append((to_text + to_image) / 2)
    found = class_prompt(
        images,
        classes,
        torch.tensor(labels),
        torch.tensor(scale).double(),
        torch.tensor(adjustment).double() if adjusted else None,
    )
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [1, 1, 1, 2, 0, 3]])
def test_infonce_is_open_clips_loss_on_the_same_batch(labels: list[int]):
    images, texts = unit(13, len(labels)), unit(14, len(labels))
    scale = torch.tensor(14.0, dtype=torch.float64)
    losses = infonce(images, texts, torch.tensor(labels), scale)
    assert float(batch_loss(losses, torch.ones(len(labels)))) == pytest.approx(
        float(ClipLoss()(images, texts, scale)), rel=1e-9
    )


def test_ordinal_without_neighbours_is_multi_positive_and_prefers_the_nearer_mistake():
    images, texts, labels = unit(15, 6), unit(16, 6), torch.tensor([0, 1, 1, 2, 3, 3])
    scale = torch.tensor(5.0).double()
    assert torch.allclose(
        ordinal(images, texts, labels, scale, neighbour=0.0), multi_positive(images, texts, labels, scale)
    )
    axes = torch.eye(4, dtype=torch.float64)
    own = torch.arange(4)

    def loss_of_the_first_at(category: int) -> float:
        placed = axes.clone()
        placed[0] = axes[category]
        return float(ordinal(placed, axes, own, scale)[0])

    assert loss_of_the_first_at(0) < loss_of_the_first_at(1) < loss_of_the_first_at(3)


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
