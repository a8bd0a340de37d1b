"""One training of a study, and what becomes of it where its loss stopped it."""

from collections.abc import Callable
from pathlib import Path

from densityclip import steps
from densityclip.errors import UserError
from densityclip.training.engine import STOPPED


def fit_or_finish(title: str, folder: Path, train: Callable[[bool], object], *, finish: bool) -> None:
    """Train; where a loss that is not finite stopped it, take the best validation so far, if that is wanted.

    It is never done unasked: an arm whose trainings had fewer steps than the others' is another comparison, which the
    report then says.

    Args:
        title: Of the training, for messages.
        folder: Its model folder.
        train: Trains, or with True makes the bundle of the best validation.
        finish: Whether that is wanted.

    Raises:
        UserError: It stopped, and nothing else is wanted or no validation was reached.
    """
    stopped = folder / STOPPED
    try:
        train(finish and stopped.is_file())
    except steps.TrainingStopped as stop:
        # Where the memory did not suffice, the training itself can go on.
        if not (stop.kept and stopped.is_file()):
            raise
        if not finish:
            way_on = "the same command with --finish takes the best validation of what stopped, and goes on"
            raise UserError(f"{title}: {stop.fact}", f"{stop.next_step}; or {way_on}") from stop
        train(True)
