"""A generated exam as DICOM, and predictions of it that nobody had to compute."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.deliver.source_image import SourceImage, read_source
from densityclip.imaging.recipe import Recipe
from densityclip.inference.predictor import all_levels, refused_row
from densityclip.model.biomedclip import SAFETENSORS
from densityclip.model.bundle import Bundle
from densityclip.model.prompts import read_prompts
from densityclip.probability.calibrate import Calibration

# What the images of each side say; the right breast is denser.
SAID = {"L": (0.1, 0.6, 0.25, 0.05), "R": (0.02, 0.08, 0.6, 0.3)}


def sample_bundle(*, calibrated: bool = True, weights: str = "ab" * 32) -> Bundle:
    """A bundle without weights: what answers say of a model, and nothing to compute with."""
    calibration = replace(Calibration(), calibrated=calibrated, images=40, patients=12)
    provenance = {
        "densityclip": "0.1.0",
        "hashes": {SAFETENSORS: weights},
        "data": {"images": 40, "generated": True},
    }
    return Bundle(Path("nowhere"), Recipe(), read_prompts(None), calibration.to_dict(), provenance)


def image_rows(index: pl.DataFrame, said: dict[str, Sequence[float]] | None = None) -> pl.DataFrame:
    """Image-level predictions of an index: every image of a side says the same."""
    values = np.array([(said or SAID)[side] for side in index["laterality"]])
    table = index.select("image_id", "exam_id", "patient_id", "modality", "view", "laterality").with_columns(
        pl.lit("image").alias("level"),
        pl.lit("ok").alias("status"),
        *(pl.Series(name, values[:, k]) for k, name in enumerate(PROBABILITIES)),
        *(pl.Series(name, np.log(values[:, k])) for k, name in enumerate(LOGITS)),
    )
    return conform(table, "predictions")


def exam_rows(
    index: pl.DataFrame,
    bundle: Bundle,
    *,
    refused: dict[str, str] | None = None,
    details: dict[str, str] | None = None,
) -> pl.DataFrame:
    """All levels of one exam; `refused` names images that were refused, and why; `details` the facts about them."""
    images = image_rows(index)
    rows = [
        refused_row(
            {"image_id": name, "exam_id": index["exam_id"][0], "patient_id": index["patient_id"][0]},
            reason,
            (details or {}).get(name),
        )
        for name, reason in (refused or {}).items()
    ]
    if rows:
        images = pl.concat([images, conform(pl.DataFrame(rows, infer_schema_length=None), "predictions")])
    return all_levels(images, Calibration.from_dict(bundle.calibration).joining)


def disagreeing_rows(index: pl.DataFrame, bundle: Bundle) -> pl.DataFrame:
    """All levels of one exam, of which one image of the left breast says A for certain, and another D."""
    images = image_rows(index)
    first, second = index.filter(pl.col("laterality") == "L")["image_id"].head(2)
    for name, place in ((first, 0), (second, 3)):
        images = images.with_columns(
            pl.when(pl.col("image_id") == name).then(float(k == place)).otherwise(column).alias(column)
            for k, column in enumerate(PROBABILITIES)
        )
    return all_levels(images, Calibration.from_dict(bundle.calibration).joining)


def sources_of(index: pl.DataFrame) -> list[SourceImage]:
    return [read_source(name, Path(path)) for name, path in index.select("image_id", "path").iter_rows()]
