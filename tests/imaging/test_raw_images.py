"""For Processing images against For Presentation ones of the same drawn attenuation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densityclip.dicom.pixels import read_frames
from densityclip.errors import UserError
from densityclip.imaging.prepare import display_image, prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.reasons import Reason, Refused
from raw_exams import HIGHEST, attenuation, write_raw, write_screen

SCREEN = Recipe(height=96, width=80)
RAW = SCREEN.with_overrides(["recipe.intent=for-processing"])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("relationship", ["LIN", "LOG"])
def test_linear_and_logarithmic_values_of_either_sign_show_the_same_attenuation(
    tmp_path, relationship, sign, photometric
) -> None:
    tissue = attenuation()
    shown = prepare_file(write_screen(tmp_path / "screen", tissue), SCREEN)[0]
    # Neither the polarity nor a window that someone left in the header is about the exposure.
    raw = write_raw(tmp_path / "raw", tissue, relationship, sign, PhotometricInterpretation=photometric,
                    WindowCenter="100", WindowWidth="50")  # fmt: skip
    prepared = prepare_file(raw, RAW)[0]
    assert prepared.geometry == shown.geometry
    assert np.array_equal(prepared.mask, shown.mask)
    difference = np.abs(prepared.pixels.astype(int) - shown.pixels)[shown.mask]
    # Resampling by a mean comes after the logarithm; 14 bits of exposure are some 0.1% of it.
    assert (int(difference.max()), float(difference.mean()) < 0.5) <= (2, True)


def test_the_attenuation_is_the_negative_logarithm_of_the_exposure(tmp_path) -> None:
    tissue = attenuation()
    with read_frames(write_raw(tmp_path / "raw", tissue, PixelPaddingValue=7)) as reader:
        table, counts = reader.table(0), reader.raw_frame(0)
    assert (table[HIGHEST], table[1], table[0], table[7]) == (0, 1, 1, 0)
    np.testing.assert_allclose(table[counts], 1 - np.log(counts) / np.log(HIGHEST), atol=1e-6)
    assert np.array_equal(display_image(tmp_path / "raw", prepare_file(tmp_path / "raw", RAW)[0].slab), table[counts])


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"PixelIntensityRelationship": None}, "PixelIntensityRelationship is missing"),
        ({"PixelIntensityRelationship": "DISP"}, "PixelIntensityRelationship is DISP"),
        ({"PixelIntensityRelationshipSign": None}, "Sign is missing"),
        ({"PixelIntensityRelationshipSign": 2}, "Sign is 2"),
    ],
)
def test_what_is_not_said_of_the_exposure_is_not_guessed(tmp_path, attributes, said) -> None:
    with pytest.raises(Refused, match=said) as refused:
        prepare_file(write_raw(tmp_path / "raw", attenuation(), **attributes), RAW)
    assert refused.value.reason is Reason.BAD_HEADER


def test_each_recipe_refuses_the_images_of_the_other(tmp_path: Path) -> None:
    raw, screen = write_raw(tmp_path / "raw", attenuation()), write_screen(tmp_path / "screen", attenuation())
    picture = tmp_path / "picture.png"
    Image.fromarray(np.rint(attenuation() * 255).astype(np.uint8)).save(picture)
    for path, recipe, reason in (
        (raw, SCREEN, Reason.FOR_PROCESSING),
        (screen, RAW, Reason.FOR_PRESENTATION),
        (picture, RAW, Reason.FOR_PRESENTATION),
    ):
        with pytest.raises(Refused) as refused:
            prepare_file(path, recipe)
        assert refused.value.reason is reason


def test_recipes_without_raw_images_keep_the_hashes_that_they_had_before_there_were_any() -> None:
    # Written down at the commit before the key `intent` came.
    assert (Recipe().recipe_hash, Recipe().sized(160).recipe_hash) == ("ed512f83061d5a62", "02d2fb2aebcdb7cf")
    assert RAW.recipe_hash != SCREEN.recipe_hash
    assert Recipe.from_dict(RAW.to_dict()) == RAW
    assert Recipe.from_dict(SCREEN.to_dict()) == SCREEN


@pytest.mark.parametrize("wrong", [["intent=for-processing", "intensity=window"], ["intent=raw"]])
def test_a_recipe_that_means_nothing_for_raw_images_is_not_valid(wrong) -> None:
    with pytest.raises(UserError, match="not valid"):
        Recipe().with_overrides(wrong)
