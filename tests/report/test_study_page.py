"""The study's page opens with the answer, says no more than its numbers, and its numbers are those of the files."""

import copy
import csv
import re

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.evaluation.evaluate import evaluate
from densityclip.probability.aggregate import fill_derived
from densityclip.report.flow import cohort_flow
from densityclip.report.group_tables import group_views
from densityclip.report.study_report import write_study_report
from densityclip.report.tables import number
from densityclip.report.verdict import verdict

NASTY = "<script>alert('x')</script>"
SAME = "same institution, overlap not excluded"
KINDS = {"home": "internal test", "away": "external", "twin": SAME}
PRIMARY = {
    "metric": "macro_auc", "level": "image", "modality": "all", "cohort": "away", "part": "external",
    "contrast": ["multi", "single"], "kind": "superiority", "margin": None,
}  # fmt: skip
VENDORS = ("GE",) * 22 + ("Hologic",) * 22 + (NASTY,) * 4


def rows(cohort: str, part: str, arm: str, fold: int, patients: int) -> list[dict]:
    rng = np.random.default_rng([len(cohort), len(arm), fold, patients])
    found = []
    for p in range(patients):
        truth = 3 if cohort == "twin" and p % 4 == 0 else p % 4
        truth = 1 if cohort == "twin" and truth == 0 else truth
        for modality in ("DM", "s2D") if cohort == "away" else ("DM",):
            for side in "LR":
                sure = {"multi": 2.0, "single": 0.5}.get(arm, 0.0)
                probabilities = rng.dirichlet(np.ones(4) + sure * (np.arange(4) == truth))
                found.append(
                    {
                        "level": "image",
                        "image_id": f"{cohort}{part}{p}{modality}{side}",
                        "exam_id": f"exam-{cohort}-{p}",
                        "patient_id": f"{cohort}{part}{p}",
                        "modality": modality,
                        "view": "CC",
                        "laterality": side,
                        "site": f"{cohort} hospital",
                        "vendor": VENDORS[p],
                        "cohort": cohort,
                        "part": part,
                        "fold": fold,
                        "arm": arm,
                        "seed": 1,
                        "label": "ABCD"[truth],
                        "status": "ok",
                        **dict(zip(PROBABILITIES, probabilities, strict=True)),
                        **dict(zip(LOGITS, np.log(probabilities), strict=True)),
                    }
                )
    return found


def predictions() -> pl.DataFrame:
    found = []
    for arm, folds in (("multi", 2), ("single", 2), ("majority", 1)):
        for fold in range(folds):
            for cohort, part in (("home", "test"), ("home", "calibration"), ("away", "external"), ("twin", "external")):
                found += rows(cohort, part, arm, fold, 48)
    return fill_derived(conform(pl.DataFrame(found), "predictions"))


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return predictions()


@pytest.fixture(scope="module")
def metrics(table) -> dict:
    return evaluate(table, resamples=20, primary=PRIMARY, groups=("vendor",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, table, metrics):
    training = pl.DataFrame({"step": [1, 2], "name": ["train/loss"] * 2, "value": [1.0, 0.5]})
    steps = cohort_flow(
        {"totals": {"images_found": 12}, "excluded": [{"reason": NASTY, "images": 7}]}, index(), refused(), splits()
    )
    out = tmp_path_factory.mktemp("study") / "report.html"
    write_study_report(
        out,
        study={
            "title": "Study",
            "generated": False,
            "class_mix_notes": {"twin": "even on purpose"},
            "primary": PRIMARY,
            "arms": {"multi": "all", "single": "s2D", "majority": "baseline: frequencies"},
            "baselines": ["majority"],
            "kinds": KINDS,
            "redistribute": {"home": True, "away": False},
        },
        metrics=metrics,
        trainings={"multi": [training, training], "single": training},
        sheets=[],
        audits={},
        provenance={"densityclip": "0", "registration": {"study": "abc123", "registered_at": "2026-01-02"}},
        flows={"home": steps},
        calibrations={"multi": [{"fold": 0, "seed": 1, "calibrated": True, "temperature": 1.37}]},
        predictions=table,
    )
    return out.parent


def index() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": list("abcde"),
            "exam_id": ["e1", "e1", "e2", "e3", "e4"],
            "patient_id": ["p1", "p1", "p2", "p3", "p3"],
            "density": ["A", "A", "B", "C", None],
        }
    )


def refused() -> pl.DataFrame:
    return pl.DataFrame({"image_id": ["c"], "reason": ["no_breast"]})


def splits() -> pl.DataFrame:
    parts = {0: ("train", "test"), 1: ("validation", "test")}
    found = [(p, f, part) for f, two in parts.items() for p, part in zip(("p1", "p3"), two, strict=True)]
    return pl.DataFrame(found, schema=["patient_id", "fold", "part"], orient="row")


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text()


def words(page: str) -> str:
    visible = re.sub(r"<style>.*?</style>|<head>.*?</head>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", visible).split())


def section(page: str, heading: str) -> str:
    start = page.index(f"<h2>{heading}")
    return page[start : page.find("<h2>", start + 4)]


def table_of(folder, name: str) -> list[dict]:
    with (folder / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_page_opens_with_the_verdict_and_the_table_beside_the_published(page, metrics):
    first, *_ = re.findall(r"<h2>(.*?)</h2>", page)
    assert first == "The answer"
    answer = words(section(page, "The answer"))
    assert answer.startswith("The answer multi did better than single: superiority is shown")
    estimate = metrics["endpoint"]["estimate"]
    assert number(estimate["value"], signed=True) in answer
    assert "Worst group" in answer
    assert answer.index("Worst group") < answer.index("Beside published results")
    assert "arXiv:2511.17828" in answer
    assert "What compares, and what does not" in answer


def test_a_cohort_of_the_same_institution_is_never_headed_external(page, folder):
    for text in (words(page), (folder / "checklist.md").read_text()):
        assert f"twin ({SAME})" in text or f"twin {SAME}" in text
        assert not re.search(r"twin[^.;:|]{0,20}external", text)
    assert "away (external)" in words(page)


def test_generated_cohorts_are_named_at_once_where_not_all_are_generated(page):
    assert "exams of twin were generated by a program" in words(page)[:200]


def test_a_suppressed_group_shows_no_figure(metrics):
    hidden = [entry for entry in metrics["groups"] if entry["suppressed"]]
    assert hidden
    for view in group_views(metrics, PRIMARY, PRIMARY["contrast"], KINDS):
        line = [row for row in view.grid.rows if row[0] == NASTY]
        assert line
        for row in line:
            assert row[2] == "fewer than 20"
            assert not re.search(r"\d", "".join(row[3:]))


def test_names_stay_text_and_nothing_is_fetched(page):
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in re.sub(r"data:image/[^\"]+", "", page)


def test_not_estimable_is_said_and_never_zero(page, metrics):
    cell = next(c for c in metrics["cells"] if c["cohort"] == "twin" and c["level"] == "image")
    assert cell["metrics"]["auc_a"]["value"] is None
    assert "not estimable" in page


def test_baselines_stand_in_their_own_block_below_the_arms(page):
    figures = section(page, "Figures with intervals")
    body = figures[figures.index("<tbody>") : figures.index("</tbody>")]
    assert body.index("multi") < body.index("single") < body.index("baselines") < body.index("majority")


def test_ids_of_exams_are_shown_only_where_the_cohort_allows_it(page, folder):
    errors = section(page, "Errors")
    assert "exam-home-" in errors
    for text in (page, (folder / "tables" / "worst_exams.csv").read_text()):
        assert "exam-away-" not in text
        # Nobody said that it may: then it may not.
        assert "exam-twin-" not in text
    assert "no ids" in words(errors)


def test_every_number_of_the_tables_is_in_the_files(page, folder):
    values = set()
    for path in (folder / "tables").glob("*.csv"):
        for row in csv.DictReader(path.read_text().splitlines()):
            for text in row.values():
                try:
                    value = float(text)
                except (TypeError, ValueError):
                    continue
                values |= {number(value), number(value, signed=True), number(value, decimals=3), f"{value:,.0f}"}
    bodies = re.sub(r"<small>|</small>", " ", " ".join(re.findall(r"<tbody>.*?</tbody>", page, re.DOTALL)))
    before = bodies.index("Published, on other patients")
    after = bodies.index("</tbody>", before)
    checklist = bodies.index("A title that says that this is a study")
    shown = re.findall(r"(?<![\w.])[+−]?\d\.\d{2,3}(?!\d)", bodies[:before] + bodies[after:checklist])
    assert len(shown) > 1000
    assert [text for text in shown if text not in values] == []


def shown_as(estimate: dict, *, signed: bool = False) -> str:
    if estimate["value"] is None:
        return "not estimable"
    text = number(estimate["value"], signed=signed)
    if estimate["low"] is None:
        return text
    return f"{text} {number(estimate['low'], signed=signed)} to {number(estimate['high'], signed=signed)}"


def test_the_figures_of_the_page_are_those_of_metrics_json_line_by_line(page, metrics):
    text = section(page, "Figures with intervals")
    text = text[: text.index(">Breast level</h3>")]
    text = text[: text.index("<details")]
    lines = re.findall(r"<tr(?: class=\"baseline\")?><td>(.*?)</td>(.*?)</tr>", text, re.DOTALL)
    found = [(arm, *(words(one) for one in re.findall(r"<td class=\"figure\">(.*?)</td>", rest, re.DOTALL)))
             for arm, rest in lines]  # fmt: skip
    wanted = []
    places = dict.fromkeys((c["cohort"], c["modality"]) for c in metrics["cells"] if c["level"] == "image")
    for cohort, modality in places:
        for arm in ("multi", "single", "majority"):
            (cell,) = [
                cell
                for cell in metrics["cells"]
                if (cell["arm"], cell["cohort"], cell["modality"], cell["level"]) == (arm, cohort, modality, "image")
            ]
            names = ("macro_auc", "accuracy", "quadratic_kappa")
            wanted.append((arm, *(shown_as(cell["metrics"][name]) for name in names)))
    assert found == wanted
    differences = re.findall(r"<td class=\"figure(?: clear)?\">([+−].*?)</td>", text, re.DOTALL)
    entry = metrics["differences"][0]
    assert words(differences[0]) == shown_as(entry["metrics"]["macro_auc"], signed=True)


def test_csv_holds_metrics_json_row_by_row(folder, metrics):
    rows = [row for row in table_of(folder, "metrics") if row["interval"] == "bootstrap"]
    assert len(rows) == sum(len(cell["metrics"]) for cell in metrics["cells"])
    flat = [(cell, name) for cell in metrics["cells"] for name in cell["metrics"]]
    for row, (cell, name) in zip(rows, flat, strict=True):
        estimate = cell["metrics"][name]
        assert (row["arm"], row["metric"], row["level"]) == (cell["arm"], name, cell["level"])
        assert row["value"] == ("" if estimate["value"] is None else str(estimate["value"]))
    tests = table_of(folder, "tests")
    assert [row["test"] for row in tests] == ["primary"] + ["secondary"] * len(metrics["family"])
    assert float(tests[0]["p"]) == metrics["endpoint"]["p"]


def test_a_flow_counts_patients_exams_and_images_and_names_every_loss(page, folder):
    steps = cohort_flow({"totals": {"images_found": 12}, "excluded": []}, index(), refused(), splits())
    counts = {step.name: (step.patients, step.exams, step.images) for step in steps}
    assert counts == {
        "images found": (None, None, (12, 12)),
        "in the index": ((3, 3), (4, 4), (5, 5)),
        "prepared": ((2, 2), (3, 3), (4, 4)),
        "with a label": ((2, 2), (2, 2), (3, 3)),
        "part train": ((1, 1), (1, 1), (2, 2)),
        "part validation": ((1, 1), (1, 1), (2, 2)),
        "part test": ((1, 1), (1, 1), (1, 1)),
    }
    said = words(section(page, "Cohort flow"))
    assert "no breast 1" in said
    assert "no label 1" in said


def test_the_registration_and_the_checklists_are_on_the_page_and_beside_it(page, folder):
    assert "abc123" in section(page, "Provenance")
    markdown = (folder / "checklist.md").read_text()
    assert "10.1148/ryai.240300" in markdown
    assert markdown.count("\n| ") > 44 + 50
    assert "for the authors" in markdown
    assert "abc123" in markdown


def endpoint(**changes) -> dict:
    estimate = {"value": -0.01, "low": -0.03, "high": 0.01}
    base = {k: PRIMARY[k] for k in ("metric", "level", "modality", "cohort", "part", "contrast", "kind", "margin")}
    return {"endpoint": base | {"n_patients": 28, "estimate": estimate, "p": 0.04, "why": None} | changes}


@pytest.mark.parametrize(
    "changes, said, unsaid",
    [
        ({"verdict": "not shown"}, "not to say that they are equal", "better"),
        ({"verdict": "inferior"}, "multi did worse than single", "superiority is shown"),
        (
            {"verdict": "non-inferior", "kind": "non-inferiority", "margin": 0.05},
            "not worse than single by the margin of 0.05",
            "did better",
        ),
        (
            {"verdict": "non-inferiority not shown", "kind": "non-inferiority", "margin": 0.02},
            "beyond the margin of 0.02",
            "is shown on these patients",
        ),
        (
            {"verdict": "not estimable", "estimate": None, "why": "one reason"},
            "cannot be answered: one reason",
            "shown",
        ),
    ],
)
def test_a_verdict_says_what_was_asked_and_no_more(changes, said, unsaid):
    primary = PRIMARY | {"kind": changes.get("kind", "superiority")}
    text = verdict(endpoint(**changes), primary)
    assert said in text
    assert unsaid not in text
    if changes.get("margin"):
        assert "one-sided p = 0.040" in text


def test_the_test_of_another_question_is_not_taken_for_this_one(metrics):
    changed = copy.deepcopy(metrics)
    changed["endpoint"]["cohort"] = "elsewhere"
    assert "superiority is shown" not in verdict(changed, PRIMARY)
