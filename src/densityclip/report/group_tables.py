"""Groups: the same figures by vendor, age band and so on, the forest plot, and how far the worst is behind the best."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.evaluation.figures import ForestRow, Triple, forest_figure, forest_pages
from densityclip.evaluation.metrics import METRICS
from densityclip.records import number_of
from densityclip.report.beside import find_whole
from densityclip.report.counts import heading
from densityclip.report.pictures import Picture
from densityclip.report.render import data_uri
from densityclip.report.tables import Grid, estimate_text, interval_text, kind_of, number
from densityclip.report.verdict import metric_name, tied

# (by, group) to arm to its entry.
_ByGroup = dict[tuple[str, str], dict[str, dict[str, Any]]]
_FALLBACK = "accuracy"
_BESIDE = ("macro_auc", "accuracy", "dense_auc", "mean_absolute_error")


@dataclass(frozen=True)
class Groups:
    """The groups of one cohort.

    Attributes:
        title: Of the cohort.
        note: What the cohort is headed.
        pictures: The forest plot, in pieces that fit a page.
        grid: Its numbers.
    """

    title: str
    note: str
    pictures: tuple[Picture, ...]
    grid: Grid


def group_level(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> str:
    """The level at which groups are shown: that of the primary question, or images."""
    levels = {entry["level"] for entry in metrics.get("groups", [])}
    return str(primary["level"]) if primary["level"] in levels else "image"


def group_metric(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> str:
    """The metric of the forest plots: the primary one, or accuracy where groups do not have it."""
    shown: Mapping[str, Any] = next((entry["metrics"] for entry in metrics.get("groups", []) if entry["metrics"]), {})
    return str(primary["metric"]) if primary["metric"] in shown else _FALLBACK


def group_views(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    arms: Sequence[str],
    kinds: Mapping[str, str] | None = None,
) -> list[Groups]:
    """Forest plot and table of every cohort.

    Args:
        metrics: Content of `metrics.json`.
        primary: Gives metric and level.
        arms: Which are shown.
        kinds: What each cohort is headed.
    """
    level, metric = group_level(metrics, primary), group_metric(metrics, primary)
    found: dict[tuple[Any, Any], _ByGroup] = {}
    for entry in metrics.get("groups", []):
        if entry["level"] == level and entry["arm"] in arms:
            of_cohort = found.setdefault((entry["cohort"], entry["part"]), {})
            of_cohort.setdefault((entry["by"], entry["group"]), {})[entry["arm"]] = entry
    smallest = metrics.get("smallest_group", 20)
    found = {place: _ordered(groups) for place, groups in found.items()}
    return [_view(metrics, place, groups, arms, level, metric, smallest, kinds) for place, groups in found.items()]


def _ordered(groups: _ByGroup) -> _ByGroup:
    """Kinds in the order of the study; in each the youngest first and what is not known last."""
    kinds = list(dict.fromkeys(by for by, _ in groups))

    def place(key: tuple[str, str]) -> tuple[int, bool, bool, str]:
        by, group = key
        return kinds.index(by), group == "unknown", not group.startswith("<"), group

    return {key: groups[key] for key in sorted(groups, key=place)}


def _view(
    metrics: Mapping[str, Any],
    place: tuple[Any, Any],
    groups: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]],
    arms: Sequence[str],
    level: str,
    metric: str,
    smallest: int,
    kinds: Mapping[str, str] | None,
) -> Groups:
    cohort, part = place
    whole = {arm: find_whole(metrics, arm, cohort, part, level) for arm in arms}
    everyone = {arm: cell for arm, cell in whole.items() if cell is not None}
    rows = list(_forest_rows(everyone, groups, metric, smallest))
    title = str(cohort or "all images")
    note = kind_of({"cohort": cohort, "part": part}, kinds)
    limits, shown = _limits(rows), f"{METRICS[metric]}, {level} level"
    pictures = tuple(
        Picture(
            data_uri(forest_figure(page, arms, shown, limits=limits), "svg"),
            "",
            f"{METRICS[metric]} by group at {level} level, with 95% intervals over patients. Dotted lines: everyone.",
            f"{METRICS[metric]} of {', '.join(arms)} at {title} by group; the table below holds the numbers.",
        )
        for page in forest_pages(rows, len(arms))
    )
    return Groups(title, note, pictures, _grid(groups, arms, smallest))


def _limits(rows: Sequence[ForestRow]) -> tuple[float, float] | None:
    """One axis for all pieces of a plot; None where there is nothing on it."""
    ends = [end for row in rows for triple in row.values.values() for end in triple if end is not None]
    if not ends:
        return None
    space = 0.03 * (max(ends) - min(ends)) or 0.01
    return min(ends) - space, max(ends) + space


def _forest_rows(
    everyone: Mapping[str, Mapping[str, Any]],
    groups: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]],
    metric: str,
    smallest: int,
) -> Iterator[ForestRow]:
    if everyone:
        most = max(cell["n_patients"] for cell in everyone.values())
        values = {arm: _triple(cell["metrics"][metric]) for arm, cell in everyone.items()}
        yield ForestRow("Everyone", number_of(most, "patient"), values, overall=True)
    before = None
    for (by, group), entries in groups.items():
        if by != before:
            yield ForestRow(heading(by), heading=True)
            before = by
        shown = {arm: entry for arm, entry in entries.items() if not entry["suppressed"]}
        values = {arm: _triple(entry["metrics"][metric]) for arm, entry in shown.items()}
        yield ForestRow(_clipped(group), _patients(entries, smallest), values)


def _clipped(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _patients(entries: Mapping[str, Mapping[str, Any]], smallest: int) -> str:
    counts = [entry["n_patients"] for entry in entries.values() if not entry["suppressed"]]
    return number_of(max(counts), "patient") if counts else f"fewer than {smallest} patients"


def _grid(
    groups: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]], arms: Sequence[str], smallest: int
) -> Grid:
    rows: list[tuple[str, ...]] = []
    before = None
    for (by, group), entries in groups.items():
        if by != before:
            rows.append((heading(by),))
            before = by
        for arm in (arm for arm in arms if arm in entries):
            entry = entries[arm]
            if entry["suppressed"]:
                rows.append((group, arm, f"fewer than {smallest}", *["not shown"] * len(_BESIDE)))
            else:
                figures = (estimate_text(entry["metrics"].get(name)) for name in _BESIDE)
                rows.append((group, arm, f"{entry['n_patients']:,}", *figures))
    head = ("Group", "Arm", "Patients", *(METRICS[name] for name in _BESIDE))
    return Grid(head, tuple(rows), figures_from=2)


def worst_grid(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    arms: Sequence[str],
    kinds: Mapping[str, str] | None = None,
) -> Grid:
    """Worst and best group of every kind, and their gap."""
    level, metric = group_level(metrics, primary), group_metric(metrics, primary)
    entries = [
        entry
        for entry in metrics.get("worst", [])
        if (entry["level"], entry["metric"]) == (level, metric) and entry["arm"] in arms
    ]
    rows: list[tuple[str, ...]] = []
    for cohort, part in dict.fromkeys((entry["cohort"], entry["part"]) for entry in entries):
        kind = kind_of({"cohort": cohort, "part": part}, kinds)
        rows.append((f"{cohort or 'all images'}{f' ({kind})' if kind else ''}",))
        rows += [
            (
                heading(entry["by"]),
                entry["arm"],
                f"{tied(entry['worst_groups'])} {number(entry['value'])}",
                f"{tied(entry['best_groups'])} {number(entry['best_value'])}",
                number(entry["gap"]["value"]),
                interval_text(entry["gap"]) or "–",
            )
            for entry in entries
            if (entry["cohort"], entry["part"]) == (cohort, part)
        ]
    return Grid(
        ("Groups by", "Arm", "Worst", "Best", "Gap", "95% interval"),
        tuple(rows),
        title=f"Worst and best group, {metric_name(metric)}, {level} level",
        note=(
            "A gap is the best minus the worst of several groups, so it is above zero by chance alone, the more the "
            "smaller the groups, and its interval never reaches below zero."
        ),
        figures_from=4,
    )


def _triple(estimate: Mapping[str, Any]) -> Triple:
    return estimate["value"], estimate["low"], estimate["high"]
