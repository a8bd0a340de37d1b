"""Figures are images, the same bytes for the same data, in distinct fixed colours."""

import io

import polars as pl
import pytest
from PIL import Image

from densityclip.evaluation.figures import (
    MODALITY_COLOURS,
    Dot,
    arm_colours,
    confusion_figure,
    dot_figure,
    roc_figure,
    training_figure,
)

CONFUSION = [[5, 1, 0, 0], [2, 8, 3, 0], [0, 0, 0, 0], [0, 0, 4, 9]]


def test_the_same_data_gives_the_same_bytes():
    assert confusion_figure(CONFUSION) == confusion_figure(CONFUSION)


@pytest.mark.parametrize("image_format, start", [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_is_what_was_asked_for(image_format, start):
    assert confusion_figure(CONFUSION, image_format=image_format).startswith(start)


def test_a_confident_cell_is_darker_than_an_empty_one():
    image = Image.open(io.BytesIO(confusion_figure([[9, 0, 0, 0]] * 4, image_format="png"))).convert("L")
    colours = image.getcolors(image.width * image.height)
    assert min(level for count, level in colours if count > 2000) < 100


def test_missing_values_draw_no_dot_and_no_error():
    dots = [Dot("S · DM", "a", {"macro_auc": (None, None, None)}), Dot("S · DM", "b", {"macro_auc": (0.7, None, None)})]
    assert dot_figure(dots, ["a", "b"], ["macro_auc"]).startswith(b"<?xml")
    assert roc_figure({}, {"A": None}).startswith(b"<?xml")


def test_training_curves_survive_nan_and_unknown_names():
    table = pl.DataFrame(
        {"step": [1, 2, 1], "name": ["train/loss", "train/loss", "odd/DM"], "value": [1.0, float("nan"), 2.0]}
    )
    assert training_figure({"a": table}).startswith(b"<?xml")


def test_an_arm_keeps_its_colour_in_any_order():
    assert arm_colours(["single", "multi"]) == arm_colours(["multi", "single"])


def test_no_colour_stands_for_two_things():
    arms = arm_colours([f"arm{k}" for k in range(6)])
    both = [*arms.values(), *MODALITY_COLOURS.values()]
    assert len(set(both)) == len(both)
