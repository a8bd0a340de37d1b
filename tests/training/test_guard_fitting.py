"""A training leaves a guard in its bundle where its images suffice, and what predicts with the bundle heeds it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny_data import write_cache, write_splits
from torch.nn import functional

from densityclip.artifacts import read_table
from densityclip.imaging.cache import Cache
from densityclip.inference.guard import fit_guard, load_guard
from densityclip.inference.predictor import Predictor
from densityclip.model.bundle import GUARD, Bundle, load_bundle
from densityclip.model.classifier import normalise
from densityclip.steps import predict
from densityclip.training.config import TrainConfig
from densityclip.training.fit import fit

PATIENTS, CALIBRATION, VALIDATION = 120, 45, 8
SETTINGS = {"modalities": ("DM", "s2D"), "steps": 4, "validate_every": 2, "batch_size": 16, "warmup_steps": 0}
SETTINGS |= {"threads": 1, "learning_rate": 1e-3, "layer_decay": 1.0, "accelerator": "cpu", "loggers": ()}


def trained(folder: Path, foundation: Path, patients: int, calibration: int) -> Bundle:
    write_cache(folder / "cache", patients=patients)
    splits = write_splits(folder / "splits.parquet", patients=patients, calibration=calibration)
    caches = [Cache.open(folder / "cache")]
    return load_bundle(
        fit(caches, read_table(splits, "splits"), foundation, folder / "model", TrainConfig(**SETTINGS), data={})
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def bundle(folder: Path, small_foundation: Path) -> Bundle:
    return trained(folder, small_foundation, PATIENTS, CALIBRATION)


def features_of(bundle: Bundle, cache: Cache, splits: pl.DataFrame, *parts: str) -> np.ndarray:
    """Features of the images of some parts, by nothing but the image tower."""
    patients = splits.filter(pl.col("part").is_in(parts))["patient_id"]
    rows = cache.rows.filter(pl.col("patient_id").is_in(patients.implode())).sort("image_id")["row"].to_numpy()
    classifier = bundle.classifier()
    with torch.no_grad():
        images = normalise(torch.from_numpy(np.stack([cache.images[row] for row in rows])), classifier.preprocess)
        return functional.normalize(classifier.visual(images), dim=-1).double().numpy()


def test_the_guard_rests_on_training_images_and_its_threshold_on_other_patients(folder, bundle):
    cache, splits = Cache.open(folder / "cache"), read_table(folder / "splits.parquet", "splits")
    parts = (("train",), ("validation", "calibration"))
    expected = fit_guard(*(features_of(bundle, cache, splits, *names) for names in parts))
    guard = load_guard(bundle)
    assert guard is not None
    assert guard.threshold == pytest.approx(expected.threshold, rel=1e-3)
    threshold_images = 2 * (CALIBRATION + VALIDATION)
    training_images = 2 * PATIENTS - threshold_images
    told = bundle.provenance["guard"]
    assert told["images"] == {"training": training_images, "threshold": threshold_images}
    assert (told["fitted"], told["share"], told["threshold"]) == (True, 0.99, guard.threshold)
    assert GUARD in bundle.provenance["hashes"]


def noise_cache(folder: Path, cache: Cache, kept: int) -> Cache:
    """The same cache, whose images but the first ones are noise."""
    images = np.random.default_rng(1).integers(0, 256, cache.images.shape, dtype=np.uint8)
    images[:kept] = cache.images[:kept]
    return Cache(folder, images, cache.rows, cache.recipe)


def test_noise_is_held_back_and_images_like_the_training_images_are_answered(folder, bundle):
    cache = Cache.open(folder / "cache")
    mixed = noise_cache(folder, cache, kept=60)
    predictor = Predictor(bundle, device="cpu")
    table = predictor.predict_cache(mixed, guarded=True).join(
        cache.rows.select("image_id", "row"), on="image_id", how="left"
    )
    real, noise = table.filter(pl.col("row") < 60), table.filter(pl.col("row") >= 60)
    assert (real["status"] == "ok").mean() >= 0.9
    assert set(noise["status"]) == {"abstained"}
    assert set(noise["reason"]) == {"unlike_training"}
    assert noise["predicted"].null_count() == len(noise)
    # A study scores all of them, and the numbers are the same.
    scored = predictor.predict_cache(mixed)
    assert set(scored["status"]) == {"ok"}
    assert scored.select("image_id", "prob_a").equals(table.select("image_id", "prob_a"))


def test_an_image_of_several_slices_is_judged_by_their_mean(folder, bundle):
    predictor = Predictor(bundle, device="cpu")
    assert predictor.guard is not None
    cache, splits = Cache.open(folder / "cache"), read_table(folder / "splits.parquet", "splits")
    known = features_of(bundle, cache, splits, "train")
    plain = known[predictor.guard.distances(known).argmin()]
    # Each slice alone is far from the training images, on opposite sides of one of them; together they are it.
    far = np.stack([plain + np.eye(len(plain))[0], plain - np.eye(len(plain))[0]])
    assert predictor.unlike(far, np.array([0, 1])).tolist() == [True, True]
    assert predictor.unlike(far, np.array([0, 0])).tolist() == [False]


def test_prediction_says_how_many_it_held_back_and_a_model_without_a_guard_says_why(
    folder, bundle, small_foundation, tmp_path
):
    cache = Cache.open(folder / "cache")
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for name in ("rows.parquet", "refused.parquet", "recipe.json", "manifest.json"):
        (spoiled / name).write_bytes((folder / "cache" / name).read_bytes())
    np.save(spoiled / "images.npy", noise_cache(spoiled, cache, kept=0).images)
    said: list[str] = []
    splits = folder / "splits.parquet"
    table = predict(spoiled, bundle, tmp_path / "out", splits=splits, announce=said.append)
    assert f"{2 * PATIENTS} images held back as unlike the training images." in said
    assert set(table.filter(pl.col("level") == "image")["status"]) == {"abstained"}
    assert not (table["status"] == "ok").any()

    few = trained(tmp_path / "few", small_foundation, 40, 10)
    assert not few.guarded
    assert few.provenance["guard"] == {"fitted": False, "why": "44 training images cannot place a guard"}
    said.clear()
    table = predict(spoiled, few, tmp_path / "again", splits=splits, announce=said.append)
    assert said == [
        "Images unlike the training images are not recognised, as the model has no guard: "
        "44 training images cannot place a guard."
    ]
    assert set(table["status"]) == {"ok"}
