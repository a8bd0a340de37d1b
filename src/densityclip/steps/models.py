"""Caches to a model, and a model's answers for caches: train, baselines, the cohorts of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.artifacts import (
    atomic_path,
    conform,
    read_table,
    write_manifest,
    write_table,
)
from densityclip.probability.calibrate import Calibration
from densityclip.probability.joining import JOININGS, Joining, Member, joinings_record
from densityclip.steps.archive import read_splits
from densityclip.steps.progress import Report

if TYPE_CHECKING:
    from densityclip.inference.predictor import Predictor
    from densityclip.training.config import TrainConfig


PREDICTIONS = "predictions.parquet"


def train(
    caches: Sequence[Path],
    splits: Path,
    foundation: Path,
    out: Path,
    config: "TrainConfig",
    *,
    data: dict[str, Any],
    finish: bool = False,
    progress: Report = None,
) -> Path:
    """Train one model; returns the bundle's folder. A dataset's licence goes before what `data` says of it."""
    from densityclip.imaging.cache import Cache
    from densityclip.training.fit import fit

    opened, data = [Cache.open(path) for path in caches], _licensed(caches, data)
    return fit(opened, read_splits(splits), foundation, out, config, data=data, finish=finish, progress=progress)


def _licensed(caches: Sequence[Path], data: dict[str, Any]) -> dict[str, Any]:
    """What is said of the data, with what the licences of its datasets say: nothing is claimed that nobody said."""
    from densityclip.datasets.licence import allowed_by, restricted_by

    restricted = restricted_by(caches)
    if restricted:
        return data | {"redistribute": False, "restricted_by": restricted}
    if "redistribute" not in data and allowed_by(caches):
        return data | {"redistribute": True}
    return data


def is_first_process() -> bool:
    """Whether this process is the one of its training that speaks; others only work."""
    from densityclip.training.fit import is_first_process as first

    return first()


def cached_images(cache: Path, predictor: "Predictor", progress: Report, *, guarded: bool = False) -> pl.DataFrame:
    """Image-level predictions of a cache, the images that it refused included."""
    from densityclip.imaging.cache import Cache
    from densityclip.inference.predictor import refused_images

    images = predictor.predict_cache(Cache.open(cache), progress, guarded=guarded)
    refused = refused_images(read_table(cache / "refused.parquet", "excluded"))
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
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import load_bundle

    loaded = load_bundle(bundle)
    config = loaded.provenance["training"]["config"]
    predictor = Predictor(loaded)
    images = cached_images(cache, predictor, progress)
    joining = predictor.calibration.joining
    return _named_levels(images, splits, (arm, config["fold"], config["seed"]), joining)


def member_joining(bundle: Path, arm: str) -> tuple[Member, Joining]:
    """Who a bundle is among the rows of `predict_cohort`, and how it joins images: for `write_predictions`."""
    from densityclip.model.bundle import load_bundle

    loaded = load_bundle(bundle)
    config = loaded.provenance["training"]["config"]
    return (arm, config["fold"], config["seed"]), Calibration.from_dict(loaded.calibration).joining


def fit_baseline(
    name: str,
    caches: Sequence[Path],
    splits: Path,
    foundation: Path,
    out: Path,
    config: "TrainConfig",
    *,
    cnn: str,
    cnn_weights: Path | None,
    data: dict[str, Any],
    progress: Report = None,
) -> Path:
    """Fit a baseline on the same caches and splits as `train`; returns its folder."""
    from densityclip.imaging.cache import Cache
    from densityclip.training.baselines import Network
    from densityclip.training.baselines import fit_baseline as fit

    data = _licensed(caches, data)
    opened, network = [Cache.open(path) for path in caches], Network(cnn, cnn_weights)
    parts = read_splits(splits)
    return fit(name, opened, parts, foundation, out, config, network=network, data=data, progress=progress)


def predict_with_baseline(
    cache: Path, folder: Path, foundation: Path, splits: pl.DataFrame, *, arm: str, progress: Report = None
) -> pl.DataFrame:
    """Predict the cache of a study's cohort with a baseline, as `predict_cohort` does with an arm."""
    from densityclip.imaging.cache import Cache
    from densityclip.inference.predictor import refused_images
    from densityclip.training.baselines import load_baseline, predict_baseline

    loaded = load_baseline(folder, foundation)
    images = predict_baseline(loaded, Cache.open(cache), progress)
    refused = refused_images(read_table(cache / "refused.parquet", "excluded"))
    images = pl.concat([images, refused]).sort("image_id")
    member = (arm, loaded.config.fold, loaded.config.seed)
    return _named_levels(images, splits, member, loaded.calibration.joining)


def _named_levels(
    images: pl.DataFrame, splits: pl.DataFrame, member: tuple[str, int, int], joining: Joining
) -> pl.DataFrame:
    """Images of a member of an arm, with their parts, and the breasts and exams that they make up."""
    from densityclip.inference.predictor import all_levels

    arm, fold, seed = member
    images = with_parts(images, splits, fold=fold)
    named = images.with_columns(pl.lit(arm).alias("arm"), pl.lit(seed, pl.Int64).alias("seed"))
    return all_levels(named, joining)


def write_predictions(
    table: pl.DataFrame,
    out: Path,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    joinings: Mapping[Member, Joining] | None = None,
) -> None:
    """Write `predictions.parquet`, the same as CSV, and their manifest.

    Args:
        table: Schema `predictions`.
        out: The folder.
        config: What the manifest says of the settings.
        inputs: Name of each input and its SHA-256.
        joinings: How each member joined its images, so that `evaluate` can join some of them in the same way
            (`read_joinings`).
    """
    if joinings:
        config = {**config, JOININGS: joinings_record(joinings)}
    write_table(table, out / PREDICTIONS, "predictions")
    with atomic_path(out / "predictions.csv") as temporary:
        conform(table, "predictions").write_csv(temporary)
    counts = {
        f"{level} {status}": count
        for level, status, count in table.group_by("level", "status").len().sort("level", "status").iter_rows()
    }
    write_manifest(out / "predictions.manifest.json", step="predict", config=config, inputs=inputs, counts=counts)


def read_predictions(path: Path) -> pl.DataFrame:
    """Predictions from a file, or from the folder that `predict` or `study` wrote."""
    return read_table(path / PREDICTIONS if path.is_dir() else path, "predictions")
