"""A study, run from exams to report in one folder, and resumed where it stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from densityclip import steps
from densityclip.artifacts import hash_file, hash_table, read_json, read_table, write_json
from densityclip.datasets.registry import DATASETS
from densityclip.density import CATEGORIES
from densityclip.evaluation.evaluate import SCHEMA_VERSION
from densityclip.study.at_once import check_at_once, train_at_once
from densityclip.study.check import check_paths
from densityclip.study.maps import choose, make_maps
from densityclip.study.members import about_of, joinings_of, read_about
from densityclip.study.page import Done, write_pages
from densityclip.study.question import check_question
from densityclip.study.sources import listing, tables_of, where_to_index
from densityclip.study.state import SPLITS, Progress, Report, Steps, claim
from densityclip.study.trainings import Trainings
from densityclip.study_file import STAND_IN_SITE, Generate, Member, Study
from densityclip.training.device import use_threads

LOCAL = "local.json"


class StudyRun:
    """One study in one folder; what is done there is not done again (`state.Steps`)."""

    def __init__(
        self,
        study: Study,
        out: Path,
        *,
        workers: int,
        progress: Progress,
        finish: bool = False,
        at_once: int = 1,
    ) -> None:
        self.study, self.out, self.workers, self.progress = study, out, workers, progress
        self.finish, self.at_once = finish, at_once
        self.steps = Steps(out, progress)
        self.recipe = study.resolved_recipe()

    def run(self) -> Path:
        """Run what is not yet done.

        Returns:
            Path of `report.html`.
        """
        check_paths(self.study)
        check_at_once(self.study, self.at_once)
        registered = claim(self.study, self.out)
        indexes = {name: self._cohort(name) for name in self.study.cohorts}
        splits = self._split(indexes)
        check_question(self.study, indexes[self.study.primary.cohort], splits)
        caches = {name: self._prepare(name, path) for name, path in indexes.items()}
        trainings = Trainings(self.study, self.out, caches, splits, self._foundation(), self.finish)
        if self.at_once > 1:
            train_at_once(trainings, self.at_once, self.progress)
        models = {member: trainings.train(member, self.progress) for member in self.study.members()}
        predictions = self._predict(trainings, models)
        metrics = self._evaluate(predictions, models)
        metrics["local"] = self._local(predictions, models)
        maps = {
            arm: self._explain(arm, models, indexes, predictions, trainings.train_on_nothing(arm, self.progress))
            for arm in self.study.explain.arms
        }
        done = Done(indexes, caches, splits, models, predictions, metrics, maps, registered)
        with self.progress("report") as report:
            page = write_pages(self.study, self.out, done)
            report(1, 1)
        return page

    def _cohort(self, name: str) -> Path:
        """Exams and index of one cohort; returns the path of its index."""
        cohort = self.study.cohorts[name]
        dataset, source, table, folder = cohort.dataset, cohort.source, cohort.table, self.out / "cohorts" / name
        request: Any = cohort.model_dump(mode="json")
        if cohort.generate is not None:
            exams = folder / "exams"
            request = self.steps.run(
                f"phantom {name}", request, [exams / "site.json"], self._generator(cohort.generate, exams)
            )
            dataset, source, table = where_to_index(cohort.generate, exams)
        assert source is not None
        if cohort.generate is None:
            request = [request, listing(source), [listing(path) for path in tables_of(cohort)]]
        path = folder / steps.INDEX

        def run(report: Report) -> None:
            steps.index(
                source,
                folder,
                dataset=dataset,
                table=table,
                columns=cohort.columns,
                label_map=cohort.label_map,
                site=name if cohort.generate is None and "site" in DATASETS[cohort.dataset].options else None,
                institution=cohort.institution,
                workers=self.workers,
                progress=report,
            )

        self.steps.run(f"index {name}", request, [path], run)
        return path

    def _generator(self, generate: Generate, out: Path) -> Callable[[Report], None]:
        def run(report: Report) -> None:
            from densityclip.phantom.generate import generate as make

            make(
                out,
                site=generate.site,
                exams=generate.exams,
                seed=generate.seed,
                size=generate.size,
                slice_mm=generate.slice_mm,
                volumes=generate.volumes,
                workers=self.workers,
                progress=report,
            )

        return run

    def _split(self, indexes: dict[str, Path]) -> Path:
        path = self.out / SPLITS
        external = [name for name, cohort in self.study.cohorts.items() if cohort.role == "external"]
        request = {name: hash_table(read_table(index, "index")) for name, index in indexes.items()}

        def run(report: Report) -> None:
            steps.split(indexes, path, external=external, folds=self.study.folds, seed=self.study.split_seed)
            report(1, 1)

        self.steps.run("split", [request, external, self.study.folds, self.study.split_seed], [path], run)
        return path

    def _prepare(self, name: str, index: Path) -> Path:
        cache = self.out / "cohorts" / name / "cache"
        request = [hash_table(read_table(index, "index")), self.recipe.to_dict()]
        self.steps.run(
            f"prepare {name}",
            request,
            [cache / "images.npy"],
            lambda report: _ignore(steps.prepare(index, cache, self.recipe, workers=self.workers, progress=report)),
        )
        return cache

    def _foundation(self) -> Path:
        if self.study.foundation.path is not None:
            return self.study.foundation.path
        folder, seed, taught = self.out / "foundation", self.study.foundation.small_seed, self.study.foundation.stand_in

        def run(report: Report) -> None:
            if taught is not None:
                how = taught.model_dump()
                steps.make_stand_in(folder, site=STAND_IN_SITE, workers=self.workers, progress=report, **how)
                return
            from densityclip.model.small import make_small_foundation

            make_small_foundation(folder, seed=seed or 0)
            report(1, 1)

        request = seed if taught is None else taught.model_dump()
        self.steps.run("foundation", request, [folder / "foundation.json"], run)
        return folder

    def _predict(self, trainings: Trainings, models: dict[Member, Path]) -> pl.DataFrame:
        table = pl.concat(
            trainings.predict(member, cohort, self.progress) for member in models for cohort in trainings.caches
        )
        inputs = {member.title: hash_file(about_of(member, folder)) for member, folder in models.items()}
        joinings = joinings_of(models)

        def run(report: Report) -> None:
            config = {"study": self.study.name}
            steps.write_predictions(table, self.out, config=config, inputs=inputs, joinings=joinings)
            report(1, 1)

        self.steps.run("predictions", hash_table(table), [self.out / steps.PREDICTIONS], run)
        return table

    def _evaluate(self, predictions: pl.DataFrame, models: dict[Member, Path]) -> dict[str, Any]:
        study, joinings = self.study, joinings_of(models)
        joined = {str(key): joining.to_dict() for key, joining in joinings.items()}
        settings: dict[str, Any] = {
            "resamples": study.evaluation.resamples,
            "seed": study.evaluation.seed,
            "groups": list(study.groups),
            "smallest_group": study.smallest_group,
            "primary": study.question,
        }
        self.steps.run(
            "evaluate",
            [SCHEMA_VERSION, hash_table(predictions), settings, joined],
            [self.out / steps.METRICS],
            lambda report: _ignore(
                steps.evaluate(predictions, self.out, joinings=joinings, progress=report, **settings)
            ),
        )
        metrics: dict[str, Any] = read_json(self.out / steps.METRICS, "densityclip evaluate")
        return metrics

    def _local(self, predictions: pl.DataFrame, models: dict[Member, Path]) -> list[dict[str, Any]]:
        """Local adaptation of the first arm of the primary contrast; secondary, so in a file of its own."""
        arm, *_ = self.study.primary.contrast
        mine = predictions.filter(arm=arm)
        counts = [
            read_about(member, models[member])["data"]["images_by_category"] for member in models if member.arm == arm
        ]
        # Half an image more, as where the frequencies were put back: no share is zero.
        known = np.mean([[count[letter] + 0.5 for letter in CATEGORIES] for count in counts], axis=0)
        prior = (known / known.sum()).tolist()
        seed, path = self.study.evaluation.seed, self.out / LOCAL
        self.steps.run(
            "local",
            [hash_table(mine), prior, seed],
            [path],
            lambda _: write_json(path, steps.adapt_locally(mine, prior, seed=seed)),
        )
        found: list[dict[str, Any]] = read_json(path, "densityclip study")
        return found

    def _explain(
        self,
        arm: str,
        models: dict[Member, Path],
        indexes: dict[str, Path],
        predictions: pl.DataFrame,
        shuffled: Path | None,
    ) -> list[Path]:
        """Maps of an arm's first member on every cohort, on one colour scale; returns the folders, one a cohort."""
        member, *_ = self.study.members_of(arm)
        bundle = models[member] / "bundle"
        mine = predictions.filter(arm=member.arm, fold=member.fold, seed=member.seed)
        wanted = self.study.explain
        chosen = {
            name: choose(read_table(path, "index"), mine, per_cell=wanted.images_per_cell, patients=wanted.patients)
            for name, path in indexes.items()
        }
        chosen = {name: one for name, one in chosen.items() if len(one.mapped)}
        truth = {name: self.out / "cohorts" / name / "exams" / "truth" for name in chosen}
        folder = self.out / "arms" / arm / "maps"
        if not chosen:
            return []
        others = [models[one] / "bundle" for one in self.study.members_of(arm) if one.fold != member.fold]
        nothing = None if shuffled is None else shuffled / "bundle"

        def run(report: Report) -> None:
            use_threads(self.study.train_config(member).threads)
            make_maps(
                bundle,
                others,
                chosen,
                folder,
                shuffled=nothing,
                methods=wanted.methods,
                truth=truth,
                title=member.title,
                report=report,
            )

        request = [
            {name: [hash_table(one.mapped), sorted(one.drawn)] for name, one in chosen.items()},
            [hash_file(one / "provenance.json") for one in (bundle, *others, *([nothing] if nothing else []))],
            wanted.methods,
        ]
        self.steps.run(f"explain {arm}", request, [folder / name / "explain.json" for name in chosen], run)
        return [folder / name for name in chosen]


def _ignore(_: Any) -> None:
    """A step's result is its files."""
