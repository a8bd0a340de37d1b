"""What probabilities are worth: calibration, conformal sets, and the ceiling that noisy labels put on accuracy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from densityclip.report.beside import find_whole
from densityclip.report.counts import heading
from densityclip.report.tables import Grid, estimate_text, kind_of, number

_LEVELS = ("image", "breast", "exam", "patient")


def whole_sets(metrics: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Cohort and part of every test set, in the order of the cells."""
    return list(dict.fromkeys((cell["cohort"], cell["part"]) for cell in metrics["cells"]))


def set_title(cohort: str | None, part: str | None, kinds: Mapping[str, str] | None) -> str:
    """A cohort with what it is headed."""
    kind = kind_of({"cohort": cohort, "part": part}, kinds)
    return f"{cohort or 'all images'}{f' ({kind})' if kind else ''}"


def calibration_grid(metrics: Mapping[str, Any], arms: Sequence[str], kinds: Mapping[str, str] | None = None) -> Grid:
    """Calibration error and Brier score of whole cohorts at every level."""
    rows: list[tuple[str, ...]] = []
    for cohort, part in whole_sets(metrics):
        rows.append((set_title(cohort, part, kinds),))
        for arm in arms:
            cells = [find_whole(metrics, arm, cohort, part, level) for level in _LEVELS]
            rows += [
                (
                    arm,
                    cell["level"],
                    f"{cell['n']:,}",
                    estimate_text(cell["metrics"]["ece"]),
                    estimate_text(cell["metrics"]["brier"]),
                )
                for cell in cells
                if cell is not None and "ece" in cell["metrics"]
            ]
    return Grid(
        ("Arm", "Level", "n", "Expected calibration error", "Brier score"),
        tuple(rows),
        title="Calibration by cohort and level",
        note=(
            "Expected calibration error: how far the probability of the chosen category is from the share that was "
            "right, over bins; it is above zero by chance alone, the more the fewer the rows. Brier score: squared "
            "distance of the four probabilities from the label, 0 to 2. Lower is better for both."
        ),
        figures_from=2,
    )


def temperature_grid(calibrations: Mapping[str, Sequence[Mapping[str, Any]]]) -> Grid | None:
    """What was fitted on the calibration part, one row a training.

    Args:
        calibrations: Arm to the content of `calibration.json` of each training, with its `fold` and `seed`.
    """
    rows = []
    for arm, trainings in calibrations.items():
        for one in trainings:
            joining = one.get("joining", {})
            levels = joining.get("temperatures", {})
            rule = str(joining.get("rule", "mean"))
            if rule == "learned":
                rule += f", weight {joining['denser_weight']:.2f}"
            fitted = one.get("fitted_on", {}).get("patients", 0)
            rows.append(
                (
                    arm,
                    str(one.get("fold", "–")),
                    str(one.get("seed", "–")),
                    f"{one['temperature']:.2f}" if one.get("calibrated") else "not fitted",
                    *(f"{levels[level]:.2f}" if level in levels else "–" for level in _LEVELS[1:]),
                    rule,
                    f"{fitted:,}",
                )
            )
    if not rows:
        return None
    return Grid(
        ("Arm", "Fold", "Seed", *(level.capitalize() for level in _LEVELS), "Exam rule", "Patients"),
        tuple(rows),
        title="Temperatures and exam rule of each training",
        note=(
            "Temperatures by level; above one they make probabilities less sure. Fitted on that many patients of the "
            "calibration part. The exam rule "
            "(mean of the breasts, the denser breast, or a learned weight between) was chosen on validation."
        ),
        figures_from=3,
    )


def conformal_grids(
    metrics: Mapping[str, Any],
    primary: Mapping[str, Any],
    arms: Sequence[str],
    kinds: Mapping[str, str] | None = None,
) -> list[Grid]:
    """Coverage and size of conformal sets: over cohorts and modalities, and by group."""
    entries = [entry for entry in metrics.get("conformal", []) if entry["arm"] in arms]
    levels = {entry["level"] for entry in entries}
    level = primary["level"] if primary["level"] in levels else "image"
    entries = [entry for entry in entries if entry["level"] == level]
    if not entries:
        return []
    over = [entry for entry in entries if entry["by"] == "all"]
    groups = [entry for entry in entries if entry["by"] != "all"]
    wanted = f"{100 * entries[0]['coverage_wanted']:.0f}%"
    note = (
        f"Sets of categories made to hold the label in {wanted}. They were fitted on patients of the calibration "
        "part, one unit a patient, and promise that coverage, on average over such parts, only for new patients of the "
        "same kind: on an internal test, where the same trainings scored both and no other cohort was calibrated with "
        "it. An arm of several folds has no promise: each calibration patient was scored by the trainings that kept "
        "her apart, a test patient by all. Everywhere else, too, it is observed coverage."
    )
    grids = [_conformal(over, f"Coverage and size of the sets, {level} level", "Modality", note, kinds)]
    if groups:
        grids.append(
            _conformal(groups, f"By group, {level} level", "Group", "No coverage is promised for a group.", kinds)
        )
    return grids


def _conformal(
    entries: Sequence[Mapping[str, Any]], title: str, column: str, note: str, kinds: Mapping[str, str] | None
) -> Grid:
    rows: list[tuple[str, ...]] = []
    for cohort, part in dict.fromkeys((entry["cohort"], entry["part"]) for entry in entries):
        mine = [entry for entry in entries if (entry["cohort"], entry["part"]) == (cohort, part)]
        promised = all(entry["promised"] and entry["by"] == "all" for entry in mine)
        rows.append((f"{set_title(cohort, part, kinds)}: {'promised' if promised else 'observed'} coverage",))
        rows += [_conformal_row(entry) for entry in mine]
    head = (column, "Arm", "Patients", "Coverage", "Mean size", "Of 1", "Of 2", "Of 3", "Of 4", "Empty")
    return Grid(head, tuple(rows), title=title, note=note, figures_from=2)


def _conformal_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    name = entry["modality"] if entry["by"] == "all" else f"{heading(entry['by'])}: {entry['group']}"
    total = sum(entry["sets"].values()) or 1
    shares = (f"{100 * entry['sets'].get(size, 0) / total:.0f}%" for size in ("1", "2", "3", "4", "0"))
    return (
        "all together" if name == "all" else name,
        entry["arm"],
        f"{entry['n_patients']:,}",
        estimate_text(entry["coverage"]),
        estimate_text(entry["size"]),
        *shares,
    )


def ceiling_grid(
    metrics: Mapping[str, Any], arms: Sequence[str], kinds: Mapping[str, str] | None = None
) -> Grid | None:
    """What a perfect model could reach against one reader's labels, beside what the arms reached."""
    rows = tuple(_ceiling_rows(metrics, arms, kinds))
    if not rows:
        return None
    return Grid(
        ("Labels as if by", "Level", "Perfect model", "A second reader", *arms),
        rows,
        note=(
            "Accuracy. An order of magnitude, not an estimate of this cohort's readers: it supposes that a reader only "
            "confuses neighbouring categories, with one probability for every boundary, taken from published agreement "
            "(same reader twice: Spayne 2012; another reader: Sprague 2016). A model above the ceiling says that the "
            "supposition does not hold here, not that the model is better than perfect."
        ),
        figures_from=2,
    )


def _ceiling_rows(
    metrics: Mapping[str, Any], arms: Sequence[str], kinds: Mapping[str, str] | None
) -> Iterator[tuple[str, ...]]:
    before = None
    entries = [entry for entry in metrics.get("ceiling", []) if entry["level"] in ("image", "exam")]
    places = [(entry["cohort"], entry["part"]) for entry in entries]
    for entry in sorted(entries, key=lambda entry: places.index((entry["cohort"], entry["part"]))):
        place = entry["cohort"], entry["part"]
        if place != before:
            yield (set_title(*place, kinds),)
            before = place
        cells = [find_whole(metrics, arm, *place, entry["level"]) for arm in arms]
        yield (
            f"{entry['reader']} ({entry['reader_agreement']})",
            entry["level"],
            number(entry["perfect_model"]["accuracy"]),
            number(entry["second_reader"]["accuracy"]),
            *(estimate_text(cell["metrics"]["accuracy"]) if cell else "–" for cell in cells),
        )
