"""The baselines: each is what it says, learns from the training part, and is the same when it is made again."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from densityclip.artifacts import INDEX, LOGITS, PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.training.baselines import BASELINE, Network, fit_baseline, load_baseline, predict_baseline
from densityclip.training.batches import ImageStore
from densityclip.training.config import TrainConfig
from densityclip.training.histogram import BINS, features, fit_histogram, frequencies, histogram_scorer
from densityclip.training.supervised import cnn_classifier

SIDE = 32
PARTS = ("train", "train", "train", "validation", "calibration", "test")
NETWORK = Network("test_convnext")


def make_cache(folder: Path, *, patients: int = 48, slices: int = 1, signal: bool = True) -> tuple[Cache, pl.DataFrame]:
    """Images whose brightness says the category, one a patient; and splits of their patients."""
    random = np.random.default_rng(3)
    rows, images = [], []
    for number in range(patients):
        # The training part and each other one have all categories.
        label = number // len(PARTS) % 4
        for place in range(slices):
            image = np.zeros((SIDE, SIDE), dtype=np.uint8)
            level = 60 + 40 * label * signal
            image[:, : 16 + number % 5] = random.integers(level, level + 30, (SIDE, 16 + number % 5))
            images.append(image)
            rows.append(
                {
                    **dict.fromkeys(INDEX),
                    "image_id": f"i{number:03d}",
                    "patient_id": f"p{number:03d}",
                    "exam_id": f"e{number:03d}",
                    "laterality": "L",
                    "view": "CC",
                    "modality": "DM" if slices == 1 else "DBT",
                    "density": "ABCD"[label],
                    "slice_index": place,
                    "row": len(rows),
                }
            )
    folder.mkdir()
    table = pl.DataFrame(rows, schema_overrides=INDEX)
    table.write_parquet(folder / "rows.parquet")
    splits = pl.DataFrame(
        {
            "patient_id": [f"p{number:03d}" for number in range(patients)],
            "cohort": "c",
            "fold": 0,
            "part": [PARTS[number % len(PARTS)] for number in range(patients)],
        }
    )
    return Cache(folder, np.stack(images), table, Recipe().sized(SIDE)), conform(splits, "splits")


def only(splits: pl.DataFrame, kept: pl.Expr) -> pl.DataFrame:
    """The others are tested on, and so learned from by nothing."""
    return splits.with_columns(pl.when(kept).then("part").otherwise(pl.lit("test")).alias("part"))


def settings(modality: str = "DM", **more) -> TrainConfig:
    content = {"steps": 4, "validate_every": 2, "batch_size": 8, "threads": 1, "layer_decay": 1, "accelerator": "cpu"}
    return TrainConfig(modalities=(modality,), warmup_steps=1, **(content | {"learning_rate": 0.003} | more))


def fit(name: str, cache: Cache, splits: pl.DataFrame, out: Path, config: TrainConfig | None = None, **more) -> dict:
    config = config or settings(cache.rows["modality"][0])
    more = {"network": NETWORK, "data": {}} | more
    fit_baseline(name, [cache], splits, Path("no-foundation"), out, config, **more)
    return json.loads((out / BASELINE).read_text())


def predicted(out: Path, cache: Cache) -> pl.DataFrame:
    return predict_baseline(load_baseline(out, Path("no-foundation")), cache)


def test_majority_answers_the_frequencies_of_the_training_part_whatever_the_image(tmp_path: Path):
    cache, splits = make_cache(tmp_path / "cache")
    splits = only(splits, pl.col("patient_id").is_in(["p000", "p001", "p002", "p024"]).not_())
    fit("majority", cache, splits, tmp_path / "out")
    known = cache.rows.join(splits.filter(part="train"), on="patient_id")["density"]
    wanted = np.array([(known == letter).sum() + 0.5 for letter in "ABCD"]) / (len(known) + 2)
    assert len(set(wanted)) > 1
    table = predicted(tmp_path / "out", cache)
    np.testing.assert_allclose(table.select(PROBABILITIES).to_numpy(), np.tile(wanted, (len(table), 1)))
    assert frequencies(np.array([0, 0, 1])) == [0.5, 0.3, 0.1, 0.1]


def test_the_histogram_is_of_the_breast_and_not_of_the_air():
    pixels = torch.zeros(1, 2, 4, dtype=torch.uint8)
    pixels[0, 0] = torch.tensor([51, 51, 102, 255])
    (row,) = features(pixels, ["s2D"], ["DM", "s2D"])
    bins = {place: share for place, share in enumerate(row[:BINS]) if share}
    assert bins == {int(0.2 * BINS): 0.5, int(0.4 * BINS): 0.25, BINS - 1: 0.25}
    levels = np.array([0.2, 0.2, 0.4, 1.0])
    facts = [levels.mean(), levels.std(), *np.quantile(levels, (0.1, 0.25, 0.5, 0.75, 0.9)), 0.5, 0, 1]
    np.testing.assert_allclose(row[BINS:], facts, rtol=1e-6)
    assert not features(torch.zeros(1, 2, 2, dtype=torch.uint8), ["DBT"], ["DM"]).any()


def test_the_regression_is_scikit_learns_with_the_penalty_that_validation_likes_best(tmp_path: Path):
    cache, splits = make_cache(tmp_path / "cache")
    stores = [ImageStore([cache], splits, part=part, fold=0, modalities=["DM"]) for part in ("train", "validation")]
    numbers = fit_histogram(*stores, ["DM"])
    tables = [
        features(store.read(*store.every_slice(np.arange(len(store)))), ["DM"] * len(store), ["DM"]) for store in stores
    ]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=numbers["strength"], max_iter=2000))
    model.fit(tables[0], stores[0].labels)
    logits = histogram_scorer(numbers)(stores[1].read(*stores[1].every_slice(np.arange(len(stores[1])))), ["DM"] * 8)
    ours = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, model.predict_proba(tables[1]), atol=1e-3)
    assert numbers["worst"] == max(one["worst"] for one in numbers["tried"])


@pytest.mark.parametrize("seen", ["AC", "ABD"])
def test_a_category_that_was_never_seen_stays_possible_and_unlikely(tmp_path: Path, seen: str):
    cache, splits = make_cache(tmp_path / "cache", patients=96)
    known = cache.rows.filter(pl.col("density").is_in(list(seen)))["patient_id"]
    splits = only(splits, pl.col("patient_id").is_in(known.implode()))
    about = fit("histogram", cache, splits, tmp_path / "out", settings(allow_missing_categories=True))
    assert about["selected"]["value"] == 1.0
    table = predicted(tmp_path / "out", cache).join(known.to_frame(), on="patient_id", how="semi")
    logits = table.select(LOGITS).to_numpy()
    others = [k for k, letter in enumerate("ABCD") if letter not in seen]
    assert np.isfinite(logits).all()
    assert (logits[:, others].max(axis=1) < logits.max(axis=1) - 1).all()
    assert (table["predicted"] == table["label"]).all()


@pytest.mark.parametrize("name", ["histogram", "cnn"])
def test_what_brightness_says_is_learned(tmp_path: Path, name: str):
    cache, splits = make_cache(tmp_path / "cache", patients=96)
    config = settings(steps=60, validate_every=20, batch_size=16, augment=False)
    about = fit(name, cache, splits, tmp_path / "out", config)
    assert about["selected"]["value"] > 0.95
    # Brightness says all there is: the histogram tells the patients apart too well for a temperature to be found.
    calibration = about["calibration"]
    if name == "histogram":
        assert not calibration["calibrated"]
        assert "its lower bound" in calibration["why"]
    else:
        assert calibration["fitted_on"] == {"part": "calibration", "images": 16, "patients": 16}
    tested = predicted(tmp_path / "out", cache).join(splits.filter(part="test"), on="patient_id", how="semi")
    assert (tested["predicted"] == tested["label"]).mean() > 0.7


def test_the_cross_entropy_baseline_is_the_image_tower_of_the_foundation(small_foundation: Path, tmp_path: Path):
    from densityclip.model.biomedclip import load_foundation

    cache, splits = make_cache(tmp_path / "cache")
    with torch.no_grad():
        tower = load_foundation(small_foundation).clip.visual
    arguments = ([cache], splits, small_foundation, tmp_path / "out", settings(steps=2, learning_rate=1e-9))
    fit_baseline("cross-entropy", *arguments, network=NETWORK, data={})
    table = predict_baseline(load_baseline(tmp_path / "out", small_foundation), cache)
    # A head that starts at zero and hardly moves knows nothing yet: every category is as likely.
    np.testing.assert_allclose(table.select(LOGITS).to_numpy() - np.log(0.25), 0, atol=1e-4)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "out" / "weights.safetensors")
    own = {f"visual.{name}" for name in tower.state_dict()}
    assert set(saved) == own | {"head.weight", "head.bias"}


def test_a_baseline_that_was_killed_begins_again_and_ends_with_the_same_files(tmp_path: Path):
    cache, splits = make_cache(tmp_path / "cache")
    first = fit("cnn", cache, splits, tmp_path / "first")
    again = tmp_path / "again"
    again.mkdir()
    (again / "weights.safetensors").write_bytes(b"half")
    assert fit("cnn", cache, splits, again) == first
    for name in ("weights.safetensors", "training.csv", BASELINE):
        assert (again / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_a_whole_baseline_is_left_alone_and_another_in_its_folder_is_refused(tmp_path: Path):
    cache, splits = make_cache(tmp_path / "cache")
    fit("histogram", cache, splits, tmp_path / "out")
    before = (tmp_path / "out" / BASELINE).stat().st_mtime_ns
    fit("histogram", cache, splits, tmp_path / "out")
    assert (tmp_path / "out" / BASELINE).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"holds another baseline \(different: config\)"):
        fit("histogram", cache, splits, tmp_path / "out", settings(seed=1))


def test_weights_that_were_changed_are_not_loaded(tmp_path: Path):
    cache, splits = make_cache(tmp_path / "cache")
    fit("cnn", cache, splits, tmp_path / "out")
    (tmp_path / "out" / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="missing or was changed"):
        load_baseline(tmp_path / "out", Path())


def test_an_image_of_several_slices_has_the_mean_of_their_probabilities(tmp_path: Path):
    cache, splits = make_cache(tmp_path / "cache", slices=3)
    fit("histogram", cache, splits, tmp_path / "out")
    baseline = load_baseline(tmp_path / "out", Path())
    table = predicted(tmp_path / "out", cache)
    logits = baseline.scorer(torch.from_numpy(cache.images[:3]), ["DBT"] * 3)
    mean = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).mean(axis=0)
    row = table.filter(image_id="i000").select(LOGITS).to_numpy()[0]
    np.testing.assert_allclose(np.exp(row) / np.exp(row).sum(), mean, rtol=1e-9)


def test_pretrained_weights_are_taken_but_for_their_last_layer(tmp_path: Path):
    torch.manual_seed(5)
    source = timm.create_model("test_convnext", pretrained=False, num_classes=1000)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    loaded = cnn_classifier("test_convnext", tmp_path / "model.safetensors", seed=0).visual.state_dict()
    fresh = cnn_classifier("test_convnext", None, seed=0).visual.state_dict()
    for name, value in loaded.items():
        last = name.startswith("head.fc.")
        assert torch.equal(value, fresh[name] if last else source.state_dict()[name]), name
    with pytest.raises(UserError, match="are not those of test_efficientnet"):
        cnn_classifier("test_efficientnet", tmp_path / "model.safetensors", seed=0)
    with pytest.raises(UserError, match="no readable safetensors"):
        cnn_classifier("test_convnext", tmp_path / "no-such-file", seed=0)
    with pytest.raises(UserError, match="timm knows no network 'hf-hub:timm/x'"):
        cnn_classifier("hf-hub:timm/x", None, seed=0)
