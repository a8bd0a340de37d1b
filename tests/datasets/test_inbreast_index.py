"""The INbreast layout, through the adapter, against its table and the names of its files."""

import polars as pl
import pytest

from dataset_layouts import edit, lay_out_inbreast, no_file, write_header
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.inbreast import candidates
from densityclip.errors import UserError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return lay_out_inbreast(tmp_path_factory.mktemp("inbreast"), write_header)


@pytest.fixture(scope="module")
def result(archive):
    return collect(candidates(Request(source=archive)))


def test_every_row_finds_its_file_by_the_first_part_of_its_name(result) -> None:
    assert (result.index.height, result.excluded.height) == (28, 0)
    assert result.index["path"].str.contains("AllDICOMs").all()


def test_patients_are_the_pseudonyms_in_the_names_and_months_their_exams(result, archive) -> None:
    assert result.index["patient_id"].n_unique() == 6
    twice = result.index.filter(pl.col("patient_id") == "6c613a14b80a8591")
    assert sorted(twice["exam_id"].unique()) == ["6c613a14b80a8591-201001", "6c613a14b80a8591-201103"]
    # A month is no date: a day would be made up.
    assert candidates(Request(source=archive)).rows["study_date"].null_count() == 28


def test_grades_are_read_with_blanks_around_them_and_a_blank_one_is_blank(result) -> None:
    grades = dict(result.index.group_by("density").len().iter_rows())
    assert grades == {"A": 8, "B": 8, "C": 4, "D": 4, None: 4}


def test_the_table_says_the_view_where_names_say_ml(result) -> None:
    assert dict(result.index.group_by("view").len().iter_rows()) == {"CC": 14, "MLO": 14}
    assert result.index.filter(pl.col("view") == "MLO")["path"].str.contains("_ML_ANON").all()


def test_removed_ids_and_ages_are_not_known(result, archive) -> None:
    assert candidates(Request(source=archive)).rows["age"].null_count() == 28
    assert "removed" not in result.index["patient_id"]
    assert any("ids are removed" in note for note in candidates(Request(source=archive)).notes)


def test_without_files_nobody_is_joined_to_anybody(tmp_path) -> None:
    table = lay_out_inbreast(tmp_path, no_file) / "INbreast Release 1.0/INbreast.csv"
    request = Request(source=tmp_path / "not copied yet", table=table, no_files=True)
    rows = collect(candidates(request)).index
    assert rows["patient_id"].n_unique() == rows.height == 28
    assert any("a patient of its own" in note for note in candidates(request).notes)
    with pytest.raises(UserError, match=r"none of the 28 images"):
        candidates(Request(source=tmp_path))


def test_rows_of_totals_are_passed_over_and_counted(tmp_path) -> None:
    table = lay_out_inbreast(tmp_path, no_file) / "INbreast Release 1.0/INbreast.csv"
    table.write_text(table.read_text() + ";;;;;;;\n;;;;;;410 in all;\n")
    found = candidates(Request(source=tmp_path, no_files=True))
    assert found.rows.height == 28
    assert any("The last 2 rows" in note for note in found.notes)
    edit(table, "20586934", "")
    with pytest.raises(UserError, match="row 1, column File Name, is blank"):
        candidates(Request(source=tmp_path, no_files=True))


def test_a_file_name_without_a_number_is_named_with_its_row(tmp_path) -> None:
    table = lay_out_inbreast(tmp_path, no_file) / "INbreast Release 1.0/INbreast.csv"
    edit(table, "20586934", "IMG20586934")
    with pytest.raises(UserError, match=r"INbreast.csv row 1, column File Name: 'IMG20586934' does not begin"):
        candidates(Request(source=tmp_path, no_files=True))


def test_the_workbook_and_a_wrong_grade_are_said(tmp_path) -> None:
    release = lay_out_inbreast(tmp_path, no_file) / "INbreast Release 1.0"
    (release / "INbreast.xls").write_bytes(b"")
    with pytest.raises(UserError, match=r"is a workbook.*Save its sheet as CSV"):
        candidates(Request(source=tmp_path, table=release / "INbreast.xls", no_files=True))
    edit(release / "INbreast.csv", ";1;4a", ";6;4a")
    with pytest.raises(UserError, match=r"INbreast.csv row 1, column ACR: density '6'"):
        candidates(Request(source=tmp_path, no_files=True))
