"""From an exam's predictions to every object that is handed out; `predict`, `serve` and `listen` all call it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pydicom
from pydicom.dataset import Dataset

from densityclip.artifacts import atomic_path, file_stem, write_json
from densityclip.deliver.exam_json import exam_answer
from densityclip.deliver.secondary_capture import rgb_of_png, secondary_capture
from densityclip.deliver.source_image import SourceImage, check_one_patient, object_bytes
from densityclip.deliver.structured_report import evidence_uids, predecessor_uids, structured_report
from densityclip.dicom.header import PARSE_ERRORS, quiet
from densityclip.inference.guard import hold_back_disagreeing
from densityclip.model.bundle import Bundle
from densityclip.reasons import Refused

ANSWERS, REPORTS, CAPTURES = "exams", "sr", "captures"


@dataclass(frozen=True)
class ExamObjects:
    """Everything that is handed out for one exam.

    Attributes:
        answer: The JSON, as `answer.schema.json` describes it.
        report: The structured report, or None where none was asked for or can be made.
        captures: Secondary captures, one a picture.
        without: Why there are no DICOM objects though they were asked for; None where there are.
    """

    answer: dict[str, Any]
    report: Dataset | None = None
    captures: tuple[Dataset, ...] = ()
    without: str | None = None


def exam_objects(
    rows: pl.DataFrame,
    bundle: Bundle,
    *,
    sources: Sequence[SourceImage] = (),
    report: bool = False,
    pictures: Mapping[str, bytes] | None = None,
    earlier: Sequence[Dataset] = (),
) -> ExamObjects:
    """Turn one exam's predictions into its output objects: the one function for every caller.

    Args:
        rows: Schema `predictions`, all levels of one exam.
        bundle: The model that answered.
        sources: Headers of the exam's DICOM images; without them there is JSON alone.
        report: Whether a structured report is wanted.
        pictures: By image id, PNGs that shall become secondary captures.
        earlier: Reports made of this exam before, see `structured_report`.

    Returns:
        The objects. Images of several patients or studies, or without any date, get no DICOM object: `without` says so.
    """
    # Here as well as in `predict`, so that no caller can forget it; twice changes nothing.
    rows = hold_back_disagreeing(rows)
    answer = exam_answer(rows, bundle)
    if not (report or pictures):
        return ExamObjects(answer)
    if not sources:
        return ExamObjects(answer, without="the exam has no DICOM image that was answered")
    # What pydicom and highdicom warn of quotes values, and so may quote a patient.
    with quiet():
        try:
            check_one_patient(sources)
        except Refused as refused:
            return ExamObjects(answer, without=refused.detail)
        made = structured_report(rows, bundle, sources, earlier) if report else None
        captures = tuple(_captures(rows, bundle, sources, pictures or {}))
    without = "neither the exam nor a breast has an answer" if report and made is None else None
    return ExamObjects(answer, made, captures, without)


def _captures(
    rows: pl.DataFrame, bundle: Bundle, sources: Sequence[SourceImage], pictures: Mapping[str, bytes]
) -> Iterable[Dataset]:
    sides = dict(rows.filter(pl.col("level") == "image").select("image_id", "laterality").iter_rows())
    shown = sorted((one for one in sources if one.image_id in pictures), key=lambda one: one.sop_uid)
    for number, source in enumerate(shown, start=1):
        picture = rgb_of_png(pictures[source.image_id])
        yield secondary_capture(source, picture, bundle, laterality=sides.get(source.image_id), number=number)


def exams_of(table: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of each exam, in the order of the table; images that state no exam are in none."""
    return table.filter(pl.col("exam_id").is_not_null()).partition_by("exam_id", maintain_order=True)


def write_exam(objects: ExamObjects, out: Path) -> list[Path]:
    """Write an exam's objects: `exams/<exam>.json`, `sr/<exam>-<end of its UID>.dcm`, `captures/<exam>/<image>.dcm`.

    Args:
        objects: Of `exam_objects`.
        out: The folder; a file that is already there is replaced by the same object or a later one.

    Returns:
        The files, JSON first. Their names derive from ids and hashes, never from a path or a patient's name.
    """
    stem = file_stem(str(objects.answer["exam_id"]))
    paths = [out / ANSWERS / f"{stem}.json"]
    write_json(paths[0], objects.answer)
    if objects.report is not None:
        paths.append(out / REPORTS / f"{stem}-{str(objects.report.SOPInstanceUID)[-8:]}.dcm")
        _write(objects.report, paths[-1])
    for capture in objects.captures:
        source = str(capture.SourceImageSequence[0].ReferencedSOPInstanceUID)
        paths.append(out / CAPTURES / stem / f"{file_stem(source)}.dcm")
        _write(capture, paths[-1])
    return paths


def _write(dataset: Dataset, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(object_bytes(dataset))


def reports_written(exam_id: str, out: Path) -> list[Dataset]:
    """Reports of an exam that `write_exam` left in a folder before; what cannot be read is passed over."""
    found: list[Dataset] = []
    for path in sorted((out / REPORTS).glob(f"{file_stem(exam_id)}-*.dcm")):
        try:
            with quiet():
                report = pydicom.dcmread(path)
                # All that a chain of reports is followed by; a damaged one stops here.
                evidence_uids(report), predecessor_uids(report), int(report.InstanceNumber), report.SeriesInstanceUID
            found.append(report)
        except PARSE_ERRORS:
            continue
    return found
