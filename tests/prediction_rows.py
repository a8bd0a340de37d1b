"""Rows of schema `predictions` for tests, by hand and by simulation of readers and a model."""

import numpy as np
import polars as pl
from scipy.stats import norm

from densityclip.artifacts import LOGITS, PROBABILITIES, conform

CUTS = np.array([-1.3, 0.1, 1.3])


def row(image_id: str, probabilities: list[float], *, logits: list[float] | None = None, **facts: object) -> dict:
    raw = np.log(probabilities) if logits is None else np.asarray(logits)
    base = {
        "level": "image", "image_id": image_id, "exam_id": "e", "patient_id": "p", "modality": "DM", "view": "CC",
        "laterality": "L", "site": "s", "cohort": "c", "part": "test", "fold": 0, "arm": "a", "seed": 0, "label": "B",
        "status": "ok",
    }  # fmt: skip
    values = dict(zip(PROBABILITIES, probabilities, strict=True)) | dict(zip(LOGITS, map(float, raw), strict=True))
    return base | values | facts


def table(*rows: dict) -> pl.DataFrame:
    return conform(pl.DataFrame(list(rows), infer_schema_length=None), "predictions")


def probabilities_of(result: pl.DataFrame) -> np.ndarray:
    return result.select(PROBABILITIES).to_numpy()


def posterior(score: np.ndarray, noise: float) -> np.ndarray:
    """`[n, 4]` true probabilities of the category of z ~ N(0, 1), seen as score = z + N(0, noise^2)."""
    spread = noise / np.sqrt(1 + noise**2)
    edges = norm.cdf((CUTS[None, :] - (score / (1 + noise**2))[:, None]) / spread)
    return np.diff(np.concatenate([np.zeros((len(score), 1)), edges, np.ones((len(score), 1))], axis=1), axis=1)


def exams(rng: np.random.Generator, number: int, *, noise: float, alike: float, prefix: str = "p") -> pl.DataFrame:
    """An image of each breast of `number` women, with what a perfectly calibrated model makes of that breast.

    Args:
        rng: Of the simulation.
        number: Women, one exam each.
        noise: Of the model's view of a breast whose density is N(0, 1).
        alike: Correlation of the two breasts' densities; at 1 they are always of one category.
        prefix: Of patients' ids.
    """
    both = rng.normal(size=(number, 1)) * np.sqrt(alike) + rng.normal(size=(number, 2)) * np.sqrt(1 - alike)
    seen = both + rng.normal(size=both.shape) * noise
    parts = []
    for side, name in enumerate("LR"):
        values = posterior(seen[:, side], noise)
        labels = np.array(list("ABCD"))[np.searchsorted(CUTS, both[:, side])]
        ids = [f"{prefix}{n:05}" for n in range(number)]
        known = {"image_id": [f"{one}{name}" for one in ids], "exam_id": ids, "patient_id": ids, "label": labels}
        columns = {column: values[:, k] for k, column in enumerate(PROBABILITIES)}
        columns |= {column: np.log(np.maximum(values[:, k], 1e-300)) for k, column in enumerate(LOGITS)}
        same = {"level": "image", "status": "ok", "modality": "DM", "view": "CC", "laterality": name}
        parts.append(
            pl.DataFrame(known | columns).with_columns(pl.lit(value).alias(key) for key, value in same.items())
        )
    return conform(pl.concat(parts), "predictions")
