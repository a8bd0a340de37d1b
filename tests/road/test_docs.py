"""What the documents say is what the program does: their commands run, their columns and keys are the code's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from densityclip.artifacts import EXCLUDED, INDEX, PREDICTIONS, SPLITS
from densityclip.records import Level, Modality, Part, Status
from densityclip.study_file import parse_study

ROOT = Path(__file__).parents[2]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    lines = [line.split("#")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines if line]


def test_make_demo_installs_the_pinned_set_and_runs_the_demo():
    (first, *_) = blocks("README.md", "sh")
    assert commands(first) == [["make", "demo"], ["make", "test"]]
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", "VENV=no-such-environment"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-m venv no-such-environment" in done.stdout
    assert "--constraint constraints.txt" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "no-such-environment/bin/densityclip demo --out demo"


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_they_stand_in_an_empty_folder(tmp_path: Path):
    workplace = tmp_path
    (hand,) = (block for block in blocks("README.md", "sh") if "densityclip phantom" in block)
    ran = []
    for command in commands(hand):
        assert command[0] == "densityclip"
        done = subprocess.run(
            [sys.executable, "-m", "densityclip.cli", *command[1:]],
            cwd=workplace,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr[-1500:])
        assert "Traceback" not in done.stderr
        ran.append(command[1])
    road = ["phantom", "index", "split", "prepare", "weights", "train", "predict", "evaluate", "predict", "explain"]
    assert ran == road
    assert len(list((workplace / "answers" / "overlays").glob("*.png"))) == 12
    assert len(list((workplace / "answers" / "exams").glob("*.json"))) == 1
    assert (workplace / "evaluation" / "report.html").is_file()
    assert (workplace / "maps" / "sheet.png").is_file()


def test_every_link_between_the_documents_leads_somewhere():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).is_file(), (document.name, target)


def test_the_contracts_page_has_the_columns_and_words_of_the_code():
    text = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    assert ", ".join(INDEX) in flat
    assert ", ".join(name for name in EXCLUDED if name not in INDEX) in flat
    assert ", ".join(SPLITS) in flat
    assert ", ".join(PREDICTIONS) in flat
    for words in (Modality, Part, Status, Level):
        assert " ".join(f"`{word.value}`" for word in words) in flat


def test_the_study_file_of_the_docs_is_one():
    (block,) = blocks("docs/study.md", "yaml")
    study = parse_study(yaml.safe_load(block), "docs/study.md")
    assert not study.generated
    assert study.primary.contrast == ("multi", "single")


def test_the_readme_names_every_command_of_the_program(densityclip):
    listed = re.findall(r"^  (\w+)  ", densityclip("--help").stdout.split("Commands:")[1], flags=re.MULTILINE)
    table = re.findall(r"^\| `densityclip (\w+)`", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(table)


def test_no_file_names_a_path_of_one_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    forbidden = re.compile(r"/root/|/home/\w")
    found = [
        name
        for name in tracked.stdout.split()
        if (ROOT / name).suffix in {".py", ".md", ".toml", ".yaml", ".txt", ".j2", ".cff"}
        and name != "tests/road/test_docs.py"
        and forbidden.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == []
