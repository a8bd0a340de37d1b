"""The parts of a report: errors ranked, forest plots paged, local adaptation named, two models compared."""

import re

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.evaluation.evaluate import evaluate
from densityclip.evaluation.figures import ForestRow, forest_figure, forest_pages, reliability_figure
from densityclip.probability.aggregate import fill_derived
from densityclip.report.checklist_items import CLAIM, TRIPOD_AI
from densityclip.report.evaluation_report import write_evaluation_report
from densityclip.report.local_tables import local_grids
from densityclip.report.published import PUBLISHED
from densityclip.report.tables import FURTHER_METRICS, MAIN_METRICS, p_text
from densityclip.report.tidy import write_tables
from densityclip.report.verdict import worst_words
from densityclip.report.words import answer
from densityclip.report.worst_exams import find_errors

# Exam, label, and the probabilities of its one image: off by 0, 3, 1 (sure), 1 (less sure), 2.
EXAMS = {
    "right": ("B", (0.1, 0.7, 0.1, 0.1)),
    "far": ("A", (0.2, 0.2, 0.2, 0.4)),
    "near-sure": ("C", (0.0, 0.02, 0.08, 0.9)),
    "near": ("C", (0.0, 0.1, 0.3, 0.6)),
    "two": ("D", (0.1, 0.6, 0.2, 0.1)),
}


def predictions(arm: str = "multi", part: str = "external") -> pl.DataFrame:
    rows = [
        {
            "level": "image", "image_id": f"i-{exam}", "exam_id": exam, "patient_id": f"p-{exam}", "modality": "DM",
            "view": "CC", "laterality": "L", "site": "S", "cohort": "away", "part": part, "fold": 0, "arm": arm,
            "seed": 0, "label": label, "status": "ok",
            **dict(zip(PROBABILITIES, values, strict=True)),
            **dict(zip(LOGITS, np.log(np.maximum(values, 1e-9)), strict=True)),
        }
        for exam, (label, values) in EXAMS.items()
    ]  # fmt: skip
    return fill_derived(conform(pl.DataFrame(rows), "predictions"))


def test_errors_are_ranked_by_distance_and_then_by_certainty():
    (found,) = find_errors(predictions(), "multi", redistribute={"away": True})
    assert [exam.exam_id for exam in found.exams] == ["far", "two", "near-sure", "near"]
    assert found.by_distance == (1, 2, 1, 1)
    assert found.sure_by_distance == (0, 1, 0, 0)


@pytest.mark.parametrize("allowed", [{}, {"away": False}, {"elsewhere": True}])
def test_without_permission_errors_are_counts_alone(allowed):
    (found,) = find_errors(predictions(), "multi", redistribute=allowed)
    assert found.exams == ()
    assert found.by_distance == (1, 2, 1, 1)


def test_a_forest_plot_breaks_before_headings_and_repeats_everyone():
    everyone = ForestRow("Everyone", "9 patients", {"a": (0.5, 0.4, 0.6)}, overall=True)
    kinds = [[ForestRow(f"kind {k}", heading=True), *[ForestRow(f"{k} {n}") for n in range(9)]] for k in range(4)]
    pages = forest_pages([everyone, *(row for kind in kinds for row in kind)], arms=1, tallest=6.0)
    assert len(pages) == 4 // 2
    assert all(page[0] == everyone and page[1].heading for page in pages)
    assert [row for page in pages for row in page if not row.overall] == [row for kind in kinds for row in kind]
    assert forest_figure(pages[0], ["a"], "x", limits=(0.0, 1.0)).startswith(b"<?xml")


def test_a_reliability_curve_survives_empty_bins():
    empty = {"count": 0, "mean_probability": None, "observed": None}
    full = {"count": 3, "mean_probability": 0.4, "observed": 1 / 3}
    assert reliability_figure({"chosen": [empty, full], "dense": [empty]}).startswith(b"<?xml")


def local_entry() -> dict:
    spread = {"value": 0.71, "lowest": 0.6, "highest": 0.8}
    shares = {"A": 0.1, "B": 0.4, "C": 0.4, "D": 0.1}
    return {
        "arm": "multi", "cohort": "away", "level": "exam", "n": 90, "n_patients": 88,
        "curve": [{"k": 25, "draws": 20, "n_patients": 63, "before": {"accuracy": spread, "ece": None},
                   "after": {"accuracy": spread | {"value": 0.74}, "ece": None}}],
        "prior_shift": {"assumption": "transductive: said so", "prior": shares, "estimated": shares | {"A": 0.2},
                        "labelled": shares, "before": {"accuracy": 0.71}, "after": {"accuracy": 0.72}},
    }  # fmt: skip


def test_local_adaptation_says_before_after_its_draws_and_its_assumption(tmp_path):
    curve, shift = local_grids([local_entry()], {"away": "external"})
    assert curve.rows[0] == ("multi on away (external): 90 exams of 88 patients",)
    assert curve.rows[1][:4] == ("25", "20", "63", "0.71 → 0.74\n0.60 to 0.80")
    assert "not estimable" in curve.rows[1]
    assert "no interval" in curve.note
    assert shift.note.startswith("Transductive: said so")
    assert ("shares estimated without labels", "20%", "40%", "40%", "10%") in shift.rows
    write_tables(tmp_path, {"cells": [], "differences": [], "local": [local_entry()]})
    assert "0.74" in (tmp_path / "local.csv").read_text()
    assert local_grids([]) == []


def test_an_empty_curve_of_too_small_a_cohort_is_left_out():
    shown = local_grids([local_entry() | {"curve": []}])
    assert [grid.title for grid in shown] == ["Shares of the categories estimated without labels"]


def test_two_models_on_the_same_images_open_with_their_difference_and_p(tmp_path):
    changed = (pl.col("arm") == "old") & (pl.col("exam_id") == "right")
    other = zip(PROBABILITIES, (0.95, 0.05, 0.0, 0.0), strict=True)
    flipped = pl.concat([predictions("new"), predictions("old")]).with_columns(
        pl.when(changed).then(value).otherwise(pl.col(name)).alias(name) for name, value in other
    )
    metrics = evaluate(flipped, resamples=20, pairs=[("new", "old")], groups=())
    page = write_evaluation_report(tmp_path / "report.html", metrics).read_text()
    first = re.findall(r"<h2>(.*?)</h2>", page)[0]
    assert first == "The difference of the two"
    (entry,) = [e for e in metrics["differences"] if e["level"] == "image"]
    accuracy = entry["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx(0.2)
    line = page[page.index("<td>Accuracy</td>") :]
    line = line[: line.index("</tr>")]
    assert "+0.200" in line
    assert p_text(accuracy["p"], 20).removeprefix("p ").removeprefix("= ").replace("≤ ", "") in line
    assert "Brier score (lower is better)" in page
    assert "external" not in re.sub(r"part external", "", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    assert (tmp_path / "tables" / "differences.csv").is_file()


def test_one_of_a_thing_is_not_said_as_several(tmp_path):
    only = predictions().filter(pl.col("exam_id") == "right")
    page = write_evaluation_report(tmp_path / "report.html", evaluate(only, resamples=10, groups=())).read_text()
    assert "1 image, 1 patient" in page
    assert re.findall(r"(?<![\d,.])1 (?:image|breast|exam|patient)s\b", page) == []


@pytest.mark.parametrize(
    "p, resamples, text",
    [(None, None, "not estimable"), (0.2, None, "p = 0.200"), (2 / 1001, 1000, "p ≤ 0.002"), (1e-5, None, "p < 0.001")],
)
def test_a_p_is_never_smaller_than_the_resamples_can_show(p, resamples, text):
    assert p_text(p, resamples) == text


def test_every_metric_stands_in_exactly_one_table():
    from densityclip.evaluation.metrics import METRICS

    listed = [*MAIN_METRICS, *(name for names in FURTHER_METRICS.values() for name in names)]
    assert sorted(listed) == sorted(METRICS)


def test_checklists_have_the_items_of_their_sources_each_once():
    assert [item.number for item in CLAIM] == [str(k) for k in range(1, 45)]
    numbers = [item.number for item in TRIPOD_AI]
    assert len(set(numbers)) == len(numbers)
    assert sorted({int(re.match(r"\d+", number)[0]) for number in numbers}) == list(range(1, 28))


def test_published_figures_say_what_they_are_over():
    assert {item.level for item in PUBLISHED} <= {"image", "exam", "reader", "unknown"}
    assert all(item.accuracy or item.auc or item.kappa for item in PUBLISHED)


def test_a_spreadsheet_runs_no_name(tmp_path):
    metrics = evaluate(predictions("=cmd()"), resamples=10, groups=())
    write_tables(tmp_path, metrics)
    assert "'=cmd()" in (tmp_path / "metrics.csv").read_text()
    assert "\n=cmd()" not in (tmp_path / "metrics.csv").read_text()


def gap(cohort: str, by: str, value: float | None, **more: object) -> dict:
    base = {
        "arm": "multi", "cohort": cohort, "part": "external", "level": "exam", "by": by, "metric": "accuracy",
        "worst_groups": ["X"], "value": 0.5, "best_groups": ["Y"], "best_value": 0.75, "groups": 2,
        "gap": {"value": value, "low": 0.01, "high": 0.4},
    }  # fmt: skip
    return base | more


COHORTS = [("home", "test"), ("away", "external"), ("bare", "external")]


def test_the_worst_group_is_looked_for_in_every_cohort_and_each_is_named():
    found = [gap("home", "vendor", 0.1, part="test"), gap("away", "age_band", 0.25)]
    said = worst_words(found, "multi", COHORTS, {"away": "external"})
    assert said.startswith(
        "Worst group of multi, of home (part test) and away (external): at away (external), by age band, accuracy is "
        "0.50 in X against 0.75 in Y, a gap of 0.25 (0.01 to 0.40)."
    )
    assert "(vendor, age band); at bare (part external) there were none" in said
    assert "a tie" not in said


def test_gaps_and_groups_that_tie_are_all_named():
    found = [gap("home", "vendor", 0.25, worst_groups=["X", "Z"], part="test"), gap("away", "race", 0.25)]
    said = worst_words(found, "multi", COHORTS[:2], {})
    assert "by vendor, accuracy is 0.50 in X and Z alike against 0.75 in Y" in said
    assert "by race, accuracy is 0.50 in X against" in said
    assert "These 2 gaps are a tie." in said


def test_without_two_groups_of_enough_patients_no_gap_is_claimed():
    assert worst_words([gap("home", "vendor", None)], "multi", COHORTS).startswith("No gap between groups can be given")


def by_vendor(cohort: str, arm: str, wrong: int) -> list[dict]:
    """Eighty exams in turn of vendor E, always right, and F, of every twenty of whose exams so many are wrong."""
    rows = []
    for k in range(80):
        letter = "ABCD"[k // 2 % 4]
        said = "BCDA"[k // 2 % 4] if k % 2 and k // 2 % 20 < wrong else letter
        rows.append(
            {
                "level": "image", "image_id": f"{cohort}{k}", "exam_id": f"{cohort}{k}", "patient_id": f"{cohort}{k}",
                "modality": "DM", "view": "CC", "laterality": "L", "cohort": cohort, "part": "external", "fold": 0,
                "arm": arm, "seed": 0, "label": letter, "vendor": "EF"[k % 2], "status": "ok",
                **dict(zip(PROBABILITIES, (float(said == one) for one in "ABCD"), strict=True)),
                **dict.fromkeys(LOGITS, 0.0),
            }
        )  # fmt: skip
    return rows


def test_the_headline_names_the_worst_group_of_a_cohort_that_the_question_was_not_asked_of():
    cohorts = {"asked": 2, "other": 12}
    rows = [row for arm in "ab" for cohort, wrong in cohorts.items() for row in by_vendor(cohort, arm, wrong)]
    primary = {"metric": "accuracy", "level": "exam", "modality": "DM", "cohort": "asked", "part": "external",
               "contrast": ["a", "b"]}  # fmt: skip
    table = fill_derived(conform(pl.DataFrame(rows), "predictions"))
    metrics = evaluate(table, resamples=30, primary=primary, groups=("vendor",))
    (said,) = [text for text in answer(metrics, primary) if text.startswith("Worst group")]
    assert "of asked (part external) and other (part external): at other (part external), by vendor" in said
    assert "accuracy is 0.40 in F against 1.00 in E, a gap of 0.60" in said
