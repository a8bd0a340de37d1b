"""Random changes of training images, batch-wise on their device; parameters are drawn apart from their use."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional

# Uniform numbers that the parameters of one image are made of.
NUMBERS = 8


def augmentation_parameters(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Parameters from uniform numbers.

    Args:
        uniform: `[n, 8]` in [0, 1).

    Returns:
        `[n, 8]`: rotation (radians), log scale, shift across and down (share of the canvas), whether upside down (0 or
        1), log gamma, contrast factor, noise SD (share of the grey range).
    """
    low = np.array([-0.14, -0.12, -0.04, -0.06, 0.0, 0.0, 0.85, 0.0])
    high = np.array([0.14, 0.12, 0.04, 0.06, 1.0, 1.0, 1.1, 0.03])
    drawn = low + (high - low) * uniform
    drawn[:, 4] = uniform[:, 4] < 0.5
    drawn[:, 5] = 0.2 * ndtri(np.clip(uniform[:, 5], 1e-6, 1 - 1e-6))  # normal, SD 0.2
    return drawn


def apply_augmentation(pixels: Tensor, parameters: Tensor, noise_seeds: NDArray[np.int64]) -> Tensor:
    """Apply drawn parameters, batch-wise; the air around the breast stays 0.

    The chest wall stays on the left: a prepared image is never mirrored left-right.

    Args:
        pixels: `[batch, h, w]` in `[0, 1]`.
        parameters: `[batch, 8]` of `augmentation_parameters`.
        noise_seeds: `[batch]`; an image's noise is its own, whatever batch or process it is in.

    Returns:
        `[batch, h, w]` in `[0, 1]`.
    """
    angle, log_scale, across, down, flip, log_gamma, contrast, noise = parameters.unbind(dim=1)
    height, width = pixels.shape[1:]
    cosine, sine, scale = angle.cos(), angle.sin(), (-log_scale).exp()
    upright = 1 - 2 * flip
    # Pixel centres in [-1, 1] as affine_grid places them; written out, because that call took a third of the time.
    x = ((2 * torch.arange(width, device=pixels.device) + 1) / width - 1)[None, None, :]
    y = ((2 * torch.arange(height, device=pixels.device) + 1) / height - 1)[None, :, None]
    each = (slice(None), None, None)
    # The aspect keeps a rotation a rotation on a canvas that is not square.
    grid_x = (scale * cosine)[each] * x - (scale * sine * upright * height / width)[each] * y + 2 * across[each]
    grid_y = (scale * sine * width / height)[each] * x + (scale * cosine * upright)[each] * y + 2 * down[each]
    grid = torch.stack([grid_x, grid_y], dim=-1)
    moved = functional.grid_sample(pixels.unsqueeze(1), grid, align_corners=False).squeeze(1)
    grey = moved.clamp(min=0).pow(log_gamma.exp()[each]) * contrast[each]
    speckle = noise[each] * _noise(noise_seeds, height, width, pixels.device)
    return torch.where(moved > 0, grey + speckle, moved).clamp(0, 1)


def _noise(seeds: NDArray[np.int64], height: int, width: int, device: torch.device) -> Tensor:
    """Standard normal `[batch, h, w]`, each image from its own seed."""
    noise = torch.empty(len(seeds), height, width, device=device)
    generator = torch.Generator(device)
    for row, seed in zip(noise, seeds.tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise
