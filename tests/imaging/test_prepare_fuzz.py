"""Damaged files of every kind: each ends as a prepared image or as a refusal with a reason, and none takes all with it.

By hand, 2026-11-23: the 20,000 of `pytest -m long tests/imaging/test_prepare_fuzz.py`, and 60,000 more, none astray.
"""

import os
import subprocess
import sys
from pathlib import Path

import fuzzing
import pytest

from densityclip.reasons import Reason

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    fuzzing.write_whole_files(path / "whole")
    return path


def outcomes(folder: Path, first: int, count: int) -> dict[int, str]:
    """Prepare damaged files in a process of its own, with a limit of memory and of time; outcome by number."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "imaging"))),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, fuzzing.__file__, str(folder), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith(("start ", "end "))]
    ended = {int(line[1]): line[2] for line in lines if line[0] == "end"}
    begun = [int(line[1]) for line in lines if line[0] == "start"]
    assert done.returncode == 0, f"file {begun[-1:]} ended the process: {done.returncode}\n{done.stderr[-3000:]}"
    assert list(ended) == list(range(first, first + count))
    return ended


def check(ended: dict[int, str]) -> None:
    known = {"prepared", *(reason.value for reason in Reason)}
    wrong = {number: outcome for number, outcome in ended.items() if outcome not in known}
    assert not wrong, "\n".join(f"{number}: {outcome[-1500:]}" for number, outcome in list(wrong.items())[:5])


def test_damaged_files_end_prepared_or_refused(folder) -> None:
    ended = outcomes(folder, 0, 60)
    check(ended)
    assert len(set(ended.values())) > 4


@pytest.mark.slow
def test_hundreds_of_damaged_files_end_prepared_or_refused(folder) -> None:
    check(outcomes(folder, 60, 900))


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_thousands_of_damaged_files_end_prepared_or_refused(folder, part) -> None:
    check(outcomes(folder, 1000 * (part + 1), 1000))


def test_the_damage_is_the_same_every_time(folder) -> None:
    wholes = [path.read_bytes() for path in sorted((folder / "whole").iterdir())]
    assert [fuzzing.damaged(wholes, number) for number in range(40)] == [
        fuzzing.damaged(wholes, number) for number in range(40)
    ]
    assert sum(fuzzing.damaged(wholes, number) == wholes[number % len(wholes)] for number in range(40)) < 8
