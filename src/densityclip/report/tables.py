"""The content of `metrics.json` as rows that a table can show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.evaluation.evaluate import ALL
from densityclip.evaluation.metrics import METRICS

MAIN_METRICS: tuple[str, ...] = ("macro_auc", "accuracy", "quadratic_kappa")
FURTHER_METRICS: tuple[str, ...] = tuple(name for name in METRICS if name not in MAIN_METRICS)
NOT_ESTIMABLE = "not estimable"
_PLACE = ("cohort", "part", "site", "modality", "level")


def number(value: float | None, *, signed: bool = False, decimals: int | None = None) -> str:
    """A figure with a true minus sign; `not estimable` for None.

    Args:
        value: The figure.
        signed: For differences: a sign always, and three decimals, for a small difference rounded to two would show an
            interval that begins at 0.00 and not say on which side.
        decimals: Other than two, or three where signed.
    """
    if value is None:
        return NOT_ESTIMABLE
    decimals = decimals or (3 if signed else 2)
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    return (text.lstrip("+-") if not text.strip("+-0.") else text).replace("-", "−")


def interval_text(estimate: Mapping[str, Any], *, signed: bool = False, decimals: int | None = None) -> str:
    """The interval of an estimate, such as `0.71 to 0.84`; empty where there is none."""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None:
        return ""
    return f"{number(low, signed=signed, decimals=decimals)} to {number(high, signed=signed, decimals=decimals)}"


def estimate_text(estimate: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """An estimate in one piece, such as `0.78 (0.71 to 0.84)`."""
    if estimate is None or estimate.get("value") is None:
        return NOT_ESTIMABLE
    span = interval_text(estimate, signed=signed)
    return number(estimate["value"], signed=signed) + (f" ({span})" if span else "")


def find_cell(metrics: Mapping[str, Any], arm: str, **place: str | None) -> dict[str, Any] | None:
    """The cell of an arm at a place; without `site` the one over all sites of the cohort."""
    return _find([cell for cell in metrics["cells"] if cell["arm"] == arm], place)


def find_difference(metrics: Mapping[str, Any], contrast: Sequence[str], **place: str | None) -> dict[str, Any] | None:
    """The difference `contrast[0]` minus `contrast[1]` at a place, whichever way round it is stored."""
    pairs = [entry for entry in metrics["differences"] if set(entry["arms"]) == set(contrast)]
    found = _find(pairs, place)
    if found is None or found["arms"] == list(contrast):
        return found
    return found | {"arms": list(contrast), "metrics": {k: _turned(v) for k, v in found["metrics"].items()}}


def _find(entries: list[dict[str, Any]], place: Mapping[str, str | None]) -> dict[str, Any] | None:
    fitting = [entry for entry in entries if all(entry[key] == value for key, value in place.items())]
    if "site" not in place and len(fitting) > 1:
        fitting = [entry for entry in fitting if entry["site"] == ALL]
    return fitting[0] if fitting else None


def _turned(estimate: Mapping[str, Any]) -> dict[str, Any]:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    turned = {"value": minus(estimate["value"]), "low": minus(estimate["high"]), "high": minus(estimate["low"])}
    return dict(estimate) | turned


def arms_of(metrics: Mapping[str, Any], preferred: Sequence[str] = ()) -> list[str]:
    """Arms in the preferred order, others behind it in the order of the cells."""
    present = list(dict.fromkeys(cell["arm"] for cell in metrics["cells"]))
    return [arm for arm in preferred if arm in present] + [arm for arm in present if arm not in preferred]


def result_table(
    metrics: Mapping[str, Any], *, level: str = "image", metric_names: Sequence[str] = MAIN_METRICS
) -> list[dict[str, Any]]:
    """One row per arm and test set, figures as text, for a terminal.

    Args:
        metrics: Content of `metrics.json`.
        level: `image`, `breast` or `exam`.
        metric_names: Keys of `METRICS`.

    Returns:
        Rows with `arm cohort part site modality n n_patients` and one text per metric, such as `0.78 (0.71 to 0.84)`.
    """
    return [
        {key: cell[key] for key in ("arm", "cohort", "part", "site", "modality", "n", "n_patients")}
        | {name: estimate_text(cell["metrics"].get(name)) for name in metric_names}
        for cell in metrics["cells"]
        if cell["level"] == level
    ]


@dataclass(frozen=True)
class Row:
    """One test set in the matrix.

    Attributes:
        place: `cohort part site modality level`.
        first_of_site: Whether a new site begins here.
        rows_of_site: Table lines that the site spans.
        cells: Arm to its cell, in the order of arms.
        differences: (label, difference) of the pairs shown.
    """

    place: dict[str, Any]
    first_of_site: bool
    rows_of_site: int
    cells: dict[str, dict[str, Any]]
    differences: tuple[tuple[str, dict[str, Any]], ...]

    @property
    def lines(self) -> int:
        """Table lines that the test set spans."""
        return len(self.cells) + len(self.differences)

    @property
    def any_cell(self) -> dict[str, Any]:
        """A cell to read counts from: the largest, should arms have refused different images."""
        return max(self.cells.values(), key=lambda cell: cell["n"])


def matrix(metrics: Mapping[str, Any], arms: Sequence[str], contrast: Sequence[str], level: str) -> list[Row]:
    """The matrix of arm x test modality x site at one level, differences below each test set.

    Args:
        metrics: Content of `metrics.json`.
        arms: In the order in which they are shown.
        contrast: Two arms; the difference shown is the first minus the second.
        level: `image`, `breast` or `exam`.
    """
    places: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for cell in metrics["cells"]:
        if cell["level"] == level:
            places.setdefault(tuple(cell[key] for key in _PLACE), {})[cell["arm"]] = cell
    rows: list[Row] = []
    for key, cells in places.items():
        place = dict(zip(_PLACE, key, strict=True))
        difference = find_difference(metrics, contrast, **place) if len(contrast) == 2 else None
        shown = ((f"{contrast[0]} − {contrast[1]}", difference),) if difference else ()
        ordered = {arm: cells[arm] for arm in arms if arm in cells}
        rows.append(Row(place, False, 0, ordered, shown))
    return _with_spans(rows)


def _with_spans(rows: list[Row]) -> list[Row]:
    def site(row: Row) -> tuple[Any, ...]:
        return row.place["cohort"], row.place["part"], row.place["site"]

    spanned = []
    for k, row in enumerate(rows):
        first = k == 0 or site(rows[k - 1]) != site(row)
        lines = sum(other.lines for other in rows if site(other) == site(row))
        spanned.append(Row(row.place, first, lines, row.cells, row.differences))
    return spanned


def site_title(place: Mapping[str, Any]) -> str:
    """What a test set is called: the site, or the cohort where it spans several."""
    if place["site"] in (ALL, "unknown"):
        return f"{place['cohort'] or 'all images'}" + (", all sites" if place["site"] == ALL else "")
    return str(place["site"])


def site_note(place: Mapping[str, Any]) -> str:
    """What kind of test set it is: cohort and part, as far as they say more than the title."""
    part = {"test": "internal test", "external": "external"}.get(place["part"] or "", "")
    cohort = place["cohort"] if place["cohort"] and place["cohort"] != site_title(place) else ""
    return ", ".join(word for word in (cohort, part) if word)
