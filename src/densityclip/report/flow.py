"""Cohort flow: how many patients, exams and images were there at each step, and why some went."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from densityclip.records import Part
from densityclip.report.counts import label
from densityclip.report.tables import Grid

# Fewest and most over the folds; the same where there is one.
Span = tuple[int, int]


@dataclass(frozen=True)
class FlowStep:
    """One step of a cohort's way.

    Attributes:
        name: What it is.
        patients: How many; None where the step does not know them.
        exams: Likewise.
        images: Likewise.
        left_out: Reason to the images lost at this step.
    """

    name: str
    patients: Span | None
    exams: Span | None
    images: Span | None
    left_out: tuple[tuple[str, int], ...] = ()


def cohort_flow(
    audit: Mapping[str, Any],
    index: pl.DataFrame,
    refused: pl.DataFrame | None = None,
    parts: pl.DataFrame | None = None,
) -> tuple[FlowStep, ...]:
    """Follow a cohort from its files to its parts.

    Args:
        audit: Content of its `audit.json`.
        index: Schema `index`.
        refused: Images that could not be prepared, schema `excluded`, where they were prepared.
        parts: Schema `splits`, of this cohort, where it was split.
    """
    excluded = [(str(item["reason"]), int(item["images"])) for item in audit.get("excluded", [])]
    found = audit.get("totals", {}).get("images_found")
    steps = []
    if found is not None:
        steps.append(FlowStep("images found", None, None, (found, found)))
    steps.append(_counted("in the index", index, excluded))
    if refused is not None:
        reasons = refused["reason"].value_counts().sort("count", "reason", descending=[True, False])
        index = index.join(refused.select("image_id"), on="image_id", how="anti")
        steps.append(_counted("prepared", index, [(str(name), int(count)) for name, count in reasons.iter_rows()]))
    labelled = index.filter(pl.col("density").is_not_null())
    lost = index.height - labelled.height
    steps.append(_counted("with a label", labelled, [("no_label", lost)] if lost else []))
    return (*steps, *(_part_steps(labelled, parts) if parts is not None else ()))


def _counted(name: str, rows: pl.DataFrame, left_out: list[tuple[str, int]]) -> FlowStep:
    patients, exams = rows["patient_id"].n_unique(), rows["exam_id"].n_unique()
    return FlowStep(name, (patients, patients), (exams, exams), (rows.height, rows.height), tuple(left_out))


def _part_steps(labelled: pl.DataFrame, parts: pl.DataFrame) -> list[FlowStep]:
    """Labelled images of each part; training and validation change from fold to fold."""
    counts = (
        labelled.join(parts.select("patient_id", "fold", "part"), on="patient_id")
        .group_by("fold", "part")
        .agg(pl.col("patient_id").n_unique(), pl.col("exam_id").n_unique(), pl.len().alias("images"))
    )
    steps = []
    for part in (one.value for one in Part):
        mine = counts.filter(part=part)
        if mine.height:
            patients, exams, images = (
                (int(mine[name].min()), int(mine[name].max()))  # type: ignore[arg-type]
                for name in ("patient_id", "exam_id", "images")
            )
            steps.append(FlowStep(f"part {part}", patients, exams, images))
    return steps


def flow_grid(title: str, note: str, steps: tuple[FlowStep, ...]) -> Grid:
    """The flow of one cohort as a table."""
    rows = tuple(
        (
            step.name,
            *(span_text(value) for value in (step.patients, step.exams, step.images)),
            "; ".join(f"{label(reason)} {count:,}" for reason, count in step.left_out) or "–",
        )
        for step in steps
    )
    return Grid(("", "Patients", "Exams", "Images", "Left out here, and why"), rows, title=title, note=note)


def span_text(value: Span | None) -> str:
    """A number, or the fewest and the most over the folds."""
    if value is None:
        return "–"
    low, high = value
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
