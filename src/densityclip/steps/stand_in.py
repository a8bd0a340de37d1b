"""The generated stand-in for the foundation model: exams of patients of its own, and the small CLIP taught on them."""

import shutil
from pathlib import Path

import polars as pl
import pydicom

from densityclip.artifacts import read_json, read_table
from densityclip.errors import UserError
from densityclip.model.weights_check import MADE
from densityclip.steps.archive import INDEX, index, prepare
from densityclip.steps.progress import Report

# Of a DM image in rows, and between tomosynthesis slices.
SIZE, SLICE_MM = 288, 4.0


def make_stand_in(
    out: Path, *, site: str, exams: int, steps: int, seed: int, workers: int, progress: Report = None
) -> None:
    """Generate exams, prepare them, teach the small model; the exams are removed again.

    Args:
        out: The model folder; one that is whole already is left alone.
        site: Site of the generated exams.
        exams: How many, one a patient.
        steps: Optimiser steps.
        seed: Of patients and training; another than that of any exams of that site it is later adapted to.
        workers: Processes that generate and prepare.
        progress: Told (done, total) of the piece under way.

    Raises:
        UserError: The folder holds something else, or a stand-in that was made otherwise.
    """
    from densityclip.imaging.cache import Cache
    from densityclip.imaging.recipe import Recipe
    from densityclip.model.small import IMAGE_SIZE
    from densityclip.phantom.generate import generate, where_to_index
    from densityclip.training.stand_in import Pretraining, pretrain

    wanted = {"site": site, "exams": exams, "steps": steps, "seed": seed}
    if (out / MADE).is_file():
        _check_made(out, wanted)
        return
    work = out / "exams"
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds something else", "choose another --out")
    generate(work, site=site, exams=exams, seed=seed, size=SIZE, slice_mm=SLICE_MM, workers=workers, progress=progress)
    dataset, source, table = where_to_index(site, work)
    index(source, work / "index", dataset=dataset, table=table, workers=workers)
    recipe = Recipe().sized(IMAGE_SIZE).with_overrides(["dbt_slices=spread:3"])
    prepare(work / "index" / INDEX, work / "cache", recipe, workers=workers, progress=progress)
    thickness = _thickness_mm(read_table(work / "index" / INDEX, "index"))
    # Taught elsewhere and moved when it is whole: a run that was stopped must not leave a model of random weights.
    made = work / "model"
    shutil.rmtree(made, ignore_errors=True)
    how = Pretraining(steps=steps, seed=seed)
    pretrain(Cache.open(work / "cache"), thickness, made, how, about={"site": site, "exams": exams}, progress=progress)
    for path in sorted(made.iterdir(), key=lambda path: path.name == MADE):
        shutil.rmtree(out / path.name, ignore_errors=True)
        path.replace(out / path.name)
    shutil.rmtree(work)


def _check_made(out: Path, wanted: dict[str, object]) -> None:
    from densityclip.training.stand_in import NAME

    found = read_json(out / MADE, "densityclip weights stand-in")
    differs = [name for name, value in wanted.items() if found.get(name) != value]
    if found.get("name") != NAME or differs:
        raise UserError(
            f"{out} holds another model ({found.get('name')}; different: {', '.join(differs)})",
            "choose another --out, or remove it",
        )


def _thickness_mm(rows: pl.DataFrame) -> dict[str, float]:
    """Compressed thickness of each image: that of the DM image of the same view, as volumes do not state it."""
    stated = rows.filter(pl.col("modality") == "DM")
    found = {
        tuple(breast): float(pydicom.dcmread(path, stop_before_pixels=True).BodyPartThickness)
        for path, *breast in stated.select("path", "patient_id", "laterality", "view").iter_rows()
    }
    keys = rows.select("image_id", "patient_id", "laterality", "view").iter_rows()
    return {image: found[patient, side, view] for image, patient, side, view in keys}
