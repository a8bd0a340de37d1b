"""The primary question and its verdict, and the correction of the secondary tests."""

from collections.abc import Sequence

import polars as pl
import pytest
from answers import one, predictions

from densityclip.errors import UserError
from densityclip.evaluation.evaluate import evaluate

PRIMARY = {"metric": "accuracy", "level": "exam", "modality": "all", "cohort": "c", "contrast": ["good", "bad"]}


COHORTS = (("c", "test"), ("far", "external"), ("near", "external"))


def table(cohorts: Sequence[tuple[str, str]] = COHORTS[:1]) -> pl.DataFrame:
    """A good arm and a bad one."""
    return pl.concat(
        predictions(24, (arm,), seed=k, skill=skill, cohort=cohort, part=part)
        for arm, skill in (("good", 4.0), ("bad", 0.0))
        for k, (cohort, part) in enumerate(cohorts)
    )


@pytest.fixture(scope="module")
def metrics() -> dict:
    return evaluate(table(COHORTS), resamples=300, groups=(), primary=PRIMARY)


def test_the_endpoint_is_the_difference_of_its_place(metrics):
    endpoint = metrics["endpoint"]
    difference = one(metrics["differences"], cohort="c", level="exam", modality="all")
    shown = difference["metrics"]["accuracy"]
    assert difference["arms"] == ["good", "bad"]
    assert endpoint["estimate"] == {key: shown[key] for key in ("value", "low", "high", "resamples_used")}
    assert endpoint["p"] == shown["p"]
    assert (endpoint["verdict"], endpoint["part"], endpoint["n_patients"]) == ("superior", "test", 24)


def test_the_other_way_round_is_inferior_and_the_margin_decides_non_inferiority():
    turned = PRIMARY | {"contrast": ["bad", "good"]}
    worse = evaluate(table(), groups=(), resamples=200, primary=turned)["endpoint"]
    assert worse["verdict"] == "inferior"
    lost = -worse["estimate"]["low"]
    for margin, verdict in ((lost + 0.01, "non-inferior"), (lost - 0.01, "non-inferiority not shown")):
        asked = turned | {"kind": "non-inferiority", "margin": margin}
        endpoint = evaluate(table(), groups=(), resamples=200, primary=asked)["endpoint"]
        assert (endpoint["verdict"], endpoint["margin"]) == (verdict, margin)


def test_fewer_errors_are_better():
    asked = PRIMARY | {"metric": "mean_absolute_error"}
    endpoint = evaluate(table(), groups=(), resamples=200, primary=asked)["endpoint"]
    assert endpoint["estimate"]["value"] < 0
    assert endpoint["verdict"] == "superior"


def test_the_family_is_every_other_cohort_and_modality_corrected_by_holm(metrics):
    family = metrics["family"]
    places = {(entry["cohort"], entry["modality"]) for entry in family}
    every = {(cohort, modality) for cohort in ("c", "far", "near") for modality in ("DM", "s2D", "all")}
    assert places == every - {("c", "all")}
    assert {entry["level"] for entry in family} == {"exam"}
    for level in (0.01, 0.02, 0.05, 0.1, 0.3, 0.6):
        # Holm's procedure itself: step down from the smallest p, and stop at the first that is too large.
        rejected, steps = set(), sorted(range(8), key=lambda k: family[k]["p"])
        for k, test in enumerate(steps):
            if family[test]["p"] > level / (8 - k):
                break
            rejected.add(test)
        assert {k for k in range(8) if family[k]["p_holm"] <= level} == rejected
    assert any(entry["p"] < 0.05 for entry in family)


def test_a_question_that_cannot_be_answered_says_why():
    other = evaluate(table(), groups=(), resamples=20, primary=PRIMARY | {"cohort": "nowhere"})["endpoint"]
    assert (other["verdict"], other["estimate"]) == ("not estimable", None)
    assert "no such predictions" in other["why"]
    unlike = table().filter(~((pl.col("arm") == "bad") & (pl.col("patient_id") == "p1")))
    uneven = evaluate(unlike, groups=(), resamples=20, primary=PRIMARY)["endpoint"]
    assert "not scored on the same images" in uneven["why"]


def test_without_a_question_there_is_no_endpoint():
    metrics = evaluate(table(), groups=(), resamples=20)
    assert metrics["endpoint"] is None
    assert metrics["family"] == []


def test_non_inferiority_without_a_margin_is_refused():
    with pytest.raises(UserError, match="with a margin"):
        evaluate(table(), groups=(), resamples=20, primary=PRIMARY | {"kind": "non-inferiority"})


def test_so_few_patients_are_described_and_not_tested():
    few = pl.concat(
        predictions(number, (arm,), seed=k, skill=skill, cohort=cohort, part=part)
        for arm, skill in (("good", 4.0), ("bad", 0.0))
        for k, (number, cohort, part) in enumerate(((19, "c", "test"), (20, "far", "external")))
    )
    found = evaluate(few, groups=(), resamples=100, primary=PRIMARY)
    endpoint, family = found["endpoint"], found["family"]
    assert (endpoint["verdict"], endpoint["p"]) == ("not estimable", None)
    assert endpoint["estimate"]["value"] > 0
    assert endpoint["why"] == "19 patients are too few for a test, which wants 20"
    assert all((entry["p"] is None) == (entry["cohort"] == "c") for entry in family)
