"""What a worker of the listener does with an exam: predict its files and write its structured report."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from densityclip.deliver.answer import exam_objects, exams_of, write_exam
from densityclip.deliver.pictures import exam_pictures
from densityclip.deliver.source_image import read_source
from densityclip.deliver.worker import Answer
from densityclip.dicom.density_report import REPORT_CLASSES
from densityclip.reasons import Reason, Refused, reason_of
from densityclip.records import Status

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from densityclip.inference.predictor import PredictedImage, Predictor


def open_answer(bundle: Path, *, overlay: bool = False) -> Answer:
    """Open a bundle; returns what answers exams with it.

    Args:
        bundle: Its folder.
        overlay: Whether to add secondary captures that show where the model looked.

    Raises:
        UserError: It is no bundle.
    """
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import load_bundle

    return partial(answer_exam, Predictor(load_bundle(bundle)), overlay=overlay)


def answer_exam(
    predictor: "Predictor", files: Sequence[Path], out: Path, earlier: Sequence[Path] = (), *, overlay: bool = False
) -> list[Path]:
    """Answer one exam with its structured report, and secondary captures on request.

    Args:
        predictor: The model.
        files: The DICOM files of one study, all in one folder.
        out: Where to write.
        earlier: Objects of earlier answers to the same exam, oldest first.
        overlay: Whether to add secondary captures.

    Returns:
        The DICOM objects.

    Raises:
        Refused: No object can be had from these files: the reason that most of them have, or that their exam has.
    """
    table, found, predicted = _predicted(predictor, files)
    paths: list[Path] = []
    without: str | None = None
    reports = _reports(earlier)
    for rows in exams_of(table):
        used = rows.filter((pl.col("level") == "image") & (pl.col("status") == Status.OK.value))["image_id"]
        images = found.filter(pl.col("image_id").is_in(used.implode()))
        sources = [read_source(name, Path(path)) for name, path in images.select("image_id", "path").iter_rows()]
        names = set(images["image_id"]) if overlay else set()
        mine = [image for image in predicted if image.row["image_id"] in names]
        pictures = exam_pictures(predictor, mine) if mine else {}
        objects = exam_objects(rows, predictor.bundle, sources=sources, report=True, pictures=pictures, earlier=reports)
        paths += [path for path in write_exam(objects, out) if path.suffix == ".dcm"]
        without = objects.without or without
    if not paths:
        raise _why_nothing(table, without)
    return paths


def _predicted(
    predictor: "Predictor", files: Sequence[Path]
) -> tuple[pl.DataFrame, pl.DataFrame, list["PredictedImage"]]:
    """Predictions of all levels, the index of what was found, and its prepared images, which maps are made of."""
    from densityclip.inference.predictor import all_levels, image_table, refused_images
    from densityclip.inference.sources import gather

    found, excluded = gather(files[0].parent, for_processing=predictor.bundle.recipe.for_processing)
    # An image that came after the exam was taken belongs to the next answer.
    mine = pl.col("path").is_in([str(path.resolve()) for path in files])
    found, excluded = found.filter(mine), excluded.filter(mine)
    predicted = list(predictor.predict_files(found))
    images = pl.concat([image_table(predicted, predictor.calibration), refused_images(excluded)])
    return all_levels(images, predictor.calibration.joining), found, predicted


def _reports(paths: Sequence[Path]) -> list["Dataset"]:
    from pydicom import dcmread

    read = [dcmread(path) for path in paths]
    return [dataset for dataset in read if dataset.SOPClassUID in REPORT_CLASSES]


def _why_nothing(table: pl.DataFrame, without: str | None) -> Refused:
    """Why there is no object.

    Args:
        table: Schema `predictions`, all levels.
        without: What `exam_objects` said of it.
    """
    from densityclip.inference.guard import hold_back_disagreeing

    images = table.filter(pl.col("level") == "image")
    if (images["status"] == Status.OK.value).any():
        held = hold_back_disagreeing(table).filter(pl.col("level") == "exam")["reason"].drop_nulls()
        return Refused(reason_of(held[0]) if len(held) else Reason.BAD_HEADER, without or "")
    reasons = images["reason"].drop_nulls()
    if not len(reasons):
        return Refused(Reason.UNREADABLE, "no image of the exam could be answered")
    code = reasons.mode().sort()[0]
    same, whole = (reasons == code).sum(), len(images)
    return Refused(reason_of(code), f"{'the only image' if whole == 1 else f'{same} of {whole} images'} of the exam")
