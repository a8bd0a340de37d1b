"""A cache and splits that no archive was read for: grey fields whose brightness is the category, in a second."""

from pathlib import Path

import numpy as np
import polars as pl

from densityclip.artifacts import INDEX, write_json, write_table
from densityclip.imaging.recipe import Recipe

SIZE = 32


def write_cache(folder: Path, *, patients: int = 40) -> Path:
    """Patients of category A to D in turn, each with a DM and an s2D image; returns the cache."""
    folder.mkdir(parents=True)
    rng, rows, images = np.random.default_rng(0), [], []
    for number in range(patients):
        for modality in ("DM", "s2D"):
            facts = {"image_id": f"image-{number:02}-{modality}", "patient_id": f"patient-{number:02}"}
            facts |= {"exam_id": f"exam-{number:02}", "laterality": "L", "view": "CC", "modality": modality}
            facts |= {"density": "ABCD"[number % 4], "density_source": "table"}
            rows.append({"row": len(rows), "slice_index": 0, **facts})
            field = np.full((SIZE, SIZE), 40 + 50 * (number % 4)) + rng.normal(0, 8, (SIZE, SIZE))
            images.append(field.clip(0, 255).astype(np.uint8))
    absent = [name for name in INDEX if name not in rows[0]]
    table = pl.DataFrame(rows).with_columns(pl.lit(None, INDEX[name]).alias(name) for name in absent)
    table.write_parquet(folder / "rows.parquet")
    np.save(folder / "images.npy", np.stack(images))
    write_json(folder / "recipe.json", Recipe(height=SIZE, width=SIZE).to_dict())
    write_json(folder / "manifest.json", {})
    write_table(pl.DataFrame(), folder / "refused.parquet", "excluded")
    return folder


def write_splits(path: Path, *, patients: int = 40, calibration: int = 10) -> Path:
    """A split with that many patients for calibration, 8 for validation, the rest for training."""
    parts = ["calibration"] * calibration + ["validation"] * 8
    parts += ["train"] * (patients - len(parts))
    names = [f"patient-{number:02}" for number in range(patients)]
    table = pl.DataFrame({"patient_id": names, "cohort": "home", "fold": 0, "part": parts})
    write_table(table, path, "splits")
    return path
