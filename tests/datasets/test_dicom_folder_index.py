"""An index of a folder against what the tests put there."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from header_samples import sop_uid, study_uid, write_view

from densityclip.artifacts import read_table
from densityclip.datasets.contract import IndexResult, Request, collect, write_index
from densityclip.datasets.dicom_folder import candidates
from densityclip.errors import UserError


@pytest.fixture
def archive(tmp_path) -> Path:
    """Two patients with four views each, without extensions, in nested folders."""
    for patient in ("P1", "P2"):
        for side in "LR":
            for view in ("CC", "MLO"):
                write_view(tmp_path / "in" / patient / f"{side}{view}", patient, side, view)
    return tmp_path / "in"


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def index_dicom(source: Path, *, workers: int = 1, progress: Any = None, **request: Any) -> IndexResult:
    return collect(candidates(Request(source=source, **request)), workers=workers, progress=progress)


def test_rows_in_are_rows_indexed_and_rows_excluded_with_their_reason(archive) -> None:
    write_view(archive / "extra" / "ml", "P1", "L", "ML")
    write_view(archive / "extra" / "raw.dcm", "P3", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2.1")
    write_view(archive / "zz_copy_of_a_view", "P1", "L", "CC")
    write_view(archive / "no_study", "P4", StudyInstanceUID=None)
    (archive / "broken.dcm").write_bytes(b"\x00" * 128 + b"DICM" + b"\xff" * 50)
    (archive / "empty.dcm").write_bytes(b"")
    (archive / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (archive / "notes.txt").write_text("passed over")
    (archive / ".DS_Store").write_bytes(b"x")
    result = index_dicom(archive)
    assert result.index.height == 8
    assert sorted(result.excluded["reason"]) == [
        "bad_header", "duplicate", "empty_file", "for_processing", "nonstandard_view", "unreadable", "unreadable",
    ]  # fmt: skip
    assert result.excluded.filter(pl.col("reason") == "nonstandard_view")["view"].to_list() == ["ML"]
    # The first of two files with one UID is kept.
    assert result.excluded.filter(pl.col("reason") == "duplicate")["path"][0].endswith("zz_copy_of_a_view")


def test_an_index_row_says_what_the_header_says(archive) -> None:
    index = index_dicom(archive, site="A", institution=None).index
    row = index.filter(pl.col("image_id") == sop_uid("P2", "R", "MLO")).row(0, named=True)
    assert Path(row["path"]).is_absolute()
    assert (row["patient_id"], row["exam_id"], row["laterality"], row["view"]) == ("P2", study_uid("P2"), "R", "MLO")
    assert (row["modality"], row["age"], row["machine"], row["site"]) == ("DM", 55.0, "M1", "A")
    assert (row["institution"], row["density"], row["density_source"]) == ("Header Clinic", None, None)


@pytest.mark.parametrize("key", ["sop_uid", "study_uid", "accession_number", "patient_id"])
def test_labels_are_found_by_whichever_key_the_table_has(archive, tmp_path, key) -> None:
    names = {
        "sop_uid": sop_uid("P1", "L", "CC"),
        "study_uid": study_uid("P1"),
        "accession_number": "ACCP1",
        "patient_id": "P1",
    }
    labels = table(tmp_path / "l.csv", f"{key},density,race,age,machine\n{names[key]},c,Other,61,X9\n")
    index = index_dicom(archive, table=labels).index
    labelled = index.filter(pl.col("density").is_not_null())
    assert labelled.height == (1 if key == "sop_uid" else 4)
    assert set(labelled["patient_id"]) == {"P1"}
    assert labelled.select("density", "race", "age", "machine", "density_source").unique().row(0) == (
        "C", "Other", 61.0, "X9", "table",
    )  # fmt: skip


def test_each_breast_gets_its_own_label_and_a_row_without_side_serves_both(archive, tmp_path) -> None:
    text = f"study_uid,laterality,density\n{study_uid('P1')},L,B\n{study_uid('P1')},right,4\n{study_uid('P2')},,1.0\n"
    index = index_dicom(archive, table=table(tmp_path / "l.csv", text)).index
    found = {(p, s): d for p, s, d in index.select("patient_id", "laterality", "density").iter_rows()}
    assert found == {("P1", "L"): "B", ("P1", "R"): "D", ("P2", "L"): "A", ("P2", "R"): "A"}


def test_a_parquet_table_with_numbers_is_read_like_a_csv(archive, tmp_path) -> None:
    pl.DataFrame({"patient_id": ["P1", "P2"], "density": [2, None]}).write_parquet(tmp_path / "l.parquet")
    index = index_dicom(archive, table=tmp_path / "l.parquet").index
    assert index.filter(pl.col("patient_id") == "P1")["density"].unique().to_list() == ["B"]
    assert index.filter(pl.col("patient_id") == "P2")["density"].null_count() == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient_id,density\nP1,B\nP2,E\n", r"row 2, column density.*'E'"),
        ("patient_id,density\nP1,0\n", "row 1, column density"),
        ("patient_id,age\nP1,old\n", "row 1, column age"),
        ("patient_id,laterality,density\nP1,both sides,A\n", "row 1, column laterality"),
        ("patient_id,density\n,A\n", "row 1, column patient_id, is blank"),
        ("patient_id,density\nP1,A\nP1,B\n", "row 2 contradicts.*density"),
        ("name,density\nP1,A\n", "none of the columns sop_uid"),
        ("patient_id,density\n", "no rows"),
        ("patient_id,density\nnobody,A\n", "no row of"),
    ],
)
def test_a_wrong_table_stops_and_names_row_and_column(archive, tmp_path, text, said) -> None:
    with pytest.raises(UserError, match=said):
        index_dicom(archive, table=table(tmp_path / "l.csv", text))


def test_the_table_inside_the_archive_is_no_image(archive) -> None:
    labels = table(archive / "labels.dat", "patient_id,density\nP1,A\nP2,B\n")
    result = index_dicom(archive, table=labels)
    assert (result.index.height, result.excluded.height) == (8, 0)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no files"),
        ({"a.txt": b"x", "b.csv": b"y"}, "only 1 .txt, 1 .csv"),
        ({"a.doc": b"words", "b.doc": b"words"}, "none of the files is DICOM: 2 .doc"),
    ],
)
def test_a_folder_without_dicom_is_said_with_what_it_holds(tmp_path, files, said) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        write_index(candidates(Request(source=tmp_path)), tmp_path / "out", config={})
    with pytest.raises(UserError, match="does not exist"):
        index_dicom(tmp_path / "nowhere")


def test_an_archive_of_which_nothing_can_be_used_counts_the_reasons(tmp_path) -> None:
    for number in range(3):
        write_view(tmp_path / str(number), f"P{number}", view="ML")
    write_view(tmp_path / "man", "P9", PatientSex="M")
    with pytest.raises(UserError, match=r"none of the 4 images.*3 nonstandard_view, 1 male"):
        write_index(candidates(Request(source=tmp_path)), tmp_path / "out", config={})
    # The table that says why is there all the same.
    assert read_table(tmp_path / "out" / "excluded.parquet", "excluded").height == 4


def test_two_workers_give_the_same_index(tmp_path) -> None:
    for number in range(70):
        write_view(tmp_path / f"{number:03d}", f"P{number}")
    (tmp_path / "bad").write_bytes(b"bad")
    seen: list[tuple[int, int]] = []
    one = index_dicom(tmp_path)
    two = index_dicom(tmp_path, workers=2, progress=lambda *numbers: seen.append(numbers))
    assert one.index.equals(two.index)
    assert one.excluded.equals(two.excluded)
    assert seen[-1] == (71, 71)


def test_written_files_are_the_tables_and_the_same_bytes_every_time(archive, tmp_path) -> None:
    (archive / "bad").write_bytes(b"bad")
    result = index_dicom(archive)
    for name in ("a", "b"):
        write_index(candidates(Request(source=archive)), tmp_path / name, config={"site": None})
    assert read_table(tmp_path / "a" / "index.parquet", "index").equals(result.index)
    assert read_table(tmp_path / "a" / "excluded.parquet", "excluded").equals(result.excluded)
    for name in ("index.parquet", "excluded.parquet", "audit.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    manifest = json.loads((tmp_path / "a" / "index.manifest.json").read_text())
    assert manifest["counts"] == {"images": 9, "indexed": 8, "excluded": 1}


def test_a_sites_own_words_for_density_are_mapped(archive, tmp_path) -> None:
    words = table(tmp_path / "words.csv", "patient_id,density\nP1,fatty\nP2,dense\n")
    index = index_dicom(archive, table=words, label_map={"fatty": "A", "dense": "D"}).index
    assert dict(index.select("patient_id", "density").unique().iter_rows()) == {"P1": "A", "P2": "D"}
    with pytest.raises(UserError, match=r"row 2, column density: .*'dense'.*--label-map"):
        index_dicom(archive, table=words, label_map={"fatty": "A"})
