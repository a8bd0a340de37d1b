"""Write a generated site: exams as DICOM, the site's table of labels, and the truth."""

import csv
import io
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densityclip.artifacts import SCHEMA_VERSION, disk_error, read_json, write_json, write_text
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.phantom.dicom_objects import ExamIdentity, identify, sop_uid, to_dataset
from densityclip.phantom.exam import GeneratedImage, ViewTruth, exam_images, make_grid
from densityclip.phantom.population import Woman, draw_woman
from densityclip.phantom.sites import SITES, Site
from densityclip.records import GENERATED_LABEL
from densityclip.worker_pool import worker_pool

logger = logging.getLogger(__name__)

LABEL_COLUMNS = (
    "patient_id", "accession_number", "study_uid", "laterality", "density", "density_source", "age", "race",
    "site", "institution", "machine",
)  # fmt: skip
TRUTH_COLUMNS = (
    "patient_id", "study_uid", "laterality", "fraction_with_skin", "fraction_without_skin", "category", "label",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSite:
    """What `generate` leaves on disk.

    Attributes:
        folder: The folder given as `out`.
        dicom: Folder of one folder per patient.
        labels: `labels.csv`, the table that an archive would come with.
        truth: `truth.csv`.
        exams: Number of exams, one per patient.
        images: Number of DICOM objects.
        class_mix_note: How the class mix came about, in one sentence.
    """

    folder: Path
    dicom: Path
    labels: Path
    truth: Path
    exams: int
    images: int
    class_mix_note: str


def generate(
    out: Path,
    *,
    site: str,
    exams: int,
    seed: int,
    size: int = 288,
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
        workers: Processes; the result does not depend on it.
        progress: Called with (done, total) after each exam.

    Raises:
        UserError: Unknown site, impossible number, a folder that holds another generated site, or a full disk.
    """
    _check(site, exams, seed, workers)
    make_grid(size)
    _claim(out, {"site": site, "seed": seed, "size": size})
    make = partial(_make_exam, out=out, site=site, seed=seed, size=size)
    images = 0
    rows: list[dict[str, Any]] = []
    try:
        for done, exam in enumerate(_map(make, exams, workers), start=1):
            images += exam["images"]
            rows += exam["breasts"]
            if progress is not None:
                progress(done, exams)
    except OSError as error:
        raise disk_error(error, out / "dicom") from error
    shutil.rmtree(out / ".partial", ignore_errors=True)
    write_text(out / "labels.csv", _csv(rows, LABEL_COLUMNS))
    write_text(out / "truth.csv", _csv(rows, TRUTH_COLUMNS))
    write_json(out / "site.json", _summary(SITES[site], rows, exams=exams, images=images, seed=seed, size=size))
    logger.info("wrote %d exams of site %s", exams, site)
    return GeneratedSite(
        folder=out,
        dicom=out / "dicom",
        labels=out / "labels.csv",
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
    if seed < 0:
        raise UserError(f"seed {seed} is negative", "give --seed 0 or more")
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


def _make_exam(number: int, *, out: Path, site: str, seed: int, size: int) -> dict[str, Any]:
    """Make one exam unless it is there already; returns its rows, which also lie in `exams/<patient_id>.json`.

    The rows are written last: an exam is whole if and only if they are there.
    """
    woman = draw_woman(site, seed, number)
    identity = identify(woman, SITES[site], seed)
    record = out / "exams" / f"{identity.patient_id}.json"
    if record.exists():
        return read_json(record, "densityclip phantom")
    partial_folder = out / ".partial" / identity.patient_id
    shutil.rmtree(partial_folder, ignore_errors=True)
    (partial_folder / "dicom").mkdir(parents=True)
    (partial_folder / "truth").mkdir()
    truths: dict[str, list[ViewTruth]] = {"L": [], "R": []}
    images = 0
    for image in exam_images(woman, SITES[site], seed, make_grid(size)):
        _write_image(partial_folder, identity, image)
        truths[image.side].append(image.truth)
        images += 1
    _move_into_place(partial_folder, out, identity.patient_id)
    breasts = [_breast_row(woman, identity, k, truths["LR"[k]]) for k in (0, 1)]
    write_json(record, {"images": images, "breasts": breasts})
    return {"images": images, "breasts": breasts}


def _write_image(folder: Path, identity: ExamIdentity, image: GeneratedImage) -> None:
    dataset = to_dataset(identity, image)
    dataset.save_as(folder / "dicom" / f"{image.modality}_{image.side}_{image.view}.dcm", enforce_file_format=True)
    _write_arrays(
        folder / "truth" / f"{sop_uid(identity, image)}.npz", {"gland_mm": image.gland_mm, "breast": image.breast}
    )


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as `np.load` reads them, compressed at the fastest level and without the time of day."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980 by default
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue(), compresslevel=1)


def _move_into_place(partial_folder: Path, out: Path, patient_id: str) -> None:
    """Move a whole exam to its final names; what a killed run left there is replaced."""
    (out / "truth").mkdir(exist_ok=True)
    for file in sorted((partial_folder / "truth").iterdir()):
        os.replace(file, out / "truth" / file.name)
    final = out / "dicom" / patient_id
    final.parent.mkdir(exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    (partial_folder / "dicom").rename(final)
    shutil.rmtree(partial_folder)


def _breast_row(woman: Woman, identity: ExamIdentity, side: int, truths: list[ViewTruth]) -> dict[str, Any]:
    """Everything that the two tables say of one breast."""
    return {
        "patient_id": identity.patient_id,
        "accession_number": identity.accession_number,
        "study_uid": identity.study_uid,
        "laterality": "LR"[side],
        "density": woman.labels[side],
        "density_source": GENERATED_LABEL,
        "age": woman.age,
        "race": woman.race or "",
        "site": identity.site.name,
        "institution": identity.site.institution,
        "machine": identity.machine.serial,
        "fraction_with_skin": round(float(np.mean([t.with_skin for t in truths])), 5),
        "fraction_without_skin": round(float(np.mean([t.without_skin for t in truths])), 5),
        "category": woman.categories[side],
        "label": woman.labels[side],
    }


def _csv(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _summary(
    site: Site, rows: list[dict[str, Any]], *, exams: int, images: int, seed: int, size: int
) -> dict[str, Any]:
    def count(column: str) -> dict[str, int]:
        return {letter: sum(row[column] == letter for row in rows) for letter in CATEGORIES}

    return {
        "schema_version": SCHEMA_VERSION,
        "name": site.name,
        "institution": site.institution,
        "generated": True,
        "seed": seed,
        "exams": exams,
        "size": size,
        "modalities": list(site.modalities),
        "class_mix_note": site.class_mix_note,
        "counts": {
            "patients": exams,
            "images": images,
            "breasts_by_true_category": count("category"),
            "breasts_by_label": count("density"),
        },
    }
