"""The cache against one-by-one preparation, and against itself after a kill."""

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
from densityclip.imaging import plan
from densityclip.imaging.cache import Cache, CacheSummary, build_cache, estimate
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe

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
def built(index, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "cache"
    build_cache(index, out, RECIPE)
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


@pytest.mark.parametrize("chunk", [1, 8])
def test_two_workers_write_the_same_files_as_one(built, index, tmp_path, chunk, monkeypatch) -> None:
    # With chunks of one there are more of them than are handed out ahead of the workers.
    monkeypatch.setattr(cache_module, "_CHUNK", chunk)
    seen: list[tuple[int, int]] = []
    summary = build_cache(index, tmp_path / "c", RECIPE, workers=2, progress=lambda *numbers: seen.append(numbers))
    assert data_of(tmp_path / "c") == data_of(built)
    assert summary == CacheSummary(images=16, rows=18, refused=2, resumed=0)
    assert seen[-1] == (18, 18)
    assert not (tmp_path / "c" / ".work").exists()


SLOW_BUILD = """
import sys, time
import polars as pl
from pathlib import Path
from densityclip.imaging import cache
from densityclip.imaging.recipe import Recipe
cache._COMMIT_EVERY = 2
whole = cache.prepare_file
def slowly(path, recipe):
    time.sleep(0.03)
    return whole(path, recipe)
cache.prepare_file = slowly
cache.build_cache(pl.read_parquet(sys.argv[1]), Path(sys.argv[2]), Recipe(height=48, width=40))
"""


def test_killed_in_the_middle_and_started_again_it_ends_with_the_same_files(built, index, tmp_path) -> None:
    index.write_parquet(tmp_path / "index.parquet")
    out = tmp_path / "cache"
    journal = out / ".work" / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(tmp_path / "index.parquet"), str(out)]) as process:
        deadline = time.monotonic() + 60
        while not (journal.is_file() and journal.stat().st_size > 300) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(out)
    # A kill may also leave half a line and a slot that is written but not yet in the journal.
    with journal.open("ab") as handle:
        handle.write(b'{"image":17,"sli')
    summary = build_cache(index, out, RECIPE)
    assert 0 < summary.resumed < 18
    assert data_of(out) == data_of(built)


@pytest.mark.parametrize("missing", [("manifest.json",), ("manifest.json", "rows.parquet", "images.npy")])
def test_killed_while_finishing_it_ends_with_the_same_files(built, index, tmp_path, missing, monkeypatch) -> None:
    from densityclip.imaging import cache

    out = tmp_path / "cache"
    step = "write_manifest" if len(missing) == 1 else "_place_images"

    def die(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache, step, die)
        with pytest.raises(KeyboardInterrupt):
            build_cache(index, out, RECIPE)
    assert all(not (out / name).exists() for name in missing)
    assert build_cache(index, out, RECIPE).resumed == 18
    assert data_of(out) == data_of(built)


def test_a_finished_cache_is_left_as_it_is(built, index) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.iterdir()}
    assert build_cache(index, built, RECIPE).rows == 18
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


def test_the_estimate_is_the_size_on_disk_within_a_tenth(index, tmp_path, files) -> None:
    good = index_of(files[5:15])
    recipe = Recipe(height=200, width=200)
    expected = estimate(good, recipe)
    build_cache(good, tmp_path / "c", recipe)
    size = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    assert abs(expected.bytes - size) < 0.1 * size
    assert expected.seconds > 0


def test_all_refused_and_no_images_are_mistakes_of_the_user(files, tmp_path) -> None:
    with pytest.raises(UserError, match="every image was refused"):
        build_cache(index_of(files[3:5]), tmp_path / "a", RECIPE)
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


def test_an_index_that_promises_more_frames_than_the_file_holds_is_a_refusal(files, tmp_path) -> None:
    build_cache(index_of([files[0], files[1]], [1, 30]), tmp_path / "c", RECIPE)
    assert read_table(tmp_path / "c" / "refused.parquet", "excluded")["reason"].to_list() == ["bad_header"]
    assert Cache.open(tmp_path / "c").images.shape == (1, 48, 40)
