"""A study, run from exams to report in one folder, and resumed where it stopped."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl

from densityclip import __version__, steps
from densityclip.artifacts import (
    git_revision,
    hash_file,
    hash_json,
    hash_table,
    read_json,
    read_table,
    write_json,
    write_table,
)
from densityclip.datasets.registry import DATASETS
from densityclip.datasets.splits import DEFAULT_SHARES
from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.records import MODALITIES
from densityclip.study_file import STAND_IN_SITE, Cohort, Generate, Study

# An arm that differs in so few settings is told by them.
_FEW = 4
_LOSS_WORDS = {
    "infonce": "An image's own caption alone is its positive (infonce).",
    "multi-positive": "Captions of equal density are positives whatever modality they name (multi-positive).",
    "class-prompt": "An image is compared with the four categories' prompts, as in prediction (class-prompt).",
    "ordinal": "Captions of equal density are positives, those of the neighbouring categories a little (ordinal).",
}
_WEIGHT_WORDS = {
    "none": "All modalities count alike.",
    "fixed": "Modalities have fixed weights.",
    "moving-average": "A modality's weight follows a moving average of its class-balanced loss.",
    "group-dro": "A modality's weight grows while its class-balanced loss is above the others' (group DRO).",
    "uncertainty": "A modality's weight is learned as an uncertainty.",
}

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


class StudyRun:
    """One study in one folder.

    A step is done when its state file names the same request and its outputs are there; a request holds the hashes of
    what the step reads, so a change anywhere upstream runs everything after it again.
    """

    def __init__(self, study: Study, out: Path, *, workers: int, progress: Progress) -> None:
        self.study, self.out, self.workers, self.progress = study, out, workers, progress
        self.recipe = Recipe.from_dict(Recipe().to_dict() | study.recipe)

    def run(self) -> Path:
        """Run what is not yet done.

        Returns:
            Path of `report.html`.
        """
        self._claim()
        indexes = {name: self._cohort(name) for name in self.study.cohorts}
        splits = self._split(indexes)
        caches = {name: self._prepare(name, path) for name, path in indexes.items()}
        foundation = self._foundation()
        models = {arm: self._train(arm, caches, splits, foundation) for arm in self.study.arms}
        predictions = self._predict(models, caches, splits)
        metrics = self._evaluate(predictions)
        sheets = {arm: self._explain(arm, models[arm], indexes, predictions) for arm in self.study.explain.arms}
        return self._report(indexes, models, metrics, sheets)

    def _claim(self) -> None:
        """Write the resolved study beside the output; another study in the same folder is an error."""
        path, mine = self.out / "study.json", self.study.model_dump(mode="json")
        begun = (self.out / "state").is_dir()
        if begun and path.is_file() and read_json(path, "densityclip study") != mine:
            raise UserError(f"{self.out} holds another study", "choose another --out, or remove that folder")
        write_json(path, mine)

    def _step(
        self, name: str, request: Any, outputs: list[Path], run: Callable[[Callable[[int, int], None]], None]
    ) -> str:
        """Run a step unless it is done; returns the hash of its request, for the requests of later steps."""
        state = self.out / "state" / f"{name.replace(' ', '-')}.json"
        request_hash = hash_json({"step": name, "densityclip": __version__, "request": request})
        done = state.is_file() and read_json(state, "densityclip study").get("request_hash") == request_hash
        if not (done and all(path.exists() for path in outputs)):
            with self.progress(name) as report:
                run(report)
            write_json(state, {"request_hash": request_hash})
        return request_hash

    def _cohort(self, name: str) -> Path:
        """Exams and index of one cohort; returns the path of its index."""
        cohort = self.study.cohorts[name]
        dataset, source, table, folder = cohort.dataset, cohort.source, cohort.table, self.out / "cohorts" / name
        request: Any = cohort.model_dump(mode="json")
        if cohort.generate is not None:
            exams = folder / "exams"
            request = self._step(
                f"phantom {name}", request, [exams / "site.json"], self._generator(cohort.generate, exams)
            )
            dataset, source, table = _where_to_index(cohort.generate, exams)
        assert source is not None
        if cohort.generate is None:
            request = [request, _listing(source), [_listing(path) for path in _tables(cohort)]]
        path = folder / steps.INDEX

        def run(report: Callable[[int, int], None]) -> None:
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

        self._step(f"index {name}", request, [path], run)
        return path

    def _generator(self, generate: Generate, out: Path) -> Callable[[Callable[[int, int], None]], None]:
        def run(report: Callable[[int, int], None]) -> None:
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
        path = self.out / "splits.parquet"
        external = [name for name, cohort in self.study.cohorts.items() if cohort.role == "external"]
        request = {name: hash_table(read_table(index, "index")) for name, index in indexes.items()}

        def run(report: Callable[[int, int], None]) -> None:
            steps.split(indexes, path, external=external, folds=self.study.folds, seed=self.study.split_seed)
            report(1, 1)

        self._step("split", [request, external, self.study.folds, self.study.split_seed], [path], run)
        return path

    def _prepare(self, name: str, index: Path) -> Path:
        cache = self.out / "cohorts" / name / "cache"
        request = [hash_table(read_table(index, "index")), self.recipe.to_dict()]
        self._step(
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

        def run(report: Callable[[int, int], None]) -> None:
            if taught is not None:
                how = taught.model_dump()
                steps.make_stand_in(folder, site=STAND_IN_SITE, workers=self.workers, progress=report, **how)
                return
            from densityclip.model.small import make_small_foundation

            make_small_foundation(folder, seed=seed or 0)
            report(1, 1)

        request = seed if taught is None else taught.model_dump()
        self._step("foundation", request, [folder / "foundation.json"], run)
        return folder

    def _train(self, arm: str, caches: dict[str, Path], splits: Path, foundation: Path) -> Path:
        """Train one arm on the internal cohorts; `fit` itself knows whether it is done, and resumes."""
        internal = {name: cohort for name, cohort in self.study.cohorts.items() if cohort.role == "internal"}
        data = {
            "cohorts": {name: {"redistribute": cohort.redistribute} for name, cohort in internal.items()},
            "redistribute": all(cohort.redistribute for cohort in internal.values()),
        }
        with self.progress(f"train {arm}") as report:
            return steps.train(
                [caches[name] for name in internal],
                splits,
                foundation,
                self.out / "arms" / arm,
                self.study.train_config(arm),
                data=data,
                progress=report,
            )

    def _predict(self, models: dict[str, Path], caches: dict[str, Path], splits: Path) -> pl.DataFrame:
        parts = [
            self._predict_one(arm, bundle, name, cache, splits)
            for arm, bundle in models.items()
            for name, cache in caches.items()
        ]
        table = pl.concat(parts)
        inputs = {arm: hash_file(bundle / "provenance.json") for arm, bundle in models.items()}

        def run(report: Callable[[int, int], None]) -> None:
            joinings = dict(steps.member_joining(bundle, arm) for arm, bundle in models.items())
            steps.write_predictions(
                table, self.out, config={"study": self.study.name}, inputs=inputs, joinings=joinings
            )
            report(1, 1)

        self._step("predictions", hash_table(table), [self.out / steps.PREDICTIONS], run)
        return table

    def _predict_one(self, arm: str, bundle: Path, name: str, cache: Path, splits: Path) -> pl.DataFrame:
        path = self.out / "arms" / arm / f"predictions-{name}.parquet"
        request = [hash_file(bundle / "provenance.json"), hash_file(cache / "rows.parquet"), hash_file(splits)]

        def run(report: Callable[[int, int], None]) -> None:
            mine = steps.read_splits(splits).filter(pl.col("cohort") == name)
            table = steps.predict_cohort(cache, bundle, mine, arm=arm, progress=report)
            write_table(table, path, "predictions")

        self._step(f"predict {arm} {name}", request, [path], run)
        return read_table(path, "predictions")

    def _evaluate(self, predictions: pl.DataFrame) -> dict[str, Any]:
        settings = self.study.evaluation
        self._step(
            "evaluate",
            [hash_table(predictions), settings.model_dump()],
            [self.out / steps.METRICS],
            lambda report: _ignore(
                steps.evaluate(predictions, self.out, resamples=settings.resamples, seed=settings.seed, progress=report)
            ),
        )
        metrics: dict[str, Any] = read_json(self.out / steps.METRICS, "densityclip evaluate")
        return metrics

    def _explain(self, arm: str, bundle: Path, indexes: dict[str, Path], predictions: pl.DataFrame) -> list[Path]:
        """Maps of one arm on every cohort, on one colour scale; returns the folders, one a cohort."""
        mine = predictions.filter(pl.col("arm") == arm)
        number = self.study.explain.images_per_cell
        chosen = {name: steps.choose_images(read_table(path, "index"), mine, number) for name, path in indexes.items()}
        chosen = {name: table for name, table in chosen.items() if len(table)}
        truth = {name: self.out / "cohorts" / name / "exams" / "truth" for name in chosen}
        folder = self.out / "arms" / arm / "maps"
        if not chosen:
            return []

        def run(report: Callable[[int, int], None]) -> None:
            from densityclip.inference.predictor import Predictor
            from densityclip.model.bundle import load_bundle

            predictor = Predictor(load_bundle(bundle))
            title = f"GradCAM of the density score: model {arm}"
            steps.explain(chosen, predictor, folder, truth=truth, title=title, progress=report)

        request = [{name: hash_table(table) for name, table in chosen.items()}, hash_file(bundle / "provenance.json")]
        self._step(f"explain {arm}", request, [folder / name / "explain.json" for name in chosen], run)
        return [folder / name for name in chosen]

    def _report(
        self,
        indexes: dict[str, Path],
        models: dict[str, Path],
        metrics: dict[str, Any],
        maps: dict[str, list[Path]],
    ) -> Path:
        from densityclip.report.study_report import Sheet, write_study_report

        sheets = [
            Sheet(
                title=f"Model {arm}, cohort {folder.name}",
                caption=_map_caption(folder),
                png=(folder / "sheet.png").read_bytes(),
            )
            for arm, folders in maps.items()
            for folder in folders
            if self.study.cohorts[folder.name].redistribute
        ]
        trainings = {arm: pl.read_csv(self.out / "arms" / arm / "training.csv") for arm in models}
        audits = {name: read_json(index.parent / "audit.json", "densityclip index") for name, index in indexes.items()}
        with self.progress("report") as report:
            path = write_study_report(
                self.out / "report.html",
                study=self._described(models),
                metrics=metrics,
                trainings=trainings,
                sheets=sheets,
                audits=audits,
                provenance=self._provenance(models),
            )
            report(1, 1)
        return path

    def _described(self, models: dict[str, Path]) -> dict[str, Any]:
        """What the report says of the study."""
        study = self.study
        notes = {}
        for name, cohort in study.cohorts.items():
            if cohort.generate is not None:
                site = read_json(self.out / "cohorts" / name / "exams" / "site.json", "densityclip phantom")
                notes[name] = site["class_mix_note"]
        return {
            "name": study.name,
            "title": study.title,
            "generated": study.generated,
            "class_mix_notes": notes,
            "model_note": self._model_note(),
            "arms": {arm: self._arm_sentence(arm, models[arm]) for arm in study.arms},
            "trained": {arm: list(study.train_config(arm).modalities) for arm in study.arms},
            "methods": self._methods(),
            "primary": study.primary.model_dump()
            | {"part": "test" if study.cohorts[study.primary.cohort].role == "internal" else "external"},
        }

    def _model_note(self) -> str:
        if self.study.foundation.path is not None:
            return ""
        if self.study.foundation.stand_in is not None:
            return (
                "The model is the generated stand-in: a small one of BiomedCLIP's shape, taught before on generated "
                "exams of other patients with captions of view, side, modality and thickness, never density. Nothing "
                "here measures BiomedCLIP itself."
            )
        return (
            "The model is a small stand-in of BiomedCLIP's shape that started from random weights, because the "
            "pretrained weights do not come with the software: nothing here measures BiomedCLIP itself."
        )

    def _arm_sentence(self, arm: str, bundle: Path) -> str:
        config = self.study.train_config(arm)
        first, *_ = self.study.arms
        others = self.study.train_config(first).model_dump()
        differs = {name: value for name, value in config.model_dump().items() if value != others[name]}
        # Arms of other images say how many; of the rest, what differs can be read at once.
        if differs and "modalities" not in differs and len(differs) <= _FEW:
            return f"as {first}, but " + ", ".join(f"{name.replace('_', ' ')} {differs[name]}" for name in differs)
        data = read_json(bundle / "provenance.json", "densityclip train")["data"]
        return (
            f"trained on {', '.join(config.modalities)}: {data['images']:,} images of {data['patients']:,} patients, "
            f"adaptation {config.adaptation} with the text tower {config.text_tower}, loss {config.loss}, "
            f"{config.steps} steps of {config.batch_size} images from a {config.sampler} sampler, "
            f"{config.class_weights} class weights, {config.modality_weights} modality weights, seed {config.seed}"
        )

    def _methods(self) -> list[str]:
        """What was done, as far as it is the same in every arm."""
        config, recipe = self.study.train_config(next(iter(self.study.arms))), self.recipe
        shares = ", ".join(f"{part} {100 * share:.0f}%" for part, share in DEFAULT_SHARES.items())
        return [
            "Patients of internal cohorts were split, stratified by density and balanced over modality and site: "
            f"{shares} (seed {self.study.split_seed}). Validation chose the checkpoint, calibration fitted one "
            "temperature; test and external were only scored.",
            f"Images: the breast alone, chest wall to one side, {recipe.height} x {recipe.width} px, grey levels "
            f"{recipe.intensity}; of a DBT volume the slices {recipe.dbt_slices}, whose probabilities are averaged.",
            "Loss: contrastive between images and captions in BI-RADS words, each image weighed by its category and "
            f"its modality. {_LOSS_WORDS[config.loss]} {_WEIGHT_WORDS[config.modality_weights]} "
            "What an arm does differently stands with it.",
            "The checkpoint kept is the one with the best macro AUC, of uncalibrated probabilities, in the worst "
            f"trained modality of the validation part, looked at every {config.validate_every} steps.",
            "Probabilities: the class frequencies of the training part are put back, then one temperature, fitted on "
            "the calibration part. External sites are scored with the model as it is.",
        ]

    def _provenance(self, models: dict[str, Path]) -> dict[str, Any]:
        bundles = {arm: read_json(bundle / "provenance.json", "densityclip train") for arm, bundle in models.items()}
        return {
            "densityclip": __version__,
            "git_revision": git_revision(),
            "study": hash_json(self.study.model_dump(mode="json")),
            "recipe": self.recipe.to_dict() | {"hash": self.recipe.recipe_hash},
            "foundation": next(iter(bundles.values()))["training"]["foundation"],
            "models": {
                arm: {
                    "weights_sha256": content["hashes"]["open_clip_model.safetensors"],
                    "selected": content["selected"],
                    "data": content["data"],
                }
                for arm, content in bundles.items()
            },
        }


def _listing(source: Path) -> str:
    """Hash of the names, sizes and times of an archive's files, or of a table: what is cheap to see of a change."""
    if not source.exists():
        raise UserError(f"{source} does not exist", "correct `source` and `table` in the study file")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return hash_json(
        [[path.relative_to(source).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    )


def _tables(cohort: Cohort) -> list[Path]:
    """The tables that a cohort is read from, where they do not lie in its source; EMBED has a second one beside."""
    if cohort.table is None:
        return []
    if "label_map" in DATASETS[cohort.dataset].options or not cohort.table.is_file():
        return [cohort.table]
    return sorted(path for path in cohort.table.parent.iterdir() if path.suffix in (".csv", ".parquet"))


def _where_to_index(generate: Generate, exams: Path) -> tuple[str, Path, Path | None]:
    from densityclip.phantom.generate import where_to_index

    return where_to_index(generate.site, exams)


def _ignore(_: Any) -> None:
    """A step's result is its files."""


def _map_caption(folder: Path) -> str:
    """What the figures about a cohort's maps say, in a sentence per modality."""
    summary = read_json(folder / "explain.json", "densityclip explain")
    figures = {(row["modality"], row["figure"]): row for row in summary["figures"]}
    present = {modality for modality, _ in figures}
    return " ".join(_map_sentence(name, figures) for name in MODALITIES if name in present)


def _map_sentence(modality: str, figures: dict[tuple[str, str], dict[str, Any]]) -> str:
    inside, share = figures.get((modality, "energy_inside")), figures[modality, "breast_share"]
    if inside is None:
        return f"{modality} (n={share['images']} images): no map has any heat."
    text = (
        f"{modality} (n={share['images']} images): {100 * inside['mean']:.0f}% of the heat lies inside the breast, "
        f"which covers {100 * share['mean']:.0f}% of the canvas"
    )
    gland, grey = figures.get((modality, "gland_auc")), figures.get((modality, "brightness_auc"))
    if gland is None or grey is None:
        return text + "."
    return (
        f"{text}; it finds the known fibroglandular tissue with AUC {_with_interval(gland)}, "
        f"the image's own brightness with {_with_interval(grey)}."
    )


def _with_interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['mean']:.2f}"
    return f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
