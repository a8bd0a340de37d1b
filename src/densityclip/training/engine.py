"""Lightning's Trainer around a task: devices, checkpoints, loggers, what a kill leaves; its mistakes in one line."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import atomic_path
from densityclip.errors import UserError
from densityclip.training.config import TrainConfig

if TYPE_CHECKING:
    from lightning import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from densityclip.training.task import ContrastiveTask

CHECKPOINTS = "checkpoints"


def run(task: "ContrastiveTask", out: Path, config: TrainConfig, progress: Callable[[int, int], None] | None) -> bool:
    """Train, or go on with a training that was killed; afterwards the task holds the best round.

    Args:
        task: What is trained.
        out: The model folder; checkpoints go into it.
        config: The settings.
        progress: Called with steps done and steps in all.

    Returns:
        Whether this process is the one that writes the result; others have nothing left to do.

    Raises:
        UserError: The memory does not suffice, or a strategy or logger is unknown or not installed.
    """
    import torch

    _quieten()
    torch.set_num_threads(min(config.threads, os.cpu_count() or 1))
    trainer = _trainer(out, config, progress)
    last = out / CHECKPOINTS / "last.ckpt"
    # The model was loaded in eval mode, and Lightning leaves modes as they are: dropout would stay off.
    task.train()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            trainer.fit(
                task,
                # Lightning only counts the steps: each batch follows from the number of its step.
                _Count(config.validate_every),
                _Count(1),
                ckpt_path=last if last.is_file() else None,
                weights_only=True,
            )
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"out of memory with {config.batch_size} images a step",
            f"set chunk_size to {max(1, (config.chunk_size or config.batch_size) // 4)}, which keeps the batch and the "
            "result, or lower batch_size; the last good checkpoint is kept",
        ) from error
    if not trainer.is_global_zero:
        return False
    _load_best(task, out / CHECKPOINTS / "best.ckpt")
    return True


def _trainer(out: Path, config: TrainConfig, progress: Callable[[int, int], None] | None) -> "Trainer":
    from lightning import Trainer
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    from densityclip.training.task import SELECTED_BY

    class AtomicCheckpoints(TorchCheckpointIO):
        """A checkpoint is written beside its name and renamed: a kill in the middle leaves the last good one."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            with atomic_path(Path(path)) as temporary:
                super().save_checkpoint(checkpoint, temporary, storage_options)

    keep = partial(ModelCheckpoint, out / CHECKPOINTS, enable_version_counter=False, save_on_train_epoch_end=False)
    best = keep(filename="best", monitor=SELECTED_BY, mode="max")
    # Its own callback: `save_last` writes only in rounds that are the best so far, and a kill would lose the others.
    latest = keep(filename="last")
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=_strategy(config),
            precision=_precision(config),
            max_steps=config.steps,
            max_epochs=-1,
            limit_train_batches=config.validate_every,
            num_sanity_val_steps=0,
            gradient_clip_val=config.clip_gradient,
            deterministic=True if config.accelerator == "cpu" else "warn",
            use_distributed_sampler=False,
            logger=_loggers(out, config),
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_progress_callback(config.steps, progress), best, latest],
            plugins=[AtomicCheckpoints()],
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise UserError(
            f"Lightning refuses these settings: {' '.join(str(error).split())}",
            "correct accelerator, devices, strategy or precision",
        ) from error


def _quieten() -> None:
    # Its banners and tips are for those who call it; what a person needs is in the progress bar and in training.csv.
    for name in ("lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _strategy(config: TrainConfig) -> str:
    if config.strategy == "auto" and config.devices * config.nodes > 1:
        # The parts of LP-FT that are not trained yet have no gradient.
        return "ddp_find_unused_parameters_true" if config.adaptation == "lp-ft" else "ddp"
    return config.strategy


def _precision(config: TrainConfig) -> Any:
    import torch

    if config.precision != "auto":
        return config.precision
    gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"


def _loggers(out: Path, config: TrainConfig) -> list["Logger"]:
    """Each start of a training logs into a folder of its own; `training.csv` has the whole of it."""
    from lightning.pytorch import loggers

    kinds: dict[str, Callable[[], Logger]] = {
        "csv": lambda: loggers.CSVLogger(out / "logs", name="csv"),
        "tensorboard": lambda: loggers.TensorBoardLogger(out / "logs", name="tensorboard"),
        "wandb": lambda: loggers.WandbLogger(name=out.name, save_dir=out / "logs"),
        "mlflow": lambda: loggers.MLFlowLogger(run_name=out.name, save_dir=str(out / "logs" / "mlflow")),
    }
    made = []
    for name in config.loggers:
        try:
            made.append(kinds[name]())
        except ImportError as error:
            raise UserError(
                f"the logger {name} is not installed", f"pip install {name}, or leave it out of loggers"
            ) from error
    return made


class _Count:
    """So many items; Lightning takes a bare list for several loaders."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.number))


def best_round(history: Sequence[tuple[int, str, float]]) -> tuple[float, int]:
    """Value and step of the best validation, the earliest of equals."""
    from densityclip.training.task import SELECTED_BY

    scores = [(value, step) for step, name, value in history if name == SELECTED_BY]
    return max(scores, key=lambda pair: (pair[0], -pair[1]))


def _load_best(task: "ContrastiveTask", path: Path) -> None:
    import torch

    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if checkpoint["global_step"] != best_round(task.history)[1]:
        # Lightning forgets which checkpoint was the best when the folder was moved between two runs.
        raise UserError(
            f"{path} is not of the best round that training.csv would name", "remove the model folder and train again"
        )
    task.to("cpu").eval()
    task.load_state_dict(checkpoint["state_dict"])
    task.average = checkpoint["average"]


def _progress_callback(steps: int, progress: Callable[[int, int], None] | None) -> "Callback":
    from lightning import Callback

    class Progress(Callback):
        """Tells the caller how many steps are done."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if progress is not None:
                progress(trainer.global_step, steps)

    return Progress()
