"""What a study tells when it is done: the report with its tables and checklist, and a model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip import steps
from densityclip.artifacts import read_json, read_table, write_text
from densityclip.study.maps import maps_of
from densityclip.study.members import calibration_of, is_bundle, joinings_of
from densityclip.study.telling import described, kinds_of, provenance_of
from densityclip.study_file import Member, Study

if TYPE_CHECKING:
    from densityclip.report.flow import FlowStep
    from densityclip.report.study_report import Sheet

REPORT, CARD = "report.html", "model-card.md"


@dataclass(frozen=True)
class Done:
    """Everything that the steps of a study left.

    Attributes:
        indexes: Cohort to its index.
        caches: Cohort to its cache.
        splits: The split file.
        models: Member to its folder.
        predictions: Of all members.
        metrics: Content of `metrics.json`, with `local`.
        maps: Arm to the folders of its maps, one a cohort.
        registered: Content of `registration.json`.
    """

    indexes: Mapping[str, Path]
    caches: Mapping[str, Path]
    splits: Path
    models: Mapping[Member, Path]
    predictions: pl.DataFrame
    metrics: dict[str, Any]
    maps: Mapping[str, Sequence[Path]]
    registered: dict[str, Any]


def write_pages(study: Study, out: Path, done: Done) -> Path:
    """Write `report.html`, `checklist.md`, `tables/` and `model-card.md`; returns the path of the report."""
    from densityclip.report.study_report import write_study_report

    kinds = kinds_of(study, done.indexes)
    bundles = {member: folder for member, folder in done.models.items() if is_bundle(member)}
    audits = {name: read_json(path.parent / "audit.json", "densityclip index") for name, path in done.indexes.items()}
    page = write_study_report(
        out / REPORT,
        study=described(study, out, done.models, kinds),
        metrics=done.metrics,
        trainings={
            arm: [pl.read_csv(bundles[member] / "training.csv") for member in study.members_of(arm)]
            for arm in study.arms
        },
        sheets=_sheets(study, done.maps),
        maps=[maps_of(arm, folder, kinds) for arm, folders in done.maps.items() for folder in folders],
        audits=audits,
        provenance=provenance_of(study, done.models, done.registered),
        flows=_flows(done, audits),
        calibrations={
            name: [
                {"fold": member.fold, "seed": member.seed, **calibration_of(member, done.models[member])}
                for member in study.members_of(name)
            ]
            for name in (*study.arms, *study.baselines)
        },
        predictions=done.predictions,
        joinings=joinings_of(done.models),
    )
    _write_card(study, out, done, kinds)
    return page


def _sheets(study: Study, maps: Mapping[str, Sequence[Path]]) -> list["Sheet"]:
    """Sheets of heat maps, of cohorts whose images may be shown."""
    from densityclip.report.study_report import Sheet

    return [
        Sheet(
            title=f"Model {arm}, cohort {folder.name}",
            png=(folder / "sheet.png").read_bytes(),
        )
        for arm, folders in maps.items()
        for folder in folders
        if study.cohorts[folder.name].redistribute is not False
    ]


def _flows(done: Done, audits: Mapping[str, dict[str, Any]]) -> dict[str, tuple["FlowStep", ...]]:
    from densityclip.report.flow import cohort_flow

    splits = steps.read_splits(done.splits)
    return {
        name: cohort_flow(
            audits[name],
            read_table(index, "index"),
            read_table(done.caches[name] / "refused.parquet", "excluded"),
            splits.filter(cohort=name),
        )
        for name, index in done.indexes.items()
    }


def _write_card(study: Study, out: Path, done: Done, kinds: Mapping[str, str]) -> None:
    """The card of the first training of the arm that the primary question is about."""
    from densityclip.model.bundle import load_bundle
    from densityclip.report.model_card import model_card

    arm, *_ = study.primary.contrast
    first, *_ = study.members_of(arm)
    if is_bundle(first):
        bundle = load_bundle(done.models[first] / "bundle")
        write_text(out / CARD, model_card(bundle, metrics=done.metrics, arm=arm, kinds=kinds))
