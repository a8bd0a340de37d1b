"""Whether a map depends on the model at all: the tower is randomised block by block (Adebayo et al., NeurIPS 2018)."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from densityclip.explain.figures import EVERYTHING


def stages(trunk: nn.Module) -> list[str]:
    """What is randomised one after the other, from the output to the input: final norm, blocks, patches and places."""
    blocks = [f"blocks.{number}" for number in reversed(range(len(trunk.get_submodule("blocks"))))]  # type: ignore[arg-type]
    return ["norm", *blocks, EVERYTHING]


def randomised(
    model: nn.Module, trunk_of: Callable[[Any], nn.Module], seed: int = 0, *, whole_only: bool = False
) -> Iterator[tuple[str, Any]]:
    """Copies of a model whose image tower is random from the output down to a block.

    The entries of each tensor are shuffled: what it has learned is gone, its distribution stays, so that the scale of
    activations is that of the model.

    Args:
        model: What holds the tower as `visual`; it is not changed.
        trunk_of: Finds the timm VisionTransformer in a copy of it.
        seed: Of the shuffles.
        whole_only: Give the last stage alone, in which nothing of the tower is left.

    Yields:
        Name of the last part that was randomised, and the model; the same object each time, changed further.
    """
    changed = copy.deepcopy(model)
    trunk = trunk_of(changed)
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    for stage in [EVERYTHING] if whole_only else stages(trunk):
        # The projection behind the trunk is a part of the tower too.
        part = changed.get_submodule("visual") if stage == EVERYTHING else trunk.get_submodule(stage)
        for tensor in part.parameters():
            if id(tensor) not in done:
                done.add(id(tensor))
                _shuffle(tensor, generator)
        yield stage, changed


@torch.no_grad()
def _shuffle(tensor: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    tensor.copy_(tensor.flatten()[order].view_as(tensor))
