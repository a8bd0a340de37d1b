"""The content of `metrics.json` as rows that a table can show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.evaluation.evaluate import ALL
from densityclip.records import number_of

MAIN_METRICS: tuple[str, ...] = ("macro_auc", "accuracy", "quadratic_kappa")
NOT_ESTIMABLE = "not estimable"
LEVELS: tuple[str, ...] = ("image", "breast", "exam", "patient")
# By what they are about, few enough beside each other for a page; together with the main ones, all of METRICS.
FURTHER_METRICS: dict[str, tuple[str, ...]] = {
    "Agreement and errors": ("linear_kappa", "balanced_accuracy", "macro_f1", "mean_absolute_error", "two_or_more_off"),
    "Ranking, by category": ("auc_a", "auc_b", "auc_c", "auc_d", "dense_auc"),
    "Precision by category": ("precision_a", "precision_b", "precision_c", "precision_d", "dense_sensitivity"),
    "Recall by category": ("recall_a", "recall_b", "recall_c", "recall_d", "dense_specificity"),
    "Average precision": ("auprc_a", "auprc_b", "auprc_c", "auprc_d", "macro_auprc", "dense_auprc"),
    "Probabilities": ("ece", "brier"),
}
# The least that is written as a figure; below it stands the bound.
_LEAST_P = 0.001
PLACE = ("cohort", "part", "site", "modality", "level")


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


def p_text(p: float | None, resamples: int | None = None) -> str:
    """A p-value: three decimals, or the bound where it is as small as the resamples can show.

    Args:
        p: In (0, 1], or None.
        resamples: Of the bootstrap that it comes from: its smallest two-sided value is 2 / (resamples + 1).
    """
    if p is None:
        return NOT_ESTIMABLE
    if p < _LEAST_P:
        return "p < 0.001"
    least = resamples is not None and p <= 2.0 / (resamples + 1)
    return f"p {'≤' if least else '='} {p:.3f}"


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
class Grid:
    """A plain table of texts.

    Attributes:
        head: Column titles.
        rows: As long as the head; a row of one text is a heading across the table.
        title: Above it, empty for none.
        note: Below it.
        figures_from: First column that is right-aligned.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""
    figures_from: int = 1

    def __post_init__(self) -> None:
        if any(len(row) not in (1, len(self.head)) for row in self.rows):
            raise ValueError("a row has another length than the head")


@dataclass(frozen=True)
class Row:
    """One modality of a test set.

    Attributes:
        place: `cohort part site modality level`.
        arms: Arm to its cell, in the order of arms.
        baselines: Likewise of the baselines.
        differences: (label, difference) of the pairs shown.
    """

    place: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    differences: tuple[tuple[str, dict[str, Any]], ...]

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        """Arms and baselines."""
        return self.arms | self.baselines

    @property
    def any_cell(self) -> dict[str, Any]:
        """A cell to read counts from: the largest, should arms have refused different images."""
        return max(self.cells.values(), key=lambda cell: cell["n"])

    @property
    def title(self) -> str:
        """What the modality is called, with the number of units and patients."""
        modality = "All modalities together" if self.place["modality"] == ALL else self.place["modality"]
        cell = self.any_cell
        said = f"{modality}: {number_of(cell['n'], self.place['level'])} of {number_of(cell['n_patients'], 'patient')}"
        conflicting = cell.get("n_conflicting", 0)
        return said + (f"; {conflicting:,} with labels that disagree are left out" if conflicting else "")


@dataclass(frozen=True)
class TestSet:
    """One test set: a cohort, or a site of it.

    Attributes:
        title: What it is called.
        note: What kind of test set it is.
        whole: Whether it is the whole cohort.
        rows: Its modalities.
    """

    title: str
    note: str
    whole: bool
    rows: tuple[Row, ...]


def matrix(
    metrics: Mapping[str, Any],
    arms: Sequence[str],
    contrasts: Sequence[Sequence[str]],
    level: str,
    *,
    baselines: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
) -> list[TestSet]:
    """The matrix of arm x test modality x site at one level, differences below each modality.

    Args:
        metrics: Content of `metrics.json`.
        arms: In the order in which they are shown, baselines among them or not.
        contrasts: Pairs of arms; the difference shown is the first minus the second.
        level: `image`, `breast`, `exam` or `patient`.
        baselines: Which of the arms stand in their own block.
        kinds: What each cohort is headed.
    """
    places: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for cell in metrics["cells"]:
        if cell["level"] == level and cell["arm"] in arms:
            places.setdefault(tuple(cell[key] for key in PLACE), {})[cell["arm"]] = cell
    sets: dict[tuple[Any, ...], list[Row]] = {}
    for key, cells in places.items():
        place = dict(zip(PLACE, key, strict=True))
        found = ((f"{a} − {b}", find_difference(metrics, (a, b), **place)) for a, b in contrasts)
        row = Row(
            place,
            {arm: cells[arm] for arm in arms if arm in cells and arm not in baselines},
            {arm: cells[arm] for arm in arms if arm in cells and arm in baselines},
            tuple((label, difference) for label, difference in found if difference),
        )
        sets.setdefault(key[:3], []).append(row)
    several = {key[:2] for key in sets if key[2] == ALL}
    return [
        TestSet(
            site_title(rows[0].place),
            site_note(rows[0].place, kinds),
            rows[0].place["site"] == ALL or key[:2] not in several,
            tuple(rows),
        )
        for key, rows in sets.items()
    ]


def site_title(place: Mapping[str, Any]) -> str:
    """What a test set is called: the site, or the cohort where it spans several."""
    if place.get("site", ALL) in (ALL, "unknown"):
        return f"{place['cohort'] or 'all images'}" + (", all sites" if place.get("site") == ALL else "")
    return str(place["site"])


def kind_of(place: Mapping[str, Any], kinds: Mapping[str, str] | None = None) -> str:
    """What a cohort is headed.

    Only a study knows whether a cohort is of an institution that was trained on; where nobody said, the name of the
    part stands there and no more.
    """
    if kinds and place["cohort"] in kinds:
        return str(kinds[place["cohort"]])
    return f"part {place['part']}" if place["part"] else ""


def site_note(place: Mapping[str, Any], kinds: Mapping[str, str] | None = None) -> str:
    """What kind of test set it is: cohort and kind, as far as they say more than the title."""
    cohort = place["cohort"] if place["cohort"] and not site_title(place).startswith(place["cohort"]) else ""
    return ", ".join(word for word in (cohort, kind_of(place, kinds)) if word)
