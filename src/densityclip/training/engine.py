"""Lightning's Trainer around a task: devices, checkpoints, loggers, what a kill leaves; its mistakes in one line."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import atomic_path, write_json
from densityclip.errors import UserError
from densityclip.training.config import TrainConfig
from densityclip.training.device import precision_of

if TYPE_CHECKING:
    from lightning import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from densityclip.training.task import ContrastiveTask

CHECKPOINTS = "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
STOPPED = "stopped.json"

# What Lightning says to those who program with it.
_NOISE = (
    ".*LeafSpec.*",
    "Checkpoint directory .* exists and is not empty",
    "torch.distributed.nn.functional.all_gather is deprecated",
)


class TrainingStopped(UserError):
    """A training that cannot go on.

    Attributes:
        kept: Whether a validation was reached, so that a bundle can be made of the best one.
    """

    kept = False


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
        TrainingStopped: The loss or the weights are not finite, or the memory does not suffice.
        UserError: A strategy or logger is unknown or not installed.
    """
    import torch

    from densityclip.training.task import NotFinite

    _quieten()
    trainer = _trainer(out, config, progress)
    last = out / CHECKPOINTS / LAST
    if trainer.is_global_zero:
        (out / STOPPED).unlink(missing_ok=True)
    # The model was loaded in eval mode, and Lightning leaves modes as they are: dropout would stay off.
    task.train()
    try:
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            trainer.fit(
                task,
                # Lightning only counts the steps: each batch follows from the number of its step.
                _Count(config.validate_every),
                _Count(1),
                ckpt_path=last if last.is_file() else None,
                weights_only=True,
            )
    except NotFinite as stop:
        if trainer.is_global_zero and stop.image_ids:
            write_json(out / STOPPED, {"step": stop.step, "what": stop.what, "images": list(stop.image_ids)})
        raise _stopped(out, stop.said(out / STOPPED), "lower learning_rate, with another --out") from stop
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        fact = f"out of memory with {config.batch_size} images a step"
        raise _stopped(out, fact, _what_to_lower(config)) from error
    if not trainer.is_global_zero:
        return False
    load_best(task, out)
    return True


def _what_to_lower(config: TrainConfig) -> str:
    """What needs less memory, and what of it keeps the result."""
    chunk = config.chunk_size or config.batch_size
    text = "" if config.text_tower == "frozen" else ", or set text_tower to frozen"
    if chunk > 1:
        return (
            f"set chunk_size to {max(1, chunk // 4)}, which keeps the batch and the result, or lower batch_size{text}"
        )
    return f"the images go through one at a time already: lower batch_size{text}, or prepare smaller images"


def _stopped(out: Path, fact: str, next_step: str) -> TrainingStopped:
    """The error, with what is still there of the training: said only where there is something."""
    best = read_best(out)
    if best is None:
        return TrainingStopped(fact, f"{next_step}; no validation was reached, so nothing of this training is kept")
    value, step = best_round(best["history"])
    error = TrainingStopped(fact, f"{next_step}; the best validation so far, {value:.3f} at step {step}, is kept")
    error.kept = True
    return error


def _trainer(out: Path, config: TrainConfig, progress: Callable[[int, int], None] | None) -> "Trainer":
    from lightning import Trainer
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    class AtomicCheckpoints(TorchCheckpointIO):
        """A checkpoint is written beside its name and renamed: a kill in the middle leaves the last good one."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            with atomic_path(Path(path)) as temporary:
                super().save_checkpoint(checkpoint, temporary, storage_options)

    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=_strategy(config),
            precision=precision_of(config),
            max_steps=config.steps,
            max_epochs=-1,
            limit_train_batches=config.validate_every,
            num_sanity_val_steps=0,
            gradient_clip_val=config.clip_gradient,
            deterministic=True if config.accelerator == "cpu" else "warn",
            use_distributed_sampler=False,
            logger=_loggers(out, config),
            # The task logs by itself; Lightning would only advise on its own logging.
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_progress_callback(config.steps, progress), _checkpoints_callback(out / CHECKPOINTS)],
            plugins=[AtomicCheckpoints()],
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise UserError(
            f"Lightning refuses these settings: {' '.join(str(error).split())}",
            "correct accelerator, devices, strategy or precision",
        ) from error


def _quieten() -> None:
    # Its banners and tips are for those who call it; what a person needs is in the progress bar and in training.csv.
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _strategy(config: TrainConfig) -> str:
    if config.strategy == "auto" and config.devices * config.nodes > 1:
        # The parts of LP-FT that are not trained yet have no gradient.
        return "ddp_find_unused_parameters_true" if config.adaptation == "lp-ft" else "ddp"
    return config.strategy


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
                f"the logger {name} is not installed", f"install it: pip install {name}; or leave it out of loggers"
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


def read_best(out: Path) -> dict[str, Any] | None:
    """The checkpoint of the best round so far in a model folder, or None where no validation was reached."""
    import torch

    path = out / CHECKPOINTS / BEST
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def load_best(task: "ContrastiveTask", out: Path, *, unfinished: bool = False) -> None:
    """Put the weights of the best round into a task.

    Args:
        task: Its history says which round that was.
        out: The model folder.
        unfinished: Of a training that stopped on its way: the history comes from the folder too.

    Raises:
        UserError: No validation was reached, or `best.ckpt` is of another round.
    """
    import torch

    best = read_best(out)
    if best is None:
        raise UserError(f"{out} has no validation to make a bundle of", "train on, without --finish")
    if unfinished:
        # Written after every round, so it knows of all of them; a kill between the two files leaves the newer best.
        path = out / CHECKPOINTS / LAST
        last = torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else best
        newest = max(last, best, key=lambda one: int(one["global_step"]))
        task.on_load_checkpoint(newest)
    if best["global_step"] != best_round(task.history)[1]:
        raise UserError(
            f"{out / CHECKPOINTS / BEST} is of step {best['global_step']}, and the best validation was at step "
            f"{best_round(task.history)[1]}",
            "put back the checkpoints of this training, or remove the model folder and train again",
        )
    task.to("cpu").eval()
    task.load_state_dict(best["state_dict"])
    task.average = best["average"]


def _checkpoints_callback(folder: Path) -> "Callback":
    from lightning.pytorch.callbacks import Checkpoint

    class Checkpoints(Checkpoint):
        """After each validation: `best.ckpt` where it is the best of the history, and `last.ckpt`.

        Lightning's own callback keeps the path of the best checkpoint and forgets which it was when the folder is
        moved; the history travels in the checkpoint.
        """

        def on_validation_end(self, trainer: Any, task: Any) -> None:
            # The first process has the say: scores of another machine may differ in their last bits.
            if trainer.strategy.broadcast(best_round(task.history)[1] == trainer.global_step):
                trainer.save_checkpoint(folder / BEST)
            trainer.save_checkpoint(folder / LAST)

    return Checkpoints()


def _progress_callback(steps: int, progress: Callable[[int, int], None] | None) -> "Callback":
    from lightning import Callback

    class Progress(Callback):
        """Tells the caller of the first process how many steps are done."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if progress is not None and trainer.is_global_zero:
                progress(trainer.global_step, steps)

    return Progress()
