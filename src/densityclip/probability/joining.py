"""How one model's images become breasts, exams and patients: a rule for the exam, and a temperature a level."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import polars as pl

JOINED_LEVELS: tuple[str, ...] = ("breast", "exam", "patient")
# Key of the manifest's `config` under which `predict` and `study` say how each member joined its images.
JOININGS = "joinings"
# The part of a split that fits; other patients of a site, where `densityclip calibrate` does.
CALIBRATION_PART, SITE_PART = "calibration", "site"

Rule = Literal["mean", "denser", "learned"]
# One training of a study: arm, fold, seed; null where the predictions name none.
Member: TypeAlias = tuple[str | None, int | None, int | None]


def _ones() -> dict[str, float]:
    return dict.fromkeys(JOINED_LEVELS, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What turns calibrated probabilities of images into those of breasts, exams and patients.

    An exam is `(1 - denser_weight) * mean of its breasts + denser_weight * its denser breast`, the denser breast being
    the one of higher expected category. The joined probabilities p become `softmax(log(p) / temperature)` of the level.

    Attributes:
        denser_weight: In `[0, 1]`; 0 is the mean, 1 the denser breast alone.
        rule: What that weight is called.
        temperatures: Of `breast`, `exam` and `patient`; above one where joining made the answer too sure.
        chosen_on: Patients of the validation part that chose the rule; 0 where none did.
        fitted_on: Patients of the calibration part that the temperatures were fitted on; 0 where they were not.
        fitted_part: Which part that is; `site` where another site's labelled exams were taken.
        notes: What a reader should know of choice and fit, such as that there were too few patients.

    Raises:
        ValueError: A weight outside `[0, 1]` or unlike its rule, a missing level, a temperature that is not positive.
    """

    denser_weight: float = 0.0
    rule: Rule = "mean"
    temperatures: Mapping[str, float] = field(default_factory=_ones)
    chosen_on: int = 0
    fitted_on: int = 0
    fitted_part: str = CALIBRATION_PART
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.denser_weight <= 1.0:
            raise ValueError(f"denser_weight {self.denser_weight} is not in [0, 1]")
        if self.rule not in ("mean", "denser", "learned"):
            raise ValueError(f"rule {self.rule!r} is not mean, denser or learned")
        if {"mean": 0.0, "denser": 1.0}.get(self.rule, self.denser_weight) != self.denser_weight:
            raise ValueError(f"rule {self.rule} does not go with denser_weight {self.denser_weight}")
        if set(self.temperatures) != set(JOINED_LEVELS):
            raise ValueError(f"temperatures of {JOINED_LEVELS} are expected, found those of {list(self.temperatures)}")
        if not all(value > 0 for value in self.temperatures.values()):
            raise ValueError(f"temperatures {dict(self.temperatures)} are not all positive")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `calibration.json` and the manifest of predictions."""
        return {
            "rule": self.rule,
            "denser_weight": self.denser_weight,
            "temperatures": {level: self.temperatures[level] for level in JOINED_LEVELS},
            "chosen_on": {"part": "validation", "patients": self.chosen_on},
            "fitted_on": {"part": self.fitted_part, "patients": self.fitted_on},
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Joining":
        """Read back what `to_dict` gave."""
        return cls(
            rule=content["rule"],
            denser_weight=float(content["denser_weight"]),
            temperatures={level: float(value) for level, value in content["temperatures"].items()},
            chosen_on=int(content["chosen_on"]["patients"]),
            fitted_on=int(content["fitted_on"]["patients"]),
            fitted_part=str(content["fitted_on"].get("part", CALIBRATION_PART)),
            notes=tuple(content.get("notes", ())),
        )


# Means and no temperature: models that were trained before the rule was chosen, and rows of no known model.
PLAIN = Joining()


def members_of(table: pl.DataFrame) -> list[Member]:
    """The members that have rows in a table of schema `predictions`, nulls first."""
    return sorted(table.select("arm", "fold", "seed").unique().rows(), key=_order)


def joinings_record(joinings: Mapping[Member, Joining]) -> list[dict[str, Any]]:
    """What stands under `JOININGS` in the `config` of `predictions.manifest.json`, sorted by member."""
    return [
        {"arm": arm, "fold": fold, "seed": seed, "joining": joining.to_dict()}
        for (arm, fold, seed), joining in sorted(joinings.items(), key=lambda item: _order(item[0]))
    ]


def read_joinings(manifest: Mapping[str, Any]) -> dict[Member, Joining]:
    """How each member of some predictions joined its images.

    Args:
        manifest: Content of `predictions.manifest.json`.

    Returns:
        A joining for each (arm, fold, seed); empty for predictions written before it was recorded (they are `PLAIN`).
    """
    entries: Iterable[Mapping[str, Any]] = manifest.get("config", {}).get(JOININGS, ())
    return {(one["arm"], one["fold"], one["seed"]): Joining.from_dict(one["joining"]) for one in entries}


def _order(member: Member) -> tuple[str, int, int]:
    arm, fold, seed = member
    return (arm or "", -1 if fold is None else fold, -1 if seed is None else seed)
