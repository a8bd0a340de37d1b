"""What of a foundation model is trained, and at which rate: linear probe, LoRA, LP-FT, full, layer by layer."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from densityclip.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

# The last map of a tower into the shared space, in timm's, Hugging Face's and open_clip's own towers.
_IMAGE_PROJECTION = re.compile(r"^visual\.(head\.|proj$)")
_TEXT_PROJECTION = re.compile(r"^(text\.)?(proj\.|text_projection)")
# A unit of depth: a transformer's block; where a tower has stages of many blocks (ConvNeXt, Swin, ResNet, RegNet) the
# stage, which is named before the block in it. Counted by blocks, a stem under 36 of them would get a rate of nothing.
_BLOCK = re.compile(r"\.(?:(?:stages|layers|blocks|layer|resblocks)\.|layer(?=\d)|s(?=\d\.b\d))(\d+)\.")
# What lies below a tower's first block: embeddings of patches, words, positions and classes, and the norm over them.
_EMBEDDING = re.compile(
    r"patch_embed|pos_embed|cls_token|reg_token|class_embedding|embeddings?\.|positional_embedding"
    r"|\.(ln_pre|norm_pre)\.|^visual\.(trunk\.)?(stem|conv_stem|conv1|bn1)\."
)
_TEMPERATURE = ("logit_scale", "logit_bias")

# Attention's matrices alone (arXiv:2106.09685); a bare `proj` would also match the projection into the shared space.
_LORA_IMAGE = r"visual\.trunk\.blocks\.\d+\.attn\.(qkv|proj)"
_LORA_TEXT = r"text\.transformer\.encoder\.layer\.\d+\.attention\.self\.(query|value)"


def is_text(name: str) -> bool:
    """Whether a parameter belongs to the text tower."""
    return not name.startswith("visual.") and name not in _TEMPERATURE


def is_projection(name: str) -> bool:
    """Whether a parameter belongs to the last map of a tower into the shared space, or to the temperature."""
    pattern = _TEXT_PROJECTION if is_text(name) else _IMAGE_PROJECTION
    return name in _TEMPERATURE or bool(pattern.search(name))


def choose_trained(clip: nn.Module, adaptation: str, *, text_tower: bool) -> None:
    """Set `requires_grad` for an adaptation; LoRA's matrices are there already and are left on.

    Args:
        clip: The model.
        adaptation: `linear-probe` trains the towers' projections and the temperature, `lora` these and the matrices
            that `add_lora` put in, `full` everything; `lp-ft` begins as `linear-probe` and goes on as `full`.
        text_tower: Whether the text tower is trained, or frozen.
    """
    for name, parameter in clip.named_parameters():
        wanted = adaptation == "full" or is_projection(name) or (adaptation == "lora" and "lora_" in name)
        parameter.requires_grad_(wanted and (text_tower or not is_text(name)))


def add_lora(clip: nn.Module, *, rank: int, text_tower: bool, seed: int) -> "PeftModel":
    """Put low-rank matrices beside attention's, in place; they start as no change at all.

    Args:
        clip: The model; its own parameters get frozen.
        rank: Of the matrices; they are scaled by 2, as alpha = 2 rank does.
        text_tower: Whether the text tower gets them too.
        seed: Of the random one of the two.

    Raises:
        UserError: The image tower is not timm's ViT, or the text tower is to get them and is not Hugging Face's BERT.
    """
    from peft import LoraConfig, get_peft_model

    pattern = f"{_LORA_IMAGE}|{_LORA_TEXT}" if text_tower else _LORA_IMAGE
    names = [name for name, _ in clip.named_modules()]
    if not any(re.fullmatch(_LORA_IMAGE, name) for name in names):
        raise UserError("lora knows timm's ViT as image tower alone", "use adaptation full, lp-ft or linear-probe")
    if text_tower and not any(re.fullmatch(_LORA_TEXT, name) for name in names):
        raise UserError(
            "lora knows Hugging Face's BERT as text tower alone",
            "set text_tower to frozen, or use adaptation full, lp-ft or linear-probe",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=pattern, lora_dropout=0.0, bias="none")
        return get_peft_model(clip, config)


def merge_lora(adapted: "PeftModel") -> nn.Module:
    """The model with its low-rank matrices added into its own, names as before."""
    merged: nn.Module = adapted.merge_and_unload(safe_merge=True)
    return merged


def parameter_groups(clip: nn.Module, *, rate: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimiser: the rate falls from the projections to the embeddings, decay is on matrices only.

    A block that lies k blocks below its tower's projection gets `rate * layer_decay ** k` (arXiv:1905.05583; for CLIP
    arXiv:2212.06138); what lies below the first block counts as one block more. In a tower of stages the stage is the
    unit. Embeddings (of patches, words,
    positions, classes), biases and norms are not decayed. Parameters that are frozen now are in the groups as well:
    LP-FT trains them later, and without a gradient an optimiser passes them over.
    """
    depths = {tower: _blocks(clip, tower) for tower in (False, True)}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in clip.named_parameters():
        below = _below(name, depths[is_text(name)])
        decays = parameter.ndim >= 2 and not _EMBEDDING.search(name)
        key = (rate * layer_decay**below, weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]


def _blocks(clip: nn.Module, text: bool) -> range:
    """Numbers of a tower's blocks or stages: some towers count from 0, some from 1."""
    found = [_BLOCK.search(name) for name, _ in clip.named_parameters() if is_text(name) == text]
    numbers = {int(match.group(1)) for match in found if match}
    return range(min(numbers), max(numbers) + 1) if numbers else range(0)


def _below(name: str, blocks: range) -> int:
    """How many blocks a parameter lies below its tower's projection: 0 there and in the last norm."""
    block = _BLOCK.search(name)
    if block:
        return blocks.stop - int(block.group(1))
    return len(blocks) + 1 if _EMBEDDING.search(name) and not is_projection(name) else 0


def interpolated(
    start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float, names: Iterable[str]
) -> dict[str, Tensor]:
    """Weights on the line between two models (WiSE-FT, arXiv:2109.01903).

    Args:
        start: The foundation model's.
        trained: The adapted model's, under the same names.
        share: 0 is the start, 1 the adapted model.
        names: Those to move; others are taken from `trained` as they are.
    """
    moved = {name: torch.lerp(start[name], trained[name], share) for name in names}
    return {name: moved.get(name, value) for name, value in trained.items()}
