"""One function per command of the road: files in, files out. `cli` and `study` both call them."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import (
    atomic_path,
    conform,
    file_stem,
    hash_file,
    hash_table,
    read_json,
    read_table,
    write_json,
    write_manifest,
    write_table,
)
from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.records import Part, Status

if TYPE_CHECKING:
    from densityclip.inference.predictor import Predictor
    from densityclip.training.config import TrainConfig

Report = Callable[[int, int], None] | None

INDEX = "index.parquet"
PREDICTIONS = "predictions.parquet"
METRICS = "metrics.json"


def index(
    source: Path,
    out: Path,
    *,
    dataset: str,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, str] | None = None,
    no_files: bool = False,
    site: str | None = None,
    institution: str | None = None,
    workers: int = 1,
    progress: Report = None,
) -> tuple[int, int]:
    """Index an archive: `index.parquet`, `excluded.parquet`, `audit.json`, `audit.html`.

    Returns:
        Images indexed and images excluded.
    """
    from densityclip.datasets.contract import write_index
    from densityclip.report.audit_report import write_audit

    if dataset == "dicom":
        from densityclip.datasets.dicom_folder import index_dicom

        result = index_dicom(
            source, table=table, site=site, institution=institution, workers=workers, progress=progress
        )
    else:
        from densityclip.datasets.table import index_table

        if table is None:
            raise UserError("--dataset table needs a table", "give it with --table FILE")
        result = index_table(source, table, columns=columns or {}, label_map=label_map or {}, no_files=no_files)
    config = {"dataset": dataset, "site": site, "institution": institution, "no_files": no_files}
    content = write_index(result, out, config=config, inputs={"table": hash_file(table)} if table else {})
    write_audit(out / "audit.html", content)
    return len(result.index), len(result.excluded)


def split(
    indexes: Mapping[str, Path], out: Path, *, external: Collection[str], folds: int = 1, seed: int = 0
) -> pl.DataFrame:
    """Assign every patient of some cohorts to a part, and write the split file.

    Args:
        indexes: `index.parquet` of each cohort by name.
        out: The split file.
        external: Names of the cohorts that are only scored.
        folds: Number of folds.
        seed: Of the assignment.
    """
    from densityclip.datasets.splits import make_splits

    cohorts = {name: read_table(path, "index") for name, path in indexes.items()}
    splits = make_splits(cohorts, external=external, folds=folds, seed=seed)
    write_table(splits, out, "splits")
    write_manifest(
        out.with_suffix(".manifest.json"),
        step="split",
        config={"external": sorted(external), "folds": folds, "seed": seed},
        inputs={name: hash_table(table) for name, table in cohorts.items()},
        counts=dict(splits.group_by("part").len().sort("part").iter_rows()),
    )
    return splits


def train(
    caches: Sequence[Path],
    splits: Path,
    foundation: Path,
    out: Path,
    config: "TrainConfig",
    *,
    data: dict[str, Any],
    progress: Report = None,
) -> Path:
    """Train one model; returns the bundle's folder."""
    from densityclip.imaging.cache import Cache
    from densityclip.training.fit import fit

    opened = [Cache.open(path) for path in caches]
    return fit(opened, read_table(splits, "splits"), foundation, out, config, data=data, progress=progress)


def predict_cache(
    cache: Path, bundle: Path, *, splits: pl.DataFrame | None = None, arm: str | None = None, progress: Report = None
) -> pl.DataFrame:
    """Predict every image of a cache, with what is known of its patients' parts.

    Returns:
        Schema `predictions`: images, breasts and exams.
    """
    from densityclip.imaging.cache import Cache
    from densityclip.inference.predictor import Predictor, all_levels
    from densityclip.model.bundle import load_bundle

    loaded = load_bundle(bundle)
    opened = Cache.open(cache)
    images = Predictor(loaded).predict_cache(opened, progress)
    refused = _refused_images(read_table(cache / "refused.parquet", "excluded"))
    images = pl.concat([images, refused]).sort("image_id")
    config = loaded.provenance["training"]["config"]
    if splits is not None:
        parts = splits.filter(pl.col("fold") == config["fold"]).select("patient_id", "cohort", "part", "fold")
        images = images.drop("cohort", "part", "fold").join(parts, on="patient_id", how="left")
    labels = {"arm": arm, "seed": config["seed"]}
    images = conform(images.with_columns(pl.lit(value).alias(name) for name, value in labels.items()), "predictions")
    return all_levels(images)


def _refused_images(excluded: pl.DataFrame) -> pl.DataFrame:
    from densityclip.inference.predictor import refused_row

    rows = [refused_row(row, row["reason"]) for row in excluded.iter_rows(named=True)]
    return conform(pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(), "predictions")


def predict_source(
    source: Path, bundle: Path, out: Path, *, overlay: bool = False, workers: int = 1, progress: Report = None
) -> pl.DataFrame:
    """Predict DICOM and image files: `predictions.parquet` and `.csv`, a JSON per exam, overlays on request.

    Returns:
        Schema `predictions`.

    Raises:
        UserError: There is nothing to read, or no image could be used.
    """
    from densityclip.deliver.answer import write_answers
    from densityclip.inference.predictor import Predictor, all_levels, image_table, refused_row
    from densityclip.inference.sources import gather
    from densityclip.model.bundle import load_bundle

    loaded = load_bundle(bundle)
    found, excluded = gather(source, workers=workers)
    predictor = Predictor(loaded)
    images = image_table(_counted(predictor.predict_files(found), len(found), progress), predictor.calibration)
    refused = [refused_row(row, row["reason"]) for row in excluded.iter_rows(named=True)]
    if refused:
        images = pl.concat([images, conform(pl.DataFrame(refused, infer_schema_length=None), "predictions")])
    table = all_levels(images)
    write_predictions(table, out)
    write_answers(table, loaded, out / "exams")
    usable = found.filter(
        pl.col("image_id").is_in(images.filter(pl.col("status") == Status.OK.value)["image_id"].implode())
    )
    if overlay and len(usable):
        explain(usable, predictor, out / "overlays", progress=progress)
    return table


def _counted(items: Any, total: int, progress: Report) -> Any:
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, total)


def write_predictions(table: pl.DataFrame, out: Path) -> None:
    """Write `predictions.parquet` and the same as CSV."""
    write_table(table, out / PREDICTIONS, "predictions")
    with atomic_path(out / "predictions.csv") as temporary:
        conform(table, "predictions").write_csv(temporary)


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


def explain(
    found: pl.DataFrame,
    predictor: "Predictor",
    out: Path,
    *,
    truth: Path | None = None,
    sheet: str | None = None,
    progress: Report = None,
) -> dict[str, Any]:
    """Map images: raw maps and overlays by image, `figures.csv`, `explain.json`; one colour scale for all of them.

    Args:
        found: Table of schema `index`.
        predictor: The model.
        out: Where to write.
        truth: Folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        sheet: Title of a contact sheet of all images, `sheet.png`; none without.
        progress: Told (done, total) images.

    Returns:
        The content of `explain.json`.
    """
    from densityclip.explain.maps import RESEARCH_USE, draw_sheet, map_figures, map_images, write_overlay
    from densityclip.explain.paint import shared_scale

    maps = list(map_images(predictor, predictor.predict_files(found)))
    if not maps:
        raise UserError("no image could be mapped", "look at the reasons in predictions.csv of `densityclip predict`")
    generated = " The model was trained on generated exams only." if predictor.bundle.generated_only else ""
    note = RESEARCH_USE + generated
    scale_max = shared_scale([item.tokens for item in maps])
    rows = []
    for done, item in enumerate(maps, start=1):
        write_overlay(item, out, scale_max, note=note)
        figures = map_figures(item, _gland_reader(truth))
        rows.append({name: item.row[name] for name in ("image_id", "patient_id", "modality", "density")} | figures)
        if progress is not None:
            progress(done, len(maps))
    if sheet is not None:
        with atomic_path(out / "sheet.png") as temporary:
            temporary.write_bytes(draw_sheet(maps, scale_max, sheet))
    table = pl.DataFrame(rows, infer_schema_length=None)
    with atomic_path(out / "figures.csv") as temporary:
        table.write_csv(temporary)
    summary = {
        "method": "GradCAM",
        "layer": "the input of the last block's attention (its norm1)",
        "target": "density score: the four similarities weighted by their place on the scale",
        "scale_max": scale_max,
        "images": len(maps),
        "figures": _figure_summary(table),
    }
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
        for name in ("energy_inside", "breast_share", "gland_auc", "brightness_auc"):
            known = mine.filter(pl.col(name).is_not_null())
            if len(known) == 0:
                continue
            low, high = _mean_interval(known["patient_id"].to_list(), known[name].cast(pl.Float64).to_numpy())
            summary.append(
                {
                    "modality": modality,
                    "figure": name,
                    "mean": float(known[name].mean()),  # type: ignore[arg-type]
                    "low": low,
                    "high": high,
                    "images": len(known),
                    "patients": known["patient_id"].n_unique(),
                }
            )
    return summary


def _mean_interval(patients: list[str], values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Percentile bootstrap of a mean over patients; nothing where there is one patient."""
    names, place = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None, None
    seed = int.from_bytes(hashlib.sha256("".join(names).encode()).digest()[:4])
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=1000)
    weights = counts[:, place]
    means = weights @ values / weights.sum(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def choose_images(index_table: pl.DataFrame, predictions: pl.DataFrame, per_cell: int) -> pl.DataFrame:
    """Scored images to show: a fixed number per modality and category, in an order that no result decides.

    Args:
        index_table: Schema `index`.
        predictions: Of one arm; only images of the test or external part with an answer are eligible.
        per_cell: Images per modality and category, each of another patient where there are enough.

    Returns:
        The chosen rows of the index.
    """
    scored = predictions.filter(
        (pl.col("level") == "image")
        & pl.col("part").is_in([Part.TEST.value, Part.EXTERNAL.value])
        & (pl.col("status") == Status.OK.value)
        & pl.col("label").is_not_null()
    )
    rows = index_table.join(scored.select("image_id"), on="image_id", how="semi")
    order = [hashlib.sha256(name.encode()).hexdigest() for name in rows["image_id"]]
    return (
        rows.with_columns(pl.Series("_order", order, dtype=pl.String()))
        .sort("_order")
        .unique(["modality", "density", "patient_id"], keep="first", maintain_order=True)
        .group_by("modality", "density", maintain_order=True)
        .head(per_cell)
        .sort("modality", "density", "_order")
        .drop("_order")
    )


def prepare(
    index_path: Path, out: Path, recipe: Recipe, *, workers: int = 1, progress: Report = None
) -> "tuple[int, int]":
    """Prepare an index's images into a cache.

    Returns:
        Images prepared and images refused.
    """
    from densityclip.imaging.cache import build_cache

    summary = build_cache(read_table(index_path, "index"), out, recipe, workers=workers, progress=progress)
    return summary.images, summary.refused


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


def read_recipe(bundle_or_file: Path) -> Recipe:
    """A recipe from a bundle's folder or from a `recipe.json`."""
    path = bundle_or_file / "recipe.json" if bundle_or_file.is_dir() else bundle_or_file
    return Recipe.from_dict(read_json(path, "densityclip train"))


def read_predictions(path: Path) -> pl.DataFrame:
    """Predictions from a file, or from the folder that `predict` or `study` wrote."""
    return read_table(path / PREDICTIONS if path.is_dir() else path, "predictions")


def explain_source(source: Path, bundle: Path, out: Path, *, progress: Report = None) -> tuple[dict[str, Any], int]:
    """Map DICOM and image files.

    Returns:
        The content of `explain.json`, and how many files were refused.
    """
    from densityclip.inference.predictor import Predictor
    from densityclip.inference.sources import gather
    from densityclip.model.bundle import load_bundle

    predictor = Predictor(load_bundle(bundle))
    found, excluded = gather(source)
    summary = explain(found, predictor, out, sheet="GradCAM of the density score", progress=progress)
    return summary, len(excluded) + len(found) - summary["images"]
