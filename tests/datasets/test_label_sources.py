"""Labels from a site's table and from reports: which breast, which exam, and who goes first."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from header_samples import study_uid, write_report, write_view
from hypothesis import given
from hypothesis import strategies as st

from densityclip.artifacts import conform
from densityclip.datasets.contract import IndexResult, Request, collect
from densityclip.datasets.dicom_folder import candidates
from densityclip.datasets.labels import read_label_table
from densityclip.density import denser
from densityclip.errors import UserError
from densityclip.probability.aggregate import to_level


@pytest.fixture
def archive(tmp_path) -> Path:
    """Two women, both breasts; the first was here twice."""
    folder = tmp_path / "in"
    for side in "LR":
        write_view(folder / f"1{side}", "P1", side, StudyDate="20200101")
        write_view(folder / f"2{side}", "P2", side, StudyDate="20200101")
        again = {"StudyInstanceUID": "1.2.3", "SOPInstanceUID": f"1.2.3.{ord(side)}"}
        write_view(folder / f"3{side}", "P1", side, StudyDate="20220101", **again)
    return folder


def index(archive: Path, text: str | None = None, **request: Any) -> IndexResult:
    if text is not None:
        request["table"] = archive.parent / "labels.csv"
        request["table"].write_text(text)
    return collect(candidates(Request(source=archive, **request)))


def labels(result: IndexResult) -> dict[str, str | None]:
    return {Path(path).name: density for path, density in result.index.select("path", "density").iter_rows()}


def test_each_exam_of_a_woman_keeps_its_own_label_by_its_date(archive) -> None:
    text = "patient_id,study_date,laterality,density\nP1,2020-01-01,,A\nP1,20220101,L,B\nP1,2022-01-01,R,C\n"
    assert labels(index(archive, text)) == {"1L": "A", "1R": "A", "3L": "B", "3R": "C", "2L": None, "2R": None}


def test_two_labels_of_a_woman_without_dates_are_one_clear_message(archive) -> None:
    with pytest.raises(UserError, match=r"row 2 contradicts .* patient_id in density.*study_date"):
        index(archive, "patient_id,density\nP1,A\nP1,B\n")


def test_a_table_without_densities_says_so(archive) -> None:
    assert (
        "labels.csv has no column density: no image gets a label from it."
        in index(archive, "patient_id,age\nP1,50\n").notes
    )
    with pytest.raises(UserError, match="says nothing of an image: it has patient_id, grade"):
        index(archive, "patient_id,grade\nP1,A\n")


def test_rows_that_say_the_same_or_complete_each_other_are_one(archive) -> None:
    text = "patient_id,density,race\nP1,A,\nP1,1,Asian\nP1,,\nP2,,\n"
    result = index(archive, text)
    assert result.index.filter(pl.col("patient_id") == "P1").select("density", "race").unique().rows() == [
        ("A", "Asian")
    ]
    assert result.index.filter(pl.col("patient_id") == "P2")["density"].null_count() == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("patient_id,study_date,density\nP1,,A\n", "row 1, column study_date, is blank"),
        ("patient_id,study_date,density\nP1,soon,A\n", "row 1, column study_date: 'soon'"),
        ("patient_id,study_date,density\nP1,2019-12-31,A\n", "no row of labels.csv .* by patient_id and study_date"),
        ("patient_id,density,age\nP1,A,50\nP1,A,51\n", "row 2 contradicts .* in age"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_said_with_row_and_column(archive, text, said) -> None:
    with pytest.raises(UserError, match=said):
        index(archive, text)


def test_images_that_the_table_does_not_know_are_counted(archive) -> None:
    assert "2 of 6 images are not in the label table." in index(archive, "patient_id,density\nP1,A\n").notes


def test_the_source_that_a_table_names_is_kept_and_is_table_otherwise(archive) -> None:
    text = f"study_uid,density,density_source\n{study_uid('P1')},A,two readers\n{study_uid('P2')},B,\n1.2.3,,x\n"
    found = index(archive, text).index.sort("path").select("density", "density_source").rows()
    assert found == [("A", "two readers")] * 2 + [("B", "table")] * 2 + [(None, None)] * 2


def test_reports_label_the_breasts_of_their_study(archive) -> None:
    write_report(archive / "r1", "P1", left="B", right="D")
    write_report(archive / "r2", "P2", both="A")
    result = index(archive)
    assert labels(result) == {"1L": "B", "1R": "D", "2L": "A", "2R": "A", "3L": None, "3R": None}
    assert set(result.index.drop_nulls("density")["density_source"]) == {"sr"}
    assert result.excluded["reason"].to_list() == ["structured_report"] * 2


def test_the_latest_report_stands_and_a_disagreement_is_said(archive) -> None:
    write_report(archive / "a_late", "P1", date="20240301", left="C", right="C")
    write_report(archive / "b_early", "P1", date="20240201", left="B", right="C")
    result = index(archive)
    assert (labels(result)["1L"], labels(result)["1R"]) == ("C", "C")
    assert "1 breasts have reports that disagree; the latest was taken." in result.notes


def test_a_table_goes_before_a_report(archive) -> None:
    write_report(archive / "r", "P1", left="B", right="D")
    result = index(archive, f"study_uid,laterality,density\n{study_uid('P1')},L,A\n")
    assert (labels(result)["1L"], labels(result)["1R"]) == ("A", "D")
    sources = dict(result.index.drop_nulls("density").select("laterality", "density_source").iter_rows())
    assert sources == {"L": "table", "R": "sr"}
    assert any(note.startswith("1 images have another density in the table than in a report") for note in result.notes)


def test_what_an_algorithm_wrote_labels_nothing(archive) -> None:
    write_report(archive / "r", "P1", device=True, both="D")
    result = index(archive)
    assert set(labels(result).values()) == {None}
    assert "1 reports were written by an algorithm: their densities are no labels." in result.notes


def test_an_exam_whose_breasts_differ_takes_the_denser_and_the_breasts_keep_theirs(archive) -> None:
    write_report(archive / "r", "P1", left="B", right="D")
    images = index(archive).index.filter(pl.col("exam_id") == study_uid("P1"))
    probabilities = {f"prob_{category}": pl.lit(0.25) for category in "abcd"}
    predicted = images.select("image_id", "exam_id", "patient_id", "modality", "view", "laterality").with_columns(
        label=images["density"], level=pl.lit("image"), status=pl.lit("ok"), **probabilities
    )
    predicted = conform(predicted, "predictions")
    breasts, exams = (to_level(predicted, level) for level in ("breast", "exam"))
    assert dict(breasts.select("laterality", "label").iter_rows()) == {"L": "B", "R": "D"}
    assert exams["label"].to_list() == ["D"]


CELLS = st.lists(
    st.tuples(st.sampled_from(["P1", "P2", "P9"]), st.sampled_from(["L", "R", "", "both"]), st.sampled_from("ABCD")),
    min_size=1,
    max_size=8,
)


@given(cells=CELLS)
def test_a_label_table_means_what_its_rows_say_one_by_one(tmp_path_factory, cells) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_text("patient_id,laterality,density\n" + "".join(f"{','.join(row)}\n" for row in cells))
    said: dict[tuple[str, str], set[str]] = {}
    for patient, side, density in cells:
        said.setdefault((patient, side if side in ("L", "R") else ""), set()).add(density)
    if any(len(densities) > 1 for densities in said.values()):
        with pytest.raises(UserError, match="contradicts"):
            read_label_table(path)
        return
    images = pl.DataFrame({"patient_id": ["P1", "P1", "P2", "P3", "P2"], "laterality": ["L", "R", "R", "L", None]})
    blank = images.with_columns(density=pl.lit(None, pl.String), density_source=pl.lit(None, pl.String)).lazy()
    for patient, side, density, _, label in read_label_table(path).join(blank).collect().iter_rows():
        own, both = said.get((patient, side or "?"), set()), said.get((patient, ""), set())
        assert density == denser(own or both)
        assert label == bool(own or both)
