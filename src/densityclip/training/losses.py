"""Contrastive losses between images and captions of their density: one loss an image, in both directions.

Every loss gives `[batch]`, so that weights act on images: with weights w the loss of a batch is mean(w * loss). In the
direction from captions to images an image's share is what all captions say of it, so its weight stands inside their
sums over positives.

`adjustment` is added to the logits of a category's captions while training (logit adjustment, arXiv:2007.07314). From
captions to images it would cancel, so it acts from images to captions alone.
"""

import torch
from torch import Tensor
from torch.nn import functional

from densityclip.density import CATEGORIES


def infonce(
    images: Tensor, texts: Tensor, labels: Tensor, logit_scale: Tensor, adjustment: Tensor | None = None
) -> Tensor:
    """CLIP's loss (arXiv:2103.00020): an image's own caption is right, every other caption of the batch is wrong.

    The baseline. With four categories most of the wrong captions are right as well.

    Args:
        images: `[batch, d]` unit rows.
        texts: `[batch, d]` unit rows, row i the caption of image i.
        labels: `[batch]` category index.
        logit_scale: Inverse temperature.
        adjustment: `[4]` or none.

    Returns:
        `[batch]` non-negative losses; their mean is open_clip's `ClipLoss`.
    """
    own = torch.eye(len(labels), dtype=images.dtype, device=images.device)
    return _both_directions(images, texts, labels, logit_scale, adjustment, own, own)


def multi_positive(
    images: Tensor, texts: Tensor, labels: Tensor, logit_scale: Tensor, adjustment: Tensor | None = None
) -> Tensor:
    """Equal density is positive, whatever modality a caption names (UniCL, arXiv:2204.03610).

    The target of an image is uniform over the captions of its category, that of a caption uniform over the images of
    its category. Arguments and return as in `infonce`.
    """
    target = _own_category(labels, images.dtype)
    return _both_directions(images, texts, labels, logit_scale, adjustment, target, target)


def ordinal(
    images: Tensor,
    texts: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    adjustment: Tensor | None = None,
    *,
    neighbour: float = 0.1,
) -> Tensor:
    """Multi-positive with soft neighbours: a category d steps away gets `neighbour ** (d * d)` of the own one's target.

    Soft labels over ranks as in SORD (Diaz and Marathe, CVPR 2019), here over the captions and images of a batch; the
    share of a category is spread over its captions. With `neighbour` 0 it is `multi_positive`. Arguments and return
    as in `infonce`.
    """
    rank = torch.arange(len(CATEGORIES), device=labels.device)
    shares = torch.pow(torch.tensor(neighbour, dtype=images.dtype), (rank[:, None] - rank[None, :]) ** 2)
    counts = torch.bincount(labels, minlength=len(CATEGORIES)).to(images.dtype)
    near = shares.to(images.device)[labels][:, labels]  # symmetric
    to_text, to_image = near / counts[labels][None, :], near / counts[labels][:, None]
    return _both_directions(
        images,
        texts,
        labels,
        logit_scale,
        adjustment,
        to_text / to_text.sum(dim=1, keepdim=True),
        to_image / to_image.sum(dim=0, keepdim=True),
    )


def class_prompt(
    images: Tensor, classes: Tensor, labels: Tensor, logit_scale: Tensor, adjustment: Tensor | None = None
) -> Tensor:
    """Against the four categories' own prompts, as prediction does (FLYP, arXiv:2212.00638).

    From an image: cross-entropy over the categories. From a category's prompts: uniform over its images in the batch.

    Args:
        images: `[batch, d]` unit rows.
        classes: `[batch, 4, d]` unit rows, the categories in the wording that is used for each image.
        labels: `[batch]` category index.
        logit_scale: Inverse temperature.
        adjustment: `[4]` or none.

    Returns:
        `[batch]` non-negative losses.
    """
    logits = logit_scale * torch.einsum("bd,bkd->bk", images, classes)
    if adjustment is not None:
        logits = logits + adjustment
    to_text = functional.cross_entropy(logits, labels, reduction="none")
    own = classes[torch.arange(len(labels), device=labels.device), labels]
    target = _own_category(labels, images.dtype)
    to_image = -(target * functional.log_softmax(logit_scale * images @ own.T, dim=0)).sum(dim=1)
    return (to_text + to_image) / 2


def _own_category(labels: Tensor, dtype: torch.dtype) -> Tensor:
    """`[batch, batch]` symmetric target, uniform over those of the same category; rows and columns sum to one."""
    positive = (labels[:, None] == labels[None, :]).to(dtype)
    return positive / positive.sum(dim=1, keepdim=True)


def _both_directions(
    images: Tensor,
    texts: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    adjustment: Tensor | None,
    to_text_target: Tensor,
    to_image_target: Tensor,
) -> Tensor:
    """Mean of the two directions, `[batch]`; rows of the first target and columns of the second sum to one."""
    logits = logit_scale * images @ texts.T
    adjusted = logits if adjustment is None else logits + adjustment[labels][None, :]
    to_text = -(to_text_target * functional.log_softmax(adjusted, dim=1)).sum(dim=1)
    to_image = -(to_image_target * functional.log_softmax(logits, dim=0)).sum(dim=1)
    return (to_text + to_image) / 2


def batch_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the images' losses; weights have mean one over the training, so the scale does not drift."""
    return torch.mean(weights * losses)
