"""One training: caches and splits in, a model folder with its bundle out; resumable."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from densityclip import __version__
from densityclip.artifacts import atomic_path, git_revision, hash_file, hash_json, hash_table, read_json, write_json
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.probability.calibrate import Calibration, fit_calibration, prior_shift
from densityclip.records import GENERATED_LABEL, Part
from densityclip.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning import Callback

    from densityclip.model.biomedclip import Foundation
    from densityclip.training.batches import ImageStore
    from densityclip.training.task import ContrastiveTask

logger = logging.getLogger(__name__)

BUNDLE = "bundle"
HISTORY = "training.csv"
REQUEST = "training.json"


def fit(
    caches: Sequence[Cache],
    splits: pl.DataFrame,
    foundation_folder: Path,
    out: Path,
    config: TrainConfig,
    *,
    data: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train one model and write its bundle.

    Args:
        caches: Prepared images, all of one recipe.
        splits: Table of schema `splits`.
        foundation_folder: The model to adapt.
        out: The model folder: checkpoints, `training.csv`, `training.json`, `bundle/`.
        config: The settings.
        data: What the provenance says of the data besides its counts, such as `redistribute`.
        progress: Called with steps done and steps in all.

    Returns:
        The bundle's folder. A training that is already whole returns at once; one that was killed goes on.

    Raises:
        UserError: Caches of different recipes, a part without images of a trained modality or with a single category,
            a folder with another training in it.
    """
    recipe = caches[0].recipe
    if any(cache.recipe != recipe for cache in caches):
        hashes = ", ".join(sorted({cache.recipe.recipe_hash for cache in caches}))
        raise UserError(
            f"the caches were prepared with different recipes ({hashes})", "prepare them with the same --set"
        )
    request = {
        "densityclip": __version__,
        "config": config.model_dump(mode="json"),
        "recipe_hash": recipe.recipe_hash,
        "caches": [hash_file(cache.path / "rows.parquet") for cache in caches],
        "splits": hash_table(splits),
        "foundation": _foundation_hash(foundation_folder),
        "data": data,
    }
    bundle = out / BUNDLE
    if _begun_with(out, request) and (bundle / "provenance.json").is_file():
        return bundle
    train, validation, calibration = _stores(caches, splits, config)
    task, foundation = _task(foundation_folder, config, train, validation, (recipe.height, recipe.width))
    write_json(out / REQUEST, request)
    _run(task, out, config, progress)
    _write_history(out, task.history)
    _finish(task, foundation, bundle, recipe, request, data | training_summary(train, config), calibration)
    return bundle


def _foundation_hash(folder: Path) -> str:
    """Over everything that makes the model: weights, configs, tokenizer."""
    from densityclip.model.biomedclip import model_files

    return hash_json({name: hash_file(folder / name) for name in model_files(folder)})


def _begun_with(out: Path, request: dict[str, Any]) -> bool:
    """Whether the folder holds this very training; another one there is an error."""
    if not (out / REQUEST).is_file():
        return False
    found = read_json(out / REQUEST, "densityclip train")
    if found != request:
        differs = sorted(key for key in request if found.get(key) != request[key])
        raise UserError(
            f"{out} holds another training (different: {', '.join(differs)})", "choose another --out, or remove it"
        )
    return True


def _stores(
    caches: Sequence[Cache], splits: pl.DataFrame, config: TrainConfig
) -> tuple["ImageStore", "ImageStore", "ImageStore"]:
    from densityclip.training.batches import ImageStore

    _check_known(caches, splits)
    if config.fold not in splits["fold"].to_list():
        raise UserError(f"the splits have no fold {config.fold}", "set fold to one of those in splits.parquet")
    train, validation, calibration = (
        ImageStore(caches, splits, part=part.value, fold=config.fold, modalities=config.modalities)
        for part in (Part.TRAIN, Part.VALIDATION, Part.CALIBRATION)
    )
    _check_part(train, Part.TRAIN, config.modalities)
    _check_part(validation, Part.VALIDATION, config.modalities)
    return train, validation, calibration


def _check_known(caches: Sequence[Cache], splits: pl.DataFrame) -> None:
    """Every image is in one cache, and every patient has a part."""
    rows = pl.concat(cache.rows.select("image_id", "patient_id").unique() for cache in caches)
    twice = rows["image_id"].is_duplicated().sum() // 2
    if twice:
        raise UserError(f"{twice} images stand in more than one of the caches", "give each cache once")
    strangers = rows.join(splits, on="patient_id", how="anti")["patient_id"].n_unique()
    if strangers:
        raise UserError(
            f"{strangers} patients of the caches have no part in the splits",
            "make the splits from the indexes of these caches with `densityclip split`",
        )


def _check_part(store: "ImageStore", part: Part, modalities: Sequence[str]) -> None:
    for index, name in enumerate(modalities):
        labels = store.labels[store.modalities == index]
        if len(labels) == 0:
            raise UserError(
                f"the {part.value} part has no labelled {name} images",
                "set modalities to those that the caches hold, or add images",
            )
        if len(np.unique(labels)) < 2:
            raise UserError(
                f"the {part.value} part has {name} images of one category only ({CATEGORIES[int(labels[0])]})",
                "add images of other categories, or choose larger shares for this part",
            )


def _task(
    folder: Path, config: TrainConfig, train: "ImageStore", validation: "ImageStore", size: tuple[int, int]
) -> tuple["ContrastiveTask", "Foundation"]:
    from densityclip.model.biomedclip import load_foundation
    from densityclip.model.prompts import DEFAULT_PROMPTS
    from densityclip.training.batches import CaptionTable, TrainingBatches
    from densityclip.training.task import ContrastiveTask

    foundation = load_foundation(folder)
    expected = tuple(foundation.clip.visual.trunk.patch_embed.img_size)
    if size != expected:
        raise UserError(
            f"the cache has images of {size[0]} x {size[1]} px, the model takes {expected[0]} x {expected[1]}",
            f"prepare the images again with --size {expected[0]}",
        )
    captions = CaptionTable.build(DEFAULT_PROMPTS, config.modalities)
    batches = TrainingBatches(
        train,
        captions,
        batch_size=config.batch_size,
        seed=config.seed,
        plain_share=config.plain_caption_share,
        augment=config.augment,
    )
    return ContrastiveTask(foundation, config, DEFAULT_PROMPTS, batches, validation), foundation


def _run(task: "ContrastiveTask", out: Path, config: TrainConfig, progress: Callable[[int, int], None] | None) -> None:
    import torch
    from lightning import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    from densityclip.training.task import SELECTED_BY

    class AtomicCheckpoints(TorchCheckpointIO):
        """A checkpoint is written beside its name and renamed: a kill in the middle leaves the last good one."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            with atomic_path(Path(path)) as temporary:
                super().save_checkpoint(checkpoint, temporary, storage_options)

    # Its banners and tips are for those who call it; what a person needs is in the progress bar and in training.csv.
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(min(config.threads, os.cpu_count() or 1))
    checkpoints = out / "checkpoints"
    keep = partial(ModelCheckpoint, checkpoints, enable_version_counter=False, save_on_train_epoch_end=False)
    best = keep(filename="best", monitor=SELECTED_BY, mode="max")
    # Its own callback: `save_last` writes only in rounds that are the best so far, and a kill would lose the others.
    latest = keep(filename="last")
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        max_steps=config.steps,
        max_epochs=-1,
        limit_train_batches=config.validate_every,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        deterministic=True,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_progress_callback(config.steps, progress), best, latest],
        plugins=[AtomicCheckpoints()],
    )
    last = checkpoints / "last.ckpt"
    # Lightning only counts the steps: each batch follows from the number of its step.
    rounds = _Loader(np.arange(config.validate_every))
    # The model was loaded in eval mode, and Lightning leaves modes as they are: dropout would stay off.
    task.train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        trainer.fit(
            task,
            rounds,
            _pieces(len(task.validation)),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    _load_best(task, checkpoints / "best.ckpt")


class _Loader:
    """Hands out a sequence's items; Lightning takes a bare list for several loaders."""

    def __init__(self, items: Sequence[Any] | np.ndarray) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def _pieces(number: int) -> _Loader:
    return _Loader([np.arange(start, min(start + 128, number)) for start in range(0, number, 128)])


def _best_round(history: Sequence[tuple[int, str, float]]) -> tuple[float, int]:
    """Value and step of the best validation, the earliest of equals."""
    from densityclip.training.task import SELECTED_BY

    scores = [(value, step) for step, name, value in history if name == SELECTED_BY]
    return max(scores, key=lambda pair: (pair[0], -pair[1]))


def _load_best(task: "ContrastiveTask", path: Path) -> None:
    import torch

    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if checkpoint["global_step"] != _best_round(task.history)[1]:
        # Lightning forgets which checkpoint was the best when the folder was moved between two runs.
        raise UserError(
            f"{path} is not of the best round that training.csv would name", "remove the model folder and train again"
        )
    task.load_state_dict(checkpoint["state_dict"])
    task.to("cpu").eval()


def _progress_callback(steps: int, progress: Callable[[int, int], None] | None) -> "Callback":
    from lightning import Callback

    class Progress(Callback):
        """Tells the caller how many steps are done."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if progress is not None:
                progress(trainer.global_step, steps)

    return Progress()


def _write_history(out: Path, history: list[tuple[int, str, float]]) -> None:
    from densityclip.training.task import HISTORY_SCHEMA

    with atomic_path(out / HISTORY) as temporary:
        pl.DataFrame(history, schema=HISTORY_SCHEMA, orient="row").write_csv(temporary)


def training_summary(train: "ImageStore", config: TrainConfig) -> dict[str, Any]:
    """What the bundle says of its data: counts, and the prior that its logits carry (`calibrate.prior_shift`)."""
    from densityclip.training.weighting import class_weights

    counts = np.bincount(train.labels, minlength=4)
    weights = class_weights(counts.tolist(), config.class_weights)
    # A source that is not stated is nobody's word that the image was generated.
    generated = int((train.items["density_source"] == GENERATED_LABEL).sum())
    return {
        "generated": generated > 0,
        "images_generated": generated,
        "images": len(train),
        "patients": train.items["patient_id"].n_unique(),
        "images_by_category": dict(zip(CATEGORIES, counts.tolist(), strict=True)),
        "images_by_modality": {
            name: int((train.modalities == index).sum()) for index, name in enumerate(config.modalities)
        },
        "training_prior": dict(zip(CATEGORIES, (weights / weights.sum()).round(6).tolist(), strict=True)),
    }


def _finish(
    task: "ContrastiveTask",
    foundation: "Foundation",
    bundle: Path,
    recipe: Any,
    request: dict[str, Any],
    data: dict[str, Any],
    calibration: "ImageStore",
) -> None:
    from densityclip.model.bundle import save_bundle
    from densityclip.model.classifier import class_embeddings
    from densityclip.training.task import SELECTED_BY

    embeddings = class_embeddings(task.clip, task.tokenizer, task.prompts, task.config.modalities)

    best = _best_round(task.history)
    save_bundle(
        bundle,
        foundation,
        recipe=recipe,
        prompts=task.prompts,
        embeddings=embeddings,
        calibration=_calibrate(task, embeddings, calibration).to_dict(),
        provenance={
            "densityclip": __version__,
            "git_revision": git_revision(),
            "training": request,
            "request_hash": hash_json(request),
            "selected": {"by": SELECTED_BY, "value": best[0], "step": best[1]},
            "modalities": list(task.config.modalities),
            "data": data,
        },
    )


def _calibrate(task: "ContrastiveTask", embeddings: dict[str, Any], store: "ImageStore") -> Calibration:
    """Put the training's frequencies back and fit the temperature on the calibration part."""
    from densityclip.model.classifier import DensityClassifier
    from densityclip.training.scoring import mean_probabilities

    classifier = DensityClassifier(
        task.clip.visual, embeddings, float(task.clip.logit_scale.detach().exp()), task.preprocess
    )
    train, names = task.batches.store, task.config.modalities
    pieces = [mean_probabilities(classifier, store, items, names) for items in _pieces(len(store))]
    logits = np.log(np.maximum(np.concatenate(pieces), 1e-300)) if pieces else np.empty((0, 4))
    shift = prior_shift(np.bincount(train.labels, minlength=4).tolist(), task.class_weights.numpy())
    return fit_calibration(logits, store.labels, store.items["patient_id"].to_list(), shift)
