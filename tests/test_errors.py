"""How a user's mistake reads."""

import pytest

from densityclip.errors import UserError


@pytest.mark.parametrize(
    ("next_step", "read"),
    [
        ("give a folder of DICOM files", "Give a folder of DICOM files."),
        ("install it: pip install ray; or use --engine local", "Install it: pip install ray; or use --engine local."),
        ("EMBED's table has it", "EMBED's table has it."),
        ("excluded.parquet says why", "excluded.parquet says why."),
        ("--out names a folder", "--out names a folder."),
        ("`densityclip doctor` says more", "`densityclip doctor` says more."),
    ],
)
def test_the_next_step_is_a_sentence_and_names_of_things_stay_as_they_are(next_step: str, read: str):
    assert str(UserError("x.dcm does not exist.", next_step)) == f"x.dcm does not exist. {read}"


def test_a_next_step_can_still_be_joined_with_others():
    mistake = UserError("the disk is full", "free some space")
    assert str(UserError(mistake.fact, f"{mistake.next_step}; or choose another --out")) == (
        "the disk is full. Free some space; or choose another --out."
    )
