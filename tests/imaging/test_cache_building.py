"""The cache against one-by-one preparation, and against itself after a kill."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from breast_samples import drawn, index_of, write_dicom, write_png

from densityclip.artifacts import read_table
from densityclip.errors import UserError
from densityclip.imaging import cache as cache_module
from densityclip.imaging import plan, unfinished
from densityclip.imaging.cache import Cache, CacheSummary, build_cache, estimate
from densityclip.imaging.engine import LocalEngine
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.plan import make_plan
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.worker import PreparedImage, Timed

RECIPE = Recipe(height=48, width=40)
DATA_FILES = ("images.npy", "rows.parquet", "refused.parquet", "recipe.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Twenty files: DICOM, a volume, PNG, and two that are broken."""
    folder = tmp_path_factory.mktemp("files")
    paths = [write_dicom(folder / f"{n:02d}.dcm", drawn(120, 100, seed=n)[0]) for n in range(14)]
    volume = np.stack([drawn(120, 100, seed=n)[0] for n in range(5)])
    paths.append(write_dicom(folder / "volume.dcm", volume))
    (folder / "broken.dcm").write_bytes(paths[0].read_bytes()[:3000])
    (folder / "text.png").write_text("no image")
    paths[3:3] = [folder / "broken.dcm", folder / "text.png"]
    return [*paths, write_png(folder / "a.png", drawn(120, 100, seed=50)[0])]


@pytest.fixture(scope="module")
def index(files) -> pl.DataFrame:
    return index_of(files, [None if path.name == "volume.dcm" else 1 for path in files])


@pytest.fixture(scope="module")
def engine():
    """One worker, kept for all caches of `RECIPE`: starting it is most of the time of a small one."""
    with LocalEngine(RECIPE) as one:
        yield one


@pytest.fixture(scope="module")
def built(index, tmp_path_factory, engine) -> Path:
    out = tmp_path_factory.mktemp("built") / "cache"
    build_cache(index, out, RECIPE, engine=engine)
    return out


def data_of(cache: Path) -> dict[str, bytes]:
    return {name: (cache / name).read_bytes() for name in DATA_FILES}


def test_row_n_of_the_table_is_image_n_and_equals_one_by_one_preparation(built, index) -> None:
    cache = Cache.open(built)
    assert cache.recipe == RECIPE
    assert cache.rows["row"].to_list() == list(range(len(cache.images)))
    assert cache.rows["image_id"].unique().len() == 16
    for row in cache.rows.iter_rows(named=True):
        prepared = {one.slice_index: one for one in prepare_file(Path(row["path"]), RECIPE)}[row["slice_index"]]
        assert np.array_equal(cache.images[row["row"]], prepared.pixels)
        stored = {name.removeprefix("geometry_"): row[name] for name in row if name.startswith("geometry_")}
        assert Geometry(**stored) == prepared.geometry


def test_a_bad_image_is_a_row_with_its_reason_and_the_rest_goes_on(built, index) -> None:
    refused = read_table(built / "refused.parquet", "excluded")
    assert dict(zip(refused["image_id"], refused["reason"], strict=True)) == {
        "image003": "truncated",
        "image004": "unreadable",
    }
    assert set(index["image_id"]) == set(refused["image_id"]) | set(Cache.open(built).rows["image_id"])


def test_two_workers_write_the_same_files_as_one(built, index, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    summary = build_cache(index, tmp_path / "c", RECIPE, workers=2, progress=lambda *numbers: seen.append(numbers))
    assert data_of(tmp_path / "c") == data_of(built)
    reasons = {"truncated": 1, "unreadable": 1}
    assert summary == CacheSummary(images=16, rows=18, refused=2, resumed=0, reasons=reasons)
    assert seen == [(done, 18) for done in range(19)]
    assert not (tmp_path / "c" / ".work").exists()


SLOW_BUILD = """
import sys
import polars as pl
from pathlib import Path
from densityclip.imaging import cache
from densityclip.imaging.engine import LocalEngine
from densityclip.imaging.recipe import Recipe
from engine_calls import slowly
cache._COMMIT_IMAGES = 2
recipe = Recipe(height=48, width=40)
with LocalEngine(recipe, call=slowly, workers=2) as engine:
    cache.build_cache(pl.read_parquet(sys.argv[1]), Path(sys.argv[2]), recipe, engine=engine)
"""


def test_killed_in_the_middle_and_started_again_it_ends_with_the_same_files(built, index, tmp_path, engine) -> None:
    index.write_parquet(tmp_path / "index.parquet")
    out = tmp_path / "cache"
    journal = out / ".work" / "journal.bin"
    command = [sys.executable, "-c", SLOW_BUILD, str(tmp_path / "index.parquet"), str(out)]
    places = os.pathsep.join(sys.path)
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": places}) as process:
        deadline = time.monotonic() + 60
        while not (journal.is_file() and journal.stat().st_size > 300) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(out)
    summary = build_cache(index, out, RECIPE, engine=engine)
    assert 0 < summary.resumed < 18
    assert data_of(out) == data_of(built)


class Killed(BaseException):
    """A stand-in for SIGKILL at a chosen line."""


def killed_at(module: object, step: str, index: pl.DataFrame, out: Path, engine: LocalEngine, monkeypatch) -> None:
    def die(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(module, step, die)
        with pytest.raises(Killed):
            build_cache(index, out, RECIPE, engine=engine)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_a_power_cut_leaves_of_the_working_files_the_end_is_the_same(
    built, index, tmp_path, engine, seed, monkeypatch
) -> None:
    out = tmp_path / "cache"
    killed_at(cache_module, "_finish", index, out, engine, monkeypatch)
    work, draw = out / ".work", np.random.default_rng(seed)
    # Any part of the journal may not have reached the disk, or as zeros; of the images, more or less than it tells of.
    journal, images = work / "journal.bin", work / "images.npy"
    os.truncate(journal, int(draw.integers(0, journal.stat().st_size + 1)))
    for file in (journal, images):
        with file.open("ab") as handle:
            handle.write(bytes(int(draw.choice([0, 7, 640]))))
    if seed % 2:
        os.truncate(images, int(draw.integers(128, images.stat().st_size + 1)))
    summary = build_cache(index, out, RECIPE, engine=engine)
    assert summary.resumed <= 18
    assert data_of(out) == data_of(built)


@pytest.mark.parametrize("step", ["write_table", "_rows", "write_json", "write_manifest"])
def test_killed_while_finishing_it_ends_with_the_same_files(built, index, tmp_path, step, engine, monkeypatch) -> None:
    out = tmp_path / "cache"
    killed_at(cache_module, step, index, out, engine, monkeypatch)
    assert not (out / "manifest.json").exists()
    assert build_cache(index, out, RECIPE, engine=engine).resumed == 18
    assert data_of(out) == data_of(built)


def test_a_full_disk_is_said_and_finished_work_is_kept(built, index, tmp_path, engine, monkeypatch) -> None:
    out, whole, calls = tmp_path / "cache", os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "_COMMIT_IMAGES", 4)
        patched.setattr(unfinished.os, "fsync", full)
        with pytest.raises(UserError, match="disk is full"):
            build_cache(index, out, RECIPE, engine=engine)
    assert 4 <= build_cache(index, out, RECIPE, engine=engine).resumed < 18
    assert data_of(out) == data_of(built)


def test_two_runs_on_one_cache_do_not_write_into_each_other(index, tmp_path, engine) -> None:
    out, said = tmp_path / "cache", []

    def second(done: int, total: int) -> None:
        if done == 3:
            with pytest.raises(UserError, match="another run is at work"):
                build_cache(index, out, RECIPE, engine=engine)
            said.append(done)

    build_cache(index, out, RECIPE, engine=engine, progress=second)
    assert said == [3]


def test_an_archive_that_goes_missing_stops_the_run_and_is_tried_again(files, tmp_path, engine, monkeypatch) -> None:
    monkeypatch.setattr(cache_module, "_MISSING_IN_A_ROW", 5)
    monkeypatch.setattr(cache_module, "_COMMIT_IMAGES", 1)
    archive = tmp_path / "archive"
    archive.mkdir()
    paths = [shutil.copy(files[place], archive / f"{place}.dcm") for place in (0, 1, 2, 5, 6, 7, 8, 9)]
    index, out = index_of(paths), tmp_path / "c"
    away = tmp_path / "away"
    away.mkdir()
    for path in paths[2:]:
        shutil.move(path, away)
    with pytest.raises(UserError, match="5 files in a row are missing, after 2 of 8 images"):
        build_cache(index, out, RECIPE, engine=engine)
    for path in away.iterdir():
        shutil.move(path, archive)
    summary = build_cache(index, out, RECIPE, engine=engine)
    assert (summary.resumed, summary.images) == (2, 8)


def test_sixteen_bits_are_kept_where_the_recipe_asks_for_them(files, tmp_path) -> None:
    recipe = Recipe(height=40, width=48, depth="uint16")
    build_cache(index_of([files[0], files[1]]), tmp_path / "c", recipe)
    cache = Cache.open(tmp_path / "c")
    assert cache.images.dtype == np.uint16
    assert np.array_equal(cache.images[1], prepare_file(files[1], recipe)[0].pixels)
    assert cache.images.max() > 255


def test_a_cache_in_memory_is_the_same_cache(built) -> None:
    mapped, loaded = Cache.open(built), Cache.open(built).in_memory()
    assert not isinstance(loaded.images, np.memmap)
    assert np.array_equal(loaded.images, mapped.images)
    assert loaded.rows.equals(mapped.rows)


def test_a_finished_cache_is_left_as_it_is(built, index, engine) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.iterdir()}
    said: list[str] = []
    summary = build_cache(index, built, RECIPE, engine=engine, announce=said.append)
    assert (summary.rows, summary.reasons, said) == (18, {"truncated": 1, "unreadable": 1}, [])
    assert {path: path.stat().st_mtime_ns for path in built.iterdir()} == before


def test_a_cache_of_another_recipe_or_index_is_refused_naming_both_hashes(built, index) -> None:
    other = Recipe(height=64, width=40)
    with pytest.raises(UserError) as error:
        build_cache(index, built, other)
    assert RECIPE.recipe_hash in str(error.value)
    assert other.recipe_hash in str(error.value)
    with pytest.raises(UserError, match="another index"):
        build_cache(index.head(5), built, RECIPE)


def test_a_disk_that_is_too_small_is_said_before_starting(index, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match="free"):
        build_cache(index, tmp_path / "c", RECIPE)
    assert not (tmp_path / "c").exists()


def test_the_estimate_is_the_size_on_disk_within_a_tenth(tmp_path, files, engine) -> None:
    good = index_of(files[5:15])
    recipe = Recipe(height=200, width=200)
    expected = estimate(make_plan(good, recipe), tmp_path / "c", engine)
    build_cache(good, tmp_path / "c", recipe)
    size = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    assert abs(expected.bytes - size) < 0.1 * size
    assert expected.seconds > 0


class Clocked:
    """An engine that takes a known time for each file, by the modality in its name."""

    workers = 4

    def run(self, paths: pl.Series):
        for path in paths:
            good = PreparedImage(np.zeros((1, 8, 8), np.uint8), np.zeros((1, 14), np.int32))
            yield Timed(good, {"DM": 0.1, "DBT": 5.0}[path.split("-")[-1]])


def test_the_time_counts_each_modality_by_its_share(tmp_path) -> None:
    kinds = ["DBT" if place % 50 == 7 else "DM" for place in range(5000)]
    index = index_of([tmp_path / f"{n}-{kind}" for n, kind in enumerate(kinds)])
    index = index.with_columns(pl.Series("modality", kinds))
    plan_ = make_plan(index, RECIPE)
    said = estimate(plan_, tmp_path, Clocked())
    assert said.seconds == pytest.approx((4900 * 0.1 + 100 * 5.0) / 4)
    half = estimate(plan_, tmp_path, Clocked(), done=2500)
    assert half.seconds == pytest.approx((2450 * 0.1 + 50 * 5.0) / 4)
    assert (half.images, half.bytes) == (2500, round(said.bytes / 2))
    assert "4 workers" in said.sentence()


def test_a_volume_without_a_stated_length_is_not_taken_for_one_image(tmp_path) -> None:
    index = index_of([tmp_path / "a", tmp_path / "b"], [None, 1])
    as_image, as_volume = (make_plan(index.with_columns(modality=pl.Series([m, "DM"])), RECIPE) for m in ("DM", "DBT"))
    assert as_volume.bytes - as_image.bytes == pytest.approx(2 * RECIPE.height * RECIPE.width, abs=50)
    assert list(as_volume.slots) == [0, 1]


def test_relative_paths_start_at_the_given_folder(files, tmp_path) -> None:
    index = index_of([Path(files[0].name), files[1]])
    assert list(make_plan(index, RECIPE, files[0].parent).paths) == [str(files[0]), str(files[1])]


def test_all_refused_and_no_images_are_mistakes_of_the_user(files, tmp_path, engine) -> None:
    with pytest.raises(UserError, match="every image was refused"):
        build_cache(index_of(files[3:5]), tmp_path / "a", RECIPE, engine=engine)
    assert read_table(tmp_path / "a" / "refused.parquet", "excluded").height == 2
    with pytest.raises(UserError, match="no images"):
        build_cache(index_of([]), tmp_path / "b", RECIPE)


def test_a_damaged_or_missing_cache_is_said_in_one_sentence(built, tmp_path) -> None:
    with pytest.raises(UserError, match="holds no cache"):
        Cache.open(tmp_path)
    damaged = shutil.copytree(built, tmp_path / "damaged")
    (damaged / "images.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        Cache.open(damaged)
    recipe = json.loads((built / "recipe.json").read_text())
    (damaged / "recipe.json").write_text(json.dumps(recipe | {"colour": "red"}))
    with pytest.raises(UserError, match="colour"):
        Cache.open(damaged)


def test_an_index_that_promises_more_frames_than_the_file_holds_is_a_refusal(files, tmp_path, engine) -> None:
    build_cache(index_of([files[0], files[1]], [1, 30]), tmp_path / "c", RECIPE, engine=engine)
    assert read_table(tmp_path / "c" / "refused.parquet", "excluded")["reason"].to_list() == ["bad_header"]
    assert Cache.open(tmp_path / "c").images.shape == (1, 48, 40)
