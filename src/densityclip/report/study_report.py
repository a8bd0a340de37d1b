"""The study's report: one HTML file that opens anywhere, its numbers as CSV, and the reporting checklists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import write_text
from densityclip.density import WORDING
from densityclip.evaluation.figures import Trainings, training_figure
from densityclip.evaluation.metrics import METRICS
from densityclip.probability.joining import Joining, Member
from densityclip.report.audit_report import lay_out
from densityclip.report.beside import beside_published
from densityclip.report.checklist import checklist_markdown, checklists
from densityclip.report.counts import blocks
from densityclip.report.flow import FlowStep, flow_grid
from densityclip.report.group_tables import group_views, worst_grid
from densityclip.report.local_tables import local_grids
from densityclip.report.map_curves import curve_pictures
from densityclip.report.map_tables import Maps, map_grids, map_sentences
from densityclip.report.members import members_grid, members_picture
from densityclip.report.pictures import (
    Picture,
    confusion_pictures,
    dot_picture,
    reliability_pictures,
    roc_pictures,
)
from densityclip.report.probability_tables import (
    calibration_grid,
    ceiling_grid,
    conformal_grids,
    temperature_grid,
)
from densityclip.report.render import data_uri, write_page
from densityclip.report.tables import FURTHER_METRICS, LEVELS, MAIN_METRICS, TestSet, arms_of, matrix
from densityclip.report.tests_table import family_grid
from densityclip.report.tidy import write_tables
from densityclip.report.verdict import metric_name
from densityclip.report.words import answer, per_site
from densityclip.report.worst_exams import Errors, error_counts, find_errors, worst_grids

CHECKLIST, TABLES = "checklist.md", "tables"
# With more arms, sentences and pictures hold the two that the primary question compares; the tables hold all.
_TOLD = 4


@dataclass(frozen=True)
class Sheet:
    """A sheet of heat maps.

    Attributes:
        title: What it shows.
        png: The image.
    """

    title: str
    png: bytes


def write_study_report(
    out: Path,
    *,
    study: dict[str, Any],
    metrics: dict[str, Any],
    trainings: Trainings,
    sheets: list[Sheet],
    maps: Sequence[Maps] = (),
    audits: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
    flows: Mapping[str, Sequence[FlowStep]] | None = None,
    calibrations: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    predictions: pl.DataFrame | None = None,
    joinings: Mapping[Member, Joining] | None = None,
) -> Path:
    """Write `report.html` (every image inside, nothing fetched, no script), and `checklist.md` and `tables/` beside it.

    Args:
        out: The file to write.
        study: `title`; `generated` (bool); `class_mix_notes` (generated cohort to sentence); `primary` (`metric level
            modality cohort part contrast`, optionally `kind` and `margin`); optional: `arms` (name to sentence, in the
            order shown), `baselines` (which of these are baselines), `trained` (arm to its modalities), `kinds`
            (cohort to what it is headed), `redistribute` (cohort to whether its ids may be shown), `model_note` (a
            sentence about the model, in the first lines), `methods` (sentences).
        metrics: Content of `metrics.json`.
        trainings: Arm to a table `step name value`, or to one of each training.
        sheets: Heat maps.
        maps: What was measured on them.
        audits: Cohort to the content of its `audit.json`.
        provenance: Versions, hashes, configuration, dates; any nesting; `registration` as the study wrote it.
        flows: Cohort to its flow, as `flow.cohort_flow` counts it.
        calibrations: Arm to the content of `calibration.json` of each training, with its `fold` and `seed`.
        predictions: Schema `predictions`, for the errors.
        joinings: How each training makes exams, as `evaluate` took it.

    Returns:
        `out`.
    """
    primary, kinds = study["primary"], study.get("kinds", {})
    arms = arms_of(metrics, list(study.get("arms", {})))
    baselines = [arm for arm in arms if arm in study.get("baselines", ())]
    told = _told(arms, baselines, primary["contrast"])
    errors = _errors(predictions, study, joinings)
    filled = checklists(study, metrics, provenance, maps=bool(sheets))
    write_text(out.parent / CHECKLIST, checklist_markdown(filled, study.get("title", "")))
    write_tables(out.parent / TABLES, metrics, flows=flows, calibrations=calibrations, errors=errors, maps=maps)
    return write_page(
        out,
        "study.html.j2",
        title=study.get("title", "Breast density study"),
        generated=bool(study["generated"]),
        class_mix_notes=study.get("class_mix_notes", {}),
        answer=answer(metrics, primary, study.get("trained"), kinds),
        beside=beside_published(metrics, primary, kinds=kinds, generated=tuple(study.get("class_mix_notes", ()))),
        model_note=study.get("model_note", ""),
        arm_notes=_notes(study, [arm for arm in arms if arm not in baselines]),
        baseline_notes=_notes(study, baselines),
        primary_metric=metric_name(primary["metric"]),
        primary_level=primary["level"],
        per_site=per_site(metrics, primary, told, kinds),
        told=told,
        all_told=len(told) == len(arms),
        number_of_arms=len(arms),
        flows=[flow_grid(name, kinds.get(name, ""), tuple(steps)) for name, steps in (flows or {}).items()],
        **_figures(metrics, primary, arms, baselines, told, kinds),
        tests=family_grid(metrics, kinds),
        temperatures=temperature_grid(calibrations or {}),
        training=training_picture({arm: trainings[arm] for arm in told if arm in trainings}),
        sheets=[(sheet, data_uri(sheet.png, "png")) for sheet in sheets],
        map_sentences=map_sentences(maps),
        map_grids=map_grids(maps),
        map_curves=curve_pictures(maps),
        error_counts=error_counts(errors, kinds) if errors else None,
        worst_exams=worst_grids(errors, kinds),
        withheld=[str(one.cohort) for one in errors if not one.ids_allowed],
        local=local_grids(metrics.get("local", []), kinds),
        cohorts=[(name, kinds.get(name, ""), lay_out(audit)) for name, audit in audits.items()],
        categories=tuple(WORDING.items()),
        left_out=metrics.get("refused", {}),
        notes=metrics.get("notes", []),
        bootstrap=metrics.get("bootstrap", {}),
        methods=study.get("methods", []),
        checklists=filled,
        registration=provenance.get("registration", {}),
        provenance=blocks({key: value for key, value in provenance.items() if key not in ("registration", "models")}),
        models=blocks(provenance.get("models", {})),
    )


def _told(arms: Sequence[str], baselines: Sequence[str], contrast: Sequence[str]) -> list[str]:
    trained = [arm for arm in arms if arm not in baselines or arm in contrast]
    return trained if len(trained) <= _TOLD else [arm for arm in arms if arm in contrast]


def _figures(
    metrics: dict[str, Any],
    primary: Mapping[str, Any],
    arms: Sequence[str],
    baselines: Sequence[str],
    told: Sequence[str],
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    """What is drawn and tabled from `metrics.json` alone."""
    contrast = primary["contrast"]
    drawn = matrix(metrics, told, [contrast], "image", kinds=kinds)
    order = [primary["level"], *(level for level in LEVELS if level != primary["level"])]
    levels = {level: matrix(metrics, arms, [contrast], level, baselines=baselines, kinds=kinds) for level in order}
    return {
        "levels": {level: sets for level, sets in levels.items() if sets},
        "titles": METRICS,
        "main_metrics": MAIN_METRICS,
        "further_metrics": FURTHER_METRICS,
        "further": {level: further_sets(sets, level == primary["level"]) for level, sets in levels.items() if sets},
        "dots": dot_picture(matrix(metrics, told, [contrast], primary["level"], kinds=kinds), told),
        "groups": group_views(metrics, primary, contrast, kinds),
        "worst": worst_grid(metrics, primary, contrast, kinds),
        "smallest_group": metrics.get("smallest_group", 20),
        "confusions": confusion_pictures(drawn),
        "rocs": roc_pictures(drawn),
        "reliabilities": reliability_pictures(drawn),
        "calibration": calibration_grid(metrics, told, kinds),
        "conformal": conformal_grids(metrics, primary, contrast, kinds),
        "ceiling": ceiling_grid(metrics, told, kinds),
        "members_picture": members_picture(metrics, told, primary["level"], kinds),
        "members": members_grid(metrics, arms, primary["level"], kinds),
    }


def further_sets(sets: Sequence[TestSet], every_modality: bool) -> list[TestSet]:
    """The whole cohorts, of which the further figures are shown; all modalities together, or each of them too."""
    found = []
    for one in sets:
        rows = tuple(row for row in one.rows if every_modality or row.place["modality"] == "all") or one.rows
        if one.whole:
            found.append(TestSet(one.title, one.note, one.whole, rows))
    return found


def _errors(
    predictions: pl.DataFrame | None, study: Mapping[str, Any], joinings: Mapping[Member, Joining] | None
) -> list[Errors]:
    if predictions is None:
        return []
    allowed = study.get("redistribute", {})
    return [
        one
        for arm in study["primary"]["contrast"]
        for one in find_errors(predictions, arm, redistribute=allowed, joinings=joinings)
    ]


def training_picture(trainings: Trainings) -> Picture | None:
    """Curves of all trainings, or None where there are none."""
    listed = {arm: [one] if isinstance(one, pl.DataFrame) else list(one) for arm, one in trainings.items()}
    drawn = {arm: kept for arm, tables in listed.items() if (kept := [one for one in tables if one.height])}
    if not drawn:
        return None
    several = any(len(tables) > 1 for tables in drawn.values())
    lines = (
        "Thin lines are single trainings, strong lines their mean."
        if several
        else "Faint lines are the values of single steps, strong lines their running mean."
    )
    return Picture(
        data_uri(training_figure(drawn), "svg"),
        "",
        "Colours are arms or, where a quantity is kept per modality, modalities; line styles are then arms. " + lines,
        "Training curves of " + ", ".join(drawn),
    )


def _notes(study: Mapping[str, Any], arms: Sequence[str]) -> list[tuple[str, str]]:
    notes = study.get("arms", {})
    return [(arm, str(notes[arm]).removeprefix("baseline: ")) for arm in arms if notes.get(arm)]
