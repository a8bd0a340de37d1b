"""The one list of reasons, and the page that is made of it."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from densityclip.cli import app
from densityclip.reasons import Reason, as_page

PAGE = Path(__file__).parents[1] / "docs" / "reasons.md"


def test_the_page_of_reasons_says_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_page(), "write it: python -m densityclip.reasons > docs/reasons.md"


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_has_a_plain_code_a_sentence_and_a_remedy(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z][a-z_]+", reason.value)
    assert reason.name == reason.value.upper()
    for said in (reason.sentence, reason.remedy):
        assert re.fullmatch(r"[A-Z`][^|\n]+\.", said)


def options_named(remedy: str) -> list[tuple[str, str]]:
    """Each option that a remedy names, with the command that was named last before it."""
    command, found = "", []
    for quoted in re.findall(r"`([^`]+)`", remedy):
        words = quoted.split()
        command = words[1] if words[0] == "densityclip" else command
        found += [(command, word) for word in words if word.startswith("--")]
    return found


@pytest.mark.parametrize("reason", list(Reason))
def test_an_option_in_a_remedy_is_one_of_the_command_that_it_names(reason: Reason) -> None:
    commands = get_command(app).commands
    assert reason.remedy.count("--") == len(options_named(reason.remedy)), "an option stands in code style"
    for command, option in options_named(reason.remedy):
        assert command in commands, f"{option} of which command?"
        assert option in [name for param in commands[command].params for name in param.opts], (command, option)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.TIMEOUT, {"prepare", "listen", "serve"}),
        (Reason.CRASHED, {"listen", "serve"}),
        (Reason.MISSING_FILE, {"index"}),
    ],
)
def test_a_remedy_names_an_option_for_every_command_that_has_one(reason: Reason, expected: set[str]) -> None:
    assert {command for command, _ in options_named(reason.remedy)} == expected


def test_no_two_reasons_have_the_same_words() -> None:
    assert len({reason.sentence for reason in Reason}) == len(Reason)
