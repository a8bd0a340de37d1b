"""One training: caches and splits in, a model folder with its bundle out; resumable."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip import __version__
from densityclip.artifacts import (
    LOGITS,
    PROBABILITIES,
    atomic_path,
    conform,
    git_revision,
    hash_file,
    hash_json,
    hash_table,
    write_json,
)
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.model.biomedclip import image_size, load_foundation, model_files, resized
from densityclip.model.prompts import Prompts, read_prompts
from densityclip.model.weights_check import origin
from densityclip.probability.aggregate import log_probabilities
from densityclip.probability.calibrate import Calibration, fit_calibration
from densityclip.probability.exam_rule import fit_joining
from densityclip.records import GENERATED_LABEL, Level, Part, Status
from densityclip.training.class_balance import ClassBalance
from densityclip.training.config import TrainConfig
from densityclip.training.device import device_of, environment, precision_of, use_threads
from densityclip.training.engine import best_round, load_best, run
from densityclip.training.request import REQUEST, begun_with

if TYPE_CHECKING:
    from densityclip.imaging.recipe import Recipe
    from densityclip.model.biomedclip import Foundation
    from densityclip.model.classifier import DensityClassifier
    from densityclip.training.batches import ImageStore
    from densityclip.training.scoring import Scorer
    from densityclip.training.task import ContrastiveTask

BUNDLE = "bundle"
HISTORY = "training.csv"


def fit(
    caches: Sequence[Cache],
    splits: pl.DataFrame,
    foundation_folder: Path,
    out: Path,
    config: TrainConfig,
    *,
    data: dict[str, Any],
    finish: bool = False,
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
        finish: Do not train on: make the bundle from the best validation of a training that stopped on its way.
        progress: Called with steps done and steps in all.

    Returns:
        The bundle's folder. A training that is already whole returns at once; one that was killed goes on.

    Raises:
        UserError: The training cannot go on (see `engine.run`), or it cannot begin: caches of different recipes, a part
            without images of a trained modality or with a single category, captions that the model cannot tell apart,
            a folder with another training in it.
    """
    recipe = recipe_of(caches)
    prompts = read_prompts(config.prompts)
    request = {
        "densityclip": __version__,
        "config": config.model_dump(mode="json"),
        "prompts": hash_json(prompts.to_dict()),
        "recipe_hash": recipe.recipe_hash,
        "caches": [hash_file(cache.path / "rows.parquet") for cache in caches],
        "splits": hash_table(splits),
        "foundation": foundation_hash(foundation_folder),
        "data": data,
    }
    bundle = out / BUNDLE
    begun = begun_with(out, request, BUNDLE)
    if begun and (bundle / "provenance.json").is_file():
        return bundle
    if finish and not begun:
        raise UserError(f"{out} holds no training to finish", "train first, without --finish")
    precision_of(config)
    use_threads(config.threads)
    came_from = origin(foundation_folder)
    train, validation, calibration = stores_of(caches, splits, config)
    task, foundation = _task(foundation_folder, config, prompts, train, validation, (recipe.height, recipe.width))
    if is_first_process():
        write_json(out / REQUEST, request)
    if config.adaptation == "zero-shot":
        if not is_first_process():
            return bundle
        task.eval().to(device_of(config)).validate_now()
        task.to("cpu")
    elif finish:
        load_best(task, out, unfinished=True)
    elif not _run(task, out, config, progress):
        return bundle  # another process of this training writes it
    write_history(out, task.history)
    # The foundation model once more, in which nothing was trained, where the answer lies between the two.
    size, between = (recipe.height, recipe.width), config.interpolation < 1
    task.finish(at_size(load_foundation(foundation_folder), size) if between else None)
    trained = replace(foundation, clip=task.clip)
    described: dict[str, Any] = {"training": request, "foundation": came_from}
    described["data"] = data | training_summary(train, config, task.balance)
    if finish:
        described["stopped_after"] = max(step for step, _, _ in task.history)
    _finish(task, trained, bundle, recipe, described, validation, calibration)
    return bundle


def _run(task: "ContrastiveTask", out: Path, config: TrainConfig, progress: Callable[[int, int], None] | None) -> bool:
    """`engine.run`; what was recorded is written also where it stops on its way."""
    try:
        return run(task, out, config, progress)
    except Exception:
        if is_first_process():
            write_history(out, task.history)
        raise


def recipe_of(caches: Sequence[Cache]) -> "Recipe":
    """The recipe that all caches were prepared with.

    Raises:
        UserError: They have several.
    """
    recipe = caches[0].recipe
    if any(cache.recipe != recipe for cache in caches):
        hashes = ", ".join(sorted({cache.recipe.recipe_hash for cache in caches}))
        raise UserError(
            f"the caches were prepared with different recipes ({hashes})", "prepare them with the same --set"
        )
    return recipe


def foundation_hash(folder: Path) -> str:
    """A hash over everything that makes the model: weights, configs, tokenizer."""
    return hash_json({name: hash_file(folder / name) for name in model_files(folder)})


def is_first_process() -> bool:
    """Whether a launcher (torchrun, SLURM, Lightning's own) counts this process as the first."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def stores_of(
    caches: Sequence[Cache], splits: pl.DataFrame, config: TrainConfig
) -> tuple["ImageStore", "ImageStore", "ImageStore"]:
    """The images that a training learns from, is selected by and is calibrated on; no others are ever read.

    Raises:
        UserError: The caches and splits do not belong together, or a part is too poor to learn from.
    """
    from densityclip.training.batches import ImageStore

    _check_known(caches, splits)
    if config.fold not in splits["fold"].to_list():
        raise UserError(f"the splits have no fold {config.fold}", "set fold to one of those in splits.parquet")
    shuffled = config.seed if config.shuffle_labels else None
    train, validation, calibration = (
        ImageStore(caches, splits, part=part.value, fold=config.fold, modalities=config.modalities, shuffle_seed=seed)
        for part, seed in ((Part.TRAIN, shuffled), (Part.VALIDATION, shuffled), (Part.CALIBRATION, None))
    )
    _check_part(train, Part.TRAIN, config.modalities)
    _check_categories(train, config)
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


def _check_categories(train: "ImageStore", config: TrainConfig) -> None:
    """Every category has an image, or the user said that it need not."""
    missing = [
        name for name, count in zip(CATEGORIES, np.bincount(train.labels, minlength=4), strict=True) if not count
    ]
    if missing and not config.allow_missing_categories:
        raise UserError(
            f"the train part has no image of category {', '.join(missing)}, so the model would never have seen it",
            "add such images, or go on without with --set allow_missing_categories=true",
        )


def _task(
    folder: Path,
    config: TrainConfig,
    prompts: Prompts,
    train: "ImageStore",
    validation: "ImageStore",
    size: tuple[int, int],
) -> tuple["ContrastiveTask", "Foundation"]:
    from densityclip.training.batches import CaptionTable, TrainingBatches
    from densityclip.training.task import ContrastiveTask

    batches = TrainingBatches(
        train,
        CaptionTable.build(prompts, config.modalities),
        batch_size=config.batch_size,
        seed=config.seed,
        plain_share=config.plain_caption_share,
        augment=config.augment,
        sampler=config.sampler,
    )
    foundation = at_size(load_foundation(folder), size)
    return ContrastiveTask(foundation, config, prompts, batches, validation), foundation


def at_size(foundation: "Foundation", size: tuple[int, int]) -> "Foundation":
    """The model at the size of the prepared images."""
    return foundation if image_size(foundation.clip.visual) == size else resized(foundation, *size)


def write_history(out: Path, history: list[tuple[int, str, float]]) -> None:
    """Write `training.csv`."""
    from densityclip.training.task import HISTORY_SCHEMA

    with atomic_path(out / HISTORY) as temporary:
        pl.DataFrame(history, schema=HISTORY_SCHEMA, orient="row").write_csv(temporary)


def training_summary(train: "ImageStore", config: TrainConfig, balance: ClassBalance) -> dict[str, Any]:
    """What the bundle says of its data: counts, and the prior that its logits carry (`calibrate.prior_shift`)."""
    counts = np.bincount(train.labels, minlength=4)
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
        "training_prior": dict(zip(CATEGORIES, balance.prior.round(6).tolist(), strict=True)),
    }


def _finish(
    task: "ContrastiveTask",
    foundation: "Foundation",
    bundle: Path,
    recipe: Any,
    described: dict[str, Any],
    validation: "ImageStore",
    calibration: "ImageStore",
) -> None:
    from densityclip.model.bundle import save_bundle
    from densityclip.training.guarding import guard_of
    from densityclip.training.task import SELECTED_BY

    classifier = task.classifier().to(device_of(task.config))
    calibrated = _calibrate(task, classifier, validation, calibration)
    guard, guarded = guard_of(classifier, task.batches.store, (validation, calibration))
    classifier.to("cpu")
    best = best_round(task.history)
    save_bundle(
        bundle,
        foundation,
        recipe=recipe,
        prompts=task.prompts,
        embeddings=dict(zip(classifier.names, classifier.prompts, strict=True)),
        calibration=calibrated.to_dict(),
        guard=None if guard is None else guard.to_arrays(),
        provenance={
            "densityclip": __version__,
            "git_revision": git_revision(),
            **described,
            "request_hash": hash_json(described["training"]),
            "environment": environment(task.config),
            "selected": {"by": SELECTED_BY, "value": best[0], "step": best[1]},
            "modalities": list(task.config.modalities),
            "guard": guarded,
        },
    )


def _calibrate(
    task: "ContrastiveTask", classifier: "DensityClassifier", validation: "ImageStore", calibration: "ImageStore"
) -> Calibration:
    """Put the training's frequencies back, fit the temperatures, choose the rule for exams."""
    from densityclip.training.scoring import scorer_of

    return calibrate(scorer_of(classifier), validation, calibration, task.config.modalities, task.prior_shift)


def calibrate(
    scorer: "Scorer",
    validation: "ImageStore",
    calibration: "ImageStore",
    modalities: Sequence[str],
    shift: tuple[float, ...],
) -> Calibration:
    """Fit the temperatures on the calibration part, choose the rule for exams on the validation part.

    Args:
        scorer: The model.
        validation: Chooses.
        calibration: Fits.
        modalities: Names in the order of the stores' modality index.
        shift: Of `calibrate.prior_shift`.
    """
    from densityclip.training.scoring import mean_probabilities

    to_choose, to_fit = (
        log_probabilities(mean_probabilities(scorer, store, modalities)) for store in (validation, calibration)
    )
    fitted = fit_calibration(to_fit, calibration.labels, calibration.items["patient_id"].to_list(), shift)
    chosen = fit_joining(predicted_rows(validation, to_choose, fitted), predicted_rows(calibration, to_fit, fitted))
    return replace(fitted, joining=chosen)


def predicted_rows(store: "ImageStore", logits: NDArray[np.float64], calibration: Calibration) -> pl.DataFrame:
    """The images of a store as rows of schema `predictions`, as the bundle would predict them.

    Args:
        store: Labelled images.
        logits: `[images, 4]`, the logarithm of the mean of their slices' softmax.
        calibration: Of the images.

    Returns:
        Level `image`, in the order of the store.
    """
    names = ("image_id", "exam_id", "patient_id", "laterality", "view", "modality")
    probabilities = calibration.apply(logits)
    table = store.items.select(
        pl.lit(Level.IMAGE.value).alias("level"),
        *names,
        pl.col("density").alias("label"),
        pl.lit(Status.OK.value).alias("status"),
        *(pl.Series(name, logits[:, k]) for k, name in enumerate(LOGITS)),
        *(pl.Series(name, probabilities[:, k]) for k, name in enumerate(PROBABILITIES)),
    )
    return conform(table, "predictions")
