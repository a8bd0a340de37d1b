import pytest

from densityclip.errors import UserError
from densityclip.model.prompts import DEFAULT_PROMPTS, Prompts


def test_captions_of_a_modality_name_it_and_plain_ones_name_none():
    words = DEFAULT_PROMPTS.modalities
    for category in "ABCD":
        assert all(words["DBT"] in text for text in DEFAULT_PROMPTS.captions(category, "DBT"))
        plain = DEFAULT_PROMPTS.captions(category, "plain")
        assert not any(word in text for text in plain for word in words.values())


def test_no_caption_serves_two_categories():
    captions = [text for c in "ABCD" for m in ("plain", "DM", "s2D", "DBT") for text in DEFAULT_PROMPTS.captions(c, m)]
    assert len(captions) == len(set(captions))


def test_prompts_survive_the_round_trip_through_json():
    assert Prompts.from_dict(DEFAULT_PROMPTS.to_dict()).to_dict() == DEFAULT_PROMPTS.to_dict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plain": ["no placeholder"]}, "lacks {density}"),
        ({"worded": ["{density} only"]}, "lacks {modality}"),
        ({"densities": {"A": ["x"]}}, "category B has no wording"),
        ({"surprise": 1}, "keys"),
    ],
)
def test_incomplete_prompts_say_what_is_missing(change: dict, says: str):
    with pytest.raises(UserError, match=says):
        Prompts.from_dict(DEFAULT_PROMPTS.to_dict() | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"densities": ["fatty"]}, "words by name"),
        ({"densities": dict.fromkeys("ABCD", 3)}, "densities A of the prompts is neither"),
        ({"plain": ["mammogram, {density}, {view}"]}, "more in braces"),
        ({"plain": ["mammogram, {density}, {"]}, "more in braces"),
    ],
)
def test_a_prompts_file_of_another_form_is_told(change: dict, says: str):
    with pytest.raises(UserError, match=says):
        Prompts.from_dict(DEFAULT_PROMPTS.to_dict() | change)


def test_a_lone_text_is_one_wording():
    words = {"A": "fatty", "B": "scattered", "C": "heterogeneous", "D": "extreme"}
    prompts = Prompts.from_dict(DEFAULT_PROMPTS.to_dict() | {"densities": words})
    assert prompts.densities["A"] == ("fatty",)
