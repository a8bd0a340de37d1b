"""What one training is told: every choice with its default; unknown keys are errors."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from densityclip.records import MODALITIES


class TrainConfig(BaseModel):
    """Settings of one training (`--set train.key=value` on the command line).

    Attributes:
        modalities: Modalities trained on, in the order of the index they get.
        steps: Optimiser steps.
        batch_size: Images a step.
        learning_rate: Peak rate of AdamW, after the warm-up and before the cosine.
        weight_decay: On matrices only.
        warmup_steps: Steps of linear warm-up.
        validate_every: Steps between validations; a checkpoint follows each.
        plain_caption_share: Share of captions that name no modality.
        class_weights: Against imbalance.
        modality_weights: `adaptive` moves each modality's share of the loss while training.
        augment: Whether training images are varied.
        fold: Fold of the split file.
        seed: Of order, slices, captions, augmentation and dropout.
        threads: CPU threads, part of the result: another number changes the last bits of sums.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[str, ...] = MODALITIES
    steps: int = Field(default=600, ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=40, ge=0)
    validate_every: int = Field(default=50, ge=1)
    plain_caption_share: float = Field(default=0.5, ge=0, le=1)
    class_weights: Literal["none", "inverse-frequency"] = "inverse-frequency"
    modality_weights: Literal["none", "adaptive"] = "adaptive"
    augment: bool = True
    fold: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=2, ge=1)

    @field_validator("modalities")
    @classmethod
    def _known_modalities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in MODALITIES]
        if unknown or not value or len(set(value)) != len(value):
            raise ValueError(f"modalities must be distinct words of {', '.join(MODALITIES)}")
        return value

    @model_validator(mode="after")
    def _whole_rounds(self) -> "TrainConfig":
        if self.steps % self.validate_every:
            raise ValueError(f"steps ({self.steps}) must be a multiple of validate_every ({self.validate_every})")
        return self
