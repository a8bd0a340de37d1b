"""The figures of a report, drawn from the content of `metrics.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.evaluation.evaluate import ALL
from densityclip.evaluation.figures import Dot, confusion_figure, dot_figure, roc_figure
from densityclip.report.render import data_uri
from densityclip.report.tables import MAIN_METRICS, Row, site_note, site_title


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


def dot_picture(rows: Sequence[Row], arms: Sequence[str]) -> Picture:
    """The whole matrix as dots with intervals."""
    dots = []
    for row in rows:
        cell = row.any_cell
        name = (
            f"{site_title(row.place)} · {row.place['modality']}\n{cell['n']:,} images, {cell['n_patients']:,} patients"
        )
        for arm, mine in row.cells.items():
            values = {key: _triple(mine["metrics"][key]) for key in MAIN_METRICS}
            dots.append(Dot(name, arm, values))
    level = rows[0].place["level"] if rows else "image"
    return Picture(
        data_uri(dot_figure(dots, arms, MAIN_METRICS), "svg"),
        "",
        f"Dots are figures at {level} level, bars their 95% intervals (bootstrap over patients).",
        "Macro AUC, accuracy and quadratic kappa of each arm at each site and modality; the table holds the numbers.",
    )


def confusion_pictures(rows: Sequence[Row]) -> list[PictureGroup]:
    """A confusion matrix per arm, modality and site."""
    return _groups(rows, _confusion_picture)


def roc_pictures(rows: Sequence[Row]) -> list[PictureGroup]:
    """ROC curves per arm, modality and site."""
    return _groups(rows, _roc_picture)


def _groups(rows: Sequence[Row], draw: Any) -> list[PictureGroup]:
    groups: dict[tuple[str, str], list[Picture]] = {}
    for row in rows:
        if row.place["modality"] == ALL:
            continue
        key = (site_title(row.place), site_note(row.place))
        groups.setdefault(key, []).extend(draw(arm, cell) for arm, cell in row.cells.items())
    return [PictureGroup(title, note, tuple(pictures)) for (title, note), pictures in groups.items()]


def _confusion_picture(arm: str, cell: Mapping[str, Any]) -> Picture:
    lines = (
        f"label {letter}: " + ", ".join(f"{count} as {other}" for other, count in zip(CATEGORIES, counts, strict=True))
        for letter, counts in zip(CATEGORIES, cell["confusion"], strict=True)
    )
    return Picture(
        data_uri(confusion_figure(cell["confusion"]), "svg"),
        f"{arm} on {cell['modality']}",
        f"{cell['n']:,} {cell['level']}s, {cell['n_patients']:,} patients",
        f"Confusion matrix of {arm} on {cell['modality']}; " + "; ".join(lines),
    )


def _roc_picture(arm: str, cell: Mapping[str, Any]) -> Picture:
    areas = {letter: cell["metrics"][f"auc_{letter.lower()}"]["value"] for letter in CATEGORIES}
    said = ", ".join(f"{k} {v:.2f}" if v is not None else f"{k} not estimable" for k, v in areas.items())
    return Picture(
        data_uri(roc_figure(cell["roc"], areas), "svg"),
        f"{arm} on {cell['modality']}",
        f"{cell['n']:,} {cell['level']}s, {cell['n_patients']:,} patients",
        f"ROC curves of {arm} on {cell['modality']}; AUC {said}",
    )


def _triple(estimate: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    return estimate["value"], estimate["low"], estimate["high"]
