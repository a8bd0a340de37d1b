"""Predictions to output objects: a JSON per exam, structured reports, secondary captures."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from densityclip.records import Status

if TYPE_CHECKING:
    from densityclip.deliver.source_image import SourceImage
    from densityclip.model.bundle import Bundle
    from densityclip.steps.overlays import Overlays


@dataclass
class WrittenObjects:
    """How many objects were written, and why exams have none.

    Attributes:
        answers: JSON files.
        reports: Structured reports.
        captures: Secondary captures.
        without: Why exams have no DICOM object that was asked for, and how many.
    """

    answers: int = 0
    reports: int = 0
    captures: int = 0
    without: Counter[str] = field(default_factory=Counter)

    def sentences(self) -> Iterator[str]:
        """What a person should know of them; nothing where no DICOM object was asked for."""
        if self.reports:
            yield f"{self.reports} structured report{'s' * (self.reports != 1)} in sr/."
        if self.captures:
            yield f"{self.captures} secondary capture{'s' * (self.captures != 1)} in captures/."
        for why, exams in sorted(self.without.items()):
            yield f"{exams} exam{'s' * (exams != 1)} without DICOM objects: {why}."


def write_objects(
    table: pl.DataFrame,
    found: pl.DataFrame,
    bundle: "Bundle",
    out: Path,
    *,
    report: bool,
    overlays: "Overlays | None" = None,
) -> WrittenObjects:
    """Write every exam's objects, and the overlays of all images.

    Args:
        table: Schema `predictions`, all levels.
        found: The index that was predicted.
        bundle: The model that predicted it.
        out: The folder of the predictions; reports in it from before may become predecessors.
        report: Whether to write structured reports.
        overlays: The maps, which become secondary captures too; None where nothing is to be drawn.
    """
    from densityclip.deliver.answer import exam_objects, exams_of, reports_written, write_exam

    written = WrittenObjects()
    for rows in exams_of(table):
        answered = rows.filter((pl.col("level") == "image") & (pl.col("status") == Status.OK.value))
        images = found.filter(pl.col("image_id").is_in(answered["image_id"].implode()))
        sources = _sources(images) if report or overlays else []
        pictures = overlays.draw(images["image_id"].to_list()) if overlays else {}
        objects = exam_objects(
            rows,
            bundle,
            sources=sources,
            report=report,
            pictures=pictures if sources else {},
            earlier=reports_written(rows["exam_id"][0], out) if report else (),
        )
        write_exam(objects, out)
        written.answers += 1
        written.reports += objects.report is not None
        written.captures += len(objects.captures)
        if (report or overlays) and objects.without:
            written.without[objects.without] += 1
    if overlays is not None:
        overlays.finish()
    return written


def _sources(images: pl.DataFrame) -> list["SourceImage"]:
    """Headers of the DICOM images among some; plain pictures, and files that are gone, have none."""
    from densityclip.deliver.source_image import read_source
    from densityclip.dicom.header import is_dicom
    from densityclip.reasons import Refused

    found = []
    for image_id, path in images.select("image_id", "path").iter_rows():
        if not is_dicom(Path(path)):
            continue
        try:
            found.append(read_source(image_id, Path(path)))
        except Refused:
            continue
    return found
