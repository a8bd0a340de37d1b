"""What is found in a folder: everything, once, in one order; what cannot be looked into is said."""

import os
from pathlib import Path

import polars as pl
import pytest
from header_samples import write_view

from densityclip.datasets.contract import Request, collect
from densityclip.datasets.dicom_folder import candidates, list_files
from densityclip.errors import UserError


def names(source: Path) -> list[str]:
    return [os.path.relpath(path, source) for path in list_files(source)["path"]]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_files_of_all_depths_come_in_one_order_whatever_the_system_lists_first(tmp_path) -> None:
    touch(*(tmp_path / name for name in ("b/2", "b/1", "a", "c/d/e/f", "B")))
    assert names(tmp_path) == sorted(names(tmp_path)) == ["B", "a", "b/1", "b/2", "c/d/e/f"]


def test_links_are_followed_once_and_never_in_a_circle(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    source = tmp_path / "in"
    touch(elsewhere / "x", source / "sub" / "y")
    (source / "a_linked").symlink_to(elsewhere)
    (source / "again").symlink_to(elsewhere)
    (source / "sub" / "up").symlink_to(source)
    (source / "self").symlink_to(source / "self")
    (source / "file").symlink_to(source / "sub" / "y")
    assert names(source) == ["a_linked/x", "file", "self", "sub/y"]


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path) -> None:
    write_view(tmp_path / "ok", "P")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    result = collect(candidates(Request(source=tmp_path)))
    assert (result.index.height, result.excluded["reason"].to_list()) == (1, ["missing_file"])


def test_a_folder_that_cannot_be_opened_is_a_row_and_a_note(tmp_path, monkeypatch) -> None:
    write_view(tmp_path / "ok" / "1", "P")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        # The tests may run as a user to whom nothing is closed.
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = collect(candidates(Request(source=tmp_path)))
    assert result.index.height == 1
    assert result.excluded.select("path", "reason").row(0) == (str(tmp_path / "closed"), "unreadable_folder")
    notes = [note for note in result.notes if "could not be opened" in note]
    assert len(notes) == 1
    assert notes[0].startswith("1 folders")
    assert str(tmp_path) not in notes[0]


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_a_file_whose_name_is_no_text_is_a_row_with_the_way_out(tmp_path) -> None:
    write_view(tmp_path / "ok", "P")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = collect(candidates(Request(source=tmp_path)))
    assert result.index.height == 1
    assert result.excluded["detail"].to_list() == ["the file's name is no UTF-8 text; rename it"]


def test_side_cars_and_hidden_folders_are_passed_over_and_counted(tmp_path) -> None:
    write_view(tmp_path / "ok", "P")
    touch(tmp_path / "a.csv", tmp_path / "b.JSON", tmp_path / "DICOMDIR", tmp_path / ".snapshot" / "ok")
    result = collect(candidates(Request(source=tmp_path)))
    assert (result.index.height, result.excluded.height) == (1, 0)
    assert result.notes == ("4 files beside the images were passed over: 2 without extension, 1 .csv, 1 .json.",)


def test_one_file_is_a_folder_of_one(tmp_path) -> None:
    path = write_view(tmp_path / "one", "P")
    assert collect(candidates(Request(source=path))).index["path"].to_list() == [str(path)]
    with pytest.raises(UserError, match="does not exist"):
        list_files(tmp_path / "two")


def test_a_hundred_thousand_names_are_listed_as_text_not_as_objects(tmp_path) -> None:
    touch(*(tmp_path / str(number % 7) / str(number) for number in range(70)))
    listed = list_files(tmp_path)
    assert listed.schema == {"path": pl.String, "reason": pl.String, "detail": pl.String}
    assert listed["path"].is_sorted()
    assert listed["reason"].null_count() == 70
