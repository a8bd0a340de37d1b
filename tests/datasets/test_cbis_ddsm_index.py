"""The CBIS-DDSM layout, in each way it is downloaded, against its four tables."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

from dataset_layouts import edit, lay_out_cbis_ddsm, no_file, write_header
from densityclip.datasets.cbis_ddsm import candidates
from densityclip.datasets.contract import Request, collect
from densityclip.errors import UserError


@pytest.fixture(scope="module", params=["retriever", "classic", "series"])
def archive(request, tmp_path_factory):
    return lay_out_cbis_ddsm(tmp_path_factory.mktemp("cbis"), write_header, layout=request.param)


@pytest.fixture(scope="module")
def result(archive):
    return collect(candidates(Request(source=archive)))


def test_an_image_with_two_abnormalities_is_one_row_and_regions_are_none(result) -> None:
    # 6 patients of 4 views, one view of a seventh; one film in both sets is left out once.
    assert result.index.height == 6 * 4 + 1
    assert dict(result.excluded.group_by("reason").len().iter_rows()) == {"duplicate": 1}
    assert not result.index["path"].str.contains("ROI mask").any()
    assert result.index["path"].n_unique() == result.index.height


def test_film_in_secondary_captures_is_taken_by_the_tables_word(result) -> None:
    assert set(result.index["modality"]) == {"DM"}
    assert set(result.index["vendor"]) == {"digitised film"}
    assert set(result.index["patient_id"]) == {f"P_{number:05d}" for number in range(1, 8)}


def test_both_spellings_of_the_density_column_are_read_and_zero_is_blank(result) -> None:
    density = dict(result.index.select("patient_id", "density").unique().iter_rows())
    assert (density["P_00001"], density["P_00004"], density["P_00007"]) == ("A", "D", None)
    # P_00002 has density 2 in one row and 3 in another of her left CC: the densest of that image counts.
    hers = result.index.filter(pl.col("patient_id") == "P_00002").select("laterality", "view", "density")
    assert set(hers.iter_rows()) == {("L", "CC", "C"), ("L", "MLO", "B"), ("R", "CC", "B"), ("R", "MLO", "B")}


@pytest.mark.parametrize("no_files", [False, True])
def test_a_film_of_both_sets_is_taken_from_the_one_that_is_there_with_the_densest_label(tmp_path, no_files) -> None:
    lay_out_cbis_ddsm(tmp_path, write_header)
    # P_00001's left CC is in the calcification training set and, as density 1, in the mass test set.
    edit(tmp_path / "calc_case_description_train_set.csv", "P_00001,1,LEFT,CC", "P_00001,0,LEFT,CC")
    edit(tmp_path / "mass_case_description_test_set.csv", "P_00001,1,LEFT,CC", "P_00001,3,LEFT,CC")
    for gone in tmp_path.glob("CBIS-DDSM/Mass-Test_P_00001_LEFT_CC/**/*.dcm"):
        gone.unlink()
    result = collect(candidates(Request(source=tmp_path, no_files=no_files)))
    film = (pl.col("patient_id") == "P_00001") & (pl.col("laterality") == "L") & (pl.col("view") == "CC")
    assert result.index.filter(film)["density"].to_list() == ["C"]
    assert result.excluded.filter(film)["reason"].to_list() == ["duplicate" if no_files else "missing_file"]


def test_notes_count_what_was_joined_left_blank_and_leaks(archive) -> None:
    notes = " ".join(candidates(Request(source=archive)).notes)
    assert "27 abnormalities are in 26 images" in notes
    assert "The rows of 1 image differ in density" in notes
    assert "1 row of density 0" in notes
    assert "1 patient is in the training set" in notes
    assert "digitised film" in notes


def test_the_split_is_the_tables(result) -> None:
    assert set(result.index.filter(pl.col("patient_id") == "P_00006")["source_split"]) == {"test"}
    assert set(result.index.filter(pl.col("patient_id") == "P_00004")["source_split"]) == {"train"}


def test_without_files_the_tables_own_paths_are_planned_with(tmp_path) -> None:
    lay_out_cbis_ddsm(tmp_path, no_file)
    result = collect(candidates(Request(source=tmp_path, no_files=True)))
    assert result.index.height == 25
    assert result.index["path"].str.ends_with("000000.dcm").all()
    with pytest.raises(UserError, match=r"none of the .* images that the tables name.*--no-files"):
        candidates(Request(source=tmp_path))


def test_one_table_is_enough_and_a_folder_of_them_may_be_given(tmp_path) -> None:
    lay_out_cbis_ddsm(tmp_path, no_file)
    one = candidates(Request(source=tmp_path, table=tmp_path / "mass_case_description_test_set.csv", no_files=True))
    assert set(one.rows["source_split"]) == {"test"}
    assert len(one.tables) == 1
    folder = candidates(Request(source=tmp_path / "images", table=tmp_path, no_files=True))
    assert len(folder.tables) == 4


def test_a_table_that_does_not_fit_is_said_with_row_and_column(tmp_path) -> None:
    lay_out_cbis_ddsm(tmp_path, no_file)
    table = tmp_path / "mass_case_description_train_set.csv"
    edit(table, "P_00002,2,LEFT", "P_00002,5,LEFT")
    with pytest.raises(UserError, match=r"mass_case_description_train_set.csv row 1, column breast_density: .*'5'"):
        candidates(Request(source=tmp_path, no_files=True))
    edit(table, "breast_density", "density")
    with pytest.raises(UserError, match=r"no column breast_density; it has patient_id, density"):
        candidates(Request(source=tmp_path, no_files=True))


def test_a_copy_as_pictures_by_series_is_taken_as_well(tmp_path) -> None:
    def picture(path, *_: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(path.with_name("1-263.jpg"))

    lay_out_cbis_ddsm(tmp_path, picture, layout="series")
    index = collect(candidates(Request(source=tmp_path))).index
    assert index.height == 25
    assert index["path"].str.ends_with("1-263.jpg").all()
    assert set(index["modality"]) == {"DM"}
