"""An index of any table against its rows."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from header_samples import write_view
from PIL import Image

from densityclip.datasets.table import index_table
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


def test_columns_and_labels_are_mapped_and_blanks_stay_blank(source) -> None:
    text = "file,who,grade,laterality,view\na.png,1,F,left,cc\nb.png,2,,R,\nc.dcm,3,G,,\n"
    index = index_table(source, table(source, text), columns=MAP, label_map={"F": "A", "G": "C"}).index
    rows = index.sort("patient_id").select("image_id", "patient_id", "density", "laterality", "view", "modality").rows()
    # What the table leaves blank comes from the header of the DICOM file, and stays blank for an image file.
    assert rows[:2] == [("a.png", "1", "A", "L", "CC", "unknown"), ("b.png", "2", None, "R", None, "unknown")]
    assert rows[2][1:] == ("3", "C", "R", "MLO", "DM")


def test_missing_empty_and_foreign_files_are_excluded_and_counted(source) -> None:
    (source / "empty.png").write_bytes(b"")
    text = "file,who,grade,view\na.png,1,1,\nnone.png,1,2,\nempty.png,1,3,\nb.png,1,4,XCCL\n"
    result = index_table(source, table(source, text), columns=MAP, label_map={})
    assert result.index["density"].to_list() == ["A"]
    assert sorted(result.excluded["reason"]) == ["empty_file", "missing_file", "nonstandard_view"]
    assert result.excluded["density"].null_count() == 0


def test_without_files_the_table_alone_is_counted(source) -> None:
    text = "file,who,grade\nx/1.dcm,1,A\nx/2.dcm,2,B\n"
    assert index_table(source, table(source, text), columns=MAP, label_map={}, no_files=True).index.height == 2


@pytest.mark.parametrize(
    ("text", "columns", "labels", "said"),
    [
        ("file,who,grade\na.png,1,Z\n", MAP, {}, r"line 2, column density.*'Z'"),
        ("file,who,grade\na.png,,A\n", MAP, {}, "line 2, column patient_id, is blank"),
        ("file,who,grade\na.png,1,A\n", {"path": "file"}, {}, "no column patient_id"),
        ("file,who,grade\na.png,1,A\n", MAP | {"age": "years"}, {}, "no column years"),
        ("file,who,grade\na.png,1,A\n", MAP | {"weight": "who"}, {}, "no column weight"),
        ("file,who,grade\na.png,1,A\n", MAP, {"A": "fatty"}, "leads to fatty"),
        ("file,who,grade,modality\na.png,1,A,film\n", MAP, {}, "column modality: 'film'"),
        ("file,who,grade\nnone.png,1,A\n", MAP, {}, "1 missing_file"),
    ],
)
def test_a_wrong_table_or_mapping_is_said_with_row_and_column(source, text, columns, labels, said) -> None:
    with pytest.raises(UserError, match=said):
        index_table(source, table(source, text), columns=columns, label_map=labels)


def test_parquet_keeps_types_and_integers_become_ids(source) -> None:
    pl.DataFrame({"file": ["a.png"], "who": [17.0], "grade": [3], "implant": [True], "age": [61]}).write_parquet(
        source / "t.parquet"
    )
    row = index_table(source, source / "t.parquet", columns=MAP, label_map={}).index.row(0, named=True)
    assert (row["patient_id"], row["density"], row["implant"], row["age"]) == ("17", "C", True, 61.0)


def test_the_real_samples_are_indexed_from_their_own_table() -> None:
    folder = os.environ.get("DENSITYCLIP_REAL_IMAGES")
    if not folder:
        pytest.skip("DENSITYCLIP_REAL_IMAGES does not name the folder of real images")
    source = Path(folder) / "density_samples"
    result = index_table(source, source / "labels.csv", columns={"path": "file", "patient_id": "file"}, label_map={})
    assert dict(result.index.group_by("density").len().iter_rows()) == {"A": 4, "B": 4, "C": 4, "D": 4}
