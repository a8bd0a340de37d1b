"""Worker processes that hang, die and are replaced: one file is lost, the rest goes on, in order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from breast_samples import drawn, index_of, write_dicom
from engine_calls import fragile

from densityclip.artifacts import read_table
from densityclip.errors import UserError
from densityclip.imaging import engine as engine_module
from densityclip.imaging.cache import Cache, build_cache
from densityclip.imaging.engine import LocalEngine, open_engine
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.worker import PreparedImage
from densityclip.reasons import Reason, Refused

RECIPE = Recipe(height=48, width=40)
NAMES = (
    *("good0", "hangs", "good1", "crashes", "good2", "good3", "once", "defect", "good4", "killed", "good5"),
    *("once-memory", "good6", "missing", "good7", "fifo", "good8"),
)
EXPECTED = {
    "hangs": Reason.TIMEOUT,
    "crashes": Reason.CRASHED,
    "killed": Reason.CRASHED,
    "defect": Reason.CRASHED,
    "missing": Reason.MISSING_FILE,
    "fifo": Reason.TIMEOUT,
}


@pytest.fixture
def archive(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{name}.dcm" for name in NAMES]
    for seed, path in enumerate(paths):
        if path.stem == "fifo":
            # Whoever opens it for reading waits for ever: a hang outside of Python, without any stand-in.
            os.mkfifo(path)
        elif path.stem != "missing":
            write_dicom(path, drawn(120, 100, seed=seed)[0])
    return paths


def strings(paths: list[Path]) -> pl.Series:
    return pl.Series([str(path) for path in paths])


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_what_hangs_or_crashes_costs_one_file_and_the_order_stays(archive, workers) -> None:
    with LocalEngine(RECIPE, workers=workers, timeout=1.5, call=fragile) as engine:
        outcomes = [timed.outcome for timed in engine.run(strings(archive))]
    found = {path.stem: one.reason for path, one in zip(archive, outcomes, strict=True) if isinstance(one, Refused)}
    assert found == EXPECTED
    for path, outcome in zip(archive, outcomes, strict=True):
        if isinstance(outcome, PreparedImage):
            assert np.array_equal(outcome.pixels[0], prepare_file(path, RECIPE)[0].pixels)
    details = {path.stem: one.detail for path, one in zip(archive, outcomes, strict=True) if isinstance(one, Refused)}
    assert "engine_calls.py" in details["defect"]
    assert "quote the file" not in details["defect"]
    assert "signal SIGSEGV" in details["crashes"]
    assert "memory" in details["killed"]


@pytest.mark.slow
def test_the_cache_names_the_file_that_crashed_and_holds_all_others(archive, tmp_path) -> None:
    index = index_of(archive)
    with LocalEngine(RECIPE, workers=2, timeout=1.5, call=fragile) as engine:
        summary = build_cache(index, tmp_path / "c", RECIPE, engine=engine)
    refused = read_table(tmp_path / "c" / "refused.parquet", "excluded")
    assert {Path(row["path"]).stem: row["reason"] for row in refused.iter_rows(named=True)} == EXPECTED
    assert summary.reasons == {"crashed": 3, "timeout": 2, "missing_file": 1}
    assert len(Cache.open(tmp_path / "c").images) == len(NAMES) - len(EXPECTED)


def test_a_run_that_is_given_up_leaves_nothing_to_the_next(archive) -> None:
    good = [path for path in archive if "good" in path.stem]
    with LocalEngine(RECIPE, workers=2) as engine:
        first = engine.run(strings(good))
        next(first)
        first.close()
        again = [timed.outcome for timed in engine.run(strings(good[::-1]))]
    assert len(again) == len(good)
    for path, outcome in zip(good[::-1], again, strict=True):
        assert np.array_equal(outcome.pixels[0], prepare_file(path, RECIPE)[0].pixels)


def test_behind_a_file_that_hangs_only_so_much_is_held_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "_HELD_BYTES", 20_000)
    paths = [tmp_path / f"{'hangs' if n == 0 else n}.dcm" for n in range(40)]
    for seed, path in enumerate(paths):
        write_dicom(path, drawn(120, 100, seed=seed)[0])
    held: list[int] = []
    answer = engine_module._Run.answer

    def watched(self, number, timed) -> None:
        answer(self, number, timed)
        held.append(self._held)

    monkeypatch.setattr(engine_module._Run, "answer", watched)
    with LocalEngine(RECIPE, workers=2, timeout=1, call=fragile) as engine:
        outcomes = [timed.outcome for timed in engine.run(strings(paths))]
    assert [isinstance(one, Refused) for one in outcomes] == [True, *[False] * 39]
    assert max(held) < 20_000 + 5 * 3_000


SCRIPT = """
import sys, time
import polars as pl
from pathlib import Path
from densityclip.imaging.engine import LocalEngine
from densityclip.imaging.recipe import Recipe
from engine_calls import fragile
with LocalEngine(Recipe(height=48, width=40), workers=2, timeout=60, call=fragile) as engine:
    run = engine.run(pl.Series(sys.argv[1:]))
    next(run)
    print("begun", flush=True)
    next(run)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_leaves_no_process_and_a_killed_parent_leaves_none_that_waits(archive, number) -> None:
    # Unguarded on purpose: a script of a user has no `if __name__ == "__main__"`.
    wanted = [path for path in archive if path.stem in ("good0", "hangs", "good1")]
    if number == signal.SIGKILL:
        # A worker in the middle of a file ends after it; none hangs here.
        wanted = [path for path in archive if "good" in path.stem] * 3
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, *map(str, wanted)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        process.wait(timeout=30)
        said = process.stderr.read()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    # The workers are silent: neither decoders nor Python write across the progress bar.
    assert b"noise" not in said
    assert said.count(b"Traceback") <= 1


def test_a_worker_that_cannot_start_is_no_fault_of_the_files(archive, monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "_START", "import a_module_that_is_not_there")
    with LocalEngine(RECIPE) as engine, pytest.raises(UserError, match=r"did not start.*a_module_that_is_not_there"):
        list(engine.run(strings(archive[:1])))


@pytest.mark.slow
def test_time_that_a_suspended_run_lost_is_held_against_no_file(archive) -> None:
    good = [path for path in archive if "good" in path.stem]
    command = [sys.executable, "-c", SUSPENDED, *map(str, good)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"begun\n"
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.stdout.read() == b"0 refused\n"


SUSPENDED = """
import sys
import polars as pl
from densityclip.imaging.engine import LocalEngine
from densityclip.imaging.recipe import Recipe
from densityclip.reasons import Refused
from engine_calls import slower
with LocalEngine(Recipe(height=48, width=40), workers=2, timeout=1.5, call=slower) as engine:
    run = engine.run(pl.Series(sys.argv[1:]))
    next(run)
    print("begun", flush=True)
    print(sum(isinstance(timed.outcome, Refused) for timed in run), "refused", flush=True)
"""


def test_unknown_engines_and_idle_options_are_refused() -> None:
    with pytest.raises(UserError, match="no engine 'spark'"):
        open_engine("spark", RECIPE)
    with pytest.raises(UserError, match="no use for an address"):
        open_engine("local", RECIPE, ray_address="auto")
