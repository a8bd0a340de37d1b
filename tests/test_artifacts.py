"""The files between steps: whole or not there, of one kind and version, and never more than was put in."""

import errno
import json
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densityclip import artifacts
from densityclip.artifacts import (
    SCHEMAS,
    atomic_path,
    check_folder,
    conform,
    disk_error,
    file_stem,
    hash_bytes,
    hash_json,
    hash_table,
    read_json,
    read_table,
    write_json,
    write_manifest,
    write_table,
)
from densityclip.errors import UserError


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_a_table_without_rows_stays_without_rows(kind: str, tmp_path: Path):
    assert conform(pl.DataFrame(), kind).shape == (0, len(SCHEMAS[kind]))
    write_table(pl.DataFrame(), tmp_path / "t.parquet", kind)
    assert read_table(tmp_path / "t.parquet", kind).schema == pl.Schema(SCHEMAS[kind])


def test_a_table_comes_back_as_it_was_with_absent_columns_null(tmp_path: Path):
    table = pl.DataFrame({"patient_id": ["a", "b"], "part": ["train", "test"]})
    write_table(table, tmp_path / "splits.parquet", "splits")
    back = read_table(tmp_path / "splits.parquet", "splits")
    assert back.select("patient_id", "part").equals(table)
    assert back["fold"].to_list() == [None, None]


def test_predictions_of_before_the_column_detail_are_read_with_nulls_in_it(tmp_path: Path):
    write_table(pl.DataFrame({"image_id": ["a"], "detail": ["x"]}), tmp_path / "new.parquet", "predictions")
    new = read_table(tmp_path / "new.parquet", "predictions")
    metadata = {"densityclip_kind": "predictions", "schema_version": "1"}
    new.drop("detail").write_parquet(tmp_path / "old.parquet", metadata=metadata)
    old = read_table(tmp_path / "old.parquet", "predictions")
    assert old.equals(new.with_columns(pl.lit(None, pl.String).alias("detail")))
    assert old.columns == new.columns
    new.drop("detail", "reason").write_parquet(tmp_path / "other.parquet", metadata=metadata)
    with pytest.raises(UserError, match="lacks the columns reason"):
        read_table(tmp_path / "other.parquet", "predictions")


def test_a_column_that_no_schema_knows_is_a_bug():
    with pytest.raises(ValueError, match="surprise"):
        conform(pl.DataFrame({"surprise": [1]}), "index")


def test_a_file_of_another_kind_version_or_format_is_told(tmp_path: Path):
    write_table(pl.DataFrame(), tmp_path / "index.parquet", "index")
    with pytest.raises(UserError, match="holds index, not splits"):
        read_table(tmp_path / "index.parquet", "splits")
    pl.DataFrame({"a": [1]}).write_parquet(
        tmp_path / "old.parquet", metadata={"densityclip_kind": "index", "schema_version": "0"}
    )
    with pytest.raises(UserError, match="schema version 0"):
        read_table(tmp_path / "old.parquet", "index")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_table(tmp_path / "text.parquet", "index")
    with pytest.raises(UserError, match="Make it with `densityclip split`"):
        read_table(tmp_path / "nowhere.parquet", "splits")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "theirs.parquet")
    with pytest.raises(UserError, match=r"theirs\.parquet is a Parquet file that densityclip did not write"):
        read_table(tmp_path / "theirs.parquet", "splits")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError):
        _fail_halfway(path)
    assert read_json(path, "") == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def _fail_halfway(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half a fi")
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("With tag PixelData got exception: [Errno 28] No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognised_whichever_library_reports_it(error: Exception, tmp_path: Path):
    with pytest.raises(UserError, match=r"the disk is full while writing x.bin"), atomic_path(tmp_path / "x.bin"):
        raise error
    other = ValueError("something else")
    assert disk_error(other, tmp_path) is other


@given(st.text(min_size=1, max_size=200))
def test_no_identifier_becomes_a_path(identifier: str):
    stem = file_stem(identifier)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", stem)
    assert ".." not in (stem, stem[:2]) or not stem.startswith("..")


def test_identifiers_that_differ_in_odd_characters_keep_apart():
    assert file_stem("a/b") != file_stem("a_b") != file_stem("a b")
    assert file_stem("1.2.840.10008") == "1.2.840.10008"


def test_a_hash_does_not_depend_on_the_order_of_keys():
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1}) != hash_json({"a": 1, "b": [3]})


def test_a_manifest_says_who_made_what_from_what(tmp_path: Path):
    write_manifest(tmp_path / "m.json", step="index", config={"x": 1}, inputs={"table": "ab"}, counts={"rows": 3})
    said = json.loads((tmp_path / "m.json").read_text())
    assert {"densityclip", "git_revision", "written_at", "python"} <= set(said)
    assert (said["step"], said["config"], said["inputs"], said["counts"]) == (
        "index",
        {"x": 1},
        {"table": "ab"},
        {"rows": 3},
    )


@given(
    st.lists(
        st.tuples(
            st.none() | st.text(alphabet='ab",\n\r é', max_size=6),
            st.none() | st.floats() | st.integers(-(2**53), 2**53).map(float),
            st.none() | st.dates(),
            st.none() | st.booleans(),
        ),
        max_size=9,
    )
)
def test_a_table_hashed_in_slices_has_the_hash_of_its_whole_text(rows):
    schema = {"text": pl.String(), "number": pl.Float64(), "day": pl.Date(), "flag": pl.Boolean()}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(artifacts, "_HASHED_ROWS", 2)
        assert hash_table(table) == hash_bytes(table.write_csv().encode())


def test_a_table_of_ours_that_lost_a_column_says_which(tmp_path):
    path = tmp_path / "predictions.parquet"
    write_table(conform(pl.DataFrame(), "predictions"), path, "predictions")
    metadata = pl.read_parquet_metadata(path)
    kept = {key: metadata[key] for key in ("densityclip_kind", "schema_version")}
    pl.read_parquet(path).drop("prob_d").write_parquet(path, metadata=kept)
    with pytest.raises(UserError, match="lacks the columns prob_d"):
        read_table(path, "predictions")


def test_a_folder_that_cannot_be_written_into_is_said_before_any_work(tmp_path: Path):
    check_folder(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="file is no folder"):
            check_folder(folder)


def test_a_write_below_a_file_is_a_sentence_too(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no folder and cannot be made one"):
        write_json(tmp_path / "file" / "below.json", {})
