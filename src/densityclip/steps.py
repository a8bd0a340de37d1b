"""One function per command of the road: files in, files out. `cli` and `study` both call them."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.artifacts import INDEX as INDEX_SCHEMA
from densityclip.artifacts import (
    atomic_path,
    conform,
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
    from densityclip.imaging.cache import CacheSummary
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import Bundle
    from densityclip.training.config import TrainConfig

Report = Callable[[int, int], None] | None

INDEX = "index.parquet"
PREDICTIONS = "predictions.parquet"
METRICS = "metrics.json"
_SPELLED = {
    "table": "--table",
    "columns": "--column",
    "label_map": "--label-map",
    "no_files": "--no-files",
    "site": "--site",
    "institution": "--institution",
}


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

    Args:
        source: Folder of the archive.
        out: Where to write.
        dataset: A name of `datasets.registry`.
        table: The dataset's table or label table, where it does not lie where the dataset puts it.
        columns: Our name of a column to the table's.
        label_map: The table's words for densities to `A B C D`.
        no_files: Look at no file: plan from the tables alone.
        site: Name of the site, for all images.
        institution: Name of the institution, for all images.
        workers: Processes that read headers.
        progress: Told (done, total) images.

    Returns:
        Images indexed and images excluded.
    """
    from densityclip.datasets.contract import Request, write_index
    from densityclip.datasets.registry import dataset_named
    from densityclip.report.audit_report import write_audit

    described = dataset_named(dataset)
    given = {
        "table": table,
        "columns": columns,
        "label_map": label_map,
        "no_files": no_files,
        "site": site,
        "institution": institution,
    }
    idle = [spelling for name, spelling in _SPELLED.items() if given[name] and name not in described.options]
    if idle:
        raise UserError(f"--dataset {dataset} has no use for {', '.join(idle)}", "leave that out, or change --dataset")
    request = Request(
        source=source,
        table=table,
        columns=columns or {},
        label_map=label_map or {},
        no_files=no_files,
        site=site,
        institution=institution,
    )
    config = {name: value for name, value in given.items() if name != "table"}
    kept, left_out, content = write_index(
        described.reader()(request),
        out,
        config={"dataset": dataset, "redistribute": described.redistribute} | config,
        workers=workers,
        progress=progress,
    )
    write_audit(out / "audit.html", content)
    return kept, left_out


def split(
    indexes: Mapping[str, Path], out: Path, *, external: Collection[str], folds: int = 1, seed: int = 0
) -> tuple[pl.DataFrame, list[str]]:
    """Assign every patient of some cohorts to a part, and write the split file.

    Args:
        indexes: `index.parquet` of each cohort by name.
        out: The split file.
        external: Names of the cohorts that are only scored.
        folds: Number of folds.
        seed: Of the assignment.

    Returns:
        The splits, and what must be said of them: cohorts of one institution, patients that are studies.
    """
    from densityclip.datasets.splits import NEEDED, make_splits, split_notes

    cohorts, inputs = {}, {}
    for name, path in indexes.items():
        table = read_table(path, "index")
        inputs[name] = hash_table(table)
        # A million rows of all columns take half a gigabyte; one cohort at a time is enough.
        cohorts[name] = table.select(NEEDED)
    splits = make_splits(cohorts, external=external, folds=folds, seed=seed)
    notes = split_notes(
        cohorts, external=external, index_notes={name: _index_notes(path) for name, path in indexes.items()}
    )
    write_table(splits, out, "splits")
    write_manifest(
        out.with_suffix(".manifest.json"),
        step="split",
        config={"external": sorted(external), "folds": folds, "seed": seed},
        inputs=inputs,
        counts=dict(splits.group_by("part").len().sort("part").iter_rows()),
        notes=notes,
    )
    return splits, notes


def _index_notes(index_path: Path) -> list[str]:
    """Notes beside an index; none beside one that was made by hand."""
    manifest = index_path.with_suffix(".manifest.json")
    notes: list[str] = read_json(manifest, "densityclip index").get("notes", []) if manifest.is_file() else []
    return notes


def read_splits(path: Path) -> pl.DataFrame:
    """Read a split file, and refuse one that has a patient in two parts: files are merged and edited by hand."""
    from densityclip.datasets.splits import check_splits

    return check_splits(read_table(path, "splits"))


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
    """Train one model; returns the bundle's folder. A dataset's licence goes before what `data` says of it."""
    from densityclip.datasets.licence import restricted_by
    from densityclip.imaging.cache import Cache
    from densityclip.training.fit import fit

    restricted = restricted_by(caches)
    if restricted:
        data = data | {"redistribute": False, "restricted_by": restricted}
    opened = [Cache.open(path) for path in caches]
    return fit(opened, read_splits(splits), foundation, out, config, data=data, progress=progress)


def predict(
    source: Path,
    bundle: "Bundle",
    out: Path,
    *,
    splits: Path | None = None,
    overlay: bool = False,
    workers: int = 1,
    progress: Report = None,
) -> pl.DataFrame:
    """Predict DICOM and image files, a folder of them, or a cache.

    Writes `predictions.parquet`, `predictions.csv`, a JSON per exam, and overlays on request.

    Args:
        source: What to predict.
        bundle: The model.
        out: Where to write.
        splits: Split file that says which part each patient belongs to; without it, no row has a part.
        overlay: Whether to draw where the model looked.
        workers: Processes that read headers.
        progress: Told (done, total) images.

    Returns:
        Schema `predictions`.

    Raises:
        UserError: There is nothing to read, or the cache has another recipe.
    """
    from densityclip.deliver.answer import write_answers
    from densityclip.inference.predictor import Predictor, all_levels, image_table

    if is_cache(source) and splits is None:
        _refuse_training_cache(source, bundle)
    predictor = Predictor(bundle)
    found, excluded = _found(source, workers)
    if is_cache(source):
        images = _cached_images(source, predictor, progress)
    else:
        files = predictor.predict_files(found)
        images = image_table(_counted(files, len(found), progress), predictor.calibration)
        images = pl.concat([images, _refused_images(excluded)])
    if splits is not None:
        images = with_parts(images, read_splits(splits), fold=bundle.provenance["training"]["config"]["fold"])
    table = all_levels(images)
    write_predictions(table, out, config={"model": bundle.model_hash}, inputs={"index": hash_table(found)})
    write_answers(table, bundle, out / "exams")
    answered = images.filter(pl.col("status") == Status.OK.value)["image_id"]
    usable = found.filter(pl.col("image_id").is_in(answered.implode()))
    if overlay and len(usable):
        explain({"": usable}, predictor, out / "overlays", progress=progress)
    return table


def _refuse_training_cache(cache: Path, bundle: "Bundle") -> None:
    if hash_file(cache / "rows.parquet") in bundle.provenance["training"]["caches"]:
        raise UserError(
            f"the model was trained on patients of {cache}, and without their parts they would be scored like others",
            "name the split file of the training with --splits",
        )


def is_cache(source: Path) -> bool:
    """Whether a folder is a cache of `prepare`."""
    return (source / "rows.parquet").is_file()


def _found(source: Path, workers: int = 1) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Images of a source that can be tried, and those that cannot."""
    if not is_cache(source):
        from densityclip.inference.sources import gather

        return gather(source, workers=workers)
    from densityclip.imaging.cache import Cache

    rows = Cache.open(source).rows.unique("image_id", keep="first", maintain_order=True)
    return conform(rows.select(INDEX_SCHEMA.keys()), "index"), read_table(source / "refused.parquet", "excluded")


def _cached_images(cache: Path, predictor: "Predictor", progress: Report) -> pl.DataFrame:
    """Image-level predictions of a cache, the images that it refused included."""
    from densityclip.imaging.cache import Cache

    images = predictor.predict_cache(Cache.open(cache), progress)
    refused = _refused_images(read_table(cache / "refused.parquet", "excluded"))
    return pl.concat([images, refused]).sort("image_id")


def with_parts(images: pl.DataFrame, splits: pl.DataFrame, *, fold: int) -> pl.DataFrame:
    """Predictions with the cohort, part and fold that a split gives their patients."""
    parts = splits.filter(pl.col("fold") == fold).select("patient_id", "cohort", "part", "fold")
    joined = images.drop("cohort", "part", "fold").join(parts, on="patient_id", how="left", maintain_order="left")
    return conform(joined, "predictions")


def predict_cohort(
    cache: Path, bundle: Path, splits: pl.DataFrame, *, arm: str, progress: Report = None
) -> pl.DataFrame:
    """Predict the cache of a study's cohort with one of its arms.

    Returns:
        Schema `predictions`: images, breasts and exams.
    """
    from densityclip.inference.predictor import Predictor, all_levels
    from densityclip.model.bundle import load_bundle

    loaded = load_bundle(bundle)
    config = loaded.provenance["training"]["config"]
    images = with_parts(_cached_images(cache, Predictor(loaded), progress), splits, fold=config["fold"])
    return all_levels(images.with_columns(pl.lit(arm).alias("arm"), pl.lit(config["seed"], pl.Int64).alias("seed")))


def _refused_images(excluded: pl.DataFrame) -> pl.DataFrame:
    from densityclip.inference.predictor import refused_row

    rows = [refused_row(row, row["reason"]) for row in excluded.iter_rows(named=True)]
    return conform(pl.DataFrame(rows, infer_schema_length=None), "predictions")


def _counted(items: Any, total: int, progress: Report) -> Any:
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, total)


def write_predictions(table: pl.DataFrame, out: Path, *, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Write `predictions.parquet`, the same as CSV, and their manifest."""
    write_table(table, out / PREDICTIONS, "predictions")
    with atomic_path(out / "predictions.csv") as temporary:
        conform(table, "predictions").write_csv(temporary)
    counts = {
        f"{level} {status}": count
        for level, status, count in table.group_by("level", "status").len().sort("level", "status").iter_rows()
    }
    write_manifest(out / "predictions.manifest.json", step="predict", config=config, inputs=inputs, counts=counts)


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
    groups: Mapping[str, pl.DataFrame],
    predictor: "Predictor",
    out: Path,
    *,
    truth: Mapping[str, Path] | None = None,
    title: str | None = None,
    progress: Report = None,
) -> dict[str, dict[str, Any]]:
    """Map images: raw maps and overlays, `figures.csv`, `explain.json`; one colour scale for all of them.

    Args:
        groups: Tables of schema `index`; each is written to the subfolder of its name (the empty name: to `out`).
        predictor: The model.
        out: Where to write.
        truth: By group, the folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        title: Title of a contact sheet of each group, `sheet.png`; none without.
        progress: Told (done, total) images.

    Returns:
        The content of each group's `explain.json`; groups of which no image could be mapped are not there.
    """
    from densityclip.explain.atlas import write_atlas
    from densityclip.explain.maps import RESEARCH_USE, map_images
    from densityclip.explain.paint import shared_scale

    maps = {name: list(map_images(predictor, predictor.predict_files(found))) for name, found in groups.items()}
    everything = [item for group in maps.values() for item in group]
    if not everything:
        raise UserError("no image could be mapped", "look at the reasons in predictions.csv of `densityclip predict`")
    scale_max = shared_scale([item.tokens for item in everything])
    generated = " The model was trained on generated exams only." if predictor.bundle.generated_only else ""
    written, done = {}, 0
    for name, group in maps.items():
        if not group:
            continue
        written[name] = write_atlas(
            group,
            out / name,
            scale_max,
            note=RESEARCH_USE + generated,
            truth=(truth or {}).get(name),
            title=f"{title}{f', {name}' if name else ''}" if title is not None else None,
            progress=None if progress is None else _shifted(progress, done, len(everything)),
        )
        done += len(group)
    return written


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: progress(before + done, total)


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
    index_path: Path,
    out: Path,
    recipe: Recipe,
    *,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    timeout: float = 120,
    announce: Callable[[str], None] | None = None,
    progress: Report = None,
) -> "CacheSummary":
    """Prepare an index's images into a cache.

    Args:
        index_path: The index.
        out: Folder of the cache.
        recipe: How to prepare.
        workers: Files at the same time: by default 1, and with Ray every CPU of the cluster.
        engine: `local` or `ray`.
        ray_address: Of a running cluster.
        timeout: Seconds that one file may take.
        announce: Told, before anything starts, how large the cache will be and how long it will take.
        progress: Told (done, total) images.
    """
    from densityclip.datasets.licence import carry_licence
    from densityclip.imaging.cache import build_cache
    from densityclip.imaging.engine import open_engine

    index_table = read_table(index_path, "index")
    with open_engine(engine, recipe, workers=workers, timeout=timeout, ray_address=ray_address) as opened:
        summary = build_cache(index_table, out, recipe, engine=opened, announce=announce, progress=progress)
    carry_licence(index_path, out)
    return summary


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


def explain_source(source: Path, bundle: "Bundle", out: Path, *, progress: Report = None) -> tuple[dict[str, Any], int]:
    """Map the images of files or of a cache.

    Returns:
        The content of `explain.json`, and how many files were refused.
    """
    from densityclip.inference.predictor import Predictor

    predictor = Predictor(bundle)
    found, excluded = _found(source)
    summary = explain({"": found}, predictor, out, title="GradCAM of the density score", progress=progress)[""]
    return summary, len(excluded) + len(found) - summary["images"]
