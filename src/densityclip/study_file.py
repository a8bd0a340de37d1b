"""What a study file says: cohorts, arms, one primary question. Parsed with every problem named at once."""

import importlib.resources
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from densityclip.datasets.registry import DATASETS
from densityclip.errors import UserError
from densityclip.evaluation.metrics import METRICS
from densityclip.imaging.recipe import Recipe
from densityclip.phantom.grid import make_grid
from densityclip.phantom.randomness import HIGHEST_SEED
from densityclip.records import MODALITIES
from densityclip.training.config import TrainConfig

# The site whose exams have a look each: the generated stand-in is taught on it, so that no later site is known already.
STAND_IN_SITE = "varied"
SHIPPED = ("demo", "ablation")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generate(_Strict):
    """Exams to generate for a cohort.

    Attributes:
        site: A site of `densityclip.phantom.sites`.
        exams: Number of exams, one a patient.
        seed: Of everything about them.
        size: Rows of a DM image, of what `densityclip.phantom.grid` can make.
        slice_mm: Distance of tomosynthesis slices, likewise.
        volumes: Write tomosynthesis volumes also where the site's layout names them and leaves them out.
    """

    site: str
    exams: int = Field(ge=1)
    seed: int = Field(ge=0, le=HIGHEST_SEED)
    size: int = 288
    slice_mm: float = 1.0
    volumes: bool = False

    @model_validator(mode="after")
    def _on_a_grid(self) -> "Generate":
        try:
            make_grid(self.size, self.slice_mm)
        except UserError as error:
            raise ValueError(error.fact) from error
        return self


class Cohort(_Strict):
    """Where the exams of one cohort come from, and what they may be used for.

    Attributes:
        role: `internal` exams are split; `external` ones are only scored.
        generate: Generate the exams, in the layout of their site, or
        source: take them from this folder (relative paths start at the study file),
        dataset: which is laid out so (a name of `densityclip.datasets.registry`),
        table: with labels in this file,
        columns: whose columns have these names (ours to the table's),
        label_map: and whose own words for a density mean these categories.
        institution: Two cohorts of one institution may share patients that no id shows.
        redistribute: Whether images, ids and what is derived from them may leave the house; by default what the
            licence of the dataset says.
    """

    role: Literal["internal", "external"]
    generate: Generate | None = None
    source: Path | None = None
    dataset: str = "dicom"
    table: Path | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    label_map: dict[str, Literal["A", "B", "C", "D"]] = Field(default_factory=dict)
    institution: str | None = None
    redistribute: bool = True

    @model_validator(mode="before")
    @classmethod
    def _licence_of_the_dataset(cls, content: Any) -> Any:
        if isinstance(content, dict) and "redistribute" not in content:
            dataset = DATASETS.get(content.get("dataset", "dicom"))
            return content | {"redistribute": dataset is None or dataset.redistribute}
        return content

    @model_validator(mode="after")
    def _possible(self) -> "Cohort":
        if (self.generate is None) == (self.source is None):
            raise ValueError("give either `generate` or `source`")
        if self.generate is not None and (self.dataset != "dicom" or self.table or self.columns or self.label_map):
            raise ValueError("generated exams bring their own layout: no dataset, table, columns or label_map")
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset {self.dataset!r} is not one of {', '.join(DATASETS)}")
        dataset = DATASETS[self.dataset]
        if self.redistribute and not dataset.redistribute:
            raise ValueError(f"the licence of {dataset.title} does not allow redistribute: true")
        unused = [name for name in ("table", "columns", "label_map") if getattr(self, name)]
        unused = [name for name in unused if name not in dataset.options]
        if unused:
            raise ValueError(f"dataset {self.dataset} has no use for {', '.join(unused)}")
        if self.dataset == "table" and self.table is None:
            raise ValueError("dataset table needs a `table`")
        return self


class StandIn(_Strict):
    """The generated stand-in, as `densityclip weights stand-in` makes it.

    Attributes:
        exams: Generated exams that it is taught on.
        steps: Optimiser steps.
        seed: Of its patients and its training.
    """

    exams: int = Field(default=200, ge=8)
    steps: int = Field(default=1200, ge=1)
    seed: int = Field(default=700_000, ge=0, le=HIGHEST_SEED)


class Foundation(_Strict):
    """The model to adapt: a folder, the small model with random weights, or the same taught on generated exams.

    Attributes:
        path: A model folder of BiomedCLIP's format.
        small_seed: Seed of the small model's random weights.
        stand_in: How the generated stand-in is made.
    """

    path: Path | None = None
    small_seed: int | None = None
    stand_in: StandIn | None = None

    @model_validator(mode="after")
    def _one_model(self) -> "Foundation":
        if sum(choice is not None for choice in (self.path, self.small_seed, self.stand_in)) != 1:
            raise ValueError("give one of `path`, `small_seed` and `stand_in`")
        return self


class Arm(_Strict):
    """One training recipe.

    Attributes:
        modalities: Modalities trained on.
        training: What this arm is told differently (keys of `TrainConfig` but `modalities`).
    """

    modalities: tuple[str, ...]
    training: dict[str, Any] = Field(default_factory=dict)


class Primary(_Strict):
    """The one question, written down before anything is trained.

    Attributes:
        metric: A metric of `densityclip.evaluation`.
        level: `image`, `breast` or `exam`.
        modality: Modality of the test images, or `all`.
        cohort: The cohort whose test or external part answers it.
        contrast: Two arms; the difference is first minus second.
    """

    metric: str = "macro_auc"
    level: Literal["image", "breast", "exam"] = "image"
    modality: str = "all"
    cohort: str
    contrast: tuple[str, str]


class Evaluation(_Strict):
    """How figures get their intervals.

    Attributes:
        resamples: Bootstrap resamples over patients.
        seed: Of the resampling.
    """

    resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)


class Explain(_Strict):
    """Which maps the report shows.

    Attributes:
        arms: Arms whose maps are drawn.
        images_per_cell: Scored images drawn per cohort, modality and category.
    """

    arms: tuple[str, ...]
    images_per_cell: int = Field(default=1, ge=1)


class Study(_Strict):
    """A whole study; every key has one place and unknown keys are errors.

    Attributes:
        name: Short name, for folders and titles.
        title: The report's title.
        cohorts: Exams by name.
        recipe: How images are prepared (keys of `Recipe`).
        foundation: The model to adapt.
        folds: Number of folds.
        split_seed: Seed of the split.
        arms: Training recipes by name.
        training: Settings shared by all arms (keys of `TrainConfig` but `modalities`), unless an arm says otherwise.
        primary: The primary question.
        evaluation: Intervals.
        explain: Maps.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    cohorts: dict[str, Cohort]
    recipe: dict[str, Any] = Field(default_factory=dict)
    foundation: Foundation
    folds: Literal[1] = 1
    split_seed: int = 0
    arms: dict[str, Arm]
    training: dict[str, Any] = Field(default_factory=dict)
    primary: Primary
    evaluation: Evaluation = Evaluation()
    explain: Explain

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        problems = []
        if not any(cohort.role == "internal" for cohort in self.cohorts.values()):
            problems.append("no cohort is internal, so nothing can be trained")
        if self.primary.cohort not in self.cohorts:
            problems.append(f"primary.cohort {self.primary.cohort!r} is not among the cohorts")
        named = (*self.primary.contrast, *self.explain.arms)
        problems += [f"arm {name!r} is named but not described" for name in named if name not in self.arms]
        problems += [
            f"{name!r} cannot name a cohort or arm: use letters, digits and -"
            for name in (*self.cohorts, *self.arms)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name)
        ]
        if self.primary.metric not in METRICS:
            problems.append(f"primary.metric {self.primary.metric!r} is not one of {', '.join(METRICS)}")
        if self.primary.modality not in (*MODALITIES, "all"):
            problems.append(f"primary.modality {self.primary.modality!r} is not one of {', '.join(MODALITIES)}, all")
        if "modalities" in self.training or any("modalities" in arm.training for arm in self.arms.values()):
            problems.append("modalities belong to the arms, not to `training`")
        if problems:
            raise ValueError("; ".join(problems))
        self._keep_patients_apart()
        Recipe.from_dict(Recipe().to_dict() | self.recipe)
        for name in self.arms:
            config = self.train_config(name)
            if config.devices * config.nodes > 1:
                raise ValueError(f"arm {name}: a study trains on one device; train with several by `densityclip train`")
        return self

    def _keep_patients_apart(self) -> None:
        """The generated stand-in has not seen the patients of any cohort."""
        taught = self.foundation.stand_in
        made = {(c.generate.site, c.generate.seed) for c in self.cohorts.values() if c.generate is not None}
        if taught is not None and (STAND_IN_SITE, taught.seed) in made:
            raise ValueError(f"the stand-in and a cohort have the same patients: {STAND_IN_SITE}, seed {taught.seed}")

    def train_config(self, arm: str) -> TrainConfig:
        """The settings of one arm's training."""
        described = self.arms[arm]
        return TrainConfig(**(self.training | described.training), modalities=described.modalities)

    def scaled(self, share: float) -> "Study":
        """The same study with another number of generated exams and of steps; 1 leaves it as it is.

        A smaller one has smaller batches too, or they would not fit its data.
        """
        if share == 1:
            return self
        content = self.model_dump(mode="json")
        for cohort in content["cohorts"].values():
            if cohort["generate"] is not None:
                cohort["generate"]["exams"] = max(4, round(share * cohort["generate"]["exams"]))
        if content["foundation"]["stand_in"] is not None:
            taught = content["foundation"]["stand_in"]
            taught["exams"], taught["steps"] = (
                max(8, round(share * taught["exams"])),
                max(1, round(share * taught["steps"])),
            )
        training = content["training"]
        every, steps, batch = (
            training.get(name, TrainConfig.model_fields[name].default)
            for name in ("validate_every", "steps", "batch_size")
        )
        if share < 1:
            # A few exams may have none of the rarest category; a miniature is there to run, not to be believed.
            training["allow_missing_categories"] = True
        training["batch_size"] = max(8, round(min(1.0, share) * batch))
        training["validate_every"] = max(1, round(min(1.0, share) * every))
        training["steps"] = training["validate_every"] * max(1, round(share * steps / training["validate_every"]))
        return Study(**content)

    @property
    def generated(self) -> bool:
        """Whether every exam is generated."""
        return all(cohort.generate is not None for cohort in self.cohorts.values())


def read_study(path: Path) -> Study:
    """Read a study file, or one that ships, by its name; all of its problems are named at once.

    Raises:
        UserError: The file is missing, is not YAML, or does not describe a study.
    """
    if not path.exists() and str(path) in SHIPPED:
        return shipped_study(str(path))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist", f"give a study file, or one that ships: {', '.join(SHIPPED)}"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable YAML", "mend it, or start from a study file that ships") from error
    return parse_study(_beside(content, path.absolute().parent), str(path))


def _beside(content: Any, folder: Path) -> Any:
    """The content with its relative paths taken from the folder of the study file, not from where one happens to be."""
    if not isinstance(content, dict):
        return content
    arms = [arm.get("training") for arm in (content.get("arms") or {}).values() if isinstance(arm, dict)]
    holders = [content.get("foundation"), content.get("training"), *arms, *(content.get("cohorts") or {}).values()]
    for holder in (holder for holder in holders if isinstance(holder, dict)):
        for key in ("source", "table", "path", "prompts"):
            if isinstance(holder.get(key), str):
                holder[key] = str(folder / holder[key])
    return content


def parse_study(content: Any, name: str) -> Study:
    """A study from the content of a study file.

    Raises:
        UserError: A key is unknown or missing, or a value is wrong.
    """
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{name} holds no settings by name", "start from a study file that ships")
    try:
        return Study(**content)
    except ValidationError as error:
        raise UserError(f"{name}: {validation_problems(error)}", "mend these keys") from error


def validation_problems(error: ValidationError) -> str:
    """All problems that pydantic found, in one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'study'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    )


def shipped_study(name: str) -> Study:
    """A study file that ships with the package, such as `demo`."""
    text = importlib.resources.files("densityclip").joinpath("studies", f"{name}.yaml").read_text(encoding="utf-8")
    return parse_study(yaml.safe_load(text), f"{name}.yaml")


def plan(study: Study) -> list[tuple[str, str]]:
    """The steps of a study in their order, each with what it does."""
    lines = []
    for name, cohort in study.cohorts.items():
        if cohort.generate is not None:
            lines.append((f"phantom {name}", f"{cohort.generate.exams} exams of site {cohort.generate.site}"))
        lines.append((f"index {name}", f"{cohort.role} cohort"))
        lines.append((f"prepare {name}", "pixels to the cache"))
    lines.append(("split", "patients to parts"))
    if study.foundation.stand_in is not None:
        taught = study.foundation.stand_in
        lines.append(("foundation", f"generated stand-in: {taught.exams} exams, {taught.steps} steps"))
    for name in study.arms:
        config = study.train_config(name)
        changed = "".join(f"; {key} {value}" for key, value in study.arms[name].training.items())
        what = f"{', '.join(config.modalities)}; {config.steps} steps of {config.batch_size}{changed}"
        lines.append((f"train {name}", what))
    lines += [(f"predict {arm} {name}", "every image") for arm in study.arms for name in study.cohorts]
    lines.append(("evaluate", f"{study.evaluation.resamples} resamples over patients"))
    lines += [(f"explain {arm}", "maps") for arm in study.explain.arms]
    lines.append(("report", "report.html"))
    return lines


def read_train_config(path: Path | None, overrides: list[str]) -> TrainConfig:
    """Training settings from a YAML file and `key=value` texts, the texts going first.

    Raises:
        UserError: The file is not YAML, or a key or value is wrong; all problems are named.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} is not readable YAML", "mend it, or give settings with --set") from error
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise UserError(f"{path} holds no settings by name", "write it as lines of key: value")
    for text in overrides:
        name, equals, value = text.removeprefix("train.").partition("=")
        if not equals:
            raise UserError(f"--set {text} has no value", "write it as --set key=value")
        try:
            content[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text} is not readable", "write lists as [DM, s2D], numbers plain") from error
    try:
        return TrainConfig(**content)
    except ValidationError as error:
        known = ", ".join(TrainConfig.model_fields)
        raise UserError(f"training settings: {validation_problems(error)}", f"the keys are {known}") from error
