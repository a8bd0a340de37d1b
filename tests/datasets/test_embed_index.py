"""The EMBED layout, through the adapter, against its two tables."""

import polars as pl
import pytest

from dataset_layouts import EMBED_PREFIX, edit, lay_out_embed, no_file, write_csv, write_header
from densityclip.datasets import embed
from densityclip.datasets.contract import Request, collect
from densityclip.datasets.embed import candidates
from densityclip.errors import UserError

FIRST = 4932273561626049


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return lay_out_embed(tmp_path_factory.mktemp("embed"), write_header)


@pytest.fixture(scope="module")
def result(archive):
    return collect(candidates(Request(source=archive)))


def exam(result, number: int) -> pl.DataFrame:
    return result.index.filter(pl.col("exam_id") == str(FIRST + number))


def test_every_row_is_indexed_or_left_out_with_its_reason(result) -> None:
    assert dict(result.excluded.group_by("reason").len().iter_rows()) == {
        "male": 8, "missing_file": 1, "not_mammography": 1, "magnification": 1, "nonstandard_view": 2,
    }  # fmt: skip
    assert result.index.height == 6 * 8
    odd = result.excluded.filter(pl.col("reason") == "nonstandard_view")["view"].to_list()
    assert sorted(odd) == ["ML", "XCCL"]
    saved = result.excluded.filter(pl.col("reason") == "not_mammography")["detail"].item()
    assert "ROI_SSC" in saved


def test_an_exams_density_is_that_of_its_densest_finding_and_never_multiplies_images(result) -> None:
    # Exam 2 has findings of density 3 and 4; exam 1 has two rows of the same density.
    assert set(exam(result, 2)["density"]) == {"D"}
    assert exam(result, 1).height == 8
    assert [set(exam(result, number)["density"]) for number in (0, 1, 3)] == [{"A"}, {"B"}, {"D"}]


def test_density_does_not_follow_the_side_of_the_finding(result) -> None:
    # The finding of exam 0 is on the right.
    assert dict(exam(result, 0).group_by("laterality", "density").len().drop("density").iter_rows()) == {"L": 4, "R": 4}


def test_five_is_a_man_and_a_blank_is_blank(result) -> None:
    assert exam(result, 5).is_empty()
    assert exam(result, 4)["density"].null_count() == 8
    assert exam(result, 6)["density"].null_count() == 8


def test_words_for_kinds_are_read_however_they_are_written(result) -> None:
    kinds = result.index.group_by("exam_id", "modality").len()
    assert kinds.filter(pl.col("len") != 4).is_empty()
    assert dict(result.index.group_by("modality").len().iter_rows()) == {"DM": 24, "s2D": 24}
    missing = result.excluded.filter(pl.col("reason") == "missing_file")
    assert missing["modality"].to_list() == ["DBT"]


def test_patients_dates_race_and_age_come_from_the_tables(result) -> None:
    assert exam(result, 6)["patient_id"].equals(exam(result, 0)["patient_id"])
    row = exam(result, 1).row(0, named=True)
    assert (row["race"], row["age"], row["vendor"]) == ("African American or Black", 52.031, "Hologic")
    assert str(row["study_date"]) == "2017-04-02"
    assert (row["site"], row["institution"], row["density_source"]) == ("EMBED", "Emory University", "table")


def test_notes_count_findings_conflicts_and_what_the_release_lacks(archive) -> None:
    notes = " ".join(candidates(Request(source=archive)).notes)
    assert "8 findings of 6 exams were read" in notes
    assert "The findings of 1 exam differ in density" in notes
    assert "1 exam of the image table without a row" in notes
    assert "1 tomosynthesis volume;" in notes


@pytest.mark.parametrize("prefix", ["./images/", "", "C:\\data\\mammo\\"])
def test_the_prefix_of_paths_is_replaced_whatever_it_is(archive, tmp_path, prefix) -> None:
    for name in ("metadata", "clinical"):
        text = (archive / f"tables/EMBED_OpenData_{name}.csv").read_text()
        (tmp_path / f"EMBED_OpenData_{name}.csv").write_text(text.replace(EMBED_PREFIX, prefix))
    table = tmp_path / "EMBED_OpenData_metadata.csv"
    there = candidates(Request(source=archive)).rows["path"]
    assert candidates(Request(source=archive, table=table)).rows["path"].equals(there)
    assert candidates(Request(source=archive / "images", table=table)).rows["path"].equals(there)


def test_reduced_tables_are_taken_where_the_full_ones_are_not(archive, tmp_path) -> None:
    for name in ("metadata", "clinical"):
        text = (archive / f"tables/EMBED_OpenData_{name}.csv").read_text()
        (tmp_path / f"EMBED_OpenData_{name}_reduced.csv").write_text(text)
    assert candidates(Request(source=tmp_path, no_files=True)).rows.height == 61


def test_columns_of_mixed_types_from_a_parquet_copy_still_join(archive, tmp_path) -> None:
    for name in ("metadata", "clinical"):
        table = pl.read_csv(archive / f"tables/EMBED_OpenData_{name}.csv", infer_schema_length=10_000)
        # pandas makes whole numbers with a blank among them floats.
        table.with_columns(pl.col("acc_anon").cast(pl.Float64)).write_parquet(tmp_path / f"a_{name}.parquet")
    rows = candidates(Request(source=archive, table=tmp_path / "a_metadata.parquet")).rows
    assert rows["density"].equals(candidates(Request(source=archive)).rows["density"])


def test_ids_that_one_table_writes_as_floats_still_join(archive, tmp_path) -> None:
    for name, ending in (("metadata", ".0"), ("clinical", "")):
        table = pl.read_csv(archive / f"tables/EMBED_OpenData_{name}.csv", infer_schema=False)
        table.with_columns(pl.col("acc_anon") + ending).write_csv(tmp_path / f"a_{name}.csv")
    rows = candidates(Request(source=archive, table=tmp_path / "a_metadata.csv")).rows
    assert rows["exam_id"].equals(candidates(Request(source=archive)).rows["exam_id"])
    assert rows["density"].null_count() < rows.height / 2


def test_what_is_missing_is_said_with_the_next_step(archive, tmp_path) -> None:
    lay_out_embed(tmp_path, no_file)
    clinical = tmp_path / "tables/EMBED_OpenData_clinical.csv"
    with pytest.raises(UserError, match=r"none of the image folders .*--no-files"):
        candidates(Request(source=tmp_path))
    edit(clinical, "tissueden", "density")
    with pytest.raises(UserError, match=r"clinical.csv has no column tissueden; it has empi_anon, acc_anon"):
        candidates(Request(source=tmp_path, no_files=True))
    clinical.unlink()
    with pytest.raises(UserError, match=r"no EMBED_OpenData_clinical.csv beside EMBED_OpenData_metadata.csv"):
        candidates(Request(source=tmp_path, no_files=True))
    write_csv(clinical, ("acc_anon", "tissueden"), [("4.93E+15", "2")])
    with pytest.raises(UserError, match=r"no exam \(acc_anon\).*spreadsheet"):
        candidates(Request(source=tmp_path, no_files=True))


def test_a_density_that_is_none_is_named_with_its_row(tmp_path) -> None:
    lay_out_embed(tmp_path, no_file)
    edit(tmp_path / "tables/EMBED_OpenData_clinical.csv", ",1.0,", ",7.0,")
    with pytest.raises(UserError, match=r"clinical.csv row 1, column tissueden: density '7'"):
        candidates(Request(source=tmp_path, no_files=True))


def test_two_rows_of_one_image_that_differ_are_refused_and_makers_are_named_alike(tmp_path) -> None:
    lay_out_embed(tmp_path, no_file)
    assert set(candidates(Request(source=tmp_path, no_files=True)).rows["vendor"]) == {"Hologic"}
    table = tmp_path / "tables/EMBED_OpenData_metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1].replace("2D,L,CC", "2D,R,CC")]) + "\n")
    with pytest.raises(UserError, match=rf"row 1 and .* row {len(lines)} are about one image and differ in laterality"):
        candidates(Request(source=tmp_path, no_files=True))


def test_an_implant_is_left_out_unless_it_is_displaced(tmp_path) -> None:
    lay_out_embed(tmp_path, no_file)
    table = tmp_path / "tables/EMBED_OpenData_metadata.csv"
    modifier = "0_ViewCodeSequence_0_ViewModifierCodeSequence_CodeMeaning"
    read = pl.read_csv(table, infer_schema=False).with_row_index("n")
    said = pl.when(pl.col("n") < 2).then(pl.lit("YES")).otherwise(pl.lit("NO"))
    displaced = pl.when(pl.col("n") == 1).then(pl.lit("Implant Displaced")).alias(modifier)
    spot = pl.when(pl.col("n") == 2).then(pl.lit("Spot Compression")).otherwise(pl.col(modifier))
    read = read.with_columns(said.alias("BreastImplantPresent"), displaced).with_columns(spot.alias(modifier))
    read.drop("n").write_csv(table)
    rows = candidates(Request(source=tmp_path, no_files=True)).rows
    assert rows["reason"][:4].to_list() == ["implant", None, "magnification", None]


def test_images_whose_files_are_named_alike_are_different_images(tmp_path) -> None:
    (tmp_path / "tables").mkdir()
    paths = [f"images/cohort_1/{patient}/L_CC.dcm" for patient in (1, 2)] + ["images/cohort_1/2/alone.dcm"]
    lines = [f"{path.split('/')[2]},{path.split('/')[2]},2D,L,CC,,{path}" for path in paths]
    header = "empi_anon,acc_anon,FinalImageType,ImageLateralityFinal,ViewPosition,spot_mag,anon_dicom_path"
    (tmp_path / "tables/EMBED_OpenData_metadata.csv").write_text("\n".join([header, *lines]) + "\n")
    (tmp_path / "tables/EMBED_OpenData_clinical.csv").write_text("acc_anon,tissueden\n1,1.0\n2,2.0\n")
    index = collect(candidates(Request(source=tmp_path, no_files=True))).index
    assert sorted(index["image_id"]) == ["alone", "cohort_1/1/L_CC.dcm", "cohort_1/2/L_CC.dcm"]


@pytest.mark.parametrize("words", ["Unknown, Unavailable or Unreported", "Patient Declined", "Not Recorded"])
def test_words_for_a_race_that_is_not_known_make_no_group(words) -> None:
    table = pl.DataFrame({"RACE_DESC": [words, "African American  or Black", "Asian"]})
    assert table.select(embed._stated("RACE_DESC")).to_series().to_list() == [
        None,
        "African American or Black",
        "Asian",
    ]
