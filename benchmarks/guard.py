"""What a bundle's guard holds back: its own site's new images, other sites' images, pictures that are no mammograms.

    python benchmarks/guard.py STUDY [--arm multi] [--pictures 200]

STUDY is the folder of a finished study (the demo's, for one). The guard is the bundle's; where a bundle has none (too
few images, or trained before there were guards) it is fitted here, as a training would, from the same parts. Scored are
images that the model never learned from and that did not place the threshold: the test part of the internal cohort and
the external cohorts, by modality, whole images as `predict` judges them, with a 95% interval over patients.

Made here, each from the internal cohort's test images or from photographs that scikit-learn brings along: noise in the
shape of a breast, a breast with its pixels shuffled, inverted, blurred, on its head; crops of photographs. They go
through the preparation like any file, which refuses some by their pixels; the guard judges the rest.
"""

import argparse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from densityclip.artifacts import read_json, read_table
from densityclip.evaluation.bootstrap import Estimate, interval, patient_weights
from densityclip.imaging.cache import Cache
from densityclip.imaging.prepare import prepare_pixels
from densityclip.inference.guard import Guard
from densityclip.inference.predictor import Predictor
from densityclip.model.bundle import load_bundle
from densityclip.reasons import Refused
from densityclip.training.config import TrainConfig

Picture = NDArray[np.float32]


def fitted_here(predictor: Predictor, cache: Cache, splits: pl.DataFrame) -> Guard | None:
    """The guard that a training would have left in the bundle."""
    from densityclip.training.fit import stores_of
    from densityclip.training.guarding import guard_of

    known = TrainConfig.model_fields
    settings = {name: value for name, value in _config(predictor).items() if name in known}
    train, validation, calibration = stores_of([cache], splits, TrainConfig(**settings))
    guard, told = guard_of(predictor.classifier, train, (validation, calibration))
    print(f"The bundle has no guard; one was fitted here: {told}\n")
    return guard


def _config(predictor: Predictor) -> dict[str, Any]:
    found: dict[str, Any] = predictor.bundle.provenance["training"]["config"]
    return found


def held(predictor: Predictor, cache: Cache) -> pl.DataFrame:
    """Each image of a cache: `image_id`, `patient_id`, `modality`, and whether it is held back."""
    images = predictor.predict_cache(cache, guarded=True)
    return images.select("image_id", "patient_id", "modality", (pl.col("status") == "abstained").alias("held"))


def share(rows: pl.DataFrame) -> Estimate:
    """Share of images held back, with its interval over patients."""
    value, patients = rows["held"].to_numpy().astype(float), rows["patient_id"].to_list()
    position, counts = patient_weights(patients, 1000, 0)
    weights = counts[position]
    return interval(float(value.mean()), (value @ weights) / weights.sum(axis=0), len(counts))


def _noise(image: Picture, rng: np.random.Generator) -> Picture:
    return np.where(image > 0, rng.random(image.shape, dtype=np.float32) * 0.8 + 0.2, 0).astype(np.float32)


def _shuffled(image: Picture, rng: np.random.Generator) -> Picture:
    inside, shuffled = image > 0, image.copy()
    shuffled[inside] = rng.permutation(image[inside])
    return shuffled


def _inverted(image: Picture, _: np.random.Generator) -> Picture:
    return np.where(image > 0, 1.05 - image, 0).astype(np.float32)


def _blurred(image: Picture, _: np.random.Generator) -> Picture:
    grey = Image.fromarray(np.round(255 * image).astype(np.uint8))
    return np.asarray(grey.filter(ImageFilter.GaussianBlur(8)), dtype=np.float32) / 255


def _on_its_head(image: Picture, _: np.random.Generator) -> Picture:
    return np.ascontiguousarray(np.rot90(image))


SPOILED: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "noise in the shape of a breast": _noise,
    "a breast with its pixels shuffled": _shuffled,
    "a breast inverted": _inverted,
    "a breast blurred (8 px of 160)": _blurred,
    "a breast lying on its side": _on_its_head,
}


def pictures(images: NDArray[Any], number: int) -> Iterator[tuple[str, Picture]]:
    """Kinds of picture, one after the other; `images` are prepared ones, `[n, h, w]` uint8."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    chosen = images[rng.permutation(len(images))[:number]].astype(np.float32) / np.iinfo(images.dtype).max
    for name, spoil in SPOILED.items():
        for image in chosen:
            yield name, spoil(image, rng)
    photographs = [
        np.asarray(Image.fromarray(one).convert("L"), np.float32) / 255 for one in load_sample_images().images
    ]
    for _ in range(number):
        photograph = photographs[rng.integers(len(photographs))]
        side = int(rng.integers(120, min(photograph.shape)))
        top, left = (int(rng.integers(length - side + 1)) for length in photograph.shape)
        yield "crops of photographs", photograph[top : top + side, left : left + side]


def judged(predictor: Predictor, images: NDArray[Any], number: int) -> Iterator[tuple[str, int, int, int]]:
    """Of each kind: pictures, refused by their pixels, held back by the guard."""
    kinds: dict[str, list[NDArray[Any] | None]] = {}
    for name, picture in pictures(images, number):
        try:
            kinds.setdefault(name, []).append(prepare_pixels(picture, predictor.bundle.recipe).pixels)
        except Refused:
            kinds.setdefault(name, []).append(None)
    for name, found in kinds.items():
        prepared = [one for one in found if one is not None]
        features = predictor.answers(np.stack(prepared), ["DM"] * len(prepared))[1] if prepared else np.empty((0, 1))
        unlike = predictor.unlike(features, np.arange(len(prepared)))
        yield name, len(found), len(found) - len(prepared), int(unlike.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--arm", default="multi")
    parser.add_argument("--pictures", type=int, default=200, help="of each kind")
    options = parser.parse_args()
    described = read_json(options.study / "study.json", "densityclip study")
    splits = read_table(options.study / "splits.parquet", "splits")
    predictor = Predictor(load_bundle(options.study / "arms" / options.arm / "bundle"), device="cpu")
    fold = _config(predictor)["fold"]
    tests = splits.filter((pl.col("fold") == fold) & pl.col("part").is_in(["test", "external"]))["patient_id"]
    caches = {name: Cache.open(options.study / "cohorts" / name / "cache") for name in described["cohorts"]}
    internal = next(name for name, one in described["cohorts"].items() if one["role"] == "internal")
    if predictor.guard is None:
        predictor.guard = fitted_here(predictor, caches[internal], splits)
    assert predictor.guard is not None, "the study has too few images for a guard"
    print(f"{datetime.now(UTC):%Y-%m-%d}, arm {options.arm}, threshold placed by {predictor.guard.images} images\n")
    print("| images | modality | images / patients | held back |\n|---|---|---:|---|")
    for name, cache in caches.items():
        rows = held(predictor, cache).filter(pl.col("patient_id").is_in(tests.implode()))
        for modality in (*rows["modality"].unique().sort(), "all"):
            some = rows if modality == "all" else rows.filter(pl.col("modality") == modality)
            found = share(some)
            counts = f"{len(some)} / {some['patient_id'].n_unique()}"
            words = f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"
            print(f"| {name} | {modality} | {counts} | {words} |")
    mine = caches[internal].rows.filter((pl.col("modality") == "DM") & pl.col("patient_id").is_in(tests.implode()))
    images = caches[internal].images[mine["row"].to_numpy()]
    print("\n| pictures | number | refused by their pixels | held back by the guard | answered |")
    print("|---|---:|---:|---:|---:|")
    for name, number, refused, unlike in judged(predictor, images, options.pictures):
        print(f"| {name} | {number} | {refused} | {unlike} | {number - refused - unlike} |")


if __name__ == "__main__":
    main()
