"""From an exam's predictions to what is handed out; today JSON, later DICOM as well."""

from pathlib import Path
from typing import Any

import polars as pl

from densityclip import __version__
from densityclip.artifacts import PROBABILITIES, SCHEMA_VERSION, file_stem, write_json
from densityclip.density import CATEGORIES, WORDING, is_dense
from densityclip.model.bundle import Bundle
from densityclip.probability.calibrate import Calibration

NOTICE = "Research use only: not a medical device, no diagnosis, no statement of risk."


def exam_answer(rows: pl.DataFrame, bundle: Bundle) -> dict[str, Any]:
    """One exam as JSON.

    Args:
        rows: Schema `predictions`, all levels of one exam.
        bundle: The model that answered.

    Returns:
        Plain values: the exam's own answer, the breasts', the images', and which model gave them.
    """
    parts: dict[str, list[dict[str, Any]]] = {
        level: [_one(row) for row in rows.filter(pl.col("level") == level).iter_rows(named=True)]
        for level in ("exam", "breast", "image")
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": NOTICE,
        "trained_on_generated_exams_only": bundle.generated_only,
        "generated_share_of_training": bundle.generated_share,
        "calibrated": bool(bundle.calibration["calibrated"]),
        "joining": Calibration.from_dict(bundle.calibration).joining.to_dict(),
        "model": {"weights_sha256": bundle.model_hash, "densityclip": __version__},
        "exam_id": rows["exam_id"][0],
        "exam": parts["exam"][0] if parts["exam"] else None,
        "breasts": parts["breast"],
        "images": parts["image"],
    }


def _one(row: dict[str, Any]) -> dict[str, Any]:
    known = {name: row[name] for name in ("image_id", "laterality", "view", "modality") if row[name] is not None}
    if row["predicted"] is None:
        return known | {"status": row["status"], "reason": row["reason"]}
    return known | {
        "status": row["status"],
        "density": row["predicted"],
        "wording": WORDING[row["predicted"]],
        "dense": is_dense(row["predicted"]),
        "probabilities": {c: row[p] for c, p in zip(CATEGORIES, PROBABILITIES, strict=True)},
        "prob_dense": row["prob_dense"],
    }


def write_answers(table: pl.DataFrame, bundle: Bundle, folder: Path) -> int:
    """Write one JSON per exam; images that state no exam have none. Returns how many were written."""
    exams = table.filter(pl.col("exam_id").is_not_null()).partition_by("exam_id", maintain_order=True)
    for rows in exams:
        write_json(folder / f"{file_stem(rows['exam_id'][0])}.json", exam_answer(rows, bundle))
    return len(exams)
