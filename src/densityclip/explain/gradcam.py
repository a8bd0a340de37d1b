"""GradCAM on the tokens of a timm ViT tower, on its raw scale (Selvaraju et al., ICCV 2017, arXiv:1610.02391)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.density import CATEGORIES, category_index
from densityclip.errors import UserError

EXPECTED_DENSITY = "expected-density"
# The four logits along the ordinal scale. The expected density runs through a softmax, and where the model is sure its
# gradient is nil: maps of clear A and D images came out empty. This one stays linear in the similarities.
DENSITY_SCORE = "density-score"
_POSITIONS = (-1.5, -0.5, 0.5, 1.5)
TARGETS: tuple[str, ...] = (DENSITY_SCORE, EXPECTED_DENSITY, *CATEGORIES)


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
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        raise ValueError(f"target {unknown} is not one of {', '.join(TARGETS)}")
    tower = _vit(trunk)
    # A caller may sit in inference_mode; tensors made there cannot carry gradients, so the batch is copied out of it.
    with torch.inference_mode(False), torch.enable_grad(), _eval_mode(tower):
        images = images.clone() if images.is_inference() else images
        with _leaf_at(layer or _default_layer(tower)) as leaves:
            logits = classify(images)
        if logits.shape != (len(images), len(CATEGORIES)):
            raise ValueError(f"classify gave {tuple(logits.shape)}, expected {(len(images), len(CATEGORIES))}")
        if not leaves or not logits.requires_grad:
            raise ValueError("classify does not run the given layer with gradients on")
        # Images of a batch do not see each other, so the gradient of the sum holds each image's own gradient.
        return {
            target: _map(leaves[-1], _gradient(_score(logits, target), leaves[-1]), tower, signed) for target in targets
        }


def _vit(trunk: nn.Module) -> VisionTransformer:
    if not isinstance(trunk, VisionTransformer):
        raise UserError(
            f"GradCAM needs a timm ViT image tower, this one is a {type(trunk).__name__}",
            "explain a bundle whose `timm_model_name` is a vit_* model, such as BiomedCLIP's",
        )
    return trunk


def _default_layer(tower: VisionTransformer) -> nn.Module:
    """The last block's first norm: the tower reads out its CLS token, so behind the last attention the patch tokens'
    gradients are exactly zero and a hook there gives an empty map without a word.
    """
    return tower.get_submodule(f"blocks.{len(tower.blocks) - 1}.norm1")


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off and give every submodule its own mode back, whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


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


def _score(logits: Tensor, target: str) -> Tensor:
    """The batch's sum of what is explained: a logit, the logits along the scale, or the mean category (1 to 4)."""
    if target == DENSITY_SCORE:
        return (logits.float() @ torch.tensor(_POSITIONS, device=logits.device)).sum()
    if target != EXPECTED_DENSITY:
        return logits[:, category_index(target)].sum()
    probabilities = logits.float().softmax(dim=1)
    return (probabilities @ torch.arange(1.0, len(CATEGORIES) + 1, device=logits.device)).sum()


def _gradient(score: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(score, leaf, retain_graph=True)[0]


def _map(activation: Tensor, gradient: Tensor, tower: VisionTransformer, signed: bool) -> NDArray[np.float32]:
    rows, columns = tower.patch_embed.grid_size
    tokens = activation.detach()[:, tower.num_prefix_tokens :].float()
    if tokens.shape[1] != rows * columns:
        raise ValueError(f"the tower has {tokens.shape[1]} patch tokens, its grid is {rows} x {columns}")
    weights = gradient[:, tower.num_prefix_tokens :].float().mean(dim=1, keepdim=True)
    cam = (tokens * weights).sum(dim=2)
    cam = cam if signed else cam.clamp_min(0)
    return cam.reshape(-1, rows, columns).cpu().numpy().astype(np.float32)
