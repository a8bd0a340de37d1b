"""Occlusion: what the score loses when a window of tissue is replaced (Zeiler and Fergus, ECCV 2014, arXiv:1311.2901).

The slow reference for the other methods: it looks at the answer only, and needs no gradient and no attention.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.explain.targets import TARGETS, check_targets, score
from densityclip.explain.tower import check_logits, eval_mode, on_grid, vit_tower

# Tokens. 3 x 3 takes away a structure and not a speck of it; each token inside the border is then seen by nine windows.
WINDOW = 3
STRIDE = 1


def occlusion_maps(
    classify: Callable[[Tensor], Tensor],
    trunk: nn.Module,
    images: Tensor,
    fat: Tensor,
    targets: Sequence[str] = TARGETS,
    *,
    window: int = WINDOW,
    stride: int = STRIDE,
    signed: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Maps of several targets; the value of a token is the mean, over the windows that cover it, of the score's loss.

    The loss is the score of the image less the score with the window replaced: positive where the tissue raises it.
    All images of the batch lose the same window at once. The cost is one forward pass for the images as they are and
    one a window, at most `(rows - window + 1) x (columns - window + 1)` of them at stride 1 (144 on a grid of 14 x 14);
    windows in which no image differs from `fat`, such as air, lose nothing and are not run. Targets cost nothing more.

    Args:
        classify: `[b, 3, h, w]` to logits `[b, 4]`, through `trunk`.
        trunk: The image tower's timm VisionTransformer (`model.visual.trunk` in open_clip).
        images: `[b, 3, h, w]`, normalised as the tower expects.
        fat: `[b, 3, h, w]`, the same images with what shall replace their tissue in its place.
        targets: Of `density-score expected-density A B C D`.
        window: Side of the window, tokens.
        stride: From one window to the next, tokens; the last window ends at the border.
        signed: Keep what lowers the target as negative values; otherwise it is clamped at 0.

    Returns:
        One `[b, grid rows, grid columns]` per target, in units of the score.

    Raises:
        UserError: The tower is no timm ViT.
        ValueError: Unknown target, shapes that do not fit, or windows that leave tokens out.
    """
    check_targets(targets)
    tower = vit_tower(trunk, "Occlusion")
    _check_images(images, fat, tower)
    rows, columns = tower.patch_embed.grid_size
    if not 1 <= stride <= window <= min(rows, columns):
        raise ValueError(f"windows of {window} tokens every {stride} do not cover a grid of {rows} x {columns}")
    totals = {target: torch.zeros(len(images), rows, columns, device=images.device) for target in targets}
    covers = torch.zeros(rows, columns, device=images.device)
    with torch.no_grad(), eval_mode(tower):
        before = _scores(classify, images, targets)
        occluded, changed = images.clone(), _changed_tokens(images, fat, tower)
        for at in _windows((rows, columns), window, stride):
            covers[at] += 1
            if not changed[at].any():
                continue
            pixels = _pixels(at, tower)
            occluded[pixels] = fat[pixels]
            after = _scores(classify, occluded, targets)
            occluded[pixels] = images[pixels]
            for target in targets:
                totals[target][:, at[0], at[1]] += (before[target] - after[target])[:, None, None]
        maps = {target: total / covers for target, total in totals.items()}
    return {
        target: on_grid((values if signed else values.clamp_min(0)).flatten(1), tower)
        for target, values in maps.items()
    }


def _check_images(images: Tensor, fat: Tensor, tower: VisionTransformer) -> None:
    size = tuple(tokens * side for tokens, side in zip(tower.patch_embed.grid_size, _patch(tower), strict=True))
    if images.ndim != 4 or tuple(images.shape[2:]) != size or images.shape != fat.shape:
        raise ValueError(
            f"images of {tuple(images.shape)} with fat of {tuple(fat.shape)}, expected [b, 3, {size[0]}, {size[1]}]"
        )


def _patch(tower: VisionTransformer) -> tuple[int, int]:
    height, width = tower.patch_embed.patch_size
    return int(height), int(width)


def _scores(classify: Callable[[Tensor], Tensor], images: Tensor, targets: Sequence[str]) -> dict[str, Tensor]:
    logits = classify(images)
    check_logits(logits, len(images))
    return {target: score(logits, target) for target in targets}


def _changed_tokens(images: Tensor, fat: Tensor, tower: VisionTransformer) -> NDArray[np.bool_]:
    """`[grid rows, grid columns]`: where any image of the batch differs from its fat."""
    (rows, columns), (height, width) = tower.patch_embed.grid_size, _patch(tower)
    differs = (images != fat).any(dim=1).any(dim=0).reshape(rows, height, columns, width)
    changed: NDArray[np.bool_] = differs.any(dim=3).any(dim=1).cpu().numpy()
    return changed


def _windows(grid: tuple[int, int], window: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every window, in tokens."""
    starts = [sorted({*range(0, side - window + 1, stride), side - window}) for side in grid]
    for row in starts[0]:
        for column in starts[1]:
            yield slice(row, row + window), slice(column, column + window)


def _pixels(at: tuple[slice, slice], tower: VisionTransformer) -> tuple[slice, ...]:
    """A window of tokens as an index into images."""
    height, width = _patch(tower)
    rows, columns = at
    return (
        slice(None),
        slice(None),
        slice(rows.start * height, rows.stop * height),
        slice(columns.start * width, columns.stop * width),
    )
