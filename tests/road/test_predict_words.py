"""What `predict` says on the terminal of images and exams that it does not answer, or has no object for."""

import shutil
from pathlib import Path

import polars as pl
import pydicom
import pytest
from PIL import Image

from densityclip.cli.unanswered import say_unanswered
from densityclip.reasons import Reason
from densityclip.steps.objects import WrittenObjects


def test_a_reason_is_said_in_words_beside_its_code_and_count(capsys: pytest.CaptureFixture[str]):
    rows = [
        {"image_id": "a", "reason": "male", "detail": None},
        *({"image_id": f"b{number}", "reason": "truncated", "detail": f"{number} bytes of 9"} for number in range(7)),
    ]
    say_unanswered("Refused", rows, name="image_id", where="out/predictions.csv")
    assert capsys.readouterr().out.splitlines() == [
        f"Refused, 7 images (truncated): {Reason.TRUNCATED.sentence} {Reason.TRUNCATED.remedy}",
        *(f"  b{number}: {number} bytes of 9" for number in range(5)),
        "  and 2 more, in out/predictions.csv",
        # Nothing can be done about it, so nothing is advised.
        f"Refused, 1 image (male): {Reason.MALE.sentence}",
        "  a",
    ]


def test_thousands_of_exams_without_objects_are_a_sentence_for_each_cause():
    without = [(f"1.{number}", "DICOM objects", "no date", None) for number in range(3000)]
    without.append(("2.1", "a structured report", "no answer", "views_disagree"))
    assert list(WrittenObjects(without=without).sentences()) == [
        "3000 exams without DICOM objects: no date. They are 1.0, 1.1, 1.2, 1.3, 1.4 and 2995 more, in "
        "without_objects.csv.",
        "1 exam without a structured report: no answer (views_disagree). It is 2.1.",
    ]


@pytest.fixture(scope="module")
def bundle(road: Path) -> Path:
    return road / "arms" / "multi" / "bundle"


def test_an_exam_without_a_report_is_named_with_its_reason(road: Path, bundle: Path, tmp_path: Path, densityclip):
    exams = sorted((road / "cohorts" / "internal" / "exams" / "dicom").iterdir())[:2]
    for exam in exams:
        shutil.copytree(exam, tmp_path / "exams" / exam.name)
    for path in (tmp_path / "exams" / exams[0].name).rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-2000])
    done = densityclip("predict", tmp_path / "exams", "--model", bundle, "--out", tmp_path / "out", "--sr")
    rows = pl.read_csv(tmp_path / "out" / "without_objects.csv").to_dicts()
    why = "the exam has no DICOM image that was answered"
    (exam,) = rows
    assert (exam["lacks"], exam["why"], exam["reason"]) == ("DICOM objects", why, "truncated")
    assert f"1 exam without DICOM objects: {why} (truncated). It is {exam['exam_id']}.\n" in done.stdout
    assert (tmp_path / "out" / "exams" / f"{exam['exam_id']}.json").is_file()
    assert f"(truncated): {Reason.TRUNCATED.sentence}" in done.stdout
    # The next run has nothing to say of it.
    done = densityclip("predict", exams[1], "--model", bundle, "--out", tmp_path / "out", "--sr")
    assert "without DICOM objects" not in done.stdout
    assert not (tmp_path / "out" / "without_objects.csv").exists()


@pytest.mark.parametrize("asked", [["--sr"], ["--overlay"], []])
def test_plain_pictures_have_no_objects_and_the_reason_is_said_where_some_were_asked_for(
    road: Path, bundle: Path, tmp_path: Path, densityclip, asked: list[str]
):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    found = sorted((road / "cohorts" / "internal" / "exams" / "dicom").rglob("*.dcm"))
    flat = [image for image in map(pydicom.dcmread, found) if "NumberOfFrames" not in image]
    for number, image in enumerate(flat[:2]):
        pixels = image.pixel_array.astype(float)
        Image.fromarray((255 * pixels / pixels.max()).astype("uint8")).save(pictures / f"{number}.png")
    done = densityclip("predict", pictures, "--model", bundle, "--out", tmp_path / "out", *asked)
    said = (
        "2 plain pictures without DICOM objects: a report or a capture needs the patient and the study of a DICOM image"
    )
    assert (said in done.stdout) == bool(asked), done.stdout + done.stderr
