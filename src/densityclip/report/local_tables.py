"""Local adaptation: secondary, and named so. What a site could gain with a few labelled exams, or with none."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.evaluation.metrics import METRICS
from densityclip.records import number_of
from densityclip.report.probability_tables import set_title
from densityclip.report.tables import NOT_ESTIMABLE, Grid, number

_SHOWN = ("accuracy", "quadratic_kappa", "mean_absolute_error", "ece", "brier")


def local_grids(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, str] | None = None) -> list[Grid]:
    """Recalibration over k labelled exams, and the shares of the categories estimated without labels.

    Args:
        entries: `local` of `metrics.json`: an entry a cohort, with `curve` and `prior_shift`.
        kinds: What each cohort is headed.
    """
    grids = [_curves(entries, kinds), _prior_shifts(entries, kinds)]
    return [grid for grid in grids if grid.rows]


def _title(entry: Mapping[str, Any], kinds: Mapping[str, str] | None) -> str:
    cohort = set_title(entry["cohort"], "external", kinds)
    counted = f"{number_of(entry['n'], entry['level'])} of {number_of(entry['n_patients'], 'patient')}"
    return f"{entry['arm']} on {cohort}: {counted}"


def _curves(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, str] | None) -> Grid:
    rows: list[tuple[str, ...]] = []
    for entry in (entry for entry in entries if entry["curve"]):
        rows.append((_title(entry, kinds),))
        for one in entry["curve"]:
            figures = (_change(one["before"].get(name), one["after"].get(name)) for name in _SHOWN)
            rows.append((f"{one['k']:,}", f"{one['draws']:,}", f"{one['n_patients']:,}", *figures))
    return Grid(
        ("Labelled exams", "Draws", "Patients scored", *(METRICS[name] for name in _SHOWN)),
        tuple(rows),
        title="Recalibrated on k labelled exams of the site",
        note=(
            "As it is → recalibrated, means over the draws; below, the lowest and highest of the draws after it, "
            "which is no interval. The exams used are drawn by patient and not scored."
        ),
        figures_from=1,
    )


def _change(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> str:
    if before is None or after is None:
        return NOT_ESTIMABLE
    span = f"{number(after['lowest'])} to {number(after['highest'])}"
    return f"{number(before['value'])} → {number(after['value'])}\n{span}"


def _prior_shifts(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, str] | None) -> Grid:
    rows: list[tuple[str, ...]] = []
    for entry in (entry for entry in entries if entry["prior_shift"]):
        shift = entry["prior_shift"]
        rows.append((_title(entry, kinds),))
        for name, words in (("prior", "made for"), ("estimated", "estimated without labels"), ("labelled", "labels")):
            rows.append((f"shares {words}", *(f"{100 * shift[name][letter]:.0f}%" for letter in CATEGORIES)))
        for name in _SHOWN:
            before, after = shift["before"].get(name), shift["after"].get(name)
            rows.append((METRICS[name], f"{number(before)} → {number(after)}", "", "", ""))
    said = next((str(entry["prior_shift"]["assumption"]) for entry in entries if entry["prior_shift"]), "")
    return Grid(
        ("", *CATEGORIES),
        tuple(rows),
        title="Shares of the categories estimated without labels",
        note=f"{said[:1].upper()}{said[1:]}. As it is → adapted, without intervals." if said else "",
        figures_from=1,
    )
