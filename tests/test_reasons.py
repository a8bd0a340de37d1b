"""The one list of reasons, and the page that is made of it."""

import re
from pathlib import Path

import pytest

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


def test_no_two_reasons_have_the_same_words() -> None:
    assert len({reason.sentence for reason in Reason}) == len(Reason)
