"""This study's figures beside the published ones, and what of them can be compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.report.published import PUBLISHED, Published
from densityclip.report.tables import (
    NOT_ESTIMABLE,
    Grid,
    estimate_text,
    find_cell,
    kind_of,
    number,
)

_SHOWN_LEVELS = ("image", "exam")
_LEVEL_WORDS = {
    "image": "Level: images, to be held against our image rows.",
    "exam": "Level: exams, to be held against our exam rows, not the image rows.",
    "reader": "People, not a model: how far two readings agree.",
    "unknown": "Level: not stated in our source, so neither of our rows is known to be its like.",
}


def beside_published(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    *,
    kinds: Mapping[str, str] | None = None,
    generated: Sequence[str] = (),
) -> Grid:
    """The one table of the headline.

    Args:
        metrics: Content of `metrics.json`.
        primary: Its first arm is shown on every whole cohort, its second where the primary question was asked.
        kinds: What each cohort is headed.
        generated: Cohorts whose exams were generated.
    """
    rows: list[tuple[str, ...]] = [("This study",)]
    rows += _ours(metrics, primary, kinds, generated)
    rows.append(("Published, on other patients",))
    rows += [_published(item, bool(generated)) for item in PUBLISHED]
    return Grid(
        ("Work", "Scored on", "Accuracy", "AUC", "Kappa", "What compares, and what does not"),
        tuple(rows),
        figures_from=6,
    )


def _ours(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    kinds: Mapping[str, str] | None,
    generated: Sequence[str],
) -> list[tuple[str, ...]]:
    first, second = primary["contrast"]
    sets = list(dict.fromkeys((cell["cohort"], cell["part"]) for cell in metrics["cells"] if cell["arm"] == first))
    # The cohort of the primary question first: the table is read from the top.
    sets.sort(key=lambda place: place[0] != primary["cohort"])
    rows = []
    for cohort, part in sets:
        for arm in (first, second) if cohort == primary["cohort"] else (first,):
            for level in _SHOWN_LEVELS:
                cell = find_whole(metrics, arm, cohort, part, level)
                if cell is not None:
                    rows.append(_our_row(arm, cell, kinds, cohort in generated))
    return rows


def find_whole(
    metrics: Mapping[str, Any], arm: str, cohort: str | None, part: str | None, level: str
) -> dict[str, Any] | None:
    """The cell over a whole cohort: all modalities, or the only one."""
    modalities = {
        cell["modality"]
        for cell in metrics["cells"]
        if (cell["arm"], cell["cohort"], cell["part"], cell["level"]) == (arm, cohort, part, level)
    }
    if not modalities:
        return None
    modality = "all" if "all" in modalities else next(iter(modalities))
    return find_cell(metrics, arm, cohort=cohort, part=part, modality=modality, level=level)


def _our_row(arm: str, cell: Mapping[str, Any], kinds: Mapping[str, str] | None, generated: bool) -> tuple[str, ...]:
    figures = cell["metrics"]
    areas = [figures[f"auc_{letter.lower()}"]["value"] for letter in CATEGORIES]
    known = [value for value in areas if value is not None]
    kind = kind_of(cell, kinds)
    return (
        f"{arm} on {cell['cohort'] or 'all images'}{f' ({kind})' if kind else ''}, by {cell['level']}",
        f"{cell['n']:,} {cell['level']}s of {cell['n_patients']:,} patients"
        f"{', generated' if generated else ''}; {class_mix(cell['label_counts'])}",
        estimate_text(figures["accuracy"]),
        f"macro {estimate_text(figures['macro_auc'])}; categories "
        + (f"{number(min(known))} to {number(max(known))}" if known else NOT_ESTIMABLE),
        f"linear {estimate_text(figures['linear_kappa'])}",
        "95% intervals over patients" + ("; generated exams: says nothing about patients." if generated else "."),
    )


def class_mix(counts: Mapping[str, int]) -> str:
    """Share of each category, such as `A 10%, B 40%, C 40%, D 10%`."""
    total = sum(counts.values())
    if not total:
        return "no labels"
    return ", ".join(f"{letter} {100 * counts.get(letter, 0) / total:.0f}%" for letter in CATEGORIES)


def _published(item: Published, generated: bool) -> tuple[str, ...]:
    said = _LEVEL_WORDS[item.level]
    if item.level == "reader":
        said += " Other patients and another class mix."
    else:
        said += " Not: cohort, class mix, readers, which accuracy, AUC and kappa depend on; no intervals here."
    if generated:
        said += " Not: the exams, ours are generated."
    return (item.work, item.data, item.accuracy or "–", item.auc or "–", item.kappa or "–", said)
