"""Attention with gradient on a timm ViT: which patches the CLS token drew its answer from, through all blocks.

The rule for self-attention of Chefer, Gur and Wolf, "Generic attention-model explainability for interpreting bi-modal
and encoder-decoder transformers", ICCV 2021, arXiv:2103.15679: relevance starts as the identity, `R = I`, and each
block adds `A R` to it, where A is the mean over heads of the positive part of (gradient of the score x attention). The
map is the row of the CLS token. It cannot be negative: it tells where the evidence for the score was taken from, and
nothing of what spoke against it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from densityclip.errors import UserError
from densityclip.explain.targets import TARGETS, check_targets, score
from densityclip.explain.tower import REMEDY, check_logits, eval_mode, gradients_on, on_grid, ordinary, vit_tower

_NAME = "Attention with gradient"


def attention_maps(
    classify: Callable[[Tensor], Tensor],
    trunk: nn.Module,
    images: Tensor,
    targets: Sequence[str] = TARGETS,
) -> dict[str, NDArray[np.float32]]:
    """Maps of several targets from one forward pass and one backward pass a target, batch-wise.

    The blocks run without fused attention meanwhile, which moves logits by rounding only. The parameters may be frozen;
    their `.grad` is not touched. The trunk runs in eval mode; modes and fused attention are put back whatever happens.
    Attention and its gradient are held for the whole batch, `2 x blocks x heads x tokens x tokens` numbers an image (45
    MB for ViT-B/16 at 224 in float32), beside the graph of the tower; freezing the parameters makes that smaller.

    Args:
        classify: `[b, 3, h, w]` to logits `[b, 4]`, through `trunk`, with gradients left on.
        trunk: The image tower's timm VisionTransformer (`model.visual.trunk` in open_clip).
        images: `[b, 3, h, w]`, normalised as the tower expects.
        targets: Of `density-score expected-density A B C D`.

    Returns:
        One `[b, grid rows, grid columns]` per target, raw scale, never negative.

    Raises:
        UserError: The tower is no timm ViT with plain self-attention that reads out its CLS token.
        ValueError: Unknown target, logits of another shape, or `classify` switched gradients off.
    """
    check_targets(targets)
    tower = _cls_tower(trunk)
    with gradients_on(), eval_mode(tower):
        images = ordinary(images)
        with _attention_kept(tower) as kept:
            logits = classify(images)
        check_logits(logits, len(images))
        if len(kept) != len(tower.blocks) or not logits.requires_grad:
            raise ValueError("classify does not run every block of the trunk with gradients on")
        attention = [kept[index] for index in range(len(tower.blocks))]
        return {target: _map(attention, _gradients(score(logits, target), attention), tower) for target in targets}


def reads_attention(trunk: nn.Module) -> bool:
    """Whether `attention_maps` serves this tower."""
    try:
        _cls_tower(trunk)
    except UserError:
        return False
    return True


def _cls_tower(trunk: nn.Module) -> VisionTransformer:
    """The trunk, known to be a ViT for which the row of the CLS token is the answer's row."""
    tower = vit_tower(trunk, _NAME)
    if tower.global_pool != "token" or hasattr(tower, "dist_token"):
        pool = "class and distillation tokens" if hasattr(tower, "dist_token") else repr(tower.global_pool)
        raise UserError(
            f"{_NAME} needs an image tower that reads out its CLS token, this one pools {pool}",
            "use GradCAM or occlusion for this model",
        )
    strange = {type(getattr(block, "attn", block)).__name__ for block in tower.blocks if not _is_plain(block)}
    if strange:
        raise UserError(f"{_NAME} needs blocks of timm's plain Attention, this tower has {sorted(strange)}", REMEDY)
    return tower


def _is_plain(block: nn.Module) -> bool:
    return isinstance(getattr(block, "attn", None), Attention)


@contextmanager
def _attention_kept(tower: VisionTransformer) -> Iterator[dict[int, Tensor]]:
    """Run every block without fused attention and keep what leaves its softmax, by block: `[b, heads, n, n]`."""
    kept: dict[int, Tensor] = {}

    def keep(index: int, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # With frozen parameters nothing before this point asks for gradients.
        kept[index] = output if output.requires_grad else output.detach().requires_grad_(True)
        return kept[index]

    with ExitStack() as undo:
        for index, block in enumerate(tower.blocks):
            attention: Any = block.attn
            undo.callback(setattr, attention, "fused_attn", attention.fused_attn)
            attention.fused_attn = False
            undo.callback(attention.attn_drop.register_forward_hook(partial(keep, index)).remove)
        yield kept


def _gradients(scores: Tensor, attention: list[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(scores.sum(), attention, retain_graph=True)


def _map(attention: list[Tensor], gradients: Sequence[Tensor], tower: VisionTransformer) -> NDArray[np.float32]:
    batch, _, tokens, _ = attention[0].shape
    row = torch.zeros(batch, 1, tokens, device=attention[0].device)
    row[:, :, 0] = 1
    # One row of (I + A_last) ... (I + A_first), multiplied from the left: n^2 steps a block instead of n^3.
    for held, gradient in zip(reversed(attention), reversed(gradients), strict=True):
        row = row + row @ (held.detach().float() * gradient.float()).clamp_min(0).mean(dim=1)
    return on_grid(row[:, 0, tower.num_prefix_tokens :], tower)
