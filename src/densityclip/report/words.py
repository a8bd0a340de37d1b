"""The answer in words: what was compared, what came out, and how far it reaches. Never more than the interval says."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.records import number_of
from densityclip.report.tables import (
    LEVELS,
    arms_of,
    estimate_text,
    find_cell,
    find_difference,
    interval_text,
    number,
    site_note,
    site_title,
)
from densityclip.report.verdict import endpoint_of, family_words, metric_name, verdict, worst_words


def answer(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    trained: Mapping[str, Sequence[str]] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> list[str]:
    """Paragraphs that answer the study's primary question, the verdict first.

    Args:
        metrics: Content of `metrics.json`.
        primary: `metric level modality cohort part contrast`, chosen before the results were seen; `kind`, `margin`.
        trained: By arm, the modalities it was trained on: where they differ, the comparison is not of like with like.
        kinds: What each cohort is headed.
    """
    place = {key: primary.get(key) for key in ("cohort", "part", "modality", "level")}
    cells = [find_cell(metrics, arm, **place) for arm in primary["contrast"]]
    said = verdict(metrics, primary)
    if cells[0] is None or cells[1] is None:
        return [said]
    paragraphs = [
        said,
        _reached(cells[0], cells[1], primary, kinds),
        *_unlike(metrics, primary, place, trained or {}),
        *_other_levels(metrics, primary, place),
        family_words(metrics, primary),
        worst_words(_worst_of(metrics, primary), primary["contrast"][0], _test_sets(metrics, primary), kinds)
        if metrics.get("groups")
        else "",
        _reach(metrics, primary, cells[0]),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def _worst_of(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gaps of the first arm at every cohort, in the primary metric, or in accuracy where groups lack it."""
    entries = [entry for entry in metrics.get("worst", []) if entry["arm"] == primary["contrast"][0]]
    entries = [entry for entry in entries if entry["level"] == primary["level"]] or entries
    return [entry for entry in entries if entry["metric"] == primary["metric"]] or [
        entry for entry in entries if entry["metric"] == "accuracy"
    ]


def _test_sets(metrics: Mapping[str, Any], primary: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Cohort and part of every test set of the first arm."""
    mine = (cell for cell in metrics["cells"] if cell["arm"] == primary["contrast"][0])
    return list(dict.fromkeys((cell["cohort"], cell["part"]) for cell in mine))


def _other_levels(metrics: Mapping[str, Any], primary: Mapping[str, Any], place: Mapping[str, Any]) -> list[str]:
    """The same difference where images are joined to breasts and exams: an answer should survive that, or say so."""
    said = []
    for level in (name for name in LEVELS if name != place["level"]):
        found = find_difference(metrics, primary["contrast"], **{**place, "level": level})
        if found is not None and found["metrics"] and found["metrics"][primary["metric"]]["value"] is not None:
            estimate = found["metrics"][primary["metric"]]
            said.append(f"{number(estimate['value'], signed=True)} ({interval_text(estimate, signed=True)}) by {level}")
    listed = ", ".join(said[:-1]) + (" and " if said[:-1] else "") + said[-1] if said else ""
    return [f"At other levels the same difference is {listed}."] if said else []


def _unlike(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    place: Mapping[str, Any],
    trained: Mapping[str, Sequence[str]],
) -> list[str]:
    """Where an arm never saw a kind of image that it is tested on: say so, and show the kinds that both saw."""
    first, second = primary["contrast"]
    tested = [
        cell["modality"]
        for cell in metrics["cells"]
        if cell["arm"] == first and all(cell[key] == place[key] for key in ("cohort", "part", "level"))
    ]
    tested = [name for name in dict.fromkeys(tested) if name not in ("all", "unknown")]
    if place["modality"] != "all" or first not in trained or second not in trained:
        return []
    strange = {arm: [name for name in tested if name not in trained[arm]] for arm in (first, second)}
    if not any(strange.values()):
        return []
    said = [f"{arm} was never trained on {' or '.join(names)}" for arm, names in strange.items() if names]
    shared = []
    for name in (name for name in tested if name in trained[first] and name in trained[second]):
        found = find_difference(metrics, primary["contrast"], **{**place, "modality": name})
        if found is not None and found["metrics"] and found["metrics"][primary["metric"]]["value"] is not None:
            estimate = found["metrics"][primary["metric"]]
            shared.append(
                f"On {name} alone, which both were trained on, the difference is "
                f"{number(estimate['value'], signed=True)} ({interval_text(estimate, signed=True)})."
            )
    return [f"Read it with care: {'; '.join(said)}, and these images are part of this test. {' '.join(shared)}".strip()]


def _reached(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    primary: Mapping[str, Any],
    kinds: Mapping[str, str] | None,
) -> str:
    name = primary["metric"]
    whole = "" if first["modality"] == "all" else f"{first['modality']} "
    note = site_note(first, kinds)
    return (
        f"On the {first['n']:,} {whole}{_plural(first['level'], first['n'])} of "
        f"{number_of(first['n_patients'], 'patient')} at "
        f"{site_title(first)}{f' ({note})' if note else ''}, {first['arm']} reached a {metric_name(name)} of "
        f"{_with_interval(first['metrics'][name])}, and {second['arm']} {_with_interval(second['metrics'][name])}."
    )


def _reach(metrics: Mapping[str, Any], primary: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    trainings = cell.get("members", cell["seeds"] * cell["folds"])
    luck = (
        "Each arm was trained once, with one seed: the interval covers which patients happened to be tested, not the "
        "luck of a training, so another seed may move the difference either way."
        if trainings == 1
        else f"Each arm is the mean of {trainings} trainings; the interval covers which patients happened to be "
        "tested, and not how other trainings would have come out. Single trainings stand below, as points."
    )
    others = sum(1 for entry in metrics["differences"] if entry["metrics"]) - 1
    if others < 1 or endpoint_of(metrics, primary) is not None:
        return luck
    return (
        f"{luck} The other comparisons on this page, of {others:,} further test sets and levels by several measures "
        "each, are not corrected for their number; read them as hints."
    )


def per_site(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    arms: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
) -> list[tuple[str, str]]:
    """What each arm reached at each site, in one sentence per site.

    Args:
        metrics: Content of `metrics.json`.
        primary: Gives metric and level.
        arms: The arms that are named, in this order; all where none is given.
        kinds: What each cohort is headed.

    Returns:
        Pairs of (site, sentence).
    """
    name, level = primary["metric"], primary["level"]
    order = list(arms) or arms_of(metrics, arms)
    cells = [cell for cell in metrics["cells"] if cell["level"] == level]
    sites: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        note = site_note(cell, kinds)
        title = site_title(cell) + (f" ({note})" if note else "")
        sites.setdefault(title, {}).setdefault(cell["modality"], {})[cell["arm"]] = cell
    sentences = []
    for title, modalities in sites.items():
        shown = [modality for modality in modalities if modality != "all"]
        pieces = []
        for modality in shown:
            by_arm = modalities[modality]
            reached = ", ".join(
                f"{arm} {estimate_text(by_arm[arm]['metrics'][name])}" for arm in order if arm in by_arm
            )
            pieces.append(f"{modality}: {reached}")
        sentences.append((title, "; ".join(pieces) + "."))
    return sentences


def _with_interval(estimate: Mapping[str, Any]) -> str:
    # Three decimals, so that the two figures and their difference agree on the page.
    span = interval_text(estimate, decimals=3)
    return number(estimate["value"], decimals=3) + (f" (95% interval {span})" if span else "")


def _plural(level: str, count: int) -> str:
    return level if count == 1 else f"{level}s"
