"""The figures of a report, drawn from the content of `metrics.json`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.evaluation.evaluate import ALL
from densityclip.evaluation.figures import Dot, confusion_figure, dot_figure, reliability_figure, roc_figure
from densityclip.records import number_of
from densityclip.report.render import data_uri
from densityclip.report.tables import MAIN_METRICS, TestSet


@dataclass(frozen=True)
class Picture:
    """One figure on a page.

    Attributes:
        source: Data URI.
        title: Short title above it.
        caption: What it shows, with n.
        alternative: The figure in words, for those who cannot see it.
    """

    source: str
    title: str
    caption: str
    alternative: str


@dataclass(frozen=True)
class PictureGroup:
    """Pictures of one test site."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


def dot_picture(sets: Sequence[TestSet], arms: Sequence[str]) -> Picture:
    """The matrix of whole cohorts as dots with intervals."""
    dots = []
    for one in sets:
        for row in one.rows if one.whole else ():
            cell = row.any_cell
            modality = "all modalities" if row.place["modality"] == ALL else row.place["modality"]
            name = f"{one.title} · {modality}\n{_counted(cell)}"
            for arm, mine in row.cells.items():
                values = {key: _triple(mine["metrics"][key]) for key in MAIN_METRICS}
                dots.append(Dot(name, arm, values))
    level = sets[0].rows[0].place["level"] if sets else "image"
    return Picture(
        data_uri(dot_figure(dots, arms, MAIN_METRICS), "svg"),
        "",
        f"Dots are figures at {level} level, bars their 95% intervals (bootstrap over patients).",
        "Macro AUC, accuracy and quadratic kappa of each arm on each cohort and modality; the table holds the numbers.",
    )


def confusion_pictures(sets: Sequence[TestSet]) -> list[PictureGroup]:
    """A confusion matrix per arm, modality and cohort."""
    return _groups(sets, _confusion_picture)


def roc_pictures(sets: Sequence[TestSet]) -> list[PictureGroup]:
    """ROC curves per arm, modality and cohort."""
    return _groups(sets, _roc_picture)


def reliability_pictures(sets: Sequence[TestSet]) -> list[PictureGroup]:
    """Reliability curves per arm and cohort, over all modalities or the only one, in one group."""
    pictures = []
    for one in sets:
        rows = [row for row in one.rows if row.place["modality"] == ALL] or list(one.rows[:1])
        for row in rows if one.whole else ():
            pictures += [_reliability_picture(arm, cell, one) for arm, cell in row.cells.items()]
    return [PictureGroup("", "", tuple(pictures))] if pictures else []


def _groups(sets: Sequence[TestSet], draw: Callable[[str, Mapping[str, Any]], Picture]) -> list[PictureGroup]:
    groups = []
    for one in sets:
        rows = [row for row in one.rows if one.whole and row.place["modality"] != ALL]
        pictures = tuple(draw(arm, cell) for row in rows for arm, cell in row.cells.items())
        if pictures:
            groups.append(PictureGroup(one.title, one.note, pictures))
    return groups


def _confusion_picture(arm: str, cell: Mapping[str, Any]) -> Picture:
    lines = (
        f"label {letter}: " + ", ".join(f"{count} as {other}" for other, count in zip(CATEGORIES, counts, strict=True))
        for letter, counts in zip(CATEGORIES, cell["confusion"], strict=True)
    )
    return Picture(
        data_uri(confusion_figure(cell["confusion"]), "svg"),
        f"{arm} on {cell['modality']}",
        _counted(cell),
        f"Confusion matrix of {arm} on {cell['modality']}; " + "; ".join(lines),
    )


def _roc_picture(arm: str, cell: Mapping[str, Any]) -> Picture:
    areas = {letter: cell["metrics"][f"auc_{letter.lower()}"]["value"] for letter in CATEGORIES}
    said = ", ".join(f"{k} {v:.2f}" if v is not None else f"{k} not estimable" for k, v in areas.items())
    return Picture(
        data_uri(roc_figure(cell["roc"], areas), "svg"),
        f"{arm} on {cell['modality']}",
        _counted(cell),
        f"ROC curves of {arm} on {cell['modality']}; AUC {said}",
    )


def _reliability_picture(arm: str, cell: Mapping[str, Any], of: TestSet) -> Picture:
    error = cell["metrics"]["ece"]["value"]
    said = f"expected calibration error {error:.2f}" if error is not None else "calibration error not estimable"
    modality = "all modalities" if cell["modality"] == ALL else cell["modality"]
    place = f"{of.note}, {modality}" if of.note else modality
    return Picture(
        data_uri(reliability_figure(cell.get("reliability", {})), "svg"),
        f"{arm} on {of.title}",
        f"{place}: {_counted(cell)}; {said}",
        f"Reliability of {arm} on {of.title}, {place}; {said}",
    )


def _counted(cell: Mapping[str, Any]) -> str:
    return f"{number_of(cell['n'], cell['level'])}, {number_of(cell['n_patients'], 'patient')}"


def _triple(estimate: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    return estimate["value"], estimate["low"], estimate["high"]
