"""GradCAM on the tokens of a timm ViT tower, on its raw scale (Selvaraju et al., ICCV 2017, arXiv:1610.02391).

It is read at the first norm of the last block, not at the block's output as in networks of convolutions: the tower
reads out its CLS token, so behind the last attention no patch token can change the answer any more and its gradient is
exactly zero. The input of that attention is the last place where the patch tokens count.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.explain.targets import DENSITY_SCORE, TARGETS, check_targets, score
from densityclip.explain.tower import check_logits, eval_mode, gradients_on, on_grid, ordinary, vit_tower


def token_maps(
    classify: Callable[[Tensor], Tensor],
    trunk: nn.Module,
    images: Tensor,
    target: str = DENSITY_SCORE,
    *,
    signed: bool = False,
    layer: nn.Module | None = None,
) -> NDArray[np.float32]:
    """Which tokens raise one target, for a batch of images; see `token_maps_for` for the details.

    Args:
        classify: `[b, 3, h, w]` to logits `[b, 4]`, through `trunk`, with gradients left on.
        trunk: The image tower's timm VisionTransformer (`model.visual.trunk` in open_clip).
        images: `[b, 3, h, w]`, normalised as the tower expects.
        target: One of `density-score expected-density A B C D`.
        signed: Keep what lowers the target as negative values; otherwise it is clamped at 0.
        layer: Where to read; the last block's `norm1` unless given.

    Returns:
        `[b, grid rows, grid columns]`, raw scale, comparable between images of one model.

    Raises:
        UserError: The tower is no timm ViT.
        ValueError: Unknown target, logits of another shape, or `classify` switched gradients off.
    """
    return token_maps_for(classify, trunk, images, (target,), signed=signed, layer=layer)[target]


def token_maps_for(
    classify: Callable[[Tensor], Tensor],
    trunk: nn.Module,
    images: Tensor,
    targets: Sequence[str] = TARGETS,
    *,
    signed: bool = False,
    layer: nn.Module | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Maps of several targets from one forward pass.

    A map is the sum over channels of activation times the channel's mean gradient over the patch tokens. The
    parameters may be frozen; their `.grad` is not touched. The trunk runs in eval mode and gets its modes back;
    what `classify` uses outside the trunk is the caller's to put into eval mode.

    Returns:
        One `[b, grid rows, grid columns]` per target; arguments and errors as in `token_maps`.
    """
    check_targets(targets)
    tower = vit_tower(trunk, "GradCAM")
    with gradients_on(), eval_mode(tower):
        images = ordinary(images)
        with _leaf_at(layer or _default_layer(tower)) as leaves:
            logits = classify(images)
        check_logits(logits, len(images))
        if not leaves or not logits.requires_grad:
            raise ValueError("classify does not run the given layer with gradients on")
        return {
            target: _map(leaves[-1], _gradient(score(logits, target), leaves[-1]), tower, signed) for target in targets
        }


def _default_layer(tower: VisionTransformer) -> nn.Module:
    """The last block's first norm: the tower reads out its CLS token, so behind the last attention the patch tokens'
    gradients are exactly zero and a hook there gives an empty map without a word.
    """
    return tower.get_submodule(f"blocks.{len(tower.blocks) - 1}.norm1")


@contextmanager
def _leaf_at(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Cut the graph at a layer's output, so that it takes a gradient even where all parameters are frozen."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_(True)
        leaves.append(leaf)
        return leaf

    handle = layer.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _gradient(scores: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(scores.sum(), leaf, retain_graph=True)[0]


def _map(activation: Tensor, gradient: Tensor, tower: VisionTransformer, signed: bool) -> NDArray[np.float32]:
    tokens = activation.detach()[:, tower.num_prefix_tokens :].float()
    weights = gradient[:, tower.num_prefix_tokens :].float().mean(dim=1, keepdim=True)
    cam = (tokens * weights).sum(dim=2)
    return on_grid(cam if signed else cam.clamp_min(0), tower)
