"""Write a generated site: exams as DICOM in the folders and tables of the site's layout, and the truth."""

import csv
import hashlib
import io
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from densityclip.artifacts import SCHEMA_VERSION, disk_error, hash_file, read_json, write_json, write_text
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.phantom.dicom_objects import sop_uid, to_dataset
from densityclip.phantom.exam import GeneratedImage, ViewTruth, exam_images
from densityclip.phantom.grid import make_grid
from densityclip.phantom.identity import ExamIdentity, identify
from densityclip.phantom.layouts import LAYOUTS
from densityclip.phantom.layouts.contract import Layout, Row
from densityclip.phantom.population import draw_woman
from densityclip.phantom.randomness import HIGHEST_SEED
from densityclip.phantom.sites import SITES
from densityclip.worker_pool import worker_pool

logger = logging.getLogger(__name__)

# The number of an exam has six digits in the ids.
MOST_EXAMS = 1_000_000
TRUTH_COLUMNS = (
    "patient_id", "study_uid", "laterality", "fraction_with_skin", "fraction_without_skin", "category", "label",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSite:
    """What `generate` leaves on disk.

    Attributes:
        folder: The folder given as `out`.
        dataset: Name of the layout, for `densityclip index --dataset`.
        source: Folder to index.
        table: The table that holds the labels.
        truth: `truth.csv`.
        exams: Number of exams, one per patient.
        images: Number of DICOM objects.
        class_mix_note: How the class mix came about, in one sentence.
    """

    folder: Path
    dataset: str
    source: Path
    table: Path
    truth: Path
    exams: int
    images: int
    class_mix_note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is asked for; two folders of the same order hold the same exams."""

    site: str
    seed: int
    size: int
    slice_mm: float
    volumes: bool
    generator: str


def generator_hash() -> str:
    """Of the code that makes the exams: a folder that other code began is left alone instead of mixed."""
    folder = Path(__file__).parent
    seen = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        seen.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return seen.hexdigest()[:12]


def where_to_index(site: str, out: Path) -> tuple[str, Path, Path | None]:
    """How `densityclip index` takes a site that `generate` wrote to `out`.

    Returns:
        Name of its layout; folder to index; and a table of labels, if the layout does not bring its own.
    """
    layout = LAYOUTS[SITES[site].layout]
    own_tables = layout.source == ""
    return layout.dataset, out / layout.source, None if own_tables else out / next(iter(layout.tables))


def generate(
    out: Path,
    *,
    site: str,
    exams: int,
    seed: int,
    size: int = 288,
    slice_mm: float = 1.0,
    volumes: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> GeneratedSite:
    """Write a site's exams; a killed run started again goes on and ends with the same files.

    Args:
        out: Folder to write to.
        site: One of `SITES`.
        exams: Number of exams, one per patient, each of four views in each of the site's modalities.
        seed: Same seed, same bytes; more exams of the same seed begin with the same ones.
        size: Rows of the DM image, a multiple of 16; slices and synthesized images have three quarters of it.
        slice_mm: Distance of tomosynthesis slices.
        volumes: Whether tomosynthesis volumes are written where the site's layout names them and leaves them out.
        workers: Processes; the result does not depend on it.
        progress: Called with (done, total) after each exam.

    Raises:
        UserError: Unknown site, impossible number, a folder that holds another generated site or more exams of this
            one, or a full disk.
    """
    _check(site, exams, seed, workers)
    make_grid(size, slice_mm)
    order = _Order(
        site=site, seed=seed, size=size, slice_mm=float(slice_mm), volumes=volumes, generator=generator_hash()
    )
    _claim(out, asdict(order))
    _refuse_fewer(out, order, exams)
    layout = LAYOUTS[SITES[site].layout]
    dataset, source, _ = where_to_index(site, out)
    made: list[dict[str, Any]] = []
    try:
        for exam in _map(partial(_make_exam, out=out, order=order), exams, workers):
            made.append(exam)
            if progress is not None:
                progress(len(made), exams)
    except OSError as error:
        raise disk_error(error, source) from error
    shutil.rmtree(out / ".partial", ignore_errors=True)
    for table, columns in layout.tables.items():
        write_text(out / table, _csv([row for exam in made for row in exam["rows"].get(table, [])], columns))
    breasts = [row for exam in made for row in exam["breasts"]]
    write_text(out / "truth.csv", _csv(breasts, TRUTH_COLUMNS))
    images = sum(exam["images"] for exam in made)
    hashes = {table: hash_file(out / table) for table in layout.tables}
    write_json(out / "site.json", _summary(order, breasts, exams=exams, images=images) | {"tables": hashes})
    logger.info("wrote %d exams of site %s", exams, site)
    return GeneratedSite(
        folder=out,
        dataset=dataset,
        source=source,
        table=out / next(iter(layout.tables)),
        truth=out / "truth.csv",
        exams=exams,
        images=images,
        class_mix_note=SITES[site].class_mix_note,
    )


def _check(site: str, exams: int, seed: int, workers: int) -> None:
    if site not in SITES:
        raise UserError(f"there is no generated site {site!r}", f"choose one of {', '.join(SITES)}")
    if exams < 1:
        raise UserError(f"{exams} exams cannot be generated", "give --exams 1 or more")
    if exams > MOST_EXAMS:
        raise UserError(f"the ids do not hold {exams:,} exams", f"give --exams {MOST_EXAMS} or less, and other seeds")
    if seed < 0:
        raise UserError(f"seed {seed} is negative", "give --seed 0 or more")
    if seed > HIGHEST_SEED:
        raise UserError(f"the ids do not hold seed {seed}", f"give --seed {HIGHEST_SEED} or less")
    if workers < 1:
        raise UserError(f"{workers} worker processes cannot work", "give --workers 1 or more")


def _claim(out: Path, what: Mapping[str, Any]) -> None:
    """Write down what a folder is going to hold, so that a later run cannot mix another site into it."""
    claim = out / "phantom.json"
    if claim.exists():
        held = read_json(claim, "densityclip phantom")
        if held != dict(what):
            raise UserError(f"{out} already holds generated exams of {held}, not {dict(what)}", "choose another --out")
        return
    write_json(claim, dict(what))


def _refuse_fewer(out: Path, order: _Order, exams: int) -> None:
    """Tables of fewer exams than lie beside them would belong to no collection: exams are only ever added."""
    site = SITES[order.site]
    asked = {LAYOUTS[site.layout].name_exam(site, order.seed, number)[0] for number in range(exams)}
    more = {record.stem for record in (out / "exams").glob("*.json")} - asked
    if more:
        raise UserError(
            f"{out} holds {len(more)} generated exams more than the {exams} asked for",
            "give at least as many --exams as were made there, or choose another --out",
        )


def _map(make: Callable[[int], dict[str, Any]], exams: int, workers: int) -> Iterator[dict[str, Any]]:
    """Exams in their order, made here or by worker processes."""
    if workers == 1 or exams == 1:
        yield from map(make, range(exams))
        return
    with worker_pool(min(workers, exams)) as pool:
        try:
            yield from pool.map(make, range(exams))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make_exam(number: int, *, out: Path, order: _Order) -> dict[str, Any]:
    """Make one exam unless it is there already; returns its rows, which also lie in `exams/<patient_id>.json`.

    The rows are written last: an exam is whole if and only if they are there.
    """
    site = SITES[order.site]
    layout = LAYOUTS[site.layout]
    patient_id, accession_number = layout.name_exam(site, order.seed, number)
    record = out / "exams" / f"{patient_id}.json"
    if record.exists():
        return read_json(record, "densityclip phantom")
    woman = draw_woman(site.name, order.seed, number)
    identity = identify(woman, site, order.seed, patient_id=patient_id, accession_number=accession_number)
    partial_folder = out / ".partial" / patient_id
    shutil.rmtree(partial_folder, ignore_errors=True)
    (partial_folder / "files").mkdir(parents=True)
    (partial_folder / "truth").mkdir()
    made = _Made(rows={table: list(rows) for table, rows in layout.exam_rows(identity).items()})
    # One thread for sums: with two in each of two processes on two cores an exam takes twice the time.
    with threadpool_limits(limits=1, user_api="blas"):
        for image in exam_images(woman, site, order.seed, make_grid(order.size, order.slice_mm)):
            _shelve(partial_folder, identity, layout, image, made, volumes=order.volumes)
    _move_into_place(partial_folder, out, layout.folder(identity))
    breasts = [_breast_row(identity, side, made.truths) for side in ("L", "R")]
    content = {"images": made.images, "breasts": breasts, "rows": made.rows}
    write_json(record, content)
    return content


@dataclass(slots=True)
class _Made:
    """What is known of an exam while its images are made: rows by table, truths by side and kind, files."""

    rows: dict[str, list[Row]]
    truths: dict[tuple[str, str], list[ViewTruth]] = field(default_factory=dict)
    images: int = 0


def _shelve(
    folder: Path, identity: ExamIdentity, layout: Layout, image: GeneratedImage, made: _Made, *, volumes: bool
) -> None:
    """Write one image as its layout has it, and note what the tables say of it."""
    made.truths.setdefault((image.side, image.kind), []).append(image.truth)
    for shelf in layout.shelve(identity, image):
        for table, rows in shelf.rows.items():
            made.rows.setdefault(table, []).extend(rows)
        if image.modality == "DBT" and not (layout.holds_volumes or volumes):
            continue
        dataset = to_dataset(identity, shelf.image)
        if layout.finish is not None:
            layout.finish(dataset)
        path = folder / "files" / shelf.path
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        truth = folder / "truth" / f"{sop_uid(identity, shelf.image)}.npz"
        _write_arrays(truth, {"gland_mm": image.gland_mm, "breast": image.breast, "pectoral": image.pectoral})
        made.images += 1


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as `np.load` reads them, compressed at the fastest level and without the time of day."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980 by default
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=1)


def _move_into_place(partial_folder: Path, out: Path, folder: str) -> None:
    """Move a whole exam to its final names; what a killed run left there is replaced."""
    (out / "truth").mkdir(exist_ok=True)
    for file in sorted((partial_folder / "truth").iterdir()):
        os.replace(file, out / "truth" / file.name)
    final = out / folder
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    (partial_folder / "files").rename(final)
    shutil.rmtree(partial_folder)


def _breast_row(identity: ExamIdentity, side: str, truths: Mapping[tuple[str, str], list[ViewTruth]]) -> Row:
    """The truth of one breast: of its standard views, where there are any."""
    woman, number = identity.woman, "LR".index(side)
    views = truths.get((side, "standard")) or truths[side, "implant"]
    return {
        "patient_id": identity.patient_id,
        "study_uid": identity.study_uid,
        "laterality": side,
        "fraction_with_skin": round(float(np.mean([view.with_skin for view in views])), 5),
        "fraction_without_skin": round(float(np.mean([view.without_skin for view in views])), 5),
        "category": woman.categories[number],
        "label": "" if woman.male else woman.labels[number],
    }


def _csv(rows: list[Row], columns: tuple[str, ...]) -> str:
    """A table; a column without a name counts the rows, as data frames write it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"": number} for number, row in enumerate(rows))
    return text.getvalue()


def _summary(order: _Order, breasts: list[Row], *, exams: int, images: int) -> dict[str, Any]:
    site = SITES[order.site]

    def count(column: str) -> dict[str, int]:
        return {letter: sum(row[column] == letter for row in breasts) for letter in CATEGORIES}

    return {
        "schema_version": SCHEMA_VERSION,
        "name": site.name,
        "institution": site.institution,
        "generated": True,
        "dataset": site.layout,
        **{name: value for name, value in asdict(order).items() if name != "site"},
        "exams": exams,
        "modalities": list(site.modalities),
        "class_mix_note": site.class_mix_note,
        "counts": {
            "patients": exams,
            "images": images,
            "breasts_by_true_category": count("category"),
            "breasts_by_label": count("label"),
        },
    }
