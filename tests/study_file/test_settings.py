"""Settings on the command line: what may be written, and what is said of what may not."""

from pathlib import Path

import pytest
import yaml

from densityclip.errors import UserError
from densityclip.study_file import parse_study, read_train_config, shipped_study
from densityclip.training.config import TrainConfig


def said(*texts: str) -> UserError:
    with pytest.raises(UserError) as caught:
        read_train_config(None, list(texts))
    return caught.value


def test_an_unknown_key_is_told_with_the_nearest_known_one_first():
    error = said("learning_rat=0.1")
    assert error.fact == "training settings: learning_rat is not a setting"
    assert error.next_step.startswith("the keys are learning_rate, ")
    known = error.next_step.removeprefix("the keys are ").split(", ")
    assert sorted(known) == sorted(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps=0", "steps: Input should be greater than or equal to 1"),
        ("modalities=3", "modalities: write a list in brackets, such as [one, two], or [] for none"),
        ("modalities=[DM, DMM]", "modalities: modalities must be distinct words of DM, s2D, DBT"),
        ("fixed_modality_weights=DM", "fixed_modality_weights: write it as DM:1,s2D:2,DBT:1"),
        ("steps=60", "training settings: steps (60) must be a multiple of validate_every (50)"),
    ],
)
def test_a_wrong_value_is_told_without_a_list_of_all_keys(text: str, says: str):
    error = said(text)
    assert says in error.fact
    assert "study:" not in error.fact
    assert "learning_rate" not in str(error)
    assert error.next_step == "correct them with --set key=value, or in the file of --config"


@pytest.mark.parametrize("text", ["modalities=DM", "modalities=[DM]", "modalities=DM,s2D", "modalities=[DM, s2D]"])
def test_a_list_of_words_needs_no_brackets(text: str):
    wanted = ("DM", "s2D") if "s2D" in text else ("DM",)
    assert read_train_config(None, [text]).modalities == wanted


@pytest.mark.parametrize("value", ["{DM: 1, s2D: 2, DBT: 1}", "{DM:1,s2D:2,DBT:1}", "DM:1,s2D:2,DBT:1"])
def test_weights_by_name_are_read_with_and_without_spaces_and_braces(value: str):
    config = read_train_config(None, ["modality_weights=fixed", f"fixed_modality_weights={value}"])
    assert config.fixed_modality_weights == {"DM": 1.0, "s2D": 2.0, "DBT": 1.0}


def test_a_warm_up_that_never_ends_is_refused_and_the_default_follows_a_short_training():
    assert (
        "warmup_steps (40) must be less than the steps (40)"
        in said("steps=40", "validate_every=20", "warmup_steps=40").fact
    )
    both = said("steps=40", "validate_every=20", "adaptation=lp-ft", "warmup_steps=35")
    assert "the steps (30 after the probe's 10)" in both.fact
    assert read_train_config(None, ["steps=40", "validate_every=20"]).warmup_steps == 10
    assert read_train_config(None, []).warmup_steps == 40
    assert TrainConfig(steps=1, validate_every=1).warmup_steps == 0


def test_what_was_resolved_is_read_back_as_it_is():
    config = read_train_config(None, ["steps=40", "validate_every=20", "modalities=DM"])
    assert TrainConfig(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 2])
def test_a_miniature_of_a_study_warms_up_for_a_part_of_its_steps(share: float):
    demo = shipped_study("demo")
    content = demo.model_dump(mode="json")
    content["training"]["warmup_steps"] = 200
    for study in (demo, parse_study(content, "demo")):
        for member in study.scaled(share).members():
            config = study.scaled(share).train_config(member)
            assert config.warmup_steps <= max(1, config.steps // 4)


def test_a_study_names_its_unknown_key_and_the_arm_of_a_wrong_setting(tmp_path: Path):
    content = shipped_study("demo").model_dump(mode="json")
    with pytest.raises(UserError, match="cohort is not a setting") as caught:
        parse_study(content | {"cohort": {}}, "mine.yaml")
    assert caught.value.next_step.startswith("the keys of a study are cohorts, ")
    content["arms"]["multi"]["training"] = {"stpes": 3}
    with pytest.raises(UserError, match="arm multi: stpes is not a setting") as caught:
        parse_study(yaml.safe_load(yaml.safe_dump(content)), "mine.yaml")
    assert "\n" not in str(caught.value)
