"""The exams that were read worst: furthest from their label, at the highest certainty."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from densityclip.artifacts import PROBABILITIES
from densityclip.density import CATEGORIES
from densityclip.evaluation.places import ALL, join, labelled, of_modality
from densityclip.evaluation.rows import scorable
from densityclip.probability.aggregate import label_numbers
from densityclip.probability.joining import Joining, Member
from densityclip.records import Level
from densityclip.report.probability_tables import set_title
from densityclip.report.tables import Grid

_SHOWN = 10
_SURE = 0.8


@dataclass(frozen=True)
class WorstExam:
    """One exam.

    Attributes:
        exam_id: As the cohort names it.
        label: Its label.
        predicted: What was said.
        certainty: Probability of what was said.
    """

    exam_id: str
    label: str
    predicted: str
    certainty: float


@dataclass(frozen=True)
class Errors:
    """Errors of one arm on one cohort, at exam level.

    Attributes:
        arm: Whose.
        cohort: Where; None where predictions do not say.
        part: `test`, `external` or None.
        by_distance: Exams that were off by 0, 1, 2 and 3 categories.
        sure_by_distance: Of these, those with a probability of 0.8 or more for what was said.
        exams: The worst of them; empty where the cohort's licence keeps ids in the house.
        ids_allowed: Whether ids may be shown.
    """

    arm: str
    cohort: str | None
    part: str | None
    by_distance: tuple[int, ...]
    sure_by_distance: tuple[int, ...]
    exams: tuple[WorstExam, ...] = field(default=())
    ids_allowed: bool = False


def find_errors(
    predictions: pl.DataFrame,
    arm: str,
    *,
    redistribute: Mapping[str, bool],
    joinings: Mapping[Member, Joining] | None = None,
) -> list[Errors]:
    """Errors of an arm on every cohort.

    Args:
        predictions: Schema `predictions`.
        arm: Which one.
        redistribute: Cohort to whether its ids may be shown; a cohort that is not named shows none.
        joinings: How each training makes exams, as `evaluate` takes it.
    """
    rows = scorable(predictions.filter(pl.col("arm") == arm))
    joined = join(of_modality(rows.images, ALL), Level.EXAM.value, joinings or {})
    found = []
    for place, here in joined.test_sets():
        exams = _ranked(labelled(here.ensemble))
        allowed = redistribute.get(str(place["cohort"]), False)
        sure = exams.filter(pl.col("certainty") >= _SURE)
        found.append(
            Errors(
                arm,
                place["cohort"],
                place["part"],
                tuple(int((exams["distance"] == k).sum()) for k in range(len(CATEGORIES))),
                tuple(int((sure["distance"] == k).sum()) for k in range(len(CATEGORIES))),
                _worst(exams) if allowed else (),
                allowed,
            )
        )
    return found


def _ranked(exams: pl.DataFrame) -> pl.DataFrame:
    """With `distance`, `said` and `certainty`, the worst first."""
    probabilities = exams.select(PROBABILITIES).to_numpy()
    said = probabilities.argmax(axis=1)
    place = label_numbers(exams["label"])
    return exams.with_columns(
        pl.Series("distance", abs(said - place), dtype=pl.Int64),
        pl.Series("said", [CATEGORIES[k] for k in said], dtype=pl.String),
        pl.Series("certainty", probabilities.max(axis=1), dtype=pl.Float64),
    ).sort("distance", "certainty", "exam_id", descending=[True, True, False])


def _worst(exams: pl.DataFrame) -> tuple[WorstExam, ...]:
    wrong = exams.filter(pl.col("distance") > 0).head(_SHOWN)
    return tuple(WorstExam(*row) for row in wrong.select("exam_id", "label", "said", "certainty").iter_rows())


def error_counts(errors: list[Errors], kinds: Mapping[str, str] | None = None) -> Grid:
    """How far off the exams were, and how sure the model was."""
    rows = tuple(
        (
            set_title(one.cohort, one.part, kinds),
            one.arm,
            *(
                f"{count:,}" + (f" ({sure:,} sure)" if k else "")
                for k, (count, sure) in enumerate(zip(one.by_distance, one.sure_by_distance, strict=True))
            ),
        )
        for one in errors
    )
    head = ("Cohort", "Arm", "Right", "One off", "Two off", "Three off")
    return Grid(head, rows, note="Exams. Sure: a probability of 0.80 or more for what was said.", figures_from=2)


def worst_grids(errors: list[Errors], kinds: Mapping[str, str] | None = None) -> list[Grid]:
    """The worst exams of every cohort whose ids may be shown."""
    return [
        Grid(
            ("Exam", "Label", "Said", "Categories off", "Probability of what was said"),
            tuple(
                (
                    exam.exam_id,
                    exam.label,
                    exam.predicted,
                    str(abs(CATEGORIES.index(exam.label) - CATEGORIES.index(exam.predicted))),
                    f"{exam.certainty:.2f}",
                )
                for exam in one.exams
            ),
            title=f"{one.arm} on {set_title(one.cohort, one.part, kinds)}",
            figures_from=3,
        )
        for one in errors
        if one.exams
    ]
