"""What a worker of the web service does with an upload: every exam in it to JSON, report, captures and layers."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.artifacts import write_json
from densityclip.deliver.answer import ExamObjects, exam_objects
from densityclip.deliver.incoming import REFERENCE
from densityclip.deliver.pictures import Layers, draw_layers, draw_pictures, exam_maps
from densityclip.deliver.retrieve import Retrieval, retrieved
from densityclip.deliver.source_image import SourceImage, object_bytes, read_source
from densityclip.deliver.uploads import PROGRESS, RESULT
from densityclip.deliver.worker import Answer
from densityclip.dicom.header import is_dicom
from densityclip.errors import UserError
from densityclip.inference.zip_source import ArchiveTooLarge, ZipLimits, unpacked
from densityclip.reasons import Reason, Refused
from densityclip.records import Status

if TYPE_CHECKING:
    from densityclip.inference.predictor import PredictedImage, Predictor

NO_EXAM = "images that state no exam"

_NO_SERVERS = Retrieval()
_ZIP_LIMITS = ZipLimits(files=2000, file_bytes=2 << 30, total_bytes=16 << 30)


def open_upload_answer(bundle: Path, retrieval: Retrieval | None = None) -> Answer:
    """Open a bundle; returns what answers uploads with it.

    Args:
        bundle: Its folder.
        retrieval: From where studies may be fetched.

    Raises:
        UserError: It is no bundle.
    """
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import load_bundle

    return partial(answer_upload, Predictor(load_bundle(bundle)), retrieval=retrieval or Retrieval())


def answer_upload(
    predictor: "Predictor",
    files: Sequence[Path],
    out: Path,
    earlier: Sequence[Path] = (),
    *,
    limits: ZipLimits = _ZIP_LIMITS,
    retrieval: Retrieval = _NO_SERVERS,
) -> list[Path]:
    """Answer an upload, exam by exam, in the order of its files; images that state no exam are a group of their own.

    Args:
        predictor: The model.
        files: One zip archive, a reference to a study, or DICOM and picture files, all in one folder.
        out: Where to write; `progress.json` in it says how far the work is.
        earlier: Not used: an upload is answered once.
        limits: What an archive may hold.
        retrieval: From where a study may be fetched, and how much.

    Returns:
        `N-answer.json`, `N-report.dcm`, `N-K-view.png`, `N-K-heat.png`, `N-K-capture.dcm` for exam N and image K, both
        from 1, and `result.json`, which lists them. No name derives from what was uploaded.

    Raises:
        Refused: The archive cannot be unpacked, the study cannot be fetched, one of them is beyond the limits, or
            nothing in it can be an image.
    """
    if files[0].name == REFERENCE:
        with retrieved(files[0], retrieval, within=out) as folder:
            return _answer_folder(predictor, folder, out)
    source = files[0] if len(files) == 1 and files[0].suffix == ".zip" else files[0].parent
    with _unpacked(source, limits, out) as folder:
        return _answer_folder(predictor, folder, out)


@contextlib.contextmanager
def _unpacked(source: Path, limits: ZipLimits, out: Path) -> Iterator[Path]:
    # Beside the results, so that it goes with them if this process is killed.
    try:
        with unpacked(source, limits, within=out) as folder:
            if folder.is_file():
                raise Refused(Reason.BAD_ARCHIVE, "the archive is damaged")
            yield folder
    except ArchiveTooLarge as error:
        raise Refused(Reason.TOO_MUCH, _fact(error, source)) from None
    except UserError as error:
        # Its next step is for somebody at the command line; the reason has one for who sent the archive.
        raise Refused(Reason.BAD_ARCHIVE, _fact(error, source)) from None


def _fact(error: UserError, archive: Path) -> str:
    """What is wrong with an archive, without its path."""
    return error.fact.replace(str(archive), "the archive")


def _answer_folder(predictor: "Predictor", folder: Path, out: Path) -> list[Path]:
    from densityclip.inference.sources import gather

    try:
        found, excluded = gather(folder, for_processing=predictor.bundle.recipe.for_processing)
    except UserError as error:
        raise Refused(Reason.UNREADABLE, "there is no DICOM or picture file in it") from error
    told = _Progress(out / PROGRESS, 2 * found.height)
    exams, paths = [], list[Path]()
    for number, (mine, left_out) in enumerate(_by_exam(found, excluded), start=1):
        described, written = _answer_exam(predictor, mine, left_out, out, number, told)
        exams.append(described)
        paths += written
    write_json(out / RESULT, {"exams": exams})
    return [*paths, out / RESULT]


class _Progress:
    """Says how far the work is: an image counts when it is answered, and again when it is drawn."""

    def __init__(self, path: Path, total: int) -> None:
        self._path, self._total, self._done = path, total, 0
        self.step(0)

    def step(self, steps: int = 1) -> None:
        self._done += steps
        write_json(self._path, {"done": self._done, "total": self._total})


def _by_exam(found: pl.DataFrame, excluded: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    ids = pl.concat([found["exam_id"], excluded["exam_id"]]).unique(maintain_order=True)
    named = [one for one in ids if one is not None]
    for one in [*named, *([None] if len(named) < len(ids) else [])]:
        mine = pl.col("exam_id").eq_missing(pl.lit(one, pl.String))
        yield found.filter(mine), excluded.filter(mine)


def _answer_exam(
    predictor: "Predictor", found: pl.DataFrame, excluded: pl.DataFrame, out: Path, number: int, told: _Progress
) -> tuple[dict[str, Any], list[Path]]:
    images = []
    for image in predictor.predict_files(found):
        images.append(image)
        told.step()
    rows = _rows(predictor, images, excluded)
    answered = set(rows.filter((pl.col("level") == "image") & (pl.col("status") == Status.OK.value))["image_id"])
    maps = exam_maps(predictor, [image for image in images if image.row["image_id"] in answered])
    sources = list(_sources(found.filter(pl.col("image_id").is_in(list(answered)))))
    pictures = draw_pictures(predictor, maps) if sources else {}
    objects = exam_objects(rows, predictor.bundle, sources=sources, report=True, pictures=pictures)
    paths = _write_objects(objects, out, number)
    drawn = []
    for place, layers in enumerate(draw_layers(maps), start=1):
        paths += _write_layers(layers, objects, out, f"{number}-{place}")
        drawn.append(
            {"number": place, "image_id": layers.image_id, "capture": _capture_of(layers, objects) is not None}
        )
        told.step()
    told.step(len(images) - len(drawn))
    return {
        "number": number,
        "report": objects.report is not None,
        "without": objects.without,
        "images": drawn,
    }, paths


def _rows(predictor: "Predictor", images: Sequence["PredictedImage"], excluded: pl.DataFrame) -> pl.DataFrame:
    from densityclip.inference.predictor import all_levels, image_table, refused_images

    table = pl.concat([image_table(images, predictor.calibration), refused_images(excluded)])
    rows = all_levels(table, predictor.calibration.joining)
    if rows["exam_id"].null_count():
        # Pictures have neither exam nor breast, and yet an answer each.
        rows = rows.filter(pl.col("level") == "image").with_columns(pl.lit(NO_EXAM).alias("exam_id"))
    return rows


def _sources(images: pl.DataFrame) -> Iterator[SourceImage]:
    for image_id, path in images.select("image_id", "path").iter_rows():
        if is_dicom(Path(path)):
            with contextlib.suppress(Refused):
                yield read_source(image_id, Path(path))


def _write_objects(objects: ExamObjects, out: Path, number: int) -> list[Path]:
    paths = [out / f"{number}-answer.json"]
    write_json(paths[0], objects.answer)
    if objects.report is not None:
        paths.append(out / f"{number}-report.dcm")
        paths[-1].write_bytes(object_bytes(objects.report))
    return paths


def _write_layers(layers: Layers, objects: ExamObjects, out: Path, stem: str) -> list[Path]:
    paths = [out / f"{stem}-view.png", out / f"{stem}-heat.png"]
    paths[0].write_bytes(layers.view)
    paths[1].write_bytes(layers.heat)
    capture = _capture_of(layers, objects)
    if capture is not None:
        paths.append(out / f"{stem}-capture.dcm")
        paths[-1].write_bytes(object_bytes(capture))
    return paths


def _capture_of(layers: Layers, objects: ExamObjects) -> Any:
    return next(
        (
            one
            for one in objects.captures
            if str(one.SourceImageSequence[0].ReferencedSOPInstanceUID) == layers.image_id
        ),
        None,
    )
