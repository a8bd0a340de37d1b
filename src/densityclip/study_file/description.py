"""What a study file says: cohorts, arms, baselines, folds and seeds, and one primary question."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from densityclip.evaluation.metrics import METRICS
from densityclip.evaluation.subgroups import CROSSING, GROUPS, SMALLEST_GROUP
from densityclip.imaging.recipe import Recipe
from densityclip.records import MODALITIES, Part
from densityclip.study_file.cohorts import STAND_IN_SITE, Cohort, Foundation, Strict
from densityclip.study_file.problems import validation_problems
from densityclip.training.config import BaselineName, TrainConfig

_FACTS = tuple(group for group in GROUPS if CROSSING not in group)
# What a study decides for all of its arms; a training cannot be told otherwise.
_OF_THE_STUDY = {"modalities": "the arms", "fold": "`folds`"}
# A contrastive training's answers to imbalance; a baseline is the plain recipe.
_PLAIN = {"adaptation": "full", "sampler": "natural", "class_weights": "none", "modality_weights": "none"}
# Trained from chance, so with every seed; the others give the same answer with any.
_SEEDED = ("linear-probe", "cross-entropy", "cnn")


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One training of an arm or baseline.

    Attributes:
        arm: Name of the arm or baseline.
        fold: Fold of the split.
        seed: Of the training.
        alone: Whether the arm has no other member.
    """

    arm: str
    fold: int
    seed: int
    alone: bool

    @property
    def folder(self) -> str:
        """Its folder below `arms`; an arm that is one training has it to itself."""
        return self.arm if self.alone else f"{self.arm}/fold-{self.fold}-seed-{self.seed}"

    @property
    def title(self) -> str:
        """What it is called in plans and on a terminal."""
        return self.arm if self.alone else f"{self.arm} fold {self.fold} seed {self.seed}"


class Arm(Strict):
    """One training recipe.

    Attributes:
        modalities: Modalities trained on.
        training: What this arm is told differently (keys of `TrainConfig` but `modalities` and `fold`).
    """

    modalities: tuple[str, ...]
    training: dict[str, Any] = Field(default_factory=dict)


class Primary(Strict):
    """The one question, written down before anything is trained.

    Attributes:
        metric: A metric of `densityclip.evaluation`.
        level: `image`, `breast`, `exam` or `patient`.
        modality: Modality of the test images, or `all`.
        cohort: The cohort whose test or external part answers it.
        contrast: Two arms, or an arm and a baseline; the difference is first minus second.
        kind: Whether the first is to be better, or not worse by `margin` or more.
        margin: Of non-inferiority, in units of the metric.
    """

    metric: str = "macro_auc"
    level: Literal["image", "breast", "exam", "patient"] = "image"
    modality: str = "all"
    cohort: str
    contrast: tuple[str, str]
    kind: Literal["superiority", "non-inferiority"] = "superiority"
    margin: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _margin_where_it_counts(self) -> "Primary":
        if (self.kind == "non-inferiority") != (self.margin is not None):
            raise ValueError("non-inferiority needs a `margin`, and superiority has none")
        if self.contrast[0] == self.contrast[1]:
            raise ValueError("the contrast names one arm twice")
        return self


class Evaluation(Strict):
    """How figures get their intervals.

    Attributes:
        resamples: Bootstrap resamples over patients.
        seed: Of the resampling.
    """

    resamples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)


class Explain(Strict):
    """Which maps the report shows, and measures.

    Attributes:
        arms: Arms whose maps are drawn.
        images_per_cell: Scored images drawn per cohort, modality and category.
        methods: How maps are made; the first one's are drawn.
        patients: Scored patients per cohort all of whose images are mapped and measured; with 0 the drawn ones alone.
        shuffled_labels: Whether each of the arms is trained once more on shuffled labels, to see what is left of its
            maps.
    """

    arms: tuple[str, ...]
    images_per_cell: int = Field(default=1, ge=1)
    methods: tuple[Literal["gradcam", "attention", "occlusion"], ...] = Field(
        default=("gradcam", "attention"), min_length=1
    )
    patients: int = Field(default=12, ge=0)
    shuffled_labels: bool = False


class Cnn(Strict):
    """The convolutional network of the baseline `cnn`.

    Attributes:
        name: An architecture that timm knows.
        weights: Its pretrained weights, a safetensors file; random ones if not given.
        learning_rate: Peak rate; by default 1e-3 from random weights and 1e-4 from pretrained ones.
    """

    name: str = "convnext_atto"
    weights: Path | None = None
    learning_rate: float | None = Field(default=None, gt=0)

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or (1e-3 if self.weights is None else 1e-4)


class Study(Strict):
    """A whole study; every key has one place and unknown keys are errors.

    Attributes:
        name: Short name, for folders and titles.
        title: The report's title.
        cohorts: Exams by name.
        recipe: How images are prepared (keys of `Recipe`).
        foundation: The model to adapt.
        folds: Number of folds; every arm is trained in each.
        seeds: Every arm is trained with each of them, in each fold; by default once, with the seed of its settings.
        split_seed: Seed of the split.
        arms: Training recipes by name.
        baselines: What the arms are compared with, on the same splits; names of `training.config.BASELINES`.
        baseline_cnn: The network of the baseline `cnn`.
        training: Settings shared by all arms (keys of `TrainConfig` but `modalities` and `fold`), unless an arm says
            otherwise.
        primary: The primary question.
        groups: What results are broken down by.
        smallest_group: Groups of fewer patients are named and not scored.
        evaluation: Intervals.
        explain: Maps.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    cohorts: dict[str, Cohort]
    recipe: dict[str, Any] = Field(default_factory=dict)
    foundation: Foundation
    folds: int = Field(default=1, ge=1, le=10)
    seeds: tuple[int, ...] = ()
    split_seed: int = 0
    arms: dict[str, Arm] = Field(min_length=1)
    baselines: tuple[BaselineName, ...] = ()
    baseline_cnn: Cnn = Cnn()
    training: dict[str, Any] = Field(default_factory=dict)
    primary: Primary
    groups: tuple[str, ...] = GROUPS
    smallest_group: int = Field(default=SMALLEST_GROUP, ge=1)
    evaluation: Evaluation = Evaluation()
    explain: Explain

    @field_validator("seeds", "baselines", "groups")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names something twice")
        return value

    def resolved_recipe(self) -> Recipe:
        """How images are prepared, with what the file does not say."""
        return Recipe.from_dict(Recipe().to_dict() | self.recipe)

    @property
    def question(self) -> dict[str, Any]:
        """The primary question with the part that answers it, as `evaluate` and the report take it."""
        part = Part.TEST if self.cohorts[self.primary.cohort].role == "internal" else Part.EXTERNAL
        return self.primary.model_dump(mode="json") | {"part": part.value}

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        problems = [*self._wrong_names(), *self._wrong_settings()]
        if not any(cohort.role == "internal" for cohort in self.cohorts.values()):
            problems.append("no cohort is internal, so nothing can be trained")
        if problems:
            raise ValueError("; ".join(problems))
        self._keep_patients_apart()
        self.resolved_recipe()
        for member in self.members():
            try:
                config = self.train_config(member)
            except ValidationError as error:
                raise ValueError(f"arm {member.arm}: {validation_problems(error)}") from error
            if config.devices * config.nodes > 1:
                raise ValueError(
                    f"arm {member.arm}: a study trains on one device; train with several by `densityclip train`"
                )
        return self

    def _wrong_names(self) -> list[str]:
        """Names that name nothing, or two things."""
        primary, problems = self.primary, []
        if primary.cohort not in self.cohorts:
            problems.append(f"primary.cohort {primary.cohort!r} is not among the cohorts")
        named = (primary.contrast[0], *self.explain.arms)
        problems += [f"arm {name!r} is named but not described" for name in named if name not in self.arms]
        if primary.contrast[1] not in (*self.arms, *self.baselines):
            problems.append(f"arm {primary.contrast[1]!r} is named but not described")
        problems += [f"{name!r} names an arm and a baseline" for name in self.baselines if name in self.arms]
        problems += [
            f"{name!r} cannot name a cohort or arm: use letters, digits and -"
            for name in (*self.cohorts, *self.arms)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name)
        ]
        if primary.metric not in METRICS:
            problems.append(f"primary.metric {primary.metric!r} is not one of {', '.join(METRICS)}")
        if primary.modality not in (*MODALITIES, "all"):
            problems.append(f"primary.modality {primary.modality!r} is not one of {', '.join(MODALITIES)}, all")
        problems += self._absent_modalities()
        problems += [
            f"group {group!r} is not one of {', '.join(_FACTS)}, nor two of them as in age_band{CROSSING}race"
            for group in self.groups
            if not set(group.split(CROSSING)) <= set(_FACTS)
        ]
        return problems

    def _absent_modalities(self) -> list[str]:
        """Kinds of image that are asked for where none can be, as far as the file tells."""
        primary, problems = self.primary, []
        asked = self.cohorts.get(primary.cohort)
        held = None if asked is None else asked.modalities
        if held is not None and primary.modality in MODALITIES and primary.modality not in held:
            problems.append(
                f"primary.modality {primary.modality}: the cohort {primary.cohort} can hold {', '.join(held)} alone, "
                "so the primary question could never be answered"
            )
        learned = [cohort.modalities for cohort in self.cohorts.values() if cohort.role == "internal"]
        known = {name for held in learned for name in held or MODALITIES}
        if learned:
            problems += [
                f"arm {name} is to be trained on {modality}, which no internal cohort can hold"
                for name, arm in self.arms.items()
                for modality in arm.modalities
                if modality in MODALITIES and modality not in known
            ]
        return problems

    def _wrong_settings(self) -> list[str]:
        """Settings of a training that the study itself decides."""
        given = [self.training, *(arm.training for arm in self.arms.values())]
        problems = [
            f"{name} belongs to {place}, not to `training`"
            for name, place in _OF_THE_STUDY.items()
            if any(name in settings for settings in given)
        ]
        if self.seeds and any("seed" in settings for settings in given):
            problems.append("give `seeds`, or the seed of a training, not both")
        if any(seed < 0 for seed in self.seeds):
            problems.append("a seed is 0 or more")
        return problems

    def _keep_patients_apart(self) -> None:
        """The generated stand-in has not seen the patients of any cohort."""
        taught = self.foundation.stand_in
        made = {(c.generate.site, c.generate.seed) for c in self.cohorts.values() if c.generate is not None}
        if taught is not None and (STAND_IN_SITE, taught.seed) in made:
            raise ValueError(f"the stand-in and a cohort have the same patients: {STAND_IN_SITE}, seed {taught.seed}")

    def members(self) -> tuple[Member, ...]:
        """Every training, arm after arm and then the baselines, fold after fold."""
        return tuple(member for name in (*self.arms, *self.baselines) for member in self.members_of(name))

    def members_of(self, name: str) -> tuple[Member, ...]:
        """The trainings of one arm or baseline."""
        seeds = self.seeds or (int(self._settings(name).get("seed", 0)),)
        if name in self.baselines and name not in _SEEDED:
            seeds = seeds[:1]
        alone = self.folds * len(seeds) == 1
        return tuple(Member(name, fold, seed, alone) for fold in range(self.folds) for seed in seeds)

    def train_config(self, member: Member) -> TrainConfig:
        """The settings of one training."""
        content = self._settings(member.arm) | {"fold": member.fold, "seed": member.seed}
        return TrainConfig(**content, modalities=self.arms[self._recipe_of(member.arm)].modalities)

    def _recipe_of(self, name: str) -> str:
        """The arm itself; baselines have the images and the length of the first arm of the primary question."""
        return name if name in self.arms else self.primary.contrast[0]

    def _settings(self, name: str) -> dict[str, Any]:
        shared = self.training | self.arms[self._recipe_of(name)].training
        if name in self.arms:
            return shared
        if name in ("zero-shot", "linear-probe"):
            # Their own rate: that of the arm is for what the arm trains.
            return {key: value for key, value in shared.items() if key != "learning_rate"} | {"adaptation": name}
        if shared.get("adaptation", "full") != "full":
            shared = {key: value for key, value in shared.items() if key != "learning_rate"}
        # A convolutional network has stages, and no rate that falls block by block.
        own = {"learning_rate": self.baseline_cnn.rate, "layer_decay": 1.0} if name == "cnn" else {}
        return shared | _PLAIN | own

    def scaled(self, share: float) -> "Study":
        """The same study with another number of generated exams and of steps; 1 leaves it as it is.

        A smaller one has smaller batches too, or they would not fit its data, fewer patients whose maps are measured,
        and at most two folds and one seed.
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
            content["folds"], content["seeds"] = min(2, self.folds), self.seeds[:1]
            # A few exams may have none of the rarest category; a miniature is there to run, not to be believed.
            training["allow_missing_categories"] = True
            content["explain"]["patients"] = min(self.explain.patients, max(1, round(share * self.explain.patients)))
        training["batch_size"] = max(8, round(min(1.0, share) * batch))
        training["validate_every"] = max(1, round(min(1.0, share) * every))
        training["steps"] = training["validate_every"] * max(1, round(share * steps / training["validate_every"]))
        if "warmup_steps" in training:
            scaled = round(min(1.0, share) * training["warmup_steps"])
            training["warmup_steps"] = min(scaled, training["steps"] // 4)
        return Study(**content)

    @property
    def generated(self) -> bool:
        """Whether every exam is generated."""
        return all(cohort.generate is not None for cohort in self.cohorts.values())
