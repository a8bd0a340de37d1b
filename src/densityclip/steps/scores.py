"""Answers to figures: evaluate, compare."""

from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import (
    hash_table,
    write_json,
    write_manifest,
)
from densityclip.steps.progress import Report

METRICS = "metrics.json"


def evaluate(
    predictions: pl.DataFrame, out: Path, *, resamples: int = 1000, seed: int = 0, progress: Report = None
) -> dict[str, Any]:
    """Score predictions that have labels: `metrics.json`. Returns its content."""
    from densityclip.evaluation.evaluate import evaluate as score

    metrics = score(predictions, resamples=resamples, seed=seed, progress=progress)
    write_json(out / METRICS, metrics)
    write_manifest(
        out / "metrics.manifest.json",
        step="evaluate",
        config={"resamples": resamples, "seed": seed},
        inputs={"predictions": hash_table(predictions)},
        counts={"rows": len(predictions), "cells": len(metrics["cells"])},
    )
    return metrics


def compare(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Two predictions on the same images, stacked as two arms for `evaluate`."""
    names = [_arm_name(first, "first"), _arm_name(second, "second")]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    return pl.concat(
        table.with_columns(pl.lit(name).alias("arm")) for table, name in zip((first, second), names, strict=True)
    )


def _arm_name(table: pl.DataFrame, fallback: str) -> str:
    names = table["arm"].drop_nulls().unique().to_list()
    return names[0] if len(names) == 1 else fallback
