"""The VinDr-Mammo layout, through the adapter, against its tables."""

import polars as pl
import pytest

from dataset_layouts import edit, lay_out_vindr, no_file, write_header
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.vindr import candidates
from densityclip.errors import UserError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return lay_out_vindr(tmp_path_factory.mktemp("vindr"), write_header)


@pytest.fixture(scope="module")
def result(archive):
    return collect(candidates(Request(source=archive)))


def test_each_image_counts_once_and_files_end_in_dicom(result) -> None:
    assert (result.index.height, result.excluded.height) == (24, 0)
    assert result.index["path"].str.ends_with(".dicom").all()
    assert result.index["image_id"].n_unique() == 24


def test_the_breasts_of_a_study_keep_their_own_density(result) -> None:
    study = result.index.filter(pl.col("exam_id") == f"{4:032x}")
    assert dict(study.select("laterality", "density").unique().iter_rows()) == {"L": "C", "R": "D"}
    assert set(study["view"]) == {"CC", "MLO"}


def test_studies_are_the_patients_and_the_notes_say_so(result, archive) -> None:
    assert result.index["patient_id"].equals(result.index["exam_id"])
    notes = " ".join(candidates(Request(source=archive)).notes)
    assert "no patient id" in notes
    assert "The breasts of 1 study differ in density" in notes


def test_split_age_vendor_and_institution_are_taken_from_the_release(result) -> None:
    assert dict(result.index.group_by("source_split").len().iter_rows()) == {"training": 20, "test": 4}
    assert set(result.index["age"]) == {45.0, 46.0, 47.0, 48.0, 49.0, 50.0}
    assert set(result.index["vendor"]) == {"Siemens"}
    assert set(result.index["institution"]) == {"Hospital 108 and Hanoi Medical University Hospital"}


def test_the_table_of_findings_is_not_mistaken_for_the_one_of_breasts(archive) -> None:
    with pytest.raises(UserError, match=r"counts an image more than once.*breast-level_annotations.csv"):
        candidates(Request(source=archive, table=archive / "finding_annotations.csv"))


def test_ages_are_not_needed(tmp_path) -> None:
    lay_out_vindr(tmp_path, no_file)
    (tmp_path / "metadata.csv").unlink()
    rows = candidates(Request(source=tmp_path, no_files=True)).rows
    assert rows.height == 24
    assert "age" not in rows.columns


def test_a_density_that_is_none_is_named_with_its_row(tmp_path) -> None:
    edit(lay_out_vindr(tmp_path, no_file) / "breast-level_annotations.csv", "DENSITY A", "DENSITY E")
    with pytest.raises(UserError, match=r"row 1, column breast_density: density 'DENSITY E'"):
        candidates(Request(source=tmp_path, no_files=True))
