"""Prepared pixels of every depth mean the same to the model."""

import numpy as np
import torch

from densityclip.model.classifier import grey_levels, normalise


def test_white_is_one_and_black_is_zero_at_every_depth() -> None:
    for dtype in (np.uint8, np.uint16):
        white = np.iinfo(dtype).max
        pixels = torch.from_numpy(np.array([[0, white // 5, white]], dtype=dtype))
        assert grey_levels(pixels).dtype == torch.float32
        torch.testing.assert_close(grey_levels(pixels), torch.tensor([[0.0, 0.2, 1.0]]))


def test_grey_levels_are_taken_as_they_are() -> None:
    grey = torch.rand(2, 3)
    assert grey_levels(grey) is grey


def test_the_tower_is_given_the_same_whatever_the_depth() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 5, 4))
    how = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    of_eight = normalise(torch.from_numpy(levels.astype(np.uint8)), how)
    of_sixteen = normalise(torch.from_numpy((levels * 257).astype(np.uint16)), how)
    torch.testing.assert_close(of_eight, of_sixteen)
    torch.testing.assert_close(of_eight[:, 1], torch.from_numpy(levels / 255 / 0.3 - 0.4 / 0.3).float())
