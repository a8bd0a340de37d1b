"""What is trained, and at which rate: groups of the optimiser by name, on towers of every kind."""

from pathlib import Path

import pytest
import timm
import torch
from clip_samples import OWN_TEXT, OWN_VIT, TIMM_VIT, write_model
from torch import nn

from densityclip.errors import UserError
from densityclip.model.adapt import add_lora, parameter_groups
from densityclip.model.biomedclip import load_foundation

RATE, DECAY, FACTOR = 1e-3, 0.05, 0.5


def settings_of(clip: nn.Module) -> dict[str, tuple[float, float]]:
    """Rate, in blocks below the projection, and decay of every parameter; each stands in exactly one group."""
    names = {id(value): name for name, value in clip.named_parameters()}
    groups = parameter_groups(clip, rate=RATE, weight_decay=DECAY, layer_decay=FACTOR)
    found = [(names[id(p)], group["lr"] / RATE, group["weight_decay"]) for group in groups for p in group["params"]]
    assert sorted(name for name, *_ in found) == sorted(names.values())
    return {name: (share, decay) for name, share, decay in found}


@pytest.fixture(scope="module")
def small(small_foundation: Path) -> dict[str, tuple[float, float]]:
    return settings_of(load_foundation(small_foundation).clip)


@pytest.mark.parametrize(
    ("name", "below"),
    [
        # Six blocks in the image tower, two in the text tower.
        ("visual.head.proj.weight", 0),
        ("visual.trunk.norm.weight", 0),
        ("visual.trunk.blocks.5.mlp.fc1.weight", 1),
        ("visual.trunk.blocks.4.norm1.bias", 2),
        ("visual.trunk.blocks.0.attn.qkv.weight", 6),
        ("visual.trunk.patch_embed.proj.weight", 7),
        ("visual.trunk.cls_token", 7),
        ("visual.trunk.pos_embed", 7),
        ("text.proj.0.weight", 0),
        ("text.transformer.encoder.layer.1.output.dense.weight", 1),
        ("text.transformer.encoder.layer.0.attention.self.query.weight", 2),
        ("text.transformer.embeddings.word_embeddings.weight", 3),
        ("text.transformer.embeddings.LayerNorm.weight", 3),
        ("logit_scale", 0),
    ],
)
def test_the_rate_falls_by_the_factor_from_block_to_block_down_to_the_embeddings(small, name: str, below: int):
    assert small[name][0] == pytest.approx(FACTOR**below)


def test_decay_is_on_the_matrices_of_blocks_and_projections_alone(small, small_foundation: Path):
    clip = load_foundation(small_foundation).clip
    matrices = {module: f"{name}.weight" for name, module in clip.named_modules() if isinstance(module, nn.Linear)}
    expected = set(matrices.values())
    assert "visual.trunk.blocks.0.attn.qkv.weight" in expected
    assert {name for name, (_, decay) in small.items() if decay == DECAY} == expected
    assert {decay for name, (_, decay) in small.items() if name not in expected} == {0.0}


def test_with_a_factor_of_one_every_parameter_has_the_same_rate(small_foundation: Path):
    groups = parameter_groups(load_foundation(small_foundation).clip, rate=RATE, weight_decay=DECAY, layer_decay=1.0)
    assert {group["lr"] for group in groups} == {RATE}


def test_what_lies_below_the_first_block_has_the_lowest_rate_in_open_clips_own_towers(tmp_path: Path):
    model = {"embed_dim": 32, "vision_cfg": OWN_VIT, "text_cfg": OWN_TEXT}
    found = settings_of(load_foundation(write_model(tmp_path / "model", model)).clip)
    for name in ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight", "ln_pre.bias"):
        assert found[f"visual.{name}"] == (pytest.approx(FACTOR**3), 0.0), name
    for name in ("token_embedding.weight", "positional_embedding"):
        assert found[name] == (pytest.approx(FACTOR**3), 0.0), name
    for name in ("visual.ln_post.weight", "ln_final.weight", "visual.proj", "text_projection"):
        assert found[name][0] == 1.0, name


def test_registers_and_the_norm_before_the_blocks_of_timms_towers_count_as_embeddings():
    clip = nn.Module()
    clip.visual = nn.Module()
    clip.visual.trunk = timm.create_model("test_vit", reg_tokens=2, pre_norm=True, num_classes=0)
    found = settings_of(clip)
    for name in ("reg_token", "norm_pre.weight", "norm_pre.bias", "cls_token"):
        assert found[f"visual.trunk.{name}"] == (pytest.approx(FACTOR**7), 0.0), name


@pytest.mark.parametrize(
    ("tower", "below"),
    [
        (
            "convnext_atto",
            {"stem.0.weight": 5, "stages.0.": 4, "stages.1.downsample.": 3, "stages.3.": 1, "head.norm.": 0},
        ),
        ("resnet18", {"conv1.weight": 5, "bn1.": 5, "layer1.": 4, "layer4.1.": 1}),
        ("swin_tiny_patch4_window7_224", {"patch_embed.": 5, "layers.0.blocks.1.": 4, "layers.3.": 1, "norm.": 0}),
        ("regnety_002", {"stem.": 5, "s1.b1.": 4, "s4.b7.": 1}),
        ("efficientnet_b0", {"conv_stem.": 8, "bn1.": 8, "blocks.0.0.": 7, "blocks.6.0.": 1, "bn2.": 0}),
    ],
)
def test_a_tower_of_stages_is_counted_by_stages(tower: str, below: dict[str, int]):
    clip = nn.Module()
    clip.visual = nn.Module()
    clip.visual.trunk = timm.create_model(tower, num_classes=0)
    found = settings_of(clip)
    for prefix, depth in below.items():
        rates = {share for name, (share, _) in found.items() if name.startswith(f"visual.trunk.{prefix}")}
        assert [*rates] == pytest.approx([FACTOR**depth]), prefix
    convolutions = {f"{n}.weight" for n, m in clip.named_modules() if isinstance(m, nn.Conv2d) and ".blocks." in n}
    assert {found[name][1] for name in convolutions} <= {DECAY}


def test_lora_refuses_towers_that_it_does_not_know_and_leaves_them_as_they_were(tmp_path: Path):
    own = load_foundation(write_model(tmp_path / "own", {"embed_dim": 32, "vision_cfg": OWN_VIT, "text_cfg": OWN_TEXT}))
    with pytest.raises(UserError, match="timm's ViT as image tower alone"):
        add_lora(own.clip, rank=4, text_tower=False, seed=0)
    mixed = load_foundation(
        write_model(tmp_path / "mixed", {"embed_dim": 32, "vision_cfg": TIMM_VIT, "text_cfg": OWN_TEXT})
    )
    with pytest.raises(UserError, match="BERT as text tower alone") as caught:
        add_lora(mixed.clip, rank=4, text_tower=True, seed=0)
    assert "Set text_tower to frozen" in str(caught.value)
    add_lora(mixed.clip, rank=4, text_tower=False, seed=0)
    adapted = {name for name, value in mixed.clip.named_parameters() if "lora_" in name and value.requires_grad}
    assert adapted
    assert all(name.startswith("visual.trunk.blocks") for name in adapted)
    assert isinstance(mixed.clip.logit_scale, torch.nn.Parameter)
