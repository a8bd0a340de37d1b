"""The page of `densityclip evaluate`: figures with intervals, without the story of a study around them."""

from pathlib import Path
from typing import Any

from densityclip.evaluation.metrics import LOWER_IS_BETTER, METRICS
from densityclip.records import number_of
from densityclip.report.pictures import confusion_pictures, dot_picture, reliability_pictures, roc_pictures
from densityclip.report.render import write_page
from densityclip.report.study_report import TABLES, further_sets
from densityclip.report.tables import (
    FURTHER_METRICS,
    LEVELS,
    MAIN_METRICS,
    Grid,
    arms_of,
    interval_text,
    matrix,
    number,
    p_text,
)
from densityclip.report.tidy import write_tables
from densityclip.report.verdict import metric_name

_COMPARED = (*MAIN_METRICS, "linear_kappa", "mean_absolute_error", "two_or_more_off", "dense_auc", "ece", "brier")
_COMPARED_AT = ("image", "exam")


def write_evaluation_report(out: Path, metrics: dict[str, Any], *, generated: bool | None = None) -> Path:
    """Write an evaluation as one HTML file, and its numbers as CSV in `tables/` beside it.

    Where two models were compared, the page opens with their differences on the same images.

    Args:
        out: The file to write.
        metrics: Content of `metrics.json`.
        generated: Whether the exams were generated; None where nobody said, and then the page says so.

    Returns:
        `out`.
    """
    arms = arms_of(metrics)
    first = next(iter(metrics["differences"]), None)
    contrasts = [first["arms"]] if first else []
    levels = {level: matrix(metrics, arms, contrasts, level) for level in LEVELS}
    levels = {level: sets for level, sets in levels.items() if sets}
    drawn = levels.get("image", [])
    write_tables(out.parent / TABLES, metrics)
    return write_page(
        out,
        "evaluation.html.j2",
        title="Evaluation of " + (", ".join(arms) if arms != ["unknown"] else "predictions"),
        generated=generated,
        compared=_differences(metrics, contrasts[0]) if len(arms) == 2 and contrasts else [],
        said=_said(metrics, contrasts[0]) if len(arms) == 2 and contrasts else "",
        levels=levels,
        further={level: further_sets(sets, True) for level, sets in levels.items()},
        titles=METRICS,
        main_metrics=MAIN_METRICS,
        further_metrics=FURTHER_METRICS,
        dots=dot_picture(drawn, arms),
        confusions=confusion_pictures(drawn),
        rocs=roc_pictures(drawn),
        reliabilities=reliability_pictures(drawn),
        left_out=metrics.get("refused", {}),
        notes=metrics.get("notes", []),
        bootstrap=metrics.get("bootstrap", {}),
        not_compared=sorted({entry["not_compared"] for entry in metrics["differences"] if entry["not_compared"]}),
    )


def _entries(metrics: dict[str, Any], contrast: list[str], level: str) -> list[dict[str, Any]]:
    """The pair's differences over whole cohorts: all modalities, or the only one."""
    mine = [entry for entry in metrics["differences"] if entry["arms"] == contrast and entry["level"] == level]
    mine = [entry for entry in mine if entry["metrics"]]
    found = {}
    for entry in mine:
        place = entry["cohort"], entry["part"]
        here = [one for one in mine if (one["cohort"], one["part"]) == place]
        sites = [one for one in here if one["site"] == "all"] or here
        found[place] = next((one for one in sites if one["modality"] == "all"), sites[0])
    return list(found.values())


def _differences(metrics: dict[str, Any], contrast: list[str]) -> list[Grid]:
    """Every measure's difference with its interval and p, a table for each level and cohort."""
    resamples = metrics.get("bootstrap", {}).get("resamples")
    grids = []
    for level in _COMPARED_AT:
        for entry in _entries(metrics, contrast, level):
            rows = tuple(
                (
                    METRICS[name] + (" (lower is better)" if name in LOWER_IS_BETTER else ""),
                    number(entry["metrics"][name]["value"], signed=True),
                    interval_text(entry["metrics"][name], signed=True) or "–",
                    p_text(entry["metrics"][name].get("p"), resamples).removeprefix("p ").removeprefix("= "),
                )
                for name in _COMPARED
            )
            title = f"{entry['cohort'] or 'All images'}: {number_of(entry['n'], level)} of "
            title += number_of(entry["n_patients"], "patient")
            grids.append(
                Grid(("", f"{contrast[0]} − {contrast[1]}", "95% interval", "p"), rows, title=title, figures_from=1)
            )
    return grids


def _said(metrics: dict[str, Any], contrast: list[str]) -> str:
    """The difference in the first measure, in a sentence."""
    entry = next(iter(_entries(metrics, contrast, "image")), None)
    if entry is None:
        return ""
    name = MAIN_METRICS[0]
    estimate = entry["metrics"][name]
    lead = (
        f"On the same {number_of(entry['n'], 'image')} of {number_of(entry['n_patients'], 'patient')}, "
        f"{contrast[0]} minus {contrast[1]} is "
        f"{number(estimate['value'], signed=True)} in {metric_name(name)}"
    )
    if estimate["value"] is None or estimate["excludes_zero"] is None:
        return f"{lead}; no interval can be given, so nothing can be concluded."
    p = estimate.get("p")
    said = f"; {p_text(p, metrics.get('bootstrap', {}).get('resamples'))}" if p is not None else ""
    reach = "excludes zero" if estimate["excludes_zero"] else "includes zero: this does not tell the two apart"
    return f"{lead} (95% interval {interval_text(estimate, signed=True)}{said}). The interval {reach}."
