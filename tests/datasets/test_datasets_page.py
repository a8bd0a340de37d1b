"""The page of datasets says what the program does: its commands, options, reasons and study settings are the code's."""

import re
import shlex
from pathlib import Path

import yaml

from densityclip.datasets.registry import DATASETS
from densityclip.reasons import Reason
from densityclip.study_file import Cohort

PAGE = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
OPTIONS = {"--table": "table", "--column": "columns", "--label-map": "label_map", "--site": "site"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_every_dataset_has_a_section_a_row_and_a_command_with_its_options() -> None:
    commands = [shlex.split(block.replace("\\\n", " ")) for block in blocks("")]
    named = [words[words.index("--dataset") + 1] if "--dataset" in words else "dicom" for words in commands]
    assert sorted(named) == sorted(DATASETS)
    for words, name in zip(commands, named, strict=True):
        assert words[:2] == ["densityclip", "index"]
        used = {OPTIONS[word] for word in words if word in OPTIONS}
        assert used <= DATASETS[name].options
        assert f"| `{name}` |" in PAGE


def test_every_reason_on_the_page_is_one() -> None:
    said = set(re.findall(r"^\|[^|\n]*\| `([a-z_]+)` \|[^|\n]*\|$", PAGE, flags=re.MULTILINE))
    said |= set(re.findall(r"reason\n?\s*`([a-z_]+)`", PAGE))
    assert said >= {"male", "nonstandard_view", "missing_file", "implant"}
    assert said <= {reason.value for reason in Reason}


def test_the_cohorts_on_the_page_are_cohorts() -> None:
    (block,) = blocks("yaml")
    cohorts = {name: Cohort(**settings) for name, settings in yaml.safe_load(block)["cohorts"].items()}
    assert {name: cohort.redistribute for name, cohort in cohorts.items()} == {
        "emory": False, "hanoi": True, "clinic": None,
    }  # fmt: skip
