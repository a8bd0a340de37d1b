"""A folder of maps: an overlay and the raw map of each image, a contact sheet, and figures about them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import SCHEMA_VERSION, atomic_path, file_stem, hash_json, write_json, write_manifest
from densityclip.evaluation.bootstrap import Estimate, interval, patient_weights
from densityclip.explain.maps import ImageMap, draw_sheet, map_figures, write_overlay

FIGURES = ("energy_inside", "breast_share", "gland_auc", "brightness_auc")


def write_atlas(
    maps: Sequence[ImageMap],
    out: Path,
    scale_max: float,
    *,
    note: str,
    truth: Path | None = None,
    title: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the maps of some images; `explain.json` comes last, so a folder that has it is whole.

    Args:
        maps: At least one.
        out: Where to write.
        scale_max: Heat at the top of the colour scale.
        note: What every overlay says of itself.
        truth: Folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        title: Title of the contact sheet `sheet.png`; none without.
        progress: Told (done, total) images.

    Returns:
        The content of `explain.json`.
    """
    rows = []
    for done, item in enumerate(maps, start=1):
        write_overlay(item, out, scale_max, note=note)
        figures = map_figures(item, _gland_reader(truth))
        rows.append({name: item.row[name] for name in ("image_id", "patient_id", "modality", "density")} | figures)
        if progress is not None:
            progress(done, len(maps))
    if title is not None:
        with atomic_path(out / "sheet.png") as temporary:
            temporary.write_bytes(draw_sheet(maps, scale_max, title))
    table = pl.DataFrame(rows, infer_schema_length=None)
    with atomic_path(out / "figures.csv") as temporary:
        table.write_csv(temporary)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "method": "GradCAM",
        "layer": "the last block's norm1, whose output its attention reads",
        "target": "density score: the four similarities weighted by their place on the scale",
        "scale_max": scale_max,
        "images": len(maps),
        "figures": _figure_summary(table),
    }
    write_manifest(
        out / "explain.manifest.json",
        step="explain",
        config={"scale_max": scale_max, "target": summary["target"]},
        inputs={"images": hash_json([item.row["image_id"] for item in maps])},
        counts={"images": len(maps)},
    )
    write_json(out / "explain.json", summary)
    return summary


def _gland_reader(truth: Path | None) -> Callable[[str], NDArray[np.floating] | None]:
    def read(sop_uid: str) -> NDArray[np.floating] | None:
        path = truth / f"{file_stem(sop_uid)}.npz" if truth is not None else None
        if path is None or not path.is_file():
            return None
        with np.load(path) as content:
            return np.asarray(content["gland_mm"], dtype=np.float32)

    return read


def _figure_summary(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Mean of each figure per modality, with a 95% interval from resampling patients."""
    summary = []
    for modality in sorted(table["modality"].unique()):
        mine = table.filter(pl.col("modality") == modality)
        for name in FIGURES:
            known = mine.filter(pl.col(name).is_not_null())
            if len(known) == 0:
                continue
            # Plain image files state no patient: each is one by itself.
            patients = known.select(pl.coalesce("patient_id", "image_id")).to_series().to_list()
            mean = _mean(patients, known[name].cast(pl.Float64).to_numpy())
            summary.append(
                {
                    "modality": modality,
                    "figure": name,
                    "mean": mean.value,
                    "low": None if np.isnan(mean.low) else mean.low,
                    "high": None if np.isnan(mean.high) else mean.high,
                    "images": len(known),
                    "patients": len(set(patients)),
                }
            )
    return summary


def _mean(patients: list[str], values: NDArray[np.float64]) -> Estimate:
    """A mean with its interval over patients."""
    position, counts = patient_weights(patients, resamples=1000, seed=0)
    weights = counts[position].T  # [resamples, images]
    return interval(float(values.mean()), weights @ values / np.maximum(weights.sum(axis=1), 1), len(set(patients)))
