"""Answers to figures: evaluate, compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import (
    hash_json,
    hash_table,
    read_json,
    write_json,
    write_manifest,
)
from densityclip.errors import UserError
from densityclip.probability.joining import Joining, Member, joinings_record, read_joinings
from densityclip.steps.progress import Report

METRICS = "metrics.json"
_MANIFEST = "predictions.manifest.json"


def evaluate(
    predictions: pl.DataFrame,
    out: Path,
    *,
    joinings: Mapping[Member, Joining] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    smallest_group: int | None = None,
    primary: Mapping[str, Any] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    progress: Report = None,
) -> dict[str, Any]:
    """Score predictions that have labels: `metrics.json`. Returns its content.

    Args:
        predictions: Schema `predictions`.
        out: Folder to write to.
        joinings: How each member joins its images; see `joinings_beside`.
        resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
        groups: Facts by which figures are also given; the usual ones where absent.
        smallest_group: Groups of fewer patients show no figures; 20 where absent.
        primary: The one question, as `densityclip.evaluation.evaluate` takes it.
        pairs: Differences to make, each first minus second.
        progress: Told (done, total) places.
    """
    from densityclip.evaluation.evaluate import evaluate as score
    from densityclip.evaluation.subgroups import GROUPS, SMALLEST_GROUP

    settings: dict[str, Any] = {
        "resamples": resamples,
        "seed": seed,
        "groups": list(GROUPS if groups is None else groups),
        "smallest_group": SMALLEST_GROUP if smallest_group is None else smallest_group,
        "primary": None if primary is None else dict(primary),
    }
    metrics = score(predictions, joinings=joinings, pairs=pairs, progress=progress, **settings)
    write_json(out / METRICS, metrics)
    write_manifest(
        out / "metrics.manifest.json",
        step="evaluate",
        config=settings,
        inputs={"predictions": hash_table(predictions), "joinings": hash_json(joinings_record(joinings or {}))},
        counts={"rows": len(predictions), "cells": len(metrics["cells"])},
    )
    return metrics


def joinings_beside(path: Path) -> dict[Member, Joining]:
    """How each member joined its images, from the manifest beside predictions; empty where there is none.

    Args:
        path: `predictions.parquet` or its folder.
    """
    manifest = (path if path.is_dir() else path.parent) / _MANIFEST
    return read_joinings(read_json(manifest, "densityclip predict")) if manifest.is_file() else {}


def compare(
    first: pl.DataFrame,
    second: pl.DataFrame,
    joinings: tuple[Mapping[Member, Joining], Mapping[Member, Joining]] = ({}, {}),
) -> tuple[pl.DataFrame, dict[Member, Joining], tuple[str, str]]:
    """Two predictions on the same images, stacked as two arms for `evaluate`.

    Args:
        first: Of one model.
        second: Of another.
        joinings: Of each.

    Returns:
        The table, its joinings, and what the two are called in it.

    Raises:
        UserError: One of them holds several arms.
    """
    names = [_arm_name(first, "first"), _arm_name(second, "second")]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    table = pl.concat(
        table.with_columns(pl.lit(name).alias("arm")) for table, name in zip((first, second), names, strict=True)
    )
    both: dict[Member, Joining] = {
        (name, fold, seed): joining
        for of_one, name in zip(joinings, names, strict=True)
        for (_, fold, seed), joining in of_one.items()
    }
    return table, both, (names[0], names[1])


def _arm_name(table: pl.DataFrame, fallback: str) -> str:
    names = sorted(table["arm"].drop_nulls().unique().to_list())
    if len(names) > 1:
        raise UserError(
            f"the {fallback} predictions hold several arms ({', '.join(names)})",
            "compare predictions of one model each; `evaluate` without --against compares the arms of one file",
        )
    return names[0] if names else fallback
