"""What becomes of candidates: every row ends in exactly one of two tables, whatever they say and whoever reads them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from header_samples import sop_uid, study_uid, write_view
from hypothesis import given
from hypothesis import strategies as st

from densityclip.artifacts import read_table
from densityclip.datasets import headers
from densityclip.datasets.contract import Candidates, collect, write_index
from densityclip.datasets.exclusion import leave_out
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.looking import look_at_files
from densityclip.errors import UserError
from densityclip.reasons import Reason

TABLE_ONLY = HeaderRules(read_files=False)
FOLDER = HeaderRules(pictures=False, require_view=True)

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image_id": st.sampled_from(["a", "b", "c", "d", None]),
            "path": st.sampled_from(["/x/1", "/x/2", "/x/3"]),
            "patient_id": st.sampled_from(["p", "q", None]),
            "exam_id": st.sampled_from(["e", "f", None]),
            "laterality": st.sampled_from(["L", "R", None]),
            "view": st.sampled_from(["CC", "MLO", "ML", None]),
            "modality": st.sampled_from(["DM", "s2D", "unknown", None]),
            "density": st.sampled_from(["A", "D", None]),
            "implant": st.sampled_from([True, False, None]),
            "reason": st.sampled_from([None, None, Reason.MALE.value]),
        }
    ),
    min_size=1,
    max_size=30,
)
TYPES = {name: pl.String() for name in ("image_id", "path", "patient_id", "exam_id", "laterality", "view", "modality")}


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TYPES | {"density": pl.String(), "implant": pl.Boolean(), "reason": pl.String()})


@given(rows=ROWS, strict=st.booleans())
def test_rows_in_are_rows_indexed_plus_rows_excluded(rows, strict) -> None:
    rules = HeaderRules(read_files=False, require_view=strict)
    result = collect(Candidates(rows=frame(rows), rules=rules))
    assert result.index.height + result.excluded.height == len(rows)
    # Each path comes out as often as it went in; an index has whole rows of the index's words only.
    paths = Counter(row["path"] for row in rows)
    assert Counter(result.index["path"]) + Counter(result.excluded["path"]) == paths
    assert result.excluded["reason"].null_count() == 0
    assert (
        result.index.select("image_id", "patient_id", "exam_id", "modality").null_count().sum_horizontal().item() == 0
    )
    assert result.index["image_id"].is_unique().all()
    assert set(result.index["view"]) <= {"CC", "MLO", None}
    assert not result.index["implant"].any()
    if strict:
        assert result.index.select("view", "laterality").null_count().sum_horizontal().item() == 0
        assert "unknown" not in set(result.index["modality"])


@given(rows=ROWS)
def test_of_one_id_the_first_usable_row_stays(rows) -> None:
    result = collect(Candidates(rows=frame(rows), rules=TABLE_ONLY))
    first: dict[str, str] = {}
    for row in rows:
        usable = None not in (row["image_id"], row["patient_id"]) and row["reason"] is None
        if usable and row["view"] in ("CC", "MLO", None) and not row["implant"]:
            first.setdefault(row["image_id"], row["path"])
    assert dict(result.index.select("image_id", "path").iter_rows()) == first


def test_the_table_goes_first_and_the_header_fills_what_it_leaves_blank(tmp_path) -> None:
    write_view(tmp_path / "a", "H", "L", "CC", Manufacturer="HOLOGIC, Inc.")
    rows = pl.DataFrame(
        {"path": [str(tmp_path / "a")], "patient_id": ["T"], "laterality": ["R"], "view": ["MLO"], "age": [40.0]}
    )
    result = collect(Candidates(rows=rows, rules=HeaderRules()))
    row = result.index.row(0, named=True)
    assert (row["patient_id"], row["laterality"], row["view"], row["age"]) == ("T", "R", "MLO", 40.0)
    assert (row["modality"], row["vendor"], row["exam_id"]) == ("DM", "Hologic", study_uid("H"))
    assert row["image_id"] == sop_uid("H", "L", "CC")
    assert [note for note in result.notes if "another laterality" in note]
    assert [note for note in result.notes if "another view" in note]
    assert not [note for note in result.notes if "another modality" in note]


def test_a_side_that_the_table_states_settles_a_header_that_contradicts_itself(tmp_path) -> None:
    write_view(tmp_path / "a", "H", "L", "CC", Laterality="R")
    blank = pl.DataFrame({"path": [str(tmp_path / "a")]})
    assert collect(Candidates(rows=blank, rules=HeaderRules())).excluded["reason"].item() == "conflicting_laterality"
    stated = blank.with_columns(laterality=pl.lit("R"))
    assert collect(Candidates(rows=stated, rules=HeaderRules())).index["laterality"].item() == "R"


def test_what_a_header_states_of_a_special_view_no_table_can_unsay(tmp_path) -> None:
    write_view(tmp_path / "man", "1", PatientSex="M")
    write_view(tmp_path / "implant", "2", BreastImplantPresent="YES")
    write_view(tmp_path / "raw", "3", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2.1")
    paths = [str(tmp_path / name) for name in ("man", "implant", "raw")]
    rows = pl.DataFrame({"path": paths, "modality": ["DM"] * 3, "view": ["CC"] * 3})
    found = collect(Candidates(rows=rows, rules=HeaderRules())).excluded
    assert dict(zip(map(os.path.basename, found["path"]), found["reason"], strict=True)) == {
        "man": "male", "implant": "implant", "raw": "for_processing",
    }  # fmt: skip


def test_a_view_that_displaces_an_implant_leaves_out_the_full_views_of_that_breast(tmp_path) -> None:
    write_view(tmp_path / "l full", "1", "L", "CC")
    write_view(tmp_path / "l id", "1", "L", "CC", SOPInstanceUID="1.9", ViewCodeSequence=None, ViewPosition="CCID")
    write_view(tmp_path / "r full", "1", "R", "CC")
    rows = pl.DataFrame({"path": sorted(str(path) for path in tmp_path.iterdir())})
    result = collect(Candidates(rows=rows, rules=FOLDER))
    assert [os.path.basename(path) for path in result.index.sort("path")["path"]] == ["l id", "r full"]
    assert result.excluded["reason"].to_list() == ["implant"]
    assert "displaces an implant" in result.excluded["detail"][0]


def test_exams_without_a_study_uid_are_kept_apart_by_their_day(tmp_path) -> None:
    for name, day in (("a", "20200101"), ("b", "20200101"), ("c", "20220101"), ("d", None)):
        write_view(tmp_path / name, "P", SOPInstanceUID=f"1.{ord(name)}", StudyInstanceUID=None, StudyDate=day)
    rows = pl.DataFrame({"path": [str(tmp_path / name) for name in "abcd"]})
    strict = collect(Candidates(rows=rows, rules=FOLDER))
    assert sorted(strict.index["exam_id"]) == ["P on 2020-01-01", "P on 2020-01-01", "P on 2022-01-01"]
    assert strict.excluded["reason"].to_list() == ["bad_header"]
    # A table names the images of one exam; without a date they are taken for one.
    assert sorted(set(collect(Candidates(rows=rows, rules=HeaderRules())).index["exam_id"]))[0] == "P"


def test_an_image_of_nobody_is_a_patient_by_its_study_and_that_is_said(tmp_path) -> None:
    write_view(tmp_path / "a", "P", PatientID=None)
    write_view(tmp_path / "b", "Q", PatientID=None, StudyInstanceUID=None, SOPInstanceUID="1.5", StudyDate="20200101")
    rows = pl.DataFrame({"path": [str(tmp_path / "a"), str(tmp_path / "b")]})
    result = collect(Candidates(rows=rows, rules=FOLDER))
    assert result.index["patient_id"].to_list() == [study_uid("P")]
    assert result.excluded["detail"].to_list() == ["no Patient ID, no Study Instance UID"]
    assert any("no Patient ID" in note for note in result.notes)


def test_ids_that_an_anonymiser_wrote_for_everybody_are_noted() -> None:
    rows = pl.DataFrame({"path": [f"/x/{n}" for n in range(60)]}).with_columns(
        image_id=pl.col("path"), patient_id=pl.lit("ANON"), exam_id=pl.col("path")
    )
    notes = collect(Candidates(rows=rows, rules=TABLE_ONLY)).notes
    assert any("one id for everybody" in note for note in notes)
    assert not any("ANON" in note for note in notes)


def test_planning_without_files_judges_the_words_of_the_table_as_it_would_with_them(tmp_path) -> None:
    words = [
        {"laterality": side, "view": view, "modality": modality, "implant": implant}
        for side in ("L", None) for view in ("CC", "ML", None) for modality in ("DM", None) for implant in (True, None)
    ]  # fmt: skip
    paths = []
    for number in range(len(words)):
        # A picture states nothing: the table's words decide alone.
        (tmp_path / f"{number:02d}.png").write_bytes(b"\x89PNG")
        paths.append(str(tmp_path / f"{number:02d}.png"))
    rows = pl.DataFrame(words).with_columns(path=pl.Series(paths), image_id=pl.Series(paths), patient_id=pl.lit("p"))
    for strict in (False, True):
        with_files, without = (
            collect(Candidates(rows=rows, rules=HeaderRules(read_files=read, require_view=strict)))
            for read in (True, False)
        )
        assert with_files.excluded.drop("frames").equals(without.excluded.drop("frames"))
        assert with_files.index["image_id"].equals(without.index["image_id"])


def test_two_workers_and_one_give_the_same_tables(tmp_path, monkeypatch) -> None:
    rows = many_files(tmp_path, 40)
    monkeypatch.setattr(headers, "_FILES_A_TASK", 7)
    seen: list[tuple[int, int]] = []
    one = collect(Candidates(rows=rows, rules=FOLDER))
    two = collect(Candidates(rows=rows, rules=FOLDER), workers=2, progress=lambda *numbers: seen.append(numbers))
    assert one.index.equals(two.index)
    assert one.excluded.equals(two.excluded)
    assert seen[-1] == (40, 40)
    assert seen == sorted(seen)


def many_files(folder: Path, number: int) -> pl.DataFrame:
    for place in range(number):
        write_view(folder / "in" / f"{place:03d}", f"P{place // 4}", "LR"[place % 2], ("CC", "MLO", "ML")[place % 3])
    return pl.DataFrame({"path": sorted(str(path) for path in (folder / "in").iterdir())})


NAMES = ("index.parquet", "excluded.parquet", "audit.json")


def test_a_killed_index_goes_on_where_it_stopped_and_ends_with_the_same_files(tmp_path, monkeypatch) -> None:
    candidates = Candidates(rows=many_files(tmp_path, 40), rules=FOLDER)
    monkeypatch.setattr(headers, "_FILES_A_TASK", 5)
    monkeypatch.setattr("densityclip.datasets.parts._ROWS_A_PART", 10)
    write_index(candidates, tmp_path / "whole", config={})

    def killed(done: int, total: int) -> None:
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(candidates, tmp_path / "cut", config={}, progress=killed)
    # What was read is never read again: these files are gone.
    for path in candidates.rows["path"][:20]:
        Path(path).unlink()
    write_index(candidates, tmp_path / "cut", config={})
    for name in NAMES:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut" / ".work").exists()


def test_unfinished_work_on_other_rows_is_not_used(tmp_path, caplog) -> None:
    rows = many_files(tmp_path, 8)

    def killed(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(Candidates(rows=rows, rules=FOLDER), tmp_path / "out", config={}, progress=killed)
    fewer = Candidates(rows=rows.head(3), rules=FOLDER)
    kept, left_out, _ = write_index(fewer, tmp_path / "out", config={})
    assert kept + left_out == 3
    assert "starting afresh" in caplog.text


def test_what_was_missing_or_damaged_is_looked_at_again_and_nothing_else_is(tmp_path, monkeypatch) -> None:
    candidates = Candidates(rows=many_files(tmp_path, 20), rules=FOLDER)
    monkeypatch.setattr(headers, "_FILES_A_TASK", 5)
    monkeypatch.setattr("densityclip.datasets.parts._ROWS_A_PART", 5)
    empty, good = (Path(candidates.rows["path"][place]) for place in (3, 4))
    content = empty.read_bytes()
    empty.write_bytes(b"")

    def killed(done: int, total: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(candidates, tmp_path / "out", config={}, progress=killed)
    empty.write_bytes(content)
    good.unlink()
    write_index(candidates, tmp_path / "out", config={})
    index = read_table(tmp_path / "out" / "index.parquet", "index")
    excluded = read_table(tmp_path / "out" / "excluded.parquet", "excluded")
    assert {str(empty), str(good)} <= {*index["path"], *excluded["path"]}
    assert not set(excluded["reason"]) & {"empty_file", "missing_file"}
    assert index.height + excluded.height == 20


def test_a_file_that_kills_its_reader_costs_itself_alone(tmp_path, monkeypatch) -> None:
    candidates = Candidates(rows=many_files(tmp_path, 12), rules=FOLDER)
    whole = collect(candidates)
    monkeypatch.setattr(headers, "_FILES_A_TASK", 4)
    monkeypatch.setattr(headers, "look_at_files", killed_by_file_five)
    kept, left_out, _ = write_index(candidates, tmp_path / "out", config={}, workers=2)
    assert kept + left_out == 12
    excluded = read_table(tmp_path / "out" / "excluded.parquet", "excluded")
    crashed = excluded.filter(pl.col("reason") == Reason.CRASHED.value)
    assert [Path(path).name for path in crashed["path"]] == ["005"]
    others = whole.excluded.filter(~pl.col("path").str.ends_with("005"))
    assert excluded.filter(pl.col("reason") != Reason.CRASHED.value).equals(others)


def killed_by_file_five(rows: list[dict[str, Any]], rules: HeaderRules) -> list[dict[str, Any]]:
    if any(row["path"].endswith("005") for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
    return look_at_files(rows, rules)


KILLS_ITSELF = """
import multiprocessing, os, signal, sys
import polars as pl
from densityclip.datasets import headers

def progress(done, total):
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    headers._FILES_A_TASK = 2
    rows = pl.DataFrame({"path": sys.argv[1:]})
    list(headers.look_at(rows, headers.HeaderRules(), workers=2, progress=progress))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")
def test_workers_end_when_the_command_is_killed_outright(tmp_path) -> None:
    paths = many_files(tmp_path, 8)["path"].to_list()
    script = tmp_path / "script.py"
    script.write_text(KILLS_ITSELF)
    # Into a file: workers that stayed would hold a pipe open, and the test would wait instead of failing.
    with (tmp_path / "said").open("w") as said:
        code = subprocess.run([sys.executable, script, *paths], stdout=said, stderr=said, check=False).returncode
    workers = (tmp_path / "said").read_text().split()
    assert (code, len(workers)) == (-signal.SIGKILL, 2), workers
    deadline = time.monotonic() + 60
    while any(runs(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_index_of_nothing_is_written_and_then_said(tmp_path) -> None:
    rows = pl.DataFrame({"path": ["/x/1", "/x/2"], "image_id": ["1", "2"], "patient_id": ["p", "p"]})
    rows = leave_out(rows, pl.lit(value=True), Reason.MALE)
    with pytest.raises(UserError, match=r"none of the 2 images can be used \(2 male"):
        write_index(Candidates(rows=rows, rules=TABLE_ONLY), tmp_path, config={})
    assert read_table(tmp_path / "index.parquet", "index").height == 0
    assert read_table(tmp_path / "excluded.parquet", "excluded")["reason"].to_list() == ["male", "male"]
    with pytest.raises(UserError, match="no image was found"):
        write_index(Candidates(rows=rows.head(0), rules=TABLE_ONLY), tmp_path, config={})


def test_notes_stand_in_the_manifest_and_in_the_audit(tmp_path) -> None:
    rows = pl.DataFrame({"path": ["/x/1"], "image_id": ["1"], "patient_id": ["p"]})
    table = tmp_path / "t.csv"
    table.write_text("x\n")
    candidates = Candidates(rows=rows, rules=TABLE_ONLY, notes=("One thing.",), tables={"table": table})
    _, _, content = write_index(candidates, tmp_path / "out", config={"dataset": "x"})
    manifest = json.loads((tmp_path / "out" / "index.manifest.json").read_text())
    assert manifest["notes"] == content["notes"] == ["One thing."]
    assert set(manifest["inputs"]) == {"table", "index", "excluded"}
    assert manifest["counts"] == {"images": 1, "indexed": 1, "excluded": 0}


def test_candidates_need_a_path_each_and_known_columns() -> None:
    for columns in ({"path": ["a", None]}, {"image_id": ["a"]}, {"path": ["a"], "weight": [1]}):
        with pytest.raises(ValueError, match="candidates need"):
            Candidates(rows=pl.DataFrame(columns), rules=TABLE_ONLY)


@pytest.mark.parametrize("words", [{"laterality": "left"}, {"modality": "MG"}, {"density": "2"}, {"reason": "ugly"}])
def test_an_adapter_that_hands_over_other_words_than_an_index_has_is_stopped(words) -> None:
    with pytest.raises(ValueError, match=next(iter(words))):
        Candidates(rows=pl.DataFrame({"path": "a"} | words), rules=TABLE_ONLY)
