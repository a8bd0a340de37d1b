"""An index of any table against its rows."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from header_samples import write_view
from PIL import Image

from densityclip.datasets.contract import IndexResult, Request, collect
from densityclip.datasets.table import candidates
from densityclip.errors import UserError

MAP = {"path": "file", "patient_id": "who", "density": "grade"}


@pytest.fixture
def source(tmp_path) -> Path:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(tmp_path / name)
    write_view(tmp_path / "c.dcm", "HEADER", "R", "MLO")
    return tmp_path


def table(source: Path, text: str) -> Path:
    (source / "t.csv").write_text(text)
    return source / "t.csv"


def index(source: Path, content: Path, **settings: Any) -> IndexResult:
    return collect(candidates(Request(source=source, table=content, **settings)))


def test_columns_and_labels_are_mapped_and_blanks_stay_blank(source) -> None:
    text = "file,who,grade,laterality,view\na.png,1,F,left,cc\nb.png,2,,R,\nc.dcm,3,G,,\n"
    found = index(source, table(source, text), columns=MAP, label_map={"F": "A", "G": "C"}).index
    rows = found.sort("patient_id").select("image_id", "patient_id", "density", "laterality", "view", "modality").rows()
    # What the table leaves blank comes from the header of the DICOM file, and stays blank for an image file.
    assert rows[:2] == [("a.png", "1", "A", "L", "CC", "unknown"), ("b.png", "2", None, "R", None, "unknown")]
    assert rows[2][1:] == ("3", "C", "R", "MLO", "DM")


def test_missing_empty_and_foreign_files_are_excluded_and_counted(source) -> None:
    (source / "empty.png").write_bytes(b"")
    text = "file,who,grade,view\na.png,1,1,\nnone.png,1,2,\nempty.png,1,3,\nb.png,1,4,XCCL\n"
    result = index(source, table(source, text), columns=MAP)
    assert result.index["density"].to_list() == ["A"]
    assert sorted(result.excluded["reason"]) == ["empty_file", "missing_file", "nonstandard_view"]
    assert result.excluded["density"].null_count() == 0


def test_without_files_the_table_alone_is_counted(source) -> None:
    text = "file,who,grade\nx/1.dcm,1,A\nx/2.dcm,2,B\n"
    assert index(source, table(source, text), columns=MAP, no_files=True).index.height == 2


@pytest.mark.parametrize(
    ("text", "columns", "labels", "said"),
    [
        ("file,who,grade\na.png,1,Z\n", MAP, {}, r"row 1, column grade: density 'Z'.*--label-map"),
        ("file,who,grade\na.png,,A\n", MAP, {}, "row 1, column who, is blank"),
        ("file,who,grade\na.png,1,A\n", {"path": "file"}, {}, "no column patient_id"),
        ("file,who,grade\na.png,1,A\n", MAP | {"age": "years"}, {}, "no column years"),
        ("file,who,grade\na.png,1,A\n", MAP | {"weight": "who"}, {}, "no column weight"),
        ("file,who,grade\na.png,1,A\n", MAP, {"A": "fatty"}, "leads to fatty"),
        ("file,who,grade,modality\na.png,1,A,film\n", MAP, {}, "column modality: 'film'"),
        ("file,who,grade,implant\na.png,1,A,maybe\n", MAP, {}, "row 1, column implant: 'maybe' is neither yes nor no"),
        ("file,who,grade,frames\na.png,1,A,1.5\n", MAP, {}, "row 1, column frames: '1.5'"),
        ("file,who,grade,study_date\na.png,1,A,3/4/2020\n", MAP, {}, "row 1, column study_date: '3/4/2020'"),
        (
            "file,who,grade\na.png,1,A\nb.png,1,A\na.png,1,B\n",
            MAP,
            {},
            "t.csv row 1 and t.csv row 3 .* differ in density",
        ),
        ("file,who,grade\na.png,1,A\na.png,2,B\n", MAP, {}, "row 1 and t.csv row 2 .* in patient_id, density"),
    ],
)
def test_a_wrong_table_or_mapping_is_said_with_row_and_column(source, text, columns, labels, said) -> None:
    with pytest.raises(UserError, match=said):
        index(source, table(source, text), columns=columns, label_map=labels)


def test_parquet_keeps_types_and_integers_become_ids(source) -> None:
    pl.DataFrame({"file": ["a.png"], "who": [17.0], "grade": [3], "implant": [False], "age": [61]}).write_parquet(
        source / "t.parquet"
    )
    row = index(source, source / "t.parquet", columns=MAP).index.row(0, named=True)
    assert (row["patient_id"], row["density"], row["implant"], row["age"]) == ("17", "C", False, 61.0)


def test_impossible_numbers_are_blank_and_counted_and_makers_and_views_are_named_alike(source) -> None:
    text = "path,patient_id,laterality,view,vendor,age,frames,spacing_mm\n"
    text += 'a.png,1,R,LCC,"HOLOGIC, Inc.",-4,1e12,-3\nb.png,2,R,R-MLO,LORAD,50,-2,inf\n'
    result = index(source, table(source, text), no_files=True)
    rows = result.index.sort("image_id").select("laterality", "view", "vendor", "age", "frames", "spacing_mm").rows()
    assert rows == [("R", "CC", "Hologic", None, None, None), ("R", "MLO", "Hologic", 50.0, None, None)]
    assert "1 value counts as blank in column age: no such number can be." in result.notes
    assert "t.csv has no column density: nothing is labelled." in result.notes


def test_a_row_that_is_repeated_is_a_duplicate_and_counted(source) -> None:
    text = "file,who,grade\na.png,1,A\na.png,1,A\nb.png,2,B\n"
    found = index(source, table(source, text), columns=MAP)
    assert found.index["image_id"].to_list() == ["a.png", "b.png"]
    assert found.excluded.select("image_id", "reason").rows() == [("a.png", "duplicate")]


def test_images_of_one_patient_are_kept_apart_by_date(source) -> None:
    text = "file,who,study_date\na.png,1,2020-01-31\nb.png,1,20210131\n"
    found = index(source, table(source, text), columns={"path": "file", "patient_id": "who"}).index
    assert found["exam_id"].n_unique() == 2
    assert [str(day) for day in found["study_date"].sort()] == ["2020-01-31", "2021-01-31"]
    undated = index(
        source, table(source, "file,who\na.png,1\nb.png,1\n"), columns={"path": "file", "patient_id": "who"}
    )
    assert undated.index["exam_id"].n_unique() == 1


def test_what_the_command_says_of_site_and_institution_fills_what_the_table_leaves_open(source) -> None:
    text = "file,who,site\na.png,1,North\nb.png,2,\n"
    settings = {"columns": {"path": "file", "patient_id": "who"}, "site": "South", "institution": "Ours"}
    found = index(source, table(source, text), **settings).index.sort("image_id")
    assert found["site"].to_list() == ["North", "South"]
    assert set(found["institution"]) == {"Ours"}


def test_paths_may_be_absolute_or_come_from_windows(source) -> None:
    (source / "sub").mkdir()
    (source / "a.png").rename(source / "sub/a.png")
    text = f"file,who\nsub\\a.png,1\n{source / 'b.png'},2\n"
    found = index(source, table(source, text), columns={"path": "file", "patient_id": "who"})
    assert sorted(found.index["path"]) == [str(source / "b.png"), str(source / "sub/a.png")]


def test_the_same_image_in_two_tables_has_the_same_labels_whatever_wrote_them(source) -> None:
    text = "file;who;grade\na.png;1;DENSITY B\nb.png;2;3,0\n"
    (source / "t.csv").write_bytes(text.replace("3,0", "3.0").encode("utf-16"))
    assert index(source, source / "t.csv", columns=MAP).index["density"].to_list() == ["B", "C"]


def test_the_real_samples_are_indexed_from_their_own_table(real_images) -> None:
    source = real_images / "density_samples"
    result = index(source, source / "labels.csv", columns={"path": "file", "patient_id": "file"})
    assert dict(result.index.group_by("density").len().iter_rows()) == {"A": 4, "B": 4, "C": 4, "D": 4}


def test_a_label_map_without_a_density_column_is_a_mistake(source) -> None:
    request = Request(
        source=source,
        table=table(source, "file,who,grade\na.png,1,F\n"),
        columns={"path": "file", "patient_id": "who"},
        label_map={"F": "A"},
    )
    with pytest.raises(UserError, match=r"no column density; it has file, who, grade\. Say which.*--column density"):
        candidates(request)
