"""Predictions to output objects: a JSON per exam, structured reports, secondary captures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from densityclip.artifacts import atomic_path
from densityclip.records import Status

if TYPE_CHECKING:
    from densityclip.deliver.source_image import SourceImage
    from densityclip.model.bundle import Bundle
    from densityclip.steps.overlays import Overlays

WITHOUT = "without_objects.csv"
_NAMED = 5


@dataclass
class WrittenObjects:
    """How many objects were written, and why exams have none.

    Attributes:
        answers: JSON files.
        reports: Structured reports.
        captures: Secondary captures.
        without: Exams that have no report, or no DICOM object at all, though one was asked for: id, what is lacking,
            why, and the code of the exam's own reason where it has one.
        pictures: Answered images that belong to no exam, and so to no DICOM object that was asked for.
    """

    answers: int = 0
    reports: int = 0
    captures: int = 0
    without: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    pictures: int = 0

    def sentences(self) -> Iterator[str]:
        """What a person should know of them; nothing where no DICOM object was asked for."""
        if self.reports:
            yield f"{self.reports} structured report{'s' * (self.reports != 1)} in sr/."
        if self.captures:
            yield f"{self.captures} secondary capture{'s' * (self.captures != 1)} in captures/."
        for (lacks, why, reason), exams in sorted(self._exams_by_why().items(), key=lambda group: -len(group[1])):
            named = ", ".join(exams[:_NAMED])
            more = f" and {len(exams) - _NAMED} more, in {WITHOUT}" if len(exams) > _NAMED else ""
            yield (
                f"{len(exams)} exam{'s' * (len(exams) != 1)} without {lacks}: {why}"
                f"{f' ({reason})' if reason else ''}. {'They are' if len(exams) > 1 else 'It is'} {named}{more}."
            )
        if self.pictures:
            yield (
                f"{self.pictures} plain picture{'s' * (self.pictures != 1)} without DICOM objects: a report or a "
                "capture needs the patient and the study of a DICOM image, and a picture states neither."
            )

    def _exams_by_why(self) -> dict[tuple[str, str, str | None], list[str]]:
        groups: dict[tuple[str, str, str | None], list[str]] = {}
        for exam_id, lacks, why, reason in self.without:
            groups.setdefault((lacks, why, reason), []).append(exam_id)
        return groups


def write_objects(
    table: pl.DataFrame,
    found: pl.DataFrame,
    bundle: "Bundle",
    out: Path,
    *,
    report: bool,
    overlays: "Overlays | None" = None,
) -> WrittenObjects:
    """Write every exam's objects, and the overlays of all images; and in `WITHOUT`, which exams have none.

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
        images = found.filter(pl.col("image_id").is_in(_answered(rows)["image_id"].implode()))
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
            lacks = "a structured report" if objects.captures else "DICOM objects"
            written.without.append((rows["exam_id"][0], lacks, objects.without, _reason_of_exam(rows)))
    if overlays is not None:
        overlays.finish()
    if report or overlays:
        written.pictures = _answered(table).filter(pl.col("exam_id").is_null()).height
    _write_without(written, out / WITHOUT)
    return written


def _answered(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter((pl.col("level") == "image") & (pl.col("status") == Status.OK.value))


def _reason_of_exam(rows: pl.DataFrame) -> str | None:
    reasons = rows.filter(pl.col("level") == "exam")["reason"].to_list()
    return reasons[0] if reasons else None


def _write_without(written: WrittenObjects, path: Path) -> None:
    if not written.without:
        # An earlier run may have left one.
        path.unlink(missing_ok=True)
        return
    columns = dict.fromkeys(("exam_id", "lacks", "why", "reason"), pl.String)
    with atomic_path(path) as temporary:
        pl.DataFrame(written.without, schema=columns, orient="row").write_csv(temporary)


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
