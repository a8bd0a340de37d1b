"""Occlusion against captum's, with the same windows and the same baseline."""

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from numpy.typing import NDArray
from small_tower import SCORES, Small
from torch import Tensor

from densityclip.explain.occlusion import occlusion_maps
from densityclip.explain.targets import TARGETS


@pytest.fixture
def small() -> Small:
    return Small()


def by_captum(small: Small, target: str, window: int, stride: int) -> NDArray[np.float32]:
    def scores(images: Tensor) -> Tensor:
        return torch.stack([SCORES[target](row) for row in small.classify(images)])

    with torch.no_grad():
        found = Occlusion(scores).attribute(
            small.images,
            sliding_window_shapes=(3, 16 * window, 16 * window),
            strides=(3, 16 * stride, 16 * stride),
            baselines=small.fat,
        )
    # captum gives every pixel of a token the same value.
    tokens = found[:, 0].unflatten(1, (10, 16)).unflatten(3, (10, 16))
    assert float((tokens - tokens.mean((2, 4), keepdim=True)).abs().max()) < 1e-5
    return tokens.mean((2, 4)).numpy()


@pytest.mark.parametrize(
    "target, window, stride",
    [("density-score", 3, 1), ("expected-density", 5, 5), ("A", 4, 3), ("C", 4, 2), ("D", 1, 1), ("B", 10, 1)],
)
def test_signed_map_is_captums_occlusion_with_fat_as_the_baseline(small, target, window, stride):
    reference = by_captum(small, target, window, stride)
    ours = occlusion_maps(
        small.classify, small.trunk, small.images, small.fat, (target,), window=window, stride=stride, signed=True
    )[target]
    assert np.abs(reference).max() > 1e-3
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-5)


def test_three_by_three_tokens_at_every_token_unless_asked_otherwise(small):
    given = occlusion_maps(small.classify, small.trunk, small.images, small.fat, window=3, stride=1)
    for target, values in occlusion_maps(small.classify, small.trunk, small.images, small.fat).items():
        np.testing.assert_array_equal(values, given[target])


def test_a_stride_that_does_not_divide_the_grid_ends_in_a_window_at_the_border(small):
    seen = []

    def classify(images: Tensor) -> Tensor:
        differs = (images != small.images).any(dim=1)[0]
        seen.append([(int(place.min()), int(place.max()) + 1) for place in differs.nonzero().T] if len(seen) else None)
        return small.classify(images)

    occlusion_maps(classify, small.trunk, small.images, small.fat, ("A",), window=4, stride=4)
    assert seen[0] is None
    ends = [(0, 64), (64, 128), (96, 160)]
    assert seen[1:] == [[rows, columns] for rows in ends for columns in ends]


def test_one_forward_pass_a_window_for_all_images_and_targets_and_none_where_nothing_would_change(small):
    calls = []

    def classify(images: Tensor) -> Tensor:
        calls.append(len(images))
        assert not torch.is_grad_enabled()
        return small.classify(images)

    whole = occlusion_maps(classify, small.trunk, small.images, small.fat, TARGETS, signed=True)
    assert calls == [3] * (1 + 8 * 8)
    # Of the air, columns 5 to 9 of the grid, nothing is left to replace: windows from column 0 to 4 remain.
    calls.clear()
    fat = small.fat.clone()
    fat[..., 80:] = small.images[..., 80:]
    partly = occlusion_maps(classify, small.trunk, small.images, fat, TARGETS, signed=True)
    assert calls == [3] * (1 + 8 * 5)
    for target in TARGETS:
        assert not partly[target][:, :, 7:].any()
        np.testing.assert_array_equal(partly[target][:, :, 0], whole[target][:, :, 0])


def test_a_window_runs_where_only_one_image_of_the_batch_would_change(small):
    alone = occlusion_maps(small.classify, small.trunk, small.images[2:], small.fat[2:], ("A",), signed=True)["A"]
    fat = torch.cat([small.images[:2], small.fat[2:]])
    found = occlusion_maps(small.classify, small.trunk, small.images, fat, ("A",), signed=True)["A"]
    assert not found[:2].any()
    np.testing.assert_allclose(found[2], alone[0], rtol=1e-3, atol=1e-5)


def test_images_and_fat_are_left_as_they_were(small):
    images, fat = small.images.clone(), small.fat.clone()
    occlusion_maps(small.classify, small.trunk, small.images, small.fat, ("A",), window=5, stride=5)
    torch.testing.assert_close(small.images, images, rtol=0, atol=0)
    torch.testing.assert_close(small.fat, fat, rtol=0, atol=0)


def test_windows_that_leave_tokens_out_and_images_of_another_size_are_refused(small):
    for window, stride in ((2, 3), (11, 1), (3, 0)):
        with pytest.raises(ValueError, match="do not cover"):
            occlusion_maps(small.classify, small.trunk, small.images, small.fat, window=window, stride=stride)
    with pytest.raises(ValueError, match=r"expected \[b, 3, 160, 160\]"):
        occlusion_maps(small.classify, small.trunk, small.images[..., :144], small.fat[..., :144])
    with pytest.raises(ValueError, match="fat of"):
        occlusion_maps(small.classify, small.trunk, small.images, small.fat[:1])
