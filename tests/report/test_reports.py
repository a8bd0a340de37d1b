"""The pages: one file each, nothing fetched, everything escaped, and never more said than the interval allows."""

import copy
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import PROBABILITIES, conform
from densityclip.evaluation.evaluate import evaluate
from densityclip.probability.aggregate import fill_derived
from densityclip.report.audit_report import write_audit
from densityclip.report.counts import blocks
from densityclip.report.evaluation_report import write_evaluation_report
from densityclip.report.map_tables import Maps
from densityclip.report.study_report import Sheet, write_study_report
from densityclip.report.tables import estimate_text, find_difference, number, result_table
from densityclip.report.words import answer, per_site

NASTY = "<script>alert('x')</script>&\"north\""
PRIMARY = {
    "metric": "macro_auc", "level": "image", "modality": "DM", "cohort": "north", "part": "external",
    "contrast": ["multi", "single"],
}  # fmt: skip
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e527de"
    "fc0000000049454e44ae426082"
)

NASTY_MAPS = {
    "methods": ["gradcam"],
    "images": 3,
    "figures": [],
    "consistency": [],
    "verdicts": [{"map": "gradcam", "claim": NASTY, "verdict": "failed", "figures": NASTY}],
}


def predictions(site: str = "North") -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for arm in ("single", "multi"):
        for p in range(16):
            for modality in ("DM", "s2D"):
                truth = p % 4
                weights = np.ones(4) + (6.0 if arm == "multi" else 0.3) * (np.arange(4) == truth)
                probabilities = rng.dirichlet(weights)
                rows.append(
                    {
                        "level": "image",
                        "image_id": f"{p}{modality}",
                        "exam_id": f"e{p}",
                        "patient_id": f"p{p}",
                        "modality": modality,
                        "view": "CC",
                        "laterality": "L",
                        "site": site,
                        "cohort": "north",
                        "part": "external",
                        "fold": 0,
                        "arm": arm,
                        "seed": 0,
                        "label": "ABCD"[truth],
                        "status": "ok",
                        **dict(zip(PROBABILITIES, probabilities, strict=True)),
                        **{f"logit_{k}": float(np.log(v)) for k, v in zip("abcd", probabilities, strict=True)},
                    }
                )
    return fill_derived(conform(pl.DataFrame(rows), "predictions"))


@pytest.fixture(scope="module")
def metrics() -> dict:
    return evaluate(predictions(), resamples=100)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    training = pl.DataFrame({"step": [1, 2], "name": ["train/loss"] * 2, "value": [1.0, 0.5]})
    out = write_study_report(
        tmp_path_factory.mktemp("report") / "report.html",
        study={
            "title": f"Study {NASTY}",
            "generated": True,
            "class_mix_notes": {"north": f"even on purpose {NASTY}"},
            "primary": PRIMARY,
            "arms": {"single": "s2D only", "multi": NASTY},
        },
        metrics=evaluate(predictions(NASTY), resamples=50),
        trainings={"single": training, "multi": training},
        sheets=[Sheet(NASTY, PIXEL)],
        maps=[Maps(NASTY, NASTY, NASTY_MAPS)],
        audits={NASTY: {"totals": {"images": 32}, "excluded": [{"reason": NASTY, "images": 1}]}},
        provenance={"densityclip": "0", "config": {NASTY: [NASTY]}},
    )
    return out.read_text()


class Tags(HTMLParser):
    """Collects tags with attributes, and checks that they nest."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_fetches_nothing(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object", "base"}
    sources = [attributes["src"] for _, attributes in tags.found if "src" in attributes]
    assert len(sources) >= 2 + 2 * 4 + 1
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in page
    assert "@import" not in page
    assert all(attributes.get("alt") for tag, attributes in tags.found if tag == "img")


def test_of_many_arms_the_pictures_show_the_two_that_are_compared_and_the_tables_all(metrics, tmp_path):
    many = copy.deepcopy(metrics)
    for extra in range(6):
        others = [cell | {"arm": f"other-{extra}"} for cell in metrics["cells"] if cell["arm"] == "single"]
        many["cells"] += copy.deepcopy(others)
    training = pl.DataFrame({"step": [1, 2], "name": ["train/loss"] * 2, "value": [1.0, 0.5]})
    pages = []
    for name, content in (("two", metrics), ("many", many)):
        arms = {cell["arm"]: "said" for cell in content["cells"]}
        study = {"title": "Study", "generated": True, "primary": PRIMARY, "arms": arms}
        out = write_study_report(
            tmp_path / f"{name}.html",
            study=study,
            metrics=content,
            trainings=dict.fromkeys(arms, training),
            sheets=[],
            audits={},
            provenance={},
        )
        pages.append(out.read_text())
    two, all_eight = pages
    assert two.count("<img") == all_eight.count("<img")
    assert "all 8 stand in the tables" in all_eight
    assert "stand in the tables" not in two
    assert all_eight.count(">other-5<") > 1


def test_the_first_lines_say_that_the_exams_were_generated_and_how_the_mix_was_chosen(page):
    visible = re.sub(r"<style>.*?</style>|<head>.*?</head>", "", page, flags=re.DOTALL)
    words = re.sub(r"<[^>]+>", " ", visible)
    start = " ".join(words.split())[:700]
    assert "were generated by a program" in start
    assert "even on purpose" in start
    assert "research use only" in start


def test_names_are_escaped_everywhere(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10


def test_every_line_of_a_table_is_as_wide_as_its_head(page):
    tables = re.findall(r"<table class=\"wide[^>]*>(.*?)</table>", page, re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        width = len(re.findall(r"<th[ >]", table[: table.index("</thead>")]))
        for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL):
            spans = [int(n) for n in re.findall(r'colspan="(\d+)"', line)]
            assert len(re.findall(r"<t[dh][ >]", line)) + sum(spans) - len(spans) == width


def test_the_answer_says_the_difference_its_interval_and_n(metrics):
    said = " ".join(answer(metrics, PRIMARY))
    difference = find_difference(metrics, ["multi", "single"], cohort="north", modality="DM", level="image")
    assert number(difference["metrics"]["macro_auc"]["value"], signed=True) in said
    assert "16 DM images of 16 patients" in said
    assert "excludes zero" in said
    assert "multi did better than single" in said
    assert "one seed" in said
    assert "not corrected" in said


def test_an_interval_with_zero_inside_is_no_victory(metrics):
    changed = copy.deepcopy(metrics)
    for entry in changed["differences"]:
        entry["metrics"]["macro_auc"] |= {"value": 0.02, "low": -0.05, "high": 0.09, "excludes_zero": False}
    said = " ".join(answer(changed, PRIMARY))
    assert "includes zero" in said
    assert "better" not in said


def test_a_lower_error_is_the_better_one(metrics):
    said = " ".join(answer(metrics, PRIMARY | {"metric": "mean_absolute_error"}))
    assert "multi did better than single" in said


def test_a_missing_comparison_is_said_and_not_made_up(metrics):
    said = " ".join(answer(metrics, PRIMARY | {"modality": "DBT"}))
    assert "cannot be made" in said
    changed = copy.deepcopy(metrics)
    for entry in changed["differences"]:
        entry |= {"metrics": {}, "not_compared": "the images differ"}
    assert "cannot be made: the images differ" in " ".join(answer(changed, PRIMARY))


def test_turning_a_contrast_turns_value_and_interval(metrics):
    place = {"cohort": "north", "modality": "DM", "level": "image"}
    there = find_difference(metrics, ["multi", "single"], **place)["metrics"]["accuracy"]
    back = find_difference(metrics, ["single", "multi"], **place)["metrics"]["accuracy"]
    assert (back["value"], back["low"], back["high"]) == (-there["value"], -there["high"], -there["low"])


def test_every_site_is_named_with_every_arm(metrics):
    (site, sentence), *_ = per_site(metrics, PRIMARY, ["single", "multi"], {"north": "external"})
    assert site == "North (north, external)"
    assert sentence.startswith("DM: single 0.")
    assert "; s2D: single" in sentence


def test_the_result_table_is_flat_text_with_n(metrics):
    rows = result_table(metrics, level="exam", metric_names=("accuracy",))
    assert {(row["arm"], row["modality"], row["n"]) for row in rows} == {
        (arm, modality, 16) for arm in ("single", "multi") for modality in ("DM", "s2D", "all")
    }
    assert all(re.fullmatch(r"\d\.\d\d \(\d\.\d\d to \d\.\d\d\)", row["accuracy"]) for row in rows)


@pytest.mark.parametrize(
    "value, signed, text",
    [(None, False, "not estimable"), (0.125, False, "0.12"), (-0.0001, True, "0.000"), (-0.05, True, "−0.050")],
)
def test_numbers_have_few_digits_and_a_true_minus(value, signed, text):
    assert number(value, signed=signed) == text


def test_an_estimate_without_interval_stands_alone():
    assert estimate_text({"value": 0.5, "low": None, "high": None}) == "0.50"


def test_the_evaluation_page_stands_alone_for_one_unnamed_arm(tmp_path):
    table = predictions().filter(pl.col("arm") == "single").with_columns(pl.lit(None, dtype=pl.String).alias("arm"))
    page = write_evaluation_report(tmp_path / "e.html", evaluate(table, resamples=10)).read_text()
    assert "research use only" in page
    assert "Evaluation of predictions" in page
    assert "http" not in re.sub(r"data:image/[^\"]+", "", page)


def test_any_nesting_of_counts_becomes_a_page(tmp_path):
    audit = {
        "schema_version": 1,
        "totals": {"images": 1234567},
        "by": {"DM": {"A": 1}, "s2D": {"A": None, "B": 2}},
        "odd": {"x": {"y": {"z": [1, {"w": NASTY}], "empty": {}, "none": []}}},
        "reasons": {"unreadable": 3, "no_breast": 0},
    }
    page = write_audit(tmp_path / "a.html", audit).read_text()
    for text in ("1,234,567", "&lt;script&gt;", "no breast", "s2D"):
        assert text in page
    assert "schema version" not in page
    kinds = {block.title: block.kind for block in blocks(audit)}
    assert kinds == {"Totals": "facts", "By": "table", "Odd": "group", "Reasons": "bars"}


def test_an_arm_that_never_saw_a_kind_of_image_is_named_beside_the_answer():
    from densityclip.report.words import answer

    estimate = {"value": 0.05, "low": 0.02, "high": 0.08, "excludes_zero": True}
    shared = {"value": -0.02, "low": -0.05, "high": 0.01, "excludes_zero": False}
    place = {"cohort": "internal", "part": "test", "site": "internal", "level": "image"}
    cells = [
        place
        | {"arm": arm, "modality": modality, "n": 30, "n_patients": 10, "seeds": 1, "folds": 1}
        | {"metrics": {"macro_auc": {"value": 0.8, "low": 0.7, "high": 0.9}}}
        for arm in ("multi", "single")
        for modality in ("DM", "s2D", "all")
    ]
    differences = [
        place | {"arms": ["multi", "single"], "modality": modality, "not_compared": "", "metrics": {"macro_auc": value}}
        for modality, value in (("DM", estimate), ("s2D", shared), ("all", estimate))
    ]
    metrics = {"cells": cells, "differences": differences}
    primary = place | {"metric": "macro_auc", "modality": "all", "contrast": ["multi", "single"]}
    text = " ".join(answer(metrics, primary, {"multi": ["DM", "s2D"], "single": ["s2D"]}))
    assert "single was never trained on DM" in text
    assert "On s2D alone, which both were trained on, the difference is −0.020" in text
    like = " ".join(answer(metrics, primary, {"multi": ["DM", "s2D"], "single": ["DM", "s2D"]}))
    assert "never trained" not in like
    at_exam = differences[2] | {"level": "exam", "metrics": {"macro_auc": shared}}
    text = " ".join(answer({"cells": cells, "differences": [*differences, at_exam]}, primary))
    assert "At other levels the same difference is −0.020 (−0.050 to +0.010) by exam." in text
