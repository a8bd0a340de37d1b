"""The command `prepare` as a user sees it: the estimate first, the counts of refusals last, and what a stop says."""

import re
from pathlib import Path

import pytest
from breast_samples import drawn, index_of, write_dicom

from densityclip.artifacts import write_table
from densityclip.imaging.cache import Cache


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    paths = [write_dicom(folder / f"{n}.dcm", drawn(120, 100, seed=n)[0]) for n in range(6)]
    paths[1].write_bytes(paths[1].read_bytes()[:3000])
    paths[3].write_bytes(b"")
    paths[4].write_bytes(b"<html>not found</html>" * 50)
    write_table(index_of(paths), folder / "index.parquet", "index")
    return folder


def test_it_says_first_how_large_and_how_long_and_last_what_was_refused_and_why(densityclip, index, tmp_path) -> None:
    done = densityclip("prepare", index, "--out", tmp_path / "c", "--size", "32", "--set", "recipe.depth=uint16")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    first, last = done.stdout.splitlines()
    pattern = (
        r"6 images, \d+ kB on the disk, where [\d.]+ [GT]B are free\. About \d+ s with 1 worker, measured on 4 of .*"
    )
    assert re.fullmatch(pattern, first)
    assert last.startswith("3 images prepared, 3 refused (")
    assert {"1 empty_file", "1 truncated", "1 unreadable"} <= set(re.split(r"[(,;] ?", last))
    assert Cache.open(tmp_path / "c").images.dtype == "uint16"
    again = densityclip("prepare", index, "--out", tmp_path / "c", "--size", "32", "--set", "recipe.depth=uint16")
    assert again.stdout.splitlines() == [last]


def test_engines_and_their_options_are_checked_before_anything_starts(densityclip, index, tmp_path) -> None:
    for options, said in ((("--engine", "spark"), "no engine 'spark'"), (("--ray-address", "auto"), "no use for")):
        done = densityclip("prepare", index, "--out", tmp_path / "c", *options)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "c").exists()


def test_the_sizes_in_the_documents_are_those_of_the_recipe() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cache.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (\d+) x \d+ \| ([\d.]+) GB \| ([\d.]+) GB \|$", text, flags=re.MULTILINE)
    assert [int(size) for size, _, _ in lines] == [224, 288, 448]
    for size, small, large in lines:
        assert (small, large) == (f"{int(size) ** 2 / 1e4:.1f}", f"{int(size) ** 2 / 5e3:.1f}")
