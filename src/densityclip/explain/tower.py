"""The image tower as the methods of explanation use it: a timm ViT that runs in eval mode, patch tokens on a grid."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.density import CATEGORIES
from densityclip.errors import UserError

REMEDY = "explain a bundle whose `timm_model_name` is a vit_* model, such as BiomedCLIP's"


def vit_tower(trunk: nn.Module, method: str) -> VisionTransformer:
    """The trunk, known to be a timm ViT.

    Args:
        trunk: Of the image tower (`model.visual.trunk` in open_clip).
        method: The method's name, for the message.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(trunk, VisionTransformer):
        raise UserError(f"{method} needs a timm ViT image tower, this one is a {type(trunk).__name__}", REMEDY)
    return trunk


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off and give every submodule its own mode back, whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def gradients_on() -> Iterator[None]:
    """Record a graph even where the caller sits in `no_grad` or `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ordinary(images: Tensor) -> Tensor:
    """The images, copied if they were made in `inference_mode`: such tensors cannot carry gradients."""
    return images.clone() if images.is_inference() else images


def check_logits(logits: Tensor, images: int) -> None:
    """Check the shape of what a classifier gave for a number of images.

    Raises:
        ValueError: It is not `[images, 4]`.
    """
    if logits.shape != (images, len(CATEGORIES)):
        raise ValueError(f"classify gave {tuple(logits.shape)}, expected {(images, len(CATEGORIES))}")


def on_grid(values: Tensor, tower: VisionTransformer) -> NDArray[np.float32]:
    """One value a patch token, `[b, patch tokens]`, as `[b, grid rows, grid columns]` on the CPU.

    Raises:
        ValueError: Another number of tokens than the tower's grid has.
    """
    rows, columns = tower.patch_embed.grid_size
    if values.shape[1] != rows * columns:
        raise ValueError(f"the tower has {values.shape[1]} patch tokens, its grid is {rows} x {columns}")
    grid: NDArray[np.float32] = values.detach().float().reshape(-1, rows, columns).cpu().numpy()
    return grid
