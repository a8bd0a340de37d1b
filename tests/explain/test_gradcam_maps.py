"""GradCAM against the definition, got in other ways: grad-cam, autograd's backward, algebra, a planted patch."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from small_tower import SCORES, Small, count_passes
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from densityclip.errors import UserError
from densityclip.explain.gradcam import TARGETS, token_maps, token_maps_for


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small() -> Small:
    return Small()


def by_backward(small: Small, score: Callable[[Tensor], Tensor], layer: nn.Module) -> NDArray[np.float32]:
    """The textbook way: keep the activation in the whole graph, call backward, do the sums in NumPy."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: (output.retain_grad(), kept.append(output))[1])
    score(small.classify(small.images)).backward()
    handle.remove()
    activation, gradient = kept[0].detach().numpy()[:, 1:], kept[0].grad.numpy()[:, 1:]
    small.model.zero_grad(set_to_none=True)
    return np.einsum("bnc,bc->bn", activation, gradient.mean(axis=1)).reshape(-1, 10, 10)


def expected(logits: Tensor) -> Tensor:
    return (logits.softmax(1) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum()


def score_along(logits):
    return (-1.5 * logits[:, 0] - 0.5 * logits[:, 1] + 0.5 * logits[:, 2] + 1.5 * logits[:, 3]).sum()


@pytest.mark.parametrize(
    "target, score",
    [
        ("A", lambda x: x[:, 0].sum()),
        ("C", lambda x: x[:, 2].sum()),
        ("expected-density", expected),
        ("density-score", score_along),
    ],
)
def test_raw_map_equals_a_plain_backward_with_retained_gradients(small, target, score):
    reference = by_backward(small, score, small.trunk.blocks[-1].norm1)
    ours = token_maps(small.classify, small.trunk, small.images, target, signed=True)
    assert np.abs(reference).max() > 1e-5
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-6 * np.abs(reference).max())


@pytest.fixture
def library(small) -> Iterator[GradCAM]:
    """pytorch-grad-cam, told how a ViT's tokens lie."""
    cam = GradCAM(
        small,
        [small.trunk.blocks[-1].norm1],
        lambda tokens: tokens[:, 1:].reshape(-1, 10, 10, tokens.shape[2]).permute(0, 3, 1, 2),
    )
    yield cam
    cam.activations_and_grads.release()


@pytest.mark.parametrize("target", TARGETS)
def test_raw_map_is_what_grad_cam_computes_before_it_clamps_and_scales(small, library, target):
    wanted = [SCORES[target]] * 3
    shown = library(small.images, wanted)
    kept = library.activations_and_grads
    raw = library.get_cam_image(
        small.images, library.target_layers[0], wanted, kept.activations[0].numpy(), kept.gradients[0].numpy()
    )
    ours = token_maps(small.classify, small.trunk, small.images, target, signed=True)
    np.testing.assert_allclose(ours, raw, rtol=1e-3, atol=1e-5 * np.abs(raw).max())
    # Its picture is the same map, each image stretched to [0, 1] on its own.
    stretched = scale_cam_image(np.maximum(ours, 0), (160, 160))
    np.testing.assert_allclose(scale_cam_image(stretched), shown, atol=1e-4)


def test_one_forward_pass_of_the_tower_and_a_backward_pass_of_the_last_block_a_target(small):
    forward, backward = Counter(), Counter()
    for index, block in enumerate(small.trunk.blocks):
        block.register_forward_hook(partial(count_passes, forward, backward, index))
    token_maps_for(small.classify, small.trunk, small.images, ("density-score", "A", "D"))
    assert forward == dict.fromkeys(range(6), 1)
    assert backward == {5: 3}


def test_map_of_a_linear_readout_is_its_weight_applied_to_each_token(small):
    weight = torch.randn(64, 4)
    tokens = small.trunk.forward_features(small.images)[:, 1:].detach()
    ours = token_maps(
        lambda images: small.trunk.forward_features(images)[:, 1:].mean(1) @ weight,
        small.trunk,
        small.images,
        "B",
        signed=True,
        layer=small.trunk.norm,
    )
    analytic = (tokens @ weight[:, 1] / 100).reshape(3, 10, 10).numpy()
    np.testing.assert_allclose(ours, analytic, rtol=1e-4, atol=1e-6)


def test_patch_tokens_have_no_gradient_behind_the_last_attention_but_have_one_before_it(small):
    block = small.trunk.blocks[-1]
    for dead in (block, block.norm2, block.mlp, small.trunk.norm):
        assert not token_maps(small.classify, small.trunk, small.images, "D", signed=True, layer=dead).any()
    for alive in (block.norm1, small.trunk.blocks[-2], small.trunk.blocks[0]):
        assert token_maps(small.classify, small.trunk, small.images, "D", signed=True, layer=alive).all()


def test_a_map_lands_on_the_patch_that_caused_it_on_a_tower_that_is_not_square():
    torch.manual_seed(0)
    trunk = VisionTransformer(
        img_size=(96, 64), patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=0, reg_tokens=4
    )
    nn.init.zeros_(trunk.pos_embed)
    nn.init.zeros_(trunk.patch_embed.proj.bias)
    images = torch.zeros(1, 3, 96, 64)
    images[:, :, 16 * 4 : 16 * 5, 16:32] = 1  # row 4, column 1 of a 6 x 4 grid
    readout = torch.randn(16, 4)
    found = token_maps(
        lambda x: trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(x)))[:, 5:].mean(1) @ readout,
        trunk,
        images,
        "A",
        signed=True,
        layer=trunk.norm_pre,
    )
    assert found.shape == (1, 6, 4)
    assert np.argwhere(found[0]).tolist() == [[4, 1]]


def test_expected_density_is_the_softmax_derivative_over_the_four_category_maps(small):
    maps = token_maps_for(small.classify, small.trunk, small.images, signed=True)
    with torch.no_grad():
        p = small.classify(small.images).softmax(1).numpy()
    scale = np.arange(1.0, 5.0)
    derivative = p * (scale - (p @ scale)[:, None])
    combined = sum(derivative[:, k, None, None] * maps["ABCD"[k]] for k in range(4))
    np.testing.assert_allclose(maps["expected-density"], combined, rtol=1e-3, atol=1e-7)


def test_several_targets_from_one_forward_pass_equal_one_pass_each(small):
    calls = []
    together = token_maps_for(lambda x: (calls.append(1), small.classify(x))[1], small.trunk, small.images, TARGETS)
    assert len(calls) == 1
    for target in TARGETS:
        alone = token_maps(small.classify, small.trunk, small.images, target)
        np.testing.assert_allclose(together[target], alone, rtol=1e-4, atol=1e-7)


def test_unsigned_map_is_the_positive_part_on_the_raw_scale(small):
    signed = token_maps(small.classify, small.trunk, small.images, signed=True)
    assert (signed < 0).any()
    np.testing.assert_array_equal(token_maps(small.classify, small.trunk, small.images), np.maximum(signed, 0))


def test_a_batch_gives_what_each_image_alone_gives(small):
    batch = token_maps(small.classify, small.trunk, small.images, signed=True)
    single = [token_maps(small.classify, small.trunk, small.images[i : i + 1], signed=True)[0] for i in range(3)]
    np.testing.assert_allclose(batch, np.stack(single), rtol=1e-3, atol=1e-6 * np.abs(batch).max())


def test_gradients_kept_by_a_training_are_neither_made_nor_changed(small):
    token_maps(small.classify, small.trunk, small.images)
    assert all(parameter.grad is None for parameter in small.model.parameters())
    marked = small.trunk.patch_embed.proj.weight
    marked.grad = torch.full_like(marked, 7.0)
    token_maps(small.classify, small.trunk, small.images)
    assert (marked.grad == 7).all()


def test_frozen_parameters_give_the_same_map(small):
    free = token_maps(small.classify, small.trunk, small.images)
    small.model.requires_grad_(False)
    np.testing.assert_array_equal(token_maps(small.classify, small.trunk, small.images), free)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_still_gets_a_map(small, context):
    free = token_maps(small.classify, small.trunk, small.images)
    with context():
        images = small.images.clone()
        np.testing.assert_allclose(token_maps(small.classify, small.trunk, images), free, rtol=1e-6)


def test_the_trunk_runs_in_eval_mode_and_every_part_gets_its_own_mode_back(small):
    small.trunk.train()
    small.trunk.blocks[0].eval()
    before = {name: part.training for name, part in small.trunk.named_modules()}
    seen = []

    def classify(images: Tensor) -> Tensor:
        seen.extend(part.training for part in small.trunk.modules())
        return small.classify(images)

    token_maps(classify, small.trunk, small.images)
    assert not any(seen)
    assert {name: part.training for name, part in small.trunk.named_modules()} == before


def test_modes_and_hooks_are_restored_when_the_classifier_fails(small):
    small.trunk.train()

    def fail(images: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        token_maps(fail, small.trunk, small.images)
    assert small.trunk.training
    assert not small.trunk.blocks[-1].norm1._forward_hooks


def test_a_tower_that_is_no_vit_is_a_users_mistake_with_a_next_step():
    with pytest.raises(UserError, match=r"timm ViT.*Conv2d.*timm_model_name"):
        token_maps(lambda x: x, nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))


def test_wrong_requests_are_refused(small):
    with pytest.raises(ValueError, match="'E'"):
        token_maps(small.classify, small.trunk, small.images, "E")
    with pytest.raises(ValueError, match=r"expected \(3, 4\)"):
        token_maps(lambda x: small.classify(x)[:, :2], small.trunk, small.images)

    @torch.no_grad()
    def without_gradients(images: Tensor) -> Tensor:
        return small.classify(images)

    with pytest.raises(ValueError, match="gradients"):
        token_maps(without_gradients, small.trunk, small.images)
