"""`predict` by its command: DICOM in, report and captures out, the same whatever lies beside an exam."""

import shutil
from pathlib import Path

import jsonschema
import polars as pl
import pydicom
import pytest
from validators import dciodvfy, dsrdump

from densityclip.artifacts import read_json, read_table
from densityclip.deliver.exam_json import answer_schema
from densityclip.dicom.density_report import read_composition
from densityclip.phantom.generate import generate


@pytest.fixture(scope="module")
def exams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exams as a zip archive, with a file in it that is none."""
    folder = tmp_path_factory.mktemp("predict")
    generate(folder / "phantom", site="internal", exams=2, seed=5, size=160, slice_mm=10)
    (folder / "phantom" / "dicom" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    shutil.make_archive(str(folder / "exams"), "zip", folder / "phantom" / "dicom")
    return folder


@pytest.fixture(scope="module")
def out(exams: Path, road: Path, densityclip) -> Path:
    model = road / "arms" / "multi" / "bundle"
    done = densityclip("predict", exams / "exams.zip", "--model", model, "--out", exams / "out", "--sr", "--overlay")
    # One file was refused.
    assert done.returncode == 1, done.stderr[-1000:]
    assert "2 structured reports in sr/." in done.stdout
    return exams / "out"


def test_report_json_and_predictions_agree(out: Path):
    table = read_table(out / "predictions.parquet", "predictions")
    reports = {path.name.rsplit("-", 1)[0]: path for path in (out / "sr").glob("*.dcm")}
    assert len(reports) == 2
    for exam_id, path in reports.items():
        answer = read_json(out / "exams" / f"{exam_id}.json", "")
        jsonschema.validate(answer, answer_schema(), cls=jsonschema.Draft202012Validator)
        breasts = {part["laterality"]: part["density"] for part in answer["breasts"]}
        found = read_composition(path)
        assert {"L": found.left, "R": found.right} == breasts
        rows = table.filter((table["exam_id"] == exam_id) & (table["level"] == "breast"))
        assert dict(zip(rows["laterality"], rows["predicted"], strict=True)) == breasts
        assert dciodvfy(path) == []
        assert "Research use only" in dsrdump(path)


def test_the_fact_about_a_refused_file_stands_in_the_csv_and_nowhere_else(out: Path):
    rows = pl.read_csv(out / "predictions.csv").filter(pl.col("detail").is_not_null())
    assert rows.select("level", "status", "reason", "detail").rows() == [
        ("image", "refused", "unreadable", "the file has no SOP Class UID")
    ]


def test_every_answered_image_has_a_capture_of_its_overlay(out: Path):
    table = read_table(out / "predictions.parquet", "predictions")
    images = table.filter((table["level"] == "image") & (table["status"] == "ok"))["image_id"]
    captures = [pydicom.dcmread(path) for path in (out / "captures").rglob("*.dcm")]
    assert {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in captures} == set(images)
    assert all(one.pixel_array.std() > 10 for one in captures)
    assert dciodvfy(next((out / "captures").rglob("*.dcm"))) == []


def test_an_exam_alone_gives_the_same_files_as_in_company(out: Path, exams: Path, road: Path, densityclip):
    one = next(path for path in (exams / "phantom" / "dicom").iterdir() if path.is_dir())
    done = densityclip(
        *("predict", one, "--model", road / "arms" / "multi" / "bundle"),
        *("--out", exams / "alone", "--sr", "--overlay"),
    )
    assert done.returncode == 0, done.stderr[-1000:]
    made = [
        path.relative_to(exams / "alone")
        for kind in ("sr", "captures")
        for path in (exams / "alone" / kind).rglob("*.dcm")
    ]
    assert len(made) == 13
    for path in made:
        assert (exams / "alone" / path).read_bytes() == (out / path).read_bytes()
