"""Every figure of `metrics.json` as tidy CSV: one row a figure, and the same numbers as on the page."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from densityclip.artifacts import write_text
from densityclip.density import CATEGORIES
from densityclip.report.flow import FlowStep
from densityclip.report.map_curves import curve_rows
from densityclip.report.map_tables import Maps, map_rows
from densityclip.report.tables import PLACE
from densityclip.report.worst_exams import Errors

_ESTIMATE = ("value", "low", "high")
Rows = Iterable[Mapping[str, Any]]


def write_tables(
    folder: Path,
    metrics: Mapping[str, Any],
    *,
    flows: Mapping[str, Sequence[FlowStep]] | None = None,
    calibrations: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    errors: Sequence[Errors] = (),
    maps: Sequence[Maps] = (),
) -> list[Path]:
    """Write what there is of `metrics`, `differences`, `groups`, `worst`, `conformal`, `ceiling`, `tests`, `trainings`,
    `confusion`, `roc`, `reliability`, `local`, `flow`, `calibration`, `errors`, `worst_exams`, `maps` and
    `map_curves`, each a CSV file.

    Args:
        folder: Where to.
        metrics: Content of `metrics.json`.
        flows: Cohort to its flow.
        calibrations: Arm to what was fitted in each training.
        errors: As `find_errors` found them; ids only where they are allowed.
        maps: What was measured on heat maps.

    Returns:
        The files, in this order. What is not estimable is an empty field.
    """
    tables: dict[str, Rows] = {
        "metrics": _cells(metrics),
        "differences": _differences(metrics),
        "groups": _groups(metrics),
        "worst": _worst(metrics),
        "conformal": _conformal(metrics),
        "ceiling": _ceiling(metrics),
        "tests": _tests(metrics),
        "trainings": _trainings(metrics),
        "confusion": _confusion(metrics),
        "roc": _roc(metrics),
        "reliability": _reliability(metrics),
        "local": _local(metrics),
        "flow": _flow(flows or {}),
        "calibration": _calibration(calibrations or {}),
        "errors": _errors(errors),
        "worst_exams": _worst_exams(errors),
        "maps": map_rows(maps),
        "map_curves": curve_rows(maps),
    }
    written = []
    for name, rows in tables.items():
        listed = list(rows)
        if listed:
            write_text(folder / f"{name}.csv", _csv(listed))
            written.append(folder / f"{name}.csv")
    return written


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _of(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: entry.get(name) for name in names}


def _span(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {name: estimate[name] for name in _ESTIMATE}


def _cells(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in metrics["cells"]:
        place = _of(cell, "arm", *PLACE, "n", "n_patients", "n_conflicting", "members")
        place |= {f"n_{letter.lower()}": cell.get("label_counts", {}).get(letter) for letter in CATEGORIES}
        for name, estimate in cell["metrics"].items():
            yield place | {"metric": name, "interval": "bootstrap"} | _span(estimate)
        for name, estimate in cell.get("auc", {}).items():
            yield place | {"metric": name, "interval": estimate["method"]} | _span(estimate)


def _differences(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in metrics["differences"]:
        place = _of(entry, *PLACE, "n", "n_patients") | dict(zip(("first", "second"), entry["arms"], strict=True))
        if not entry["metrics"]:
            yield place | {"not_compared": entry["not_compared"]}
        for name, estimate in entry["metrics"].items():
            yield place | {"metric": name} | _span(estimate) | _of(estimate, "excludes_zero", "p")


def _groups(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in metrics.get("groups", []):
        place = _of(entry, "arm", "cohort", "part", "modality", "level", "by", "group", "n", "n_patients", "suppressed")
        if entry["suppressed"]:
            yield place
        for name, estimate in entry["metrics"].items():
            yield place | {"metric": name} | _span(estimate)


def _worst(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in metrics.get("worst", []):
        gap = {f"gap_{name}": value for name, value in _span(entry["gap"]).items()}
        # Groups that tie share a cell.
        named = {f"{end}_group": "; ".join(entry[f"{end}_groups"]) for end in ("worst", "best")}
        place = _of(entry, "arm", "cohort", "part", "level", "by", "metric", "groups") | named
        yield place | {"worst": entry["value"], "best": entry["best_value"]} | gap


def _conformal(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names = ("arm", "cohort", "part", "modality", "level", "by", "group", "coverage_wanted", "promised")
    for entry in metrics.get("conformal", []):
        place = _of(entry, *names, "fitted_on_patients", "n", "n_patients")
        place |= {f"sets_of_{size}": number for size, number in entry["sets"].items()}
        for figure in ("coverage", "size"):
            yield place | {"figure": figure} | _span(entry[figure])


def _ceiling(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in metrics.get("ceiling", []):
        place = _of(entry, "cohort", "part", "level", "reader", "reader_agreement", "crossing")
        for who in ("perfect_model", "second_reader"):
            for name, value in entry[who].items():
                yield place | {"who": who, "metric": name, "value": value}


def _tests(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    named = [("primary", metrics.get("endpoint")), *(("secondary", entry) for entry in metrics.get("family", []))]
    for kind, entry in named:
        if entry is not None:
            place = {"test": kind} | _of(entry, "kind", "margin", *PLACE, "metric", "n_patients")
            place |= dict(zip(("first", "second"), entry["contrast"], strict=True))
            estimate = entry["estimate"] or dict.fromkeys(_ESTIMATE)
            yield place | _span(estimate) | _of(entry, "p", "p_holm", "verdict")


def _trainings(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in metrics["cells"]:
        for one in cell.get("each_member", []):
            place = _of(cell, "arm", *PLACE) | _of(one, "fold", "seed", "n")
            for name, value in one["metrics"].items():
                yield place | {"metric": name, "value": value}


def _confusion(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in metrics["cells"]:
        for label, counts in zip(CATEGORIES, cell["confusion"], strict=True):
            for predicted, count in zip(CATEGORIES, counts, strict=True):
                yield _of(cell, "arm", *PLACE) | {"label": label, "predicted": predicted, "count": count}


def _roc(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in metrics["cells"]:
        for letter, curve in cell["roc"].items():
            for false, true in zip(curve["fpr"], curve["tpr"], strict=True):
                place = _of(cell, "arm", *PLACE)
                yield place | {"category": letter, "false_positive_rate": false, "true_positive_rate": true}


def _reliability(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in metrics["cells"]:
        for of, bins in cell.get("reliability", {}).items():
            for one in bins:
                yield _of(cell, "arm", *PLACE) | {"probability_of": of} | dict(one)


def _local(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in metrics.get("local", []):
        place = _of(entry, "arm", "cohort", "level")
        for one in entry["curve"]:
            here = place | {"method": "recalibrated"} | _of(one, "k", "draws", "n_patients")
            for when in ("before", "after"):
                for name, spread in one[when].items():
                    yield here | {"when": when, "figure": name} | dict(spread or {})
        shift = entry["prior_shift"] or {}
        here = place | {"method": "prior shift"} | _of(entry, "n_patients")
        for when in ("prior", "estimated", "labelled", "before", "after"):
            for name, value in shift.get(when, {}).items():
                yield here | {"when": when, "figure": name, "value": value}


def _flow(flows: Mapping[str, Sequence[FlowStep]]) -> Iterator[dict[str, Any]]:
    for cohort, steps in flows.items():
        for step in steps:
            row: dict[str, Any] = {"cohort": cohort, "step": step.name}
            for what in ("patients", "exams", "images"):
                span = getattr(step, what) or (None, None)
                row |= {f"{what}_fewest": span[0], f"{what}_most": span[1]}
            yield row
            for reason, count in step.left_out:
                yield {"cohort": cohort, "step": step.name, "left_out": reason, "images_left_out": count}


def _calibration(calibrations: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    for arm, trainings in calibrations.items():
        for one in trainings:
            joining = one.get("joining", {})
            yield (
                {"arm": arm}
                | _of(one, "fold", "seed", "calibrated")
                | {"image_temperature": one["temperature"]}
                | {f"{level}_temperature": value for level, value in joining.get("temperatures", {}).items()}
                | _of(joining, "rule", "denser_weight")
                | {"fitted_on_patients": one.get("fitted_on", {}).get("patients")}
            )


def _errors(errors: Sequence[Errors]) -> Iterator[dict[str, Any]]:
    for one in errors:
        for off, (count, sure) in enumerate(zip(one.by_distance, one.sure_by_distance, strict=True)):
            place = {"arm": one.arm, "cohort": one.cohort, "part": one.part}
            yield place | {"categories_off": off, "exams": count, "sure": sure}


def _worst_exams(errors: Sequence[Errors]) -> Iterator[dict[str, Any]]:
    for one in errors:
        for exam in one.exams:
            place = {"arm": one.arm, "cohort": one.cohort, "part": one.part, "exam_id": exam.exam_id}
            yield place | {"label": exam.label, "said": exam.predicted, "certainty": exam.certainty}
