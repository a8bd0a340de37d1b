"""The study's report: one HTML file that opens anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.density import WORDING
from densityclip.evaluation.figures import training_figure
from densityclip.evaluation.metrics import METRICS
from densityclip.report.audit_report import lay_out
from densityclip.report.counts import blocks
from densityclip.report.pictures import Picture, confusion_pictures, dot_picture, roc_pictures
from densityclip.report.published import PUBLISHED
from densityclip.report.render import data_uri, write_page
from densityclip.report.tables import FURTHER_METRICS, MAIN_METRICS, arms_of, matrix
from densityclip.report.words import answer, metric_name, per_site

_LEVELS = ("image", "breast", "exam")
# With more arms, sentences and pictures hold the two that the primary question compares; the tables hold all.
_TOLD = 4


@dataclass(frozen=True)
class Sheet:
    """A sheet of heat maps.

    Attributes:
        title: What it shows.
        caption: How to read it.
        png: The image.
    """

    title: str
    caption: str
    png: bytes


def write_study_report(
    out: Path,
    *,
    study: dict[str, Any],
    metrics: dict[str, Any],
    trainings: dict[str, pl.DataFrame],
    sheets: list[Sheet],
    audits: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
) -> Path:
    """Write `report.html`: every image inside, nothing fetched, no script.

    Args:
        out: The file to write.
        study: `title`; `generated` (bool); `class_mix_notes` (cohort to sentence); `primary` (`metric level modality
            cohort part contrast`); optional: `arms` (name to sentence, in the order shown), `trained` (arm
            to its modalities), `model_note` (a sentence about the model, in the first lines), `methods` (sentences).
        metrics: Content of `metrics.json`.
        trainings: Arm to a table `step name value`.
        sheets: Heat maps.
        audits: Cohort to the content of its `audit.json`.
        provenance: Versions, hashes, configuration, dates; any nesting.

    Returns:
        `out`.
    """
    primary = study["primary"]
    arms = arms_of(metrics, list(study.get("arms", {})))
    levels = {level: matrix(metrics, arms, primary["contrast"], level) for level in _LEVELS}
    told = arms if len(arms) <= _TOLD else [arm for arm in arms if arm in primary["contrast"]]
    drawn = matrix(metrics, told, primary["contrast"], "image")
    return write_page(
        out,
        "study.html.j2",
        title=study.get("title", "Breast density study"),
        generated=bool(study["generated"]),
        class_mix_notes=study.get("class_mix_notes", {}),
        arm_notes=_arm_notes(study, arms),
        answer=answer(metrics, primary, study.get("trained")),
        model_note=study.get("model_note", ""),
        primary_metric=metric_name(primary["metric"]),
        primary_level=primary["level"],
        per_site=per_site(metrics, primary, told),
        all_told=len(told) == len(arms),
        levels=levels,
        titles=METRICS,
        main_metrics=MAIN_METRICS,
        further_metrics=FURTHER_METRICS,
        dots=dot_picture(drawn, told),
        confusions=confusion_pictures(drawn),
        rocs=roc_pictures(drawn),
        training=training_picture({arm: table for arm, table in trainings.items() if arm in told}),
        sheets=[(sheet, data_uri(sheet.png, "png")) for sheet in sheets],
        cohorts=[(name, lay_out(audit)) for name, audit in audits.items()],
        categories=tuple(WORDING.items()),
        left_out=metrics.get("refused", {}),
        published=PUBLISHED,
        bootstrap=metrics.get("bootstrap", {}),
        methods=study.get("methods", []),
        provenance=blocks(provenance),
    )


def training_picture(trainings: Mapping[str, pl.DataFrame]) -> Picture | None:
    """Curves of all trainings, or None where there are none."""
    drawn = {arm: table for arm, table in trainings.items() if table.height}
    if not drawn:
        return None
    return Picture(
        data_uri(training_figure(drawn), "svg"),
        "",
        "Colours are arms or, where a quantity is kept per modality, modalities; line styles are then arms. "
        "Faint lines are the values of single steps, strong lines their running mean.",
        "Training curves of " + ", ".join(drawn),
    )


def _arm_notes(study: Mapping[str, Any], arms: Sequence[str]) -> list[tuple[str, str]]:
    notes = study.get("arms", {})
    return [(arm, str(notes[arm])) for arm in arms if notes.get(arm)]
