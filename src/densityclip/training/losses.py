"""Contrastive losses between images and captions of their density."""

import torch
from torch import Tensor
from torch.nn import functional


def multi_positive(image_features: Tensor, text_features: Tensor, labels: Tensor, logit_scale: Tensor) -> Tensor:
    """Loss of each image against the captions of the batch, one caption an image; equal density is positive.

    With four categories a batch is full of captions that are right for many images, so plain InfoNCE would push
    matching pairs apart. Here the target of an image is uniform over the captions of its category, whatever modality
    they name, and the target of a caption is uniform over the images of its category (UniCL, arXiv:2204.03610). The
    two directions are averaged. With weights w the batch's loss is mean(w * loss): a weight acts on its image in both
    directions, inside the sum over positives.

    Args:
        image_features: `[batch, d]` unit rows.
        text_features: `[batch, d]` unit rows, row i the caption of image i.
        labels: `[batch]` category index.
        logit_scale: Scalar, the inverse temperature.

    Returns:
        `[batch]` non-negative losses.
    """
    logits = logit_scale * image_features @ text_features.T
    positive = (labels[:, None] == labels[None, :]).to(logits.dtype)
    target = positive / positive.sum(dim=1, keepdim=True)
    to_text = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)
    to_image = -(target * functional.log_softmax(logits, dim=0)).sum(dim=1)
    return (to_text + to_image) / 2


def batch_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the images' losses; weights have mean one over the training, so the scale does not drift."""
    return torch.mean(weights * losses)
