"""What one training is told: every choice with its default; unknown keys are errors.

Defaults that generated exams cannot decide come from the literature, and `docs/training.md` says which and from where.
"""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from densityclip.records import MODALITIES

Loss = Literal["multi-positive", "infonce", "class-prompt", "ordinal"]
ClassWeights = Literal["none", "inverse-frequency", "effective-number", "logit-adjustment"]
ModalityWeightsName = Literal["none", "fixed", "moving-average", "group-dro", "uncertainty"]
SamplerName = Literal["natural", "class-balanced", "modality-class"]
Adaptation = Literal["full", "lp-ft", "lora", "linear-probe", "zero-shot"]
LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
BaselineName = Literal["majority", "histogram", "zero-shot", "linear-probe", "cross-entropy", "cnn"]

# What a study's arms are compared with.
BASELINES: tuple[str, ...] = get_args(BaselineName)

_WARMUP = 40

# Peak rates for a pretrained model: full fine-tuning 1e-5 as FLYP (arXiv:2212.00638), its probe and LoRA larger.
_RATES: dict[str, float] = {"full": 1e-5, "lp-ft": 1e-5, "lora": 1e-4, "linear-probe": 1e-3, "zero-shot": 1e-5}


class TrainConfig(BaseModel):
    """Settings of one training (`--set train.key=value` on the command line).

    Attributes:
        modalities: Modalities trained on, in the order of the index they get.
        adaptation: What is trained: everything (`full`), a linear probe first and then everything (`lp-ft`), low-rank
            matrices in attention and the projections (`lora`), the projections (`linear-probe`), nothing (`zero-shot`).
        text_tower: Whether the text tower learns too; frozen, its captions are encoded once.
        loss: `infonce`, `multi-positive`, `class-prompt` or `ordinal`, see `losses`.
        class_weights: Against imbalance, see `class_balance`.
        effective_number_beta: Of `class_weights: effective-number`.
        modality_weights: How each modality's share of the loss moves, see `weighting`.
        fixed_modality_weights: Relative weights by modality, for `modality_weights: fixed`.
        sampler: Which images a batch has, see `samplers`.
        steps: Optimiser steps.
        batch_size: Images a step, over all devices.
        chunk_size: Images that go through the image tower at a time; the contrastive batch stays whole (cached
            gradients). All at once if not given.
        learning_rate: Peak rate of AdamW, after the warm-up and before the cosine; by the adaptation if not given.
        layer_decay: Factor on the rate from one block to the one below it.
        weight_decay: On matrices only.
        clip_gradient: Largest norm of a gradient.
        warmup_steps: Steps of linear warm-up; if not given, 40 or a quarter of the steps, whichever is less.
        probe_share: Share of the steps that `lp-ft` trains the probe.
        probe_rate: Peak rate of that probe.
        lora_rank: Rank of LoRA's matrices.
        max_logit_scale: Bound of the learned inverse temperature, as CLIP's.
        neighbour: Of `loss: ordinal`: target of the next category, relative to the own one's.
        ema_decay: Keep a moving average of the weights, and validate and deliver that; 0 keeps none.
        interpolation: Deliver weights on the line from the foundation model (0) to the trained one (1), WiSE-FT.
        validate_every: Steps between validations; a checkpoint follows each.
        plain_caption_share: Share of captions that name no modality.
        prompts: File with the words (YAML or JSON); ours if not given.
        augment: Whether training images are varied.
        shuffle_labels: Give each patient of the training and validation part another one's category: the model learns
            nothing of density, and its maps show what a map can be made of without that.
        allow_missing_categories: Go on although a category has no image in the training part.
        fold: Fold of the split file.
        seed: Of order, slices, captions, augmentation and dropout.
        threads: CPU threads, part of the result: another number changes the last bits of sums.
        accelerator: Lightning's name of the kind of device, or `auto`.
        devices: How many on each machine.
        nodes: How many machines.
        strategy: Lightning's name of a strategy, or `auto`.
        precision: `auto` is bfloat16 autocast on a GPU that has it, else float32.
        loggers: Lightning's loggers beside `training.csv`, into `logs/`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[str, ...] = MODALITIES
    adaptation: Adaptation = "full"
    text_tower: Literal["trained", "frozen"] = "trained"
    loss: Loss = "multi-positive"
    class_weights: ClassWeights = "inverse-frequency"
    effective_number_beta: float = Field(default=0.999, ge=0, lt=1)
    modality_weights: ModalityWeightsName = "moving-average"
    fixed_modality_weights: dict[str, float] = Field(default_factory=dict)
    sampler: SamplerName = "natural"
    steps: int = Field(default=600, ge=1)
    batch_size: int = Field(default=64, ge=2)
    chunk_size: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)
    layer_decay: float = Field(default=0.65, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    clip_gradient: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=_WARMUP, ge=0)
    probe_share: float = Field(default=0.25, gt=0, lt=1)
    probe_rate: float = Field(default=1e-3, gt=0)
    lora_rank: int = Field(default=16, ge=1)
    max_logit_scale: float = Field(default=100.0, gt=1)
    neighbour: float = Field(default=0.1, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    interpolation: float = Field(default=1.0, gt=0, le=1)
    validate_every: int = Field(default=50, ge=1)
    plain_caption_share: float = Field(default=0.5, ge=0, le=1)
    prompts: Path | None = None
    augment: bool = True
    shuffle_labels: bool = False
    allow_missing_categories: bool = False
    fold: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=2, ge=1)
    accelerator: str = "auto"
    devices: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    loggers: tuple[LoggerName, ...] = ("csv", "tensorboard")

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or _RATES[self.adaptation]

    @property
    def probe_steps(self) -> int:
        """Steps in which the projections alone are trained, before everything is."""
        return round(self.probe_share * self.steps) if self.adaptation == "lp-ft" else 0

    @property
    def trains_text(self) -> bool:
        """Whether anything of the text tower is trained."""
        return self.text_tower == "trained" and self.adaptation != "zero-shot"

    @model_validator(mode="before")
    @classmethod
    def _warm_up_that_ends(cls, content: Any) -> Any:
        """A short training, such as a miniature, would else be over before its rate has risen."""
        steps = content.get("steps") if isinstance(content, dict) else None
        if isinstance(steps, int) and "warmup_steps" not in content:
            return content | {"warmup_steps": max(0, min(_WARMUP, steps // 4))}
        return content

    @field_validator("modalities", "loggers", mode="before")
    @classmethod
    def _one_word_or_several(cls, value: Any) -> Any:
        """A list, or its words with commas between them: on a command line that needs no brackets."""
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("fixed_modality_weights", mode="before")
    @classmethod
    def _weights_by_name(cls, value: Any) -> Any:
        """A mapping, or `DM:1,s2D:2`; YAML makes of `{DM:1,s2D:2}`, without spaces, names without values."""
        if isinstance(value, dict) and value and all(number is None for number in value.values()):
            value = ",".join(map(str, value))
        if not isinstance(value, str):
            return value
        pairs = [pair.partition(":") for pair in value.split(",") if pair.strip()]
        if not all(colon for _, colon, _ in pairs):
            raise ValueError("write it as DM:1,s2D:2,DBT:1")
        return {name.strip(): number.strip() for name, _, number in pairs}

    @field_validator("modalities")
    @classmethod
    def _known_modalities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in MODALITIES]
        if unknown or not value or len(set(value)) != len(value):
            raise ValueError(f"modalities must be distinct words of {', '.join(MODALITIES)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        problems = []
        if self.steps % self.validate_every:
            problems.append(f"steps ({self.steps}) must be a multiple of validate_every ({self.validate_every})")
        if self.sampler != "natural" and self.class_weights != "none":
            problems.append(
                f"sampler {self.sampler} and class_weights {self.class_weights} would both correct the imbalance: "
                "set class_weights to none, or sampler to natural"
            )
        if self.modality_weights == "fixed":
            missing = [name for name in self.modalities if self.fixed_modality_weights.get(name, 0) <= 0]
            if missing:
                problems.append(f"fixed_modality_weights needs a positive number for {', '.join(missing)}")
        if self.batch_size % (self.devices * self.nodes):
            problems.append(
                f"batch_size ({self.batch_size}) must be a multiple of the devices ({self.devices * self.nodes})"
            )
        if self.adaptation != "zero-shot" and self.warmup_steps >= self.steps - self.probe_steps:
            after = f" after the probe's {self.probe_steps}" if self.probe_steps else ""
            steps = f"{self.steps - self.probe_steps}{after}"
            problems.append(
                f"warmup_steps ({self.warmup_steps}) must be less than the steps ({steps}), "
                "or the learning rate never reaches its peak"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
