"""What every method of explanation owes its caller."""

from functools import partial

import numpy as np
import pytest
import torch
from small_tower import SCORES, Small
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.errors import UserError
from densityclip.explain.methods import METHOD_WORDS, METHODS, method_maps, picture_method
from densityclip.explain.targets import TARGETS, score


@pytest.fixture
def small() -> Small:
    return Small()


def maps_of(small: Small, method: str, rows=slice(None), targets=TARGETS, **choices):
    return method_maps(
        method, small.classify, small.trunk, small.images[rows], targets, fat=lambda: small.fat[rows], **choices
    )


class Planted:
    """A random tower of one block on a grid of 9 x 8, and a readout along what one bright patch changes in its answer.

    An empty patch is a token of zeros, which the block's norm keeps at zero: only the bright patch says anything.
    """

    def __init__(self, seed: int, row: int, column: int) -> None:
        torch.manual_seed(seed)
        self.trunk = VisionTransformer(
            img_size=(144, 128), patch_size=16, embed_dim=32, depth=1, num_heads=2, num_classes=0, reg_tokens=2
        ).eval()
        for zeroed in (self.trunk.pos_embed, self.trunk.patch_embed.proj.bias):
            nn.init.zeros_(zeroed)
        self.fat = torch.zeros(1, 3, 144, 128)
        self.images = self.fat.clone()
        self.images[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1
        with torch.no_grad():
            change = self.trunk(self.images) - self.trunk(self.fat)
        self.readout = change.T * torch.tensor([[-1.0, 0.0, 0.0, 1.0]])

    def classify(self, images: Tensor) -> Tensor:
        return self.trunk(images) @ self.readout


# Nearer to the border, tokens beyond the patch are covered by no other windows than the patch itself.
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed, row, column", [(0, 3, 3), (1, 4, 4), (2, 5, 3), (3, 3, 4), (4, 5, 4), (5, 4, 3)])
def test_every_method_finds_the_one_patch_that_raises_the_score(method, seed, row, column):
    planted = Planted(seed, row, column)
    targets = ("density-score", "D", "A")
    found = method_maps(method, planted.classify, planted.trunk, planted.images, targets, fat=lambda: planted.fat)
    for target in targets[:2]:
        assert found[target].shape == (1, 9, 8)
        others = np.delete(found[target].ravel(), row * 8 + column)
        assert found[target][0, row, column] > others.max() >= 0
    assert not found["A"][0, row, column]  # what speaks against a category is no heat for it


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_each_image_alone_gives_for_every_target(small, method):
    batch = maps_of(small, method)
    assert tuple(batch) == TARGETS
    for index in range(3):
        for target, values in maps_of(small, method, slice(index, index + 1)).items():
            assert values.dtype == np.float32
            assert values.shape == (1, 10, 10)
            np.testing.assert_allclose(
                batch[target][index], values[0], rtol=1e-3, atol=1e-5 * np.abs(batch[target]).max()
            )


@pytest.mark.parametrize("method", METHODS)
def test_targets_together_are_the_targets_one_by_one_and_differ_from_each_other(small, method):
    together = maps_of(small, method)
    for target in TARGETS:
        alone = maps_of(small, method, targets=(target,))[target]
        np.testing.assert_allclose(together[target], alone, rtol=1e-4, atol=1e-6 * alone.max())
        assert all(target == other or not np.allclose(alone, together[other]) for other in TARGETS)


@pytest.mark.parametrize("method", METHODS)
def test_images_see_the_words_of_their_own_modality(small, method):
    """The classifier of the road compares each row with prompts of its own, so rows must stay in order."""
    flipped = small.classes.flip(0)
    prompts = torch.stack([small.classes, flipped, small.classes])

    def classify(images: Tensor) -> Tensor:
        return 10 * torch.einsum("bd,bkd->bk", small.model.encode_image(images, normalize=True), prompts)

    mixed = method_maps(method, classify, small.trunk, small.images, ("A", "D"), fat=lambda: small.fat)
    plain = method_maps(method, small.classify, small.trunk, small.images, ("A", "D"), fat=lambda: small.fat)
    np.testing.assert_allclose(mixed["A"][[0, 2]], plain["A"][[0, 2]], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(mixed["A"][1], plain["D"][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_give_the_same_map(small, method):
    free = maps_of(small, method)
    small.requires_grad_(False)
    for target, values in maps_of(small, method).items():
        np.testing.assert_allclose(values, free[target], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", METHODS)
def test_a_caller_without_gradients_gets_the_same_map(small, method, context):
    free = maps_of(small, method, targets=("C",))["C"]
    with context():
        small.images, small.fat = small.images.clone(), small.fat.clone()
        np.testing.assert_allclose(maps_of(small, method, targets=("C",))["C"], free, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_model_is_left_changed(small, method):
    small.trunk.train()
    small.trunk.blocks[0].eval()
    marked = small.trunk.patch_embed.proj.weight
    marked.grad = torch.full_like(marked, 7.0)
    modes = {name: part.training for name, part in small.named_modules()}
    fused = [block.attn.fused_attn for block in small.trunk.blocks]
    weights = {name: value.clone() for name, value in small.state_dict().items()}
    maps_of(small, method, targets=("A",))
    assert {name: part.training for name, part in small.named_modules()} == modes
    assert [block.attn.fused_attn for block in small.trunk.blocks] == fused
    assert not any(part._forward_hooks for part in small.modules())
    assert (marked.grad == 7).all()
    assert all(value.grad is None for value in small.parameters() if value is not marked)
    assert all(value.requires_grad for value in small.parameters())
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_is_off_while_a_map_is_made(small, method):
    quiet = maps_of(small, method, targets=("A",))["A"]
    for block in small.trunk.blocks:
        block.attn.attn_drop.p = block.attn.proj_drop.p = 0.5
    small.trunk.train()
    np.testing.assert_allclose(maps_of(small, method, targets=("A",))["A"], quiet, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_unsigned_map_is_the_positive_part_on_the_raw_scale(small, method):
    signed = maps_of(small, method, signed=True)
    for target, values in maps_of(small, method).items():
        assert method == "attention" or (signed[target] < 0).any()
        np.testing.assert_allclose(values, np.maximum(signed[target], 0), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_tower_that_is_no_vit_is_a_users_mistake_with_a_next_step(method):
    zeros = torch.zeros(1, 3, 8, 8)
    with pytest.raises(UserError, match=r"needs a timm ViT.*Conv2d.*timm_model_name"):
        method_maps(method, lambda x: x, nn.Conv2d(3, 4, 1), zeros, TARGETS, fat=lambda: zeros)


@pytest.mark.parametrize("method", METHODS)
def test_wrong_requests_are_refused(small, method):
    with pytest.raises(ValueError, match="'E'"):
        maps_of(small, method, targets=("A", "E"))
    with pytest.raises(ValueError, match="target"):
        maps_of(small, method, targets=())
    ask = partial(method_maps, method, trunk=small.trunk, images=small.images, targets=TARGETS, fat=lambda: small.fat)
    with pytest.raises(ValueError, match=r"expected \(3, 4\)"):
        ask(classify=lambda x: small.classify(x)[:, :2])


def test_an_unknown_method_is_refused_by_name(small):
    with pytest.raises(ValueError, match=r"'rollout' is not one of gradcam, attention, occlusion"):
        maps_of(small, "rollout")
    assert set(METHOD_WORDS) == set(METHODS)


@pytest.mark.parametrize("target", TARGETS)
def test_score_is_one_number_an_image_whatever_the_float_type(target):
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, 4)).bfloat16()
    expected = torch.stack([SCORES[target](row.float()) for row in logits])
    assert score(logits, target).dtype == torch.float32
    torch.testing.assert_close(score(logits, target), expected)


@pytest.mark.parametrize(("pool", "method"), [("token", "attention"), ("avg", "gradcam")])
def test_pictures_beside_predictions_use_attention_where_the_tower_allows_it(pool: str, method: str):
    tower = VisionTransformer(
        img_size=(144, 128), patch_size=16, embed_dim=32, depth=1, num_heads=2, num_classes=0, global_pool=pool
    )
    assert picture_method(tower) == method
