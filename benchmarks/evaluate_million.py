"""Evaluation of a million predictions: seconds per stage and peak memory, on synthetic predictions.

python benchmarks/evaluate_million.py [--images N] [--resamples N] [--members N] [--arms N]
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.evaluation.evaluate import evaluate
from densityclip.probability.aggregate import fill_derived, softmax

VIEWS = ("CC", "MLO")
CUTS = np.array([-1.2, 0.1, 1.4])


def women(cohorts: Mapping[str, tuple[str, int]], seed: int) -> pl.DataFrame:
    """One row an exam, one exam a patient: who she is, where she was seen, and her density on a continuous scale.

    Args:
        cohorts: Name to part (`internal`, shared out over parts, or `external`) and number of patients.
        seed: Of the draw.
    """
    random = np.random.default_rng(seed)
    tables = []
    for k, (cohort, (part, number)) in enumerate(cohorts.items()):
        age = random.normal(57, 11, number).clip(30, 90).round()
        vendor = random.choice(["Hologic", "GE", "Siemens"], number, p=[0.62, 0.3, 0.08] if k else [0.8, 0.15, 0.05])
        z = random.normal(0.35 - (age - 57) * 0.025, 1.0)
        parts = ["test", "other"] if part == "internal" else [part]
        tables.append(
            pl.DataFrame(
                {
                    "patient_id": [f"{cohort}-{i}" for i in range(number)],
                    "exam_id": [f"{cohort}-{i}-1" for i in range(number)],
                    "cohort": cohort,
                    "side": random.choice(parts, number, p=[0.3, 0.7] if part == "internal" else [1.0]),
                    "site": random.choice([f"{cohort} east", f"{cohort} west"], number) if k == 1 else cohort,
                    "vendor": vendor,
                    "machine": [
                        f"{name} {'I' if one < 0.7 else 'II'}"
                        for name, one in zip(vendor, random.random(number), strict=True)
                    ],
                    "age": np.where(random.random(number) < 0.04, np.nan, age),
                    "race": random.choice(["White", "Black", "Asian", "unknown"], number, p=[0.5, 0.32, 0.12, 0.06]),
                    "z": z,
                    "label": np.array(list("ABCD"))[np.searchsorted(CUTS, z + random.normal(0, 0.4, number))],
                    "tomo": random.random(number) < 0.5,
                }
            )
        )
    return pl.concat(tables).with_columns(pl.col("age").fill_nan(None))


def images_of(exams: pl.DataFrame) -> pl.DataFrame:
    """Four views of DM, and of s2D and DBT where she had tomosynthesis."""
    kinds = pl.DataFrame({"modality": ["DM", "s2D", "DBT"], "needs": [False, True, True]})
    views = pl.DataFrame({"laterality": ["L", "L", "R", "R"], "view": [*VIEWS, *VIEWS]})
    crossed = exams.join(kinds, how="cross").filter(~pl.col("needs") | pl.col("tomo")).join(views, how="cross")
    name = pl.concat_str("exam_id", "modality", "laterality", "view", separator="-")
    return crossed.with_columns(name.alias("image_id")).drop("needs", "tomo")


def member(images: pl.DataFrame, arm: str, fold: int, seed: int, noise: float, spread: float) -> pl.DataFrame:
    """What one training says of every image: her density seen through the noise of the arm, the exam and the image."""
    random = np.random.default_rng([seed, fold, sum(arm.encode())])
    size = images.height
    exam = images["exam_id"].rank("dense").to_numpy() - 1
    shift = images["modality"].replace_strict({"DM": 0.0, "s2D": 0.1, "DBT": -0.1}).to_numpy()
    strange = (images["vendor"] == "Siemens").to_numpy() * 0.5 * noise
    seen = images["z"].to_numpy() + noise * random.normal(size=int(exam.max()) + 1)[exam]
    seen = seen + shift + strange + noise * random.normal(size=size) + random.normal(0, 0.1)
    centres = np.array([-1.9, -0.5, 0.7, 2.0])
    logits = -((seen[:, None] - centres) ** 2) / spread
    probabilities = softmax(logits)
    # Of the patients that are not tested, each fold validates and calibrates with others.
    turn = pl.col("patient_id").hash(seed=7) % 5
    part = (
        pl.when(pl.col("side") != "other")
        .then(pl.col("side"))
        .when(turn == fold % 5)
        .then(pl.lit("validation"))
        .when((pl.col("patient_id").hash(seed=11) + fold) % 8 == 0)
        .then(pl.lit("calibration"))
        .otherwise(pl.lit("train"))
    )
    table = images.with_columns(
        part.alias("part"),
        pl.lit("image").alias("level"),
        pl.lit("ok").alias("status"),
        pl.lit(arm).alias("arm"),
        pl.lit(fold).alias("fold"),
        pl.lit(seed).alias("seed"),
        *(pl.Series(name, probabilities[:, k]) for k, name in enumerate(PROBABILITIES)),
        *(pl.Series(name, logits[:, k]) for k, name in enumerate(LOGITS)),
    )
    return fill_derived(conform(table.drop("side", "z"), "predictions"))


def predictions(
    cohorts: Mapping[str, tuple[str, int]], arms: Mapping[str, tuple[float, float]], folds: Sequence[int], seed: int = 1
) -> pl.DataFrame:
    """Predictions of several arms (name to noise and spread), each trained once in each fold."""
    images = images_of(women(cohorts, seed))
    return pl.concat(
        member(images, arm, fold, seed, noise, spread) for arm, (noise, spread) in arms.items() for fold in folds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, help="rows of the predictions")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--members", type=int, default=1, help="trainings per arm")
    parser.add_argument("--arms", type=int, default=1)
    asked = parser.parse_args()
    # A woman has four images, or twelve: eight on average.
    women_each = asked.images // (8 * asked.members * asked.arms)
    arms = {f"arm {k}": (0.35 + 0.1 * k, 0.9) for k in range(asked.arms)}
    table = predictions({"rsna": ("external", women_each)}, arms, range(asked.members))
    print(f"{table.height:,} predictions of {women_each:,} patients, {asked.arms} arms of {asked.members} trainings")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    metrics = evaluate(table, resamples=asked.resamples)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{seconds:.0f} s, {asked.resamples} resamples, {len(metrics['cells'])} cells, {len(metrics['groups'])} groups"
    )
    print(f"peak memory {peak:,.0f} MB, of which {before:,.0f} MB before (the predictions themselves)")
    print(f"metrics.json: {len(json.dumps(metrics)) / 1e6:.1f} MB")
    print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, polars {pl.__version__}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
