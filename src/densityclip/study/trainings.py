"""The trainings of a study: each member's model and its answers, and what becomes of one that its loss stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from densityclip import steps
from densityclip.artifacts import hash_file, read_table, write_table
from densityclip.errors import UserError
from densityclip.study.members import about_of, is_bundle, shuffled_folder
from densityclip.study.state import Progress, Report, Steps
from densityclip.study_file import Member, Study
from densityclip.training.config import TrainConfig
from densityclip.training.device import use_threads
from densityclip.training.engine import STOPPED


@dataclass(frozen=True)
class Trainings:
    """What all trainings of a study share; it can be sent to another process.

    Attributes:
        study: The study.
        out: Its folder.
        caches: Cohort to its prepared images.
        splits: The split file.
        foundation: Folder of the model to adapt.
        finish: Whether a training that its loss stopped is taken at its best validation.
    """

    study: Study
    out: Path
    caches: Mapping[str, Path]
    splits: Path
    foundation: Path
    finish: bool

    def train(self, member: Member, progress: Progress) -> Path:
        """Train one member on the internal cohorts; it knows itself whether it is done. Returns its folder."""
        internal = {name: cohort for name, cohort in self.study.cohorts.items() if cohort.role == "internal"}
        data: dict[str, Any] = {
            "cohorts": {name: {"redistribute": cohort.redistribute} for name, cohort in internal.items()},
        }
        said = {cohort.redistribute for cohort in internal.values()}
        # One that may not be passed on decides; one of which nobody said anything leaves it open.
        if False in said or said == {True}:
            data["redistribute"] = False not in said
        folder, config = self.out / "arms" / member.folder, self.study.train_config(member)
        if is_bundle(member):
            self._fit(member.title, folder, config, data, progress)
            return folder
        with progress(f"train {member.title}") as report:
            return steps.fit_baseline(
                member.arm,
                self._learned(),
                self.splits,
                self.foundation,
                folder,
                config,
                cnn=self.study.baseline_cnn.name,
                cnn_weights=self.study.baseline_cnn.weights,
                data=data,
                progress=report,
            )

    def train_on_nothing(self, arm: str, progress: Progress) -> Path | None:
        """Train an arm's first member again, on shuffled labels, where the study asks for it; returns its folder."""
        if not self.study.explain.shuffled_labels:
            return None
        member, *_ = self.study.members_of(arm)
        config = self.study.train_config(member).model_copy(update={"shuffle_labels": True})
        folder = self.out / "arms" / shuffled_folder(arm)
        self._fit(f"{member.title} on shuffled labels", folder, config, {"redistribute": False}, progress)
        return folder

    def predict(self, member: Member, cohort: str, progress: Progress) -> pl.DataFrame:
        """Every image of a cohort by one member, which is trained; schema `predictions`."""
        folder, cache = self.out / "arms" / member.folder, self.caches[cohort]
        path = folder / f"predictions-{cohort}.parquet"
        request = [hash_file(about_of(member, folder)), hash_file(cache / "rows.parquet"), hash_file(self.splits)]

        def run(report: Report) -> None:
            # Those of its training: in whatever process and order, its answers are the same to the last bit.
            use_threads(self.study.train_config(member).threads)
            mine = steps.read_splits(self.splits).filter(pl.col("cohort") == cohort)
            if is_bundle(member):
                table = steps.predict_cohort(cache, folder / "bundle", mine, arm=member.arm, progress=report)
            else:
                table = steps.predict_with_baseline(
                    cache, folder, self.foundation, mine, arm=member.arm, progress=report
                )
            write_table(table, path, "predictions")

        Steps(self.out, progress).run(f"predict {member.title} {cohort}", request, [path], run)
        return read_table(path, "predictions")

    def _learned(self) -> list[Path]:
        """The caches that are trained on: those of internal cohorts."""
        return [self.caches[name] for name, cohort in self.study.cohorts.items() if cohort.role == "internal"]

    def _fit(self, title: str, folder: Path, config: TrainConfig, data: dict[str, Any], progress: Progress) -> None:
        with progress(f"train {title}") as report:
            fit_or_finish(
                title,
                folder,
                lambda finish: steps.train(
                    self._learned(),
                    self.splits,
                    self.foundation,
                    folder,
                    config,
                    data=data,
                    finish=finish,
                    progress=report,
                ),
                finish=self.finish,
            )


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
