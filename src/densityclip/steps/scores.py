"""Answers to figures: evaluate, compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import (
    hash_json,
    hash_table,
    read_json,
    write_figures,
    write_manifest,
)
from densityclip.errors import UserError
from densityclip.probability.joining import Joining, Member, joinings_record, read_joinings
from densityclip.steps.progress import Report

METRICS = "metrics.json"
# Far more than a few thousand resamples of patients can tell; a small p and the sign of a bound survive.
_DIGITS = 7
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
    metrics = _rounded(score(predictions, joinings=joinings, pairs=pairs, progress=progress, **settings))
    write_figures(out / METRICS, metrics)
    write_manifest(
        out / "metrics.manifest.json",
        step="evaluate",
        config=settings,
        inputs={"predictions": hash_table(predictions), "joinings": hash_json(joinings_record(joinings or {}))},
        counts={"rows": len(predictions), "cells": len(metrics["cells"])},
    )
    return metrics


def _rounded(content: Any) -> Any:
    """Figures at the digits that may mean something."""
    if isinstance(content, float):
        return float(f"{content:.{_DIGITS}g}")
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    return [_rounded(value) for value in content] if isinstance(content, list | tuple) else content


def joinings_beside(path: Path) -> dict[Member, Joining]:
    """How each member joined its images, from the manifest beside predictions; empty where there is none.

    Args:
        path: `predictions.parquet` or its folder.
    """
    manifest = (path if path.is_dir() else path.parent) / _MANIFEST
    return read_joinings(read_json(manifest, "densityclip predict")) if manifest.is_file() else {}


def choose_arm(
    predictions: pl.DataFrame, joinings: Mapping[Member, Joining], arm: str
) -> tuple[pl.DataFrame, dict[Member, Joining]]:
    """The rows and joinings of one arm of predictions that may hold several.

    Args:
        predictions: Schema `predictions`.
        joinings: Of its members.
        arm: A name in its column `arm`.

    Raises:
        UserError: No row is of this arm; the arms that there are stand in the message.
    """
    names = _arms_of(predictions)
    if arm not in names:
        raise UserError(
            f"the predictions have no arm {arm}" if names else f"the predictions name no arm, so none is called {arm}",
            f"choose one of {', '.join(names)}" if names else "leave the name of the arm out",
        )
    mine = {member: joining for member, joining in joinings.items() if member[0] == arm}
    return predictions.filter(arm=arm), mine


@dataclass(frozen=True, eq=False)
class Compared:
    """Two models on the same images, as two arms of one table.

    Attributes:
        predictions: Schema `predictions`, the rows of both.
        joinings: How each member joins its images.
        arms: What the first and the second are called.
    """

    predictions: pl.DataFrame
    joinings: dict[Member, Joining]
    arms: tuple[str, str]


def compare(
    first: pl.DataFrame,
    second: pl.DataFrame,
    joinings: tuple[Mapping[Member, Joining], Mapping[Member, Joining]] = ({}, {}),
    *,
    arms: tuple[str | None, str | None] = (None, None),
) -> Compared:
    """Two predictions on the same images, stacked as two arms for `evaluate`.

    Args:
        first: Of one model, or of several arms of which `arms` names one.
        second: Likewise.
        joinings: Of each.
        arms: Which arm of each; where the second names none but holds several, the one that the first is called.

    Raises:
        UserError: One of them holds several arms and none is named, the named one is not there, or the two are the
            same rows.
    """
    one = _single(first, joinings[0], arms[0], "--arm", "predictions")
    fallback = arms[0] if arms[0] in _arms_of(second) else None
    other = _single(second, joinings[1], arms[1] or fallback, "--against-arm", "predictions of --against")
    if one[0].equals(other[0], null_equal=True):
        raise UserError("both sides of the comparison are the same predictions", "name another arm by --against-arm")
    names = [_name_of(one[0], "first"), _name_of(other[0], "second")]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    table = pl.concat(
        rows.with_columns(pl.lit(name).alias("arm")) for (rows, _), name in zip((one, other), names, strict=True)
    )
    both: dict[Member, Joining] = {
        (name, fold, seed): joining
        for (_, of_one), name in zip((one, other), names, strict=True)
        for (_, fold, seed), joining in of_one.items()
    }
    return Compared(table, both, (names[0], names[1]))


def _single(
    table: pl.DataFrame, joinings: Mapping[Member, Joining], arm: str | None, option: str, what: str
) -> tuple[pl.DataFrame, Mapping[Member, Joining]]:
    """One arm's rows, chosen by name where there are several."""
    if arm is not None:
        return choose_arm(table, joinings, arm)
    names = _arms_of(table)
    if len(names) > 1:
        raise UserError(f"the {what} hold several arms ({', '.join(names)})", f"choose one by {option} NAME")
    return table, joinings


def _arms_of(table: pl.DataFrame) -> list[str]:
    return sorted(table["arm"].drop_nulls().unique().to_list())


def _name_of(table: pl.DataFrame, fallback: str) -> str:
    return next(iter(_arms_of(table)), fallback)
