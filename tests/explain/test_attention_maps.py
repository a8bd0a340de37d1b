"""Attention with gradient against the rule in plain NumPy, on attention got by a forward pass of our own."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from small_tower import SCORES, Small, count_passes
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.errors import UserError
from densityclip.explain.attention import attention_maps
from densityclip.explain.targets import TARGETS


@pytest.fixture
def small() -> Small:
    return Small()


def features(trunk: VisionTransformer, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A ViT written down again for one image `[3, h, w]`: its CLS token, and the attention of each block."""
    side = trunk.patch_embed.patch_size[0]
    patches = image.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    x = patches @ trunk.patch_embed.proj.weight.flatten(1).T + trunk.patch_embed.proj.bias
    prefix = [trunk.cls_token[0]] + ([trunk.reg_token[0]] if trunk.reg_token is not None else [])
    x = torch.cat([*prefix, x]) + trunk.pos_embed[0]
    kept = []
    for block in trunk.blocks:
        heads, width = block.attn.num_heads, x.shape[1]
        q, k, v = (block.norm1(x) @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(width, dim=1)
        q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
        attention = torch.softmax(q @ k.transpose(1, 2) / (width // heads) ** 0.5, dim=2)
        attention.retain_grad()
        kept.append(attention)
        x = x + block.attn.proj((attention @ v).transpose(0, 1).flatten(1))
        x = x + block.mlp(block.norm2(x))
    return trunk.norm(x)[0], kept


def by_the_rule(trunk: VisionTransformer, score_of_cls, image: Tensor) -> NDArray[np.float64]:
    """R = I; R = R + mean over heads of the positive part of (gradient x attention), times R; the CLS row."""
    cls, kept = features(trunk, image)
    score_of_cls(cls).backward()
    relevance = np.eye(kept[0].shape[1])
    for attention in kept:
        weighted = np.maximum(attention.grad.double().numpy() * attention.detach().double().numpy(), 0).mean(axis=0)
        relevance = relevance + weighted @ relevance
    return relevance[0, trunk.num_prefix_tokens :].reshape(trunk.patch_embed.grid_size)


def cosine_logits(small: Small, cls: Tensor) -> Tensor:
    return 10 * small.classes @ nn.functional.normalize(small.model.visual.head(cls), dim=0)


@pytest.mark.parametrize("target", TARGETS)
def test_map_is_the_rule_of_the_paper_computed_image_by_image(small, target):
    reference = np.stack(
        [
            by_the_rule(small.trunk, lambda cls: SCORES[target](cosine_logits(small, cls)), image)
            for image in small.images
        ]
    )
    ours = attention_maps(small.classify, small.trunk, small.images, (target,))[target]
    assert reference.max() > 1e-4
    np.testing.assert_allclose(ours, reference, rtol=2e-3, atol=1e-5 * reference.max())


def test_registers_and_a_grid_that_is_not_square_keep_patches_in_their_places():
    torch.manual_seed(0)
    trunk = VisionTransformer(
        img_size=(96, 64), patch_size=16, embed_dim=24, depth=3, num_heads=3, num_classes=0, reg_tokens=4
    ).eval()
    readout, images = torch.randn(24, 4), torch.randn(2, 3, 96, 64)
    ours = attention_maps(lambda x: trunk(x) @ readout, trunk, images, ("C",))["C"]
    reference = np.stack([by_the_rule(trunk, lambda cls: cls @ readout[:, 2], image) for image in images])
    assert ours.shape == (2, 6, 4)
    np.testing.assert_allclose(ours, reference, rtol=2e-3, atol=1e-5 * reference.max())


def test_one_forward_pass_and_one_backward_pass_a_target(small):
    forward, backward = Counter(), Counter()
    for index, block in enumerate(small.trunk.blocks):
        block.register_forward_hook(partial(count_passes, forward, backward, index))
    attention_maps(small.classify, small.trunk, small.images, ("density-score", "A", "D"))
    assert forward == dict.fromkeys(range(6), 1)
    assert backward == dict.fromkeys(range(6), 3)


def test_blocks_run_unfused_meanwhile_and_get_their_own_choice_back(small):
    choices = [True, False, True, True, False, True]
    for block, choice in zip(small.trunk.blocks, choices, strict=True):
        block.attn.fused_attn = choice
    seen = []

    def classify(images: Tensor) -> Tensor:
        seen.extend(block.attn.fused_attn for block in small.trunk.blocks)
        return small.classify(images)

    attention_maps(classify, small.trunk, small.images)
    assert not any(seen)
    assert [block.attn.fused_attn for block in small.trunk.blocks] == choices


def test_fused_attention_and_hooks_are_put_back_when_the_classifier_fails(small):
    for block in small.trunk.blocks:
        block.attn.fused_attn = True

    def fail(images: Tensor) -> Tensor:
        small.classify(images)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        attention_maps(fail, small.trunk, small.images)
    assert all(block.attn.fused_attn for block in small.trunk.blocks)
    assert not any(block.attn.attn_drop._forward_hooks for block in small.trunk.blocks)


@pytest.mark.parametrize(
    "name, words",
    [
        ("vit_base_patch16_siglip_224", r"pools 'map'"),
        ("vit_base_patch16_rpn_224", r"pools 'avg'"),
        ("deit_tiny_distilled_patch16_224", "class and distillation tokens"),
        ("vit_base_patch16_xp_224", r"ParallelScalingBlock"),
        ("test_vit_diff", "DiffAttention"),
    ],
)
def test_a_tower_whose_answer_has_no_cls_row_is_a_users_mistake(name, words):
    with torch.device("meta"):
        if name == "test_vit_diff":
            trunk = VisionTransformer(embed_dim=32, depth=2, num_heads=2, attn_layer="diff")
        elif name == "vit_base_patch16_xp_224":
            from timm.models.vision_transformer import ParallelScalingBlock

            trunk = VisionTransformer(embed_dim=32, depth=2, num_heads=2, block_fn=ParallelScalingBlock)
        else:
            trunk = timm.create_model(name, num_classes=0)
    with pytest.raises(UserError, match=words):
        attention_maps(lambda images: images, trunk, torch.zeros(1, 3, 224, 224))


def test_a_classifier_that_records_no_graph_is_refused(small):
    @torch.no_grad()
    def without_gradients(images: Tensor) -> Tensor:
        return small.classify(images)

    with pytest.raises(ValueError, match="gradients"):
        attention_maps(without_gradients, small.trunk, small.images)
    with pytest.raises(ValueError, match="every block"):
        attention_maps(lambda images: images.mean((2, 3)) @ torch.ones(3, 4), small.trunk, small.images)
