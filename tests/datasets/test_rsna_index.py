"""The RSNA layout, through the adapter and its files' stripped headers, against what the table says."""

import polars as pl
import pytest

from dataset_layouts import edit, lay_out_rsna, no_file, write_header
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.rsna import candidates
from densityclip.errors import UserError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return lay_out_rsna(tmp_path_factory.mktemp("rsna"), write_header)


@pytest.fixture(scope="module")
def result(archive):
    return collect(candidates(Request(source=archive)))


def reasons(result) -> dict[str, int]:
    return dict(result.excluded.group_by("reason").len().iter_rows())


def test_every_row_is_indexed_or_left_out_with_its_reason(result) -> None:
    assert result.index.height == 6 * 4
    assert reasons(result) == {"implant": 4, "nonstandard_view": 1, "missing_file": 1}
    assert result.excluded.filter(pl.col("reason") == "nonstandard_view")["view"].to_list() == ["LMO"]


def test_a_blank_density_stays_blank_at_both_sites(result) -> None:
    blank = result.index.filter(pl.col("density").is_null())
    assert dict(blank.group_by("site").len().iter_rows()) == {"RSNA site 1": 4, "RSNA site 2": 4}
    assert blank["density_source"].null_count() == blank.height
    labelled = result.index.filter(pl.col("density").is_not_null())
    assert dict(labelled.group_by("density").len().iter_rows()) == dict.fromkeys("ABCD", 4)
    assert set(labelled["density_source"]) == {"table"}


def test_the_table_says_side_view_and_modality_where_headers_are_stripped(result, archive) -> None:
    row = result.index.filter(pl.col("image_id") == "462822613").row(0, named=True)
    said = ("laterality", "view", "modality", "patient_id", "exam_id", "age", "machine", "implant", "source_split")
    assert [row[name] for name in said] == ["L", "CC", "DM", "10006", "10006", 50.0, "29", False, "train"]
    assert row["path"] == str((archive / "train_images/10006/462822613.dcm").resolve())
    assert result.index.filter(pl.col("patient_id") == "10009")["age"].null_count() == 4


def test_sites_are_their_institutions_unless_it_is_said_otherwise(result, archive) -> None:
    named = dict(result.index.select("site", "institution").unique().iter_rows())
    assert named == {"RSNA site 1": "Emory University", "RSNA site 2": "BreastScreen Victoria"}
    given = candidates(Request(source=archive, no_files=True, institution="X")).rows
    assert given["institution"].unique().to_list() == ["X"]


def test_notes_count_blanks_and_say_what_an_exam_is(archive) -> None:
    notes = " ".join(candidates(Request(source=archive)).notes)
    assert "RSNA site 1: 4 of 26 images have no density" in notes
    assert "RSNA site 2: 4 of 4 images" in notes
    assert "A patient is one exam" in notes
    assert "implants for the patient" in notes


def test_without_files_the_table_alone_is_planned_with(tmp_path) -> None:
    lay_out_rsna(tmp_path / "there", no_file)
    request = Request(source=tmp_path / "not copied yet", table=tmp_path / "there/train.csv", no_files=True)
    result = collect(candidates(request))
    assert result.index.height == 6 * 4 + 1
    assert reasons(result) == {"implant": 4, "nonstandard_view": 1}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",density,", ",dense,", "no column density; it has site_id, patient_id"),
        (
            ",A,29",
            ",F,29",
            r"row 1, column density: density 'F' is not one of .*\(1 rows? do|row 1, column density: density 'F'",
        ),
        ("L,CC", "X,CC", "row 1, column laterality: 'X' is neither"),
        ("1,10006,462822613", "1,,462822613", "row 1, column patient_id, is blank"),
        ("462822614", "462822613", "row 1 and train.csv row 2 are about one image and differ in view"),
        (",50.0,", ",fifty,", "row 1, column age: 'fifty'"),
    ],
)
def test_a_table_that_does_not_fit_is_said_with_row_and_column(tmp_path, old, new, said) -> None:
    edit(lay_out_rsna(tmp_path, no_file) / "train.csv", old, new)
    with pytest.raises(UserError, match=said):
        candidates(Request(source=tmp_path, no_files=True))


def test_a_missing_table_or_image_folder_is_said_with_what_is_there(tmp_path) -> None:
    (tmp_path / "sample_submission.csv").write_text("a\n")
    with pytest.raises(UserError, match=r"has no train.csv; it holds sample_submission.csv.*--table"):
        candidates(Request(source=tmp_path))
    lay_out_rsna(tmp_path, no_file)
    # Folders are counted, not named: their names may be those of patients.
    (tmp_path / "DOE^JANE").mkdir()
    with pytest.raises(UserError, match=r"it holds sample_submission.csv, train.csv, 1 folder\)") as said:
        candidates(Request(source=tmp_path))
    assert "JANE" not in str(said.value)
    with pytest.raises(UserError, match=r"none of the image folders that train.csv names.*train_images"):
        candidates(Request(source=tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        candidates(Request(source=tmp_path / "nowhere", table=tmp_path / "train.csv"))


def test_the_image_folder_itself_may_be_given_as_source(archive) -> None:
    there = candidates(Request(source=archive)).rows["path"]
    for table in (None, archive, archive / "train.csv"):
        assert candidates(Request(source=archive / "train_images", table=table)).rows["path"].equals(there)
