"""Exposures, the rule for exams, patients and temperatures, against values computed by hand."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from densityclip.artifacts import LOGITS
from densityclip.probability.aggregate import members_to_level, to_level
from densityclip.probability.calibrate import Calibration
from densityclip.probability.joining import PLAIN, Joining, joinings_record, read_joinings
from prediction_rows import probabilities_of, row, table

THIN, THICK, EVEN = [0.7, 0.2, 0.06, 0.04], [0.1, 0.2, 0.3, 0.4], [0.25] * 4
TWO = Joining(temperatures={"breast": 2.0, "exam": 0.5, "patient": 1.5})


def learned(weight: float, **others: object) -> Joining:
    return Joining(rule="learned", denser_weight=weight, **others)


def test_one_exposure_seen_in_three_modalities_counts_once():
    # CC was taken once and is there as DM, s2D and DBT; MLO as DM alone: each view is half of the breast.
    cc = [row(name, EVEN, modality=name) for name in ("DM", "s2D", "DBT")]
    breast = to_level(table(*cc, row("mlo", THICK, view="MLO")), "breast")
    np.testing.assert_allclose(probabilities_of(breast)[0], (np.array(EVEN) + THICK) / 2)


def test_a_repeat_in_one_modality_weighs_no_more_than_the_other_modality():
    images = table(row("1", THIN), row("2", THIN), row("3", THIN), row("4", THICK, modality="DBT"))
    np.testing.assert_allclose(probabilities_of(to_level(images, "breast"))[0], (np.array(THIN) + THICK) / 2)


def test_unknown_views_are_one_view_of_their_own():
    images = table(row("1", THIN), row("2", THICK, view=None), row("3", EVEN, view=None))
    expected = (np.array(THIN) + (np.array(THICK) + EVEN) / 2) / 2
    np.testing.assert_allclose(probabilities_of(to_level(images, "breast"))[0], expected)


def test_images_of_unknown_side_make_no_breast_and_stand_beside_the_known_ones_in_the_exam():
    images = table(row("1", THIN), row("2", EVEN, laterality="R"), row("3", THICK, laterality=None))
    assert to_level(images, "breast")["laterality"].to_list() == ["L", "R"]
    expected = (np.array(THIN) + EVEN + THICK) / 3
    np.testing.assert_allclose(probabilities_of(to_level(images, "exam"))[0], expected)


def test_images_of_no_exam_or_no_patient_are_not_thrown_together():
    images = table(
        row("1", THIN, exam_id=None), row("2", THICK, exam_id=None),
        row("3", THIN, patient_id=None, exam_id="x"), row("4", EVEN),
    )  # fmt: skip
    assert to_level(images, "exam")["exam_id"].to_list() == ["x", "e"]
    assert to_level(images, "patient")["patient_id"].to_list() == ["p"]
    nothing = to_level(images.head(2), "patient", TWO)
    assert nothing.height == 0
    assert nothing.schema == images.schema


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_an_exam_is_drawn_towards_its_denser_breast_by_the_weight(weight: float):
    images = table(row("1", THIN), row("2", THICK, laterality="R"))
    exam = to_level(images, "exam", learned(weight))
    mean = (np.array(THIN) + THICK) / 2
    expected = (1 - weight) * mean + weight * np.array(THICK)
    np.testing.assert_allclose(probabilities_of(exam)[0], expected)
    # The uncalibrated ones go the same way.
    np.testing.assert_allclose(exam.select(LOGITS).to_numpy()[0], np.log(expected))


def test_the_calibrated_probabilities_say_which_breast_is_denser():
    images = table(row("1", THIN, logits=[0, 0, 0, 5.0]), row("2", THICK, laterality="R", logits=[5.0, 0, 0, 0]))
    exam = to_level(images, "exam", Joining(rule="denser", denser_weight=1.0))
    np.testing.assert_allclose(probabilities_of(exam)[0], THICK)
    np.testing.assert_allclose(exam.select(LOGITS).to_numpy()[0], np.log(softmax([5.0, 0, 0, 0])))


def test_breasts_that_tie_for_the_denser_share_it():
    images = table(row("1", [0.5, 1e-12, 1e-12, 0.5]), row("2", [1e-12, 0.5, 0.5, 1e-12], laterality="R"))
    denser = to_level(images, "exam", Joining(rule="denser", denser_weight=1.0))
    np.testing.assert_allclose(probabilities_of(denser)[0], EVEN, atol=1e-9)


def test_an_exam_of_one_breast_is_that_breast_whatever_the_rule():
    images = table(row("1", THIN), row("2", THICK, view="MLO"))
    np.testing.assert_allclose(
        probabilities_of(to_level(images, "exam", learned(0.3))), probabilities_of(to_level(images, "breast"))
    )


def test_a_refused_breast_leaves_the_other_in_charge():
    images = table(row("1", THIN), row("2", [None] * 4, laterality="R", logits=[0.0] * 4, status="refused"))
    exam = to_level(images, "exam", learned(0.5))
    np.testing.assert_allclose(probabilities_of(exam)[0], THIN)
    assert exam["status"].item() == "ok"


def test_a_patient_is_the_mean_of_her_exams_however_many_images_these_have():
    images = table(
        row("1", THIN), row("2", THIN, view="MLO"), row("3", THIN, laterality="R"), row("4", THICK, exam_id="f")
    )
    patient = to_level(images, "patient")
    np.testing.assert_allclose(probabilities_of(patient)[0], (np.array(THIN) + THICK) / 2)
    assert patient.select("level", "patient_id", "exam_id", "label").row(0) == ("patient", "p", None, "B")


def test_a_patient_whose_exams_differ_has_no_label_and_a_blank_exam_is_no_difference():
    changed = table(row("1", EVEN, label="A"), row("2", EVEN, exam_id="f", label="B"))
    assert to_level(changed, "patient")["label"].to_list() == [None]
    blank = table(row("1", EVEN, label="A"), row("2", EVEN, exam_id="f", label=None))
    assert to_level(blank, "patient")["label"].to_list() == ["A"]
    conflict = table(row("1", EVEN, label="A"), row("2", EVEN, label="B"), row("3", EVEN, exam_id="f", label="A"))
    assert to_level(conflict, "patient")["label"].to_list() == [None]


def test_each_level_has_its_own_temperature_and_none_is_applied_twice():
    images = table(row("1", THIN), row("2", THICK, laterality="R"), row("3", EVEN, exam_id="f"))
    raw = {level: to_level(images, level) for level in ("breast", "exam", "patient")}
    for level, temperature in TWO.temperatures.items():
        found, plain = to_level(images, level, TWO), raw[level]
        expected = softmax(np.log(probabilities_of(plain)) / temperature, axis=1)
        np.testing.assert_allclose(probabilities_of(found), expected, rtol=1e-12)
        assert found.select(LOGITS).equals(plain.select(LOGITS))
        np.testing.assert_allclose(found["prob_dense"], expected[:, 2:].sum(axis=1))


def test_a_refused_row_stays_without_probabilities_at_any_temperature():
    refused = to_level(table(row("1", [None] * 4, logits=[0.0] * 4, status="refused", reason="constant")), "exam", TWO)
    assert refused.select("prob_a", "prob_dense", "predicted", "reason").row(0) == (None, None, None, "constant")


def some_rows(rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for n in range(60):
        of = {"patient_id": f"p{n % 4}", "exam_id": f"e{n % 8}", "label": rng.choice(["A", "B"])}
        of |= {key: rng.choice(values) for key, values in _ANY.items()}
        if of["status"] == "refused":
            of["reason"] = rng.choice(["x", "y"])
        rows.append(row(str(n), list(rng.dirichlet(np.ones(4))), **of))
    return table(*rows)


_ANY = {
    "laterality": np.array(["L", "R", None]), "view": np.array(["CC", "MLO", None]), "vendor": np.array(["v", None]),
    "modality": np.array(["DM", "s2D", "DBT"]), "status": np.array(["ok", "ok", "refused"]),
}  # fmt: skip


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_the_order_of_rows_changes_no_bit_at_any_level(seed):
    images = some_rows(np.random.default_rng(seed))
    shuffled = images.sample(fraction=1.0, shuffle=True, seed=seed)
    joining = learned(0.4, temperatures=TWO.temperatures)
    for level in ("breast", "exam", "patient"):
        one = to_level(images, level, joining)
        assert to_level(shuffled, level, joining).equals(one, null_equal=True)
        known = one.filter(pl.col("status") == "ok")
        np.testing.assert_allclose(probabilities_of(known).sum(axis=1), 1.0)


def test_members_are_joined_each_in_its_own_way_and_strangers_plainly():
    both = [row("1", THIN, fold=1), row("2", THICK, fold=1, laterality="R")]
    stranger = [one | {"fold": None, "arm": None} for one in both]
    images = table(*both, *(one | {"fold": 2} for one in both), *stranger)
    found = members_to_level(images, "exam", {("a", 1, 0): PLAIN, ("a", 2, 0): learned(1.0)})
    assert found["fold"].to_list() == [None, 1, 2]
    mean = (np.array(THIN) + THICK) / 2
    np.testing.assert_allclose(probabilities_of(found), [mean, mean, THICK])
    assert members_to_level(images.head(0), "exam", {}).height == 0


def test_joinings_survive_the_manifest_and_older_ones_have_none():
    joinings = {
        ("multi", 1, 2): learned(0.3, chosen_on=40, fitted_on=12, notes=("few",)),
        ("multi", 0, 2): PLAIN,
        (None, None, None): TWO,
    }
    config = {"study": "s", "joinings": joinings_record(joinings)}
    written = json.loads(json.dumps({"config": config}))
    assert read_joinings(written) == joinings
    assert [one["fold"] for one in config["joinings"]] == [None, 0, 1]
    assert read_joinings({"config": {"study": "s"}}) == {}


def test_a_calibration_of_the_past_joins_plainly_and_one_of_today_comes_back_whole():
    today = Calibration(temperature=1.7, joining=learned(0.2, temperatures=TWO.temperatures))
    content = json.loads(json.dumps(today.to_dict()))
    assert Calibration.from_dict(content) == today
    del content["joining"]
    assert Calibration.from_dict(content).joining == PLAIN


@pytest.mark.parametrize(
    "wrong",
    [
        {"denser_weight": 1.5, "rule": "learned"},
        {"denser_weight": 0.5},
        {"rule": "denser"},
        {"rule": "greatest"},
        {"temperatures": {"exam": 1.0}},
        {"temperatures": {"breast": 1.0, "exam": 0.0, "patient": 1.0}},
    ],
)
def test_a_joining_that_makes_no_sense_is_not_built(wrong: dict):
    with pytest.raises(ValueError, match=r"weight|rule|temperatures"):
        Joining(**wrong)
