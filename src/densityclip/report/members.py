"""Single trainings of an arm: few of them, so points, and no interval."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.evaluation.figures import Dot, dot_figure
from densityclip.evaluation.metrics import METRICS
from densityclip.report.beside import find_whole
from densityclip.report.pictures import Picture
from densityclip.report.probability_tables import set_title, whole_sets
from densityclip.report.render import data_uri
from densityclip.report.tables import MAIN_METRICS, Grid, number


def _cells(metrics: Mapping[str, Any], arms: Sequence[str], level: str) -> list[dict[str, Any]]:
    places = whole_sets(metrics)
    found = [find_whole(metrics, arm, cohort, part, level) for cohort, part in places for arm in arms]
    return [cell for cell in found if cell is not None and len(cell.get("each_member", [])) > 1]


def members_picture(
    metrics: Mapping[str, Any], arms: Sequence[str], level: str, kinds: Mapping[str, str] | None = None
) -> Picture | None:
    """Rings of single trainings over the arm's own figure; None where every arm was trained once."""
    dots = []
    for cell in _cells(metrics, arms, level):
        values = {name: _triple(cell["metrics"][name]) for name in MAIN_METRICS}
        singles = {name: _known(one["metrics"][name] for one in cell["each_member"]) for name in MAIN_METRICS}
        title = set_title(cell["cohort"], cell["part"], kinds).replace(" (", "\n(", 1)
        dots.append(Dot(title, cell["arm"], values, singles))
    if not dots:
        return None
    shown = [arm for arm in arms if any(dot.arm == arm for dot in dots)]
    return Picture(
        data_uri(dot_figure(dots, shown, MAIN_METRICS), "svg"),
        "",
        f"Rings: single trainings (folds and seeds) at {level} level. Dot and bar: the arm, the mean of their "
        "probabilities, with its 95% interval over patients. A few trainings are points; no spread is made of them.",
        f"Single trainings of {', '.join(shown)}; the table below holds the numbers.",
    )


def members_grid(
    metrics: Mapping[str, Any], arms: Sequence[str], level: str, kinds: Mapping[str, str] | None = None
) -> Grid | None:
    """Every training's figures on whole cohorts."""
    rows: list[tuple[str, ...]] = []
    before = None
    for cell in _cells(metrics, arms, level):
        title = set_title(cell["cohort"], cell["part"], kinds)
        if title != before:
            rows.append((title,))
            before = title
        rows += [
            (
                cell["arm"],
                str(one["fold"] if one["fold"] is not None else "–"),
                str(one["seed"] if one["seed"] is not None else "–"),
                *(number(one["metrics"][name]) for name in MAIN_METRICS),
            )
            for one in cell["each_member"]
        ]
    if not rows:
        return None
    head = ("Arm", "Fold", "Seed", *(METRICS[name] for name in MAIN_METRICS))
    return Grid(head, tuple(rows), title=f"Single trainings, {level} level", figures_from=3)


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _triple(estimate: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    return estimate["value"], estimate["low"], estimate["high"]
