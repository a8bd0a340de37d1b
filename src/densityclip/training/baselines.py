"""What the arms are compared with, on the same splits, selected and calibrated in the same way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from densityclip import __version__
from densityclip.artifacts import (
    SCHEMA_VERSION,
    atomic_path,
    git_revision,
    hash_file,
    hash_json,
    hash_table,
    read_json,
    write_json,
)
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import load_foundation
from densityclip.probability.calibrate import Calibration
from densityclip.training.class_balance import class_balance
from densityclip.training.config import TrainConfig
from densityclip.training.device import device_of, environment, use_threads
from densityclip.training.fit import (
    at_size,
    calibrate,
    foundation_hash,
    recipe_of,
    stores_of,
    training_summary,
    write_history,
)

if TYPE_CHECKING:
    from torch import nn

    from densityclip.training.batches import ImageStore
    from densityclip.training.scoring import Scorer

BASELINE = "baseline.json"
WEIGHTS = "weights.safetensors"
# `zero-shot` and `linear-probe` are adaptations, and `fit` trains them.
FITTED_HERE = ("majority", "histogram", "cross-entropy", "cnn")
_NO_SHIFT = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Network:
    """The convolutional network of `cnn`.

    Attributes:
        name: An architecture that timm knows.
        weights: A safetensors file of pretrained weights; random ones without.
    """

    name: str = "convnext_atto"
    weights: Path | None = None


@dataclass(frozen=True)
class _Fitted:
    """What fitting a baseline gives, before it is calibrated.

    Attributes:
        scorer: It, as a function.
        numbers: All that makes it, for one without a network.
        selected: What validation chose.
        history: Rows of `training.csv`.
        network: Its network, if it has one.
    """

    scorer: "Scorer"
    numbers: dict[str, Any]
    selected: dict[str, Any]
    history: Sequence[tuple[int, str, float]] = ()
    network: "nn.Module | None" = None


def fit_baseline(
    name: str,
    caches: Sequence[Cache],
    splits: pl.DataFrame,
    foundation: Path,
    out: Path,
    config: TrainConfig,
    *,
    network: Network,
    data: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fit one baseline on the training part; `baseline.json` comes last, so a folder that has it is whole.

    Args:
        name: One of `FITTED_HERE`.
        caches: Prepared images, all of one recipe.
        splits: Schema `splits`.
        foundation: Model folder whose image tower `cross-entropy` trains.
        out: Folder of the baseline.
        config: Modalities, fold and seed, and how a network is trained.
        network: Of `cnn`.
        data: What is said of the data besides its counts, such as `redistribute`.
        progress: Told (done, total) steps.

    Returns:
        `out`. One that is whole is left alone; one that was killed begins again.

    Raises:
        UserError: As `fit`.
    """
    recipe = recipe_of(caches)
    request = {
        "densityclip": __version__,
        "baseline": name,
        "config": config.model_dump(mode="json"),
        "recipe_hash": recipe.recipe_hash,
        "caches": [hash_file(cache.path / "rows.parquet") for cache in caches],
        "splits": hash_table(splits),
        "data": data,
    }
    if name == "cross-entropy":
        request["foundation"] = foundation_hash(foundation)
    if name == "cnn":
        weights = None if network.weights is None else _hash_of(network.weights)
        request["network"] = {"name": network.name, "weights": weights}
    if _is_done(out, request):
        return out
    use_threads(config.threads)
    train, validation, calibration = stores_of(caches, splits, config)
    fitted = _fit(name, train, validation, foundation, recipe, config, network, progress)
    counts = np.bincount(train.labels, minlength=4)
    balance = class_balance(counts.tolist(), (counts / counts.sum()).tolist(), "none", loss="class-prompt")
    # The frequencies of the training part are an answer as they are; a temperature would make them another.
    answers = Calibration()
    if name != "majority":
        answers = calibrate(fitted.scorer, validation, calibration, config.modalities, _NO_SHIFT)
    write_history(out, list(fitted.history))
    hashes = {} if fitted.network is None else {WEIGHTS: _save(fitted.network, out / WEIGHTS)}
    write_json(
        out / BASELINE,
        {
            "schema_version": SCHEMA_VERSION,
            "densityclip": __version__,
            "git_revision": git_revision(),
            "environment": environment(config),
            "request": request,
            "request_hash": hash_json(request),
            "recipe": recipe.to_dict(),
            "data": data | training_summary(train, config, balance),
            "selected": fitted.selected,
            "numbers": fitted.numbers,
            "calibration": answers.to_dict(),
            "hashes": hashes,
        },
    )
    return out


def _is_done(out: Path, request: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very baseline; another one there is an error."""
    if not (out / BASELINE).is_file():
        return False
    found = read_json(out / BASELINE, "densityclip study")["request"]
    if found != request:
        differs = sorted(key for key in {*request, *found} if found.get(key) != request.get(key))
        raise UserError(
            f"{out} holds another baseline (different: {', '.join(differs)})", "choose another --out, or remove it"
        )
    return True


def _hash_of(weights: Path) -> str:
    if not weights.is_file():
        raise UserError(f"{weights} does not exist", "correct baseline_cnn.weights, or leave it out")
    return hash_file(weights)


def _fit(
    name: str,
    train: "ImageStore",
    validation: "ImageStore",
    foundation: Path,
    recipe: Recipe,
    config: TrainConfig,
    network: Network,
    progress: Callable[[int, int], None] | None,
) -> _Fitted:
    from densityclip.training.histogram import fit_histogram, frequencies, frequency_scorer, histogram_scorer
    from densityclip.training.scoring import scorer_of
    from densityclip.training.supervised import cnn_classifier, tower_classifier, train_plainly
    from densityclip.training.task import SELECTED_BY

    if name == "majority":
        shares = frequencies(train.labels)
        return _Fitted(frequency_scorer(shares), {"frequencies": shares}, {})
    if name == "histogram":
        numbers = fit_histogram(train, validation, config.modalities)
        selected = {"by": SELECTED_BY, "value": numbers["worst"], "strength": numbers["strength"]}
        return _Fitted(histogram_scorer(numbers), numbers, selected)
    if name == "cnn":
        model = cnn_classifier(network.name, network.weights, seed=config.seed)
    else:
        model = tower_classifier(at_size(load_foundation(foundation), (recipe.height, recipe.width)))
    done = train_plainly(model, train, validation, config, progress)
    selected = {"by": SELECTED_BY, "value": done.value, "step": done.step}
    numbers = {"preprocess": model.preprocess, "network": network.name if name == "cnn" else "image tower"}
    return _Fitted(scorer_of(model), numbers, selected, done.history, model)


def _save(network: "nn.Module", path: Path) -> str:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, temporary)
    return hash_file(path)


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline on disk.

    Attributes:
        about: Content of `baseline.json`.
        calibration: What turns its logits into probabilities.
        scorer: It, as a function.
    """

    about: dict[str, Any]
    calibration: Calibration
    scorer: "Scorer"

    @property
    def config(self) -> TrainConfig:
        """What it was fitted with."""
        return TrainConfig(**self.about["request"]["config"])


def load_baseline(folder: Path, foundation: Path) -> Baseline:
    """Read a baseline and check that its weights are the ones that were trained.

    Args:
        folder: Of `fit_baseline`.
        foundation: Gives `cross-entropy` the shape of its image tower.

    Raises:
        UserError: The folder is not whole, or the weights were changed.
    """
    from densityclip.training.histogram import frequency_scorer, histogram_scorer
    from densityclip.training.scoring import scorer_of

    about = read_json(folder / BASELINE, "densityclip study")
    name, numbers = about["request"]["baseline"], about["numbers"]
    calibration = Calibration.from_dict(about["calibration"])
    if name == "majority":
        return Baseline(about, calibration, frequency_scorer(numbers["frequencies"]))
    if name == "histogram":
        return Baseline(about, calibration, histogram_scorer(numbers))
    return Baseline(about, calibration, scorer_of(_load_network(folder, foundation, about)))


def _load_network(folder: Path, foundation: Path, about: Mapping[str, Any]) -> "nn.Module":
    from safetensors.torch import load_file

    from densityclip.training.supervised import cnn_classifier, tower_classifier

    if not (folder / WEIGHTS).is_file() or hash_file(folder / WEIGHTS) != about["hashes"][WEIGHTS]:
        raise UserError(f"{folder / WEIGHTS} is missing or was changed", f"remove {folder} and run the study again")
    config, recipe = TrainConfig(**about["request"]["config"]), Recipe.from_dict(about["recipe"])
    if about["request"]["baseline"] == "cnn":
        model = cnn_classifier(about["request"]["network"]["name"], None, seed=config.seed)
    else:
        model = tower_classifier(at_size(load_foundation(foundation), (recipe.height, recipe.width)))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(device_of(config)).eval()


def predict_baseline(
    baseline: Baseline, cache: Cache, progress: Callable[[int, int], None] | None = None, *, batch_size: int = 64
) -> pl.DataFrame:
    """Score every image of a cache, as `Predictor.predict_cache` does.

    Returns:
        Schema `predictions`, level `image`.

    Raises:
        UserError: The cache was prepared with another recipe.
    """
    import torch

    from densityclip.inference.predictor import images_from_slices

    if cache.recipe.recipe_hash != baseline.about["request"]["recipe_hash"]:
        raise UserError("the cache and the baseline have different recipes", "prepare the images again")
    rows, parts = cache.rows, []
    names, places = rows["modality"].to_list(), rows["row"].to_numpy()
    for start in range(0, len(rows), batch_size):
        piece = slice(start, start + batch_size)
        parts.append(baseline.scorer(torch.from_numpy(cache.images[places[piece]]), names[piece]))
        if progress is not None:
            progress(min(start + batch_size, len(rows)), len(rows))
    return images_from_slices(rows, np.concatenate(parts), baseline.calibration)
