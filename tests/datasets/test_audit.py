"""The audit against counts made by hand, and what follows from them for the use of a model."""

import json
import random
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from densityclip.artifacts import conform, write_table
from densityclip.datasets.audit import MOST_VALUES, NOT_STATED, audit
from densityclip.datasets.limits import THIN, not_for

NOTHING = conform(pl.DataFrame(), "excluded")


def row(number: int, **known: Any) -> dict[str, Any]:
    return {
        "image_id": f"SECRET-I{number}", "path": f"/SECRET/{number}", "patient_id": f"SECRET-P{number}",
        "exam_id": f"SECRET-E{number}", "laterality": "L", "view": "CC", "modality": "DM", "density": "B",
        "density_source": "table", "site": "north", "vendor": "Hologic", "age": 50.0, "race": "Asian",
    } | known  # fmt: skip


def table(*rows: dict[str, Any], kind: str = "index") -> pl.DataFrame:
    return conform(pl.DataFrame(list(rows), infer_schema_length=None), kind)


def rules(index: pl.DataFrame, excluded: pl.DataFrame = NOTHING) -> dict[str, str]:
    return {limit["rule"]: limit["sentence"] for limit in audit(index, excluded)["limits"]}


def cohort(patients: int, **known: Any) -> list[dict[str, Any]]:
    return [row(number, **known) for number in range(patients)]


def test_images_exams_and_patients_are_counted_apart_and_labels_with_them() -> None:
    index = table(
        row(1, patient_id="P1", exam_id="E1"),
        row(2, patient_id="P1", exam_id="E1", view="MLO"),
        row(3, patient_id="P1", exam_id="E2", density="C", age=39.9, race=None),
        row(4, patient_id="P2", exam_id="E3", density=None, modality="DBT", age=None, site="south"),
    )
    excluded = table(row(5, reason="male", detail="x"), kind="excluded")
    content = audit(index, excluded, notes=["Grouped by study."])
    assert json.loads(json.dumps(content)) == content
    assert content["notes"] == ["Grouped by study."]
    assert content["totals"] == {
        "images_found": 5, "images": 4, "images_excluded": 1, "images_labelled": 3, "patients": 2,
        "patients_labelled": 1, "exams": 3, "exams_labelled": 2,
    }  # fmt: skip
    names = ("value", "images", "images_labelled", "exams", "patients", "patients_labelled")
    shown = {column: [tuple(row[name] for name in names) for row in rows] for column, rows in content["counts"].items()}
    assert shown["density"] == [("B", 2, 2, 1, 1, 1), ("C", 1, 1, 1, 1, 1), (NOT_STATED, 1, 0, 1, 1, 0)]
    assert shown["age_band"] == [("<40", 1, 1, 1, 1, 1), ("50-59", 2, 2, 1, 1, 1), (NOT_STATED, 1, 0, 1, 1, 0)]
    assert shown["site"] == [("north", 3, 3, 2, 1, 1), ("south", 1, 0, 1, 1, 0)]
    assert shown["race"] == [("Asian", 3, 2, 2, 2, 1), (NOT_STATED, 1, 1, 1, 1, 1)]
    assert content["age"] == {"images_with_age": 3, "low": 39, "high": 50}


@pytest.mark.parametrize(
    ("age", "band"), [(39.9, "<40"), (40.0, "40-49"), (49.9, "40-49"), (69.9, "60-69"), (70.0, "70+"), (101.0, "70+")]
)
def test_an_age_falls_into_the_band_that_its_full_years_name(age, band) -> None:
    assert [count["value"] for count in audit(table(row(1, age=age)), NOTHING)["counts"]["age_band"]] == [band]


def test_a_cell_without_patients_is_empty_and_one_with_few_is_thin_however_many_images_they_have() -> None:
    many_images_of_one = [row(n, patient_id="P", density="A") for n in range(100, 100 + 2 * THIN)]
    index = table(*cohort(THIN), *many_images_of_one, row(900, modality="s2D", density=None))
    cells = audit(index, NOTHING)["density_by_modality"]
    assert cells["images"] == {
        "DM": {"A": 2 * THIN, "B": THIN, "C": 0, "D": 0, NOT_STATED: 0},
        "s2D": {"A": 0, "B": 0, "C": 0, "D": 0, NOT_STATED: 1},
    }
    assert cells["patients"]["DM"] == {"A": 1, "B": THIN, "C": 0, "D": 0, NOT_STATED: 0}
    assert cells["thin_cells"] == ["DM A"]
    assert cells["empty_cells"] == ["DM C", "DM D", "s2D A", "s2D B", "s2D C", "s2D D"]


def test_labels_that_differ_are_counted_by_breast_exam_and_over_time() -> None:
    index = table(
        # One breast read as two categories; the other breast agrees with the denser reading.
        row(1, patient_id="P1", exam_id="E1"), row(2, patient_id="P1", exam_id="E1", density="C"),
        row(3, patient_id="P1", exam_id="E1", density="C", laterality="R"),
        # Breasts two steps apart.
        row(4, patient_id="P2", exam_id="E2", density="A"),
        row(5, patient_id="P2", exam_id="E2", density="C", laterality="R"),
        # Two exams two steps apart, told apart by date; and two that no date tells apart.
        row(6, patient_id="P3", exam_id="E3", density="D", study_date=date(2015, 1, 1)),
        row(7, patient_id="P3", exam_id="E4", density="B", study_date=date(2019, 1, 1)),
        row(8, patient_id="P4", exam_id="E5", density="C"), row(9, patient_id="P4", exam_id="E6", density="B"),
        # The exams agree: each takes its denser breast.
        row(10, patient_id="P5", exam_id="E7", density="C"),
        row(11, patient_id="P5", exam_id="E8", density="C"),
        row(12, patient_id="P5", exam_id="E8", density="B", laterality="R"),
    )  # fmt: skip
    assert audit(index, NOTHING)["label_conflicts"] == {
        "breasts_with_two_labels": 1,
        "exams_whose_breasts_differ": 3,
        "exams_whose_breasts_differ_by_more_than_one_step": 1,
        "patients_whose_labels_differ": 5,
        "patients_with_several_labelled_exams": 3,
        "patients_whose_exams_differ": 2,
        "patients_whose_exams_differ_by_more_than_one_step": 1,
        "patients_whose_exams_differ_and_are_not_told_apart_by_date": 1,
    }


def test_complete_exams_have_both_views_of_both_breasts() -> None:
    four = [row(n, exam_id="E", patient_id="P", laterality=s, view=v) for n, (s, v) in enumerate(
        [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")])]  # fmt: skip
    again = [item | {"image_id": f"{n}"} for n, item in enumerate(four)]
    one_side = [item | {"exam_id": "F", "image_id": f"f{n}", "study_date": date(2016, 5, 4)}
                for n, item in enumerate(four[:2])]  # fmt: skip
    found = audit(table(*four, *again, *one_side), NOTHING)["exams"]
    assert found == {
        "exams_with_all_four_views": 1, "exams_of_one_side_only": 1,
        "exams_of_more_than_one_patient": 0, "exams_without_a_date": 1,
        "patients_with_several_exams": 1, "first_year": 2016, "last_year": 2016,
    }  # fmt: skip


def test_an_exam_that_two_patients_share_is_counted() -> None:
    index = table(row(1, exam_id="E"), row(2, exam_id="E"), row(3))
    assert audit(index, NOTHING)["exams"]["exams_of_more_than_one_patient"] == 1


def test_exclusions_say_in_words_why_and_where_such_images_come_from() -> None:
    excluded = table(
        row(1, reason="implant", detail="x"), row(2, reason="implant", detail="x", modality="s2D"),
        row(3, reason="male", detail="x"), row(4, reason="of_a_later_version", detail="x", modality=None),
        kind="excluded",
    )  # fmt: skip
    first, *others = audit(table(row(9)), excluded)["excluded"]
    assert (first["reason"], first["images"], first["by_modality"]) == ("implant", 2, {"DM": 1, "s2D": 1})
    assert first["sentence"].endswith(".")
    # All are of one site: that would only repeat the number.
    assert "by_site" not in first
    assert [item["reason"] for item in others] == ["male", "of_a_later_version"]
    assert others[1]["by_modality"] == {NOT_STATED: 1}


def test_no_id_and_no_path_is_in_an_audit() -> None:
    excluded = table(row(50, reason="unreadable", detail="SECRET detail"), kind="excluded")
    assert "SECRET" not in json.dumps(audit(table(*cohort(40)), excluded))


def test_tables_frames_and_files_give_the_same_audit_whatever_the_order_of_rows(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        row(
            number, patient_id=f"P{number // 8}", exam_id=f"E{number // 4}", density=draw.choice([*"ABCD", None]),
            modality=draw.choice(["DM", "s2D"]), site=draw.choice(["a", "b", None]), laterality=draw.choice("LR"),
        )
        for number in range(500)
    ]  # fmt: skip
    index, excluded = table(*rows), table(*[item | {"reason": draw.choice(["male", "implant"])} for item in rows[:50]],
                                          kind="excluded")  # fmt: skip
    write_table(index, tmp_path / "index.parquet", "index")
    write_table(excluded, tmp_path / "excluded.parquet", "excluded")
    expected = audit(index, excluded)
    assert audit(tmp_path / "index.parquet", tmp_path / "excluded.parquet") == expected
    assert audit(index.lazy(), excluded.lazy()) == expected
    assert audit(index.sample(fraction=1, shuffle=True, seed=3), excluded.reverse()) == expected


def test_a_column_with_very_many_values_is_cut_and_the_rest_added_up() -> None:
    counted = audit(table(*[row(n, machine=f"M{n:04d}") for n in range(MOST_VALUES + 20)]), NOTHING)["counts"]
    assert len(counted["machine"]) == MOST_VALUES + 1
    assert counted["machine"][-1] == {
        "value": "20 further values", "images": 20, "images_labelled": 20, "exams": None, "patients": None,
        "patients_labelled": None,
    }  # fmt: skip


def test_an_empty_index_is_counted_too() -> None:
    content = audit(conform(pl.DataFrame(), "index"), table(row(1, reason="male", detail="x"), kind="excluded"))
    assert content["totals"]["images_found"] == 1
    assert [limit["rule"] for limit in content["limits"]] == ["research_only", "no_labels"]


def everything() -> list[dict[str, Any]]:
    """A cohort with nothing to warn of but what is always left out."""
    return [
        row(n, density="ABCD"[n % 4], modality=("DM", "s2D", "DBT")[n // 4 % 3], site=f"site {n % 2}",
            vendor=("Hologic", "GE")[n % 2], age=40.0 + n % 40)
        for n in range(12 * THIN)
    ]  # fmt: skip


def test_a_full_cohort_is_only_warned_of_what_no_cohort_shows() -> None:
    assert list(rules(table(*everything()))) == [
        "research_only", "one_reading", "site_others", "vendor_others", "age_range", "no_implants", "no_men",
        "no_special_views", "no_raw_images",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        ({"modality": "DBT", "to": {"modality": "DM"}}, "modality_absent", "Not for DBT"),
        ({"modality": "DBT", "to": {"density": None}}, "modality_absent", "Not for DBT"),
        ({"modality": "DBT", "to": {"modality": "unknown"}}, "modality_unknown", "120 labelled images"),
        ({"modality": "DBT", "to": {"patient_id": "one"}}, "modality_thin", "DBT (1 patient)"),
        ({"density": "A", "to": {"density": "B"}}, "category_absent", "category A"),
        ({"density": "A", "to": {"patient_id": "one"}}, "category_thin", "category A (1 patient)"),
        ({"density": "A", "modality": "DBT", "to": {"density": "B"}}, "cell_empty", "category A on DBT"),
        ({"density": "A", "modality": "DM", "to": {"patient_id": "one"}}, "cell_thin", "A on DM (1 patient)"),
        ({"to": {"site": "north"}}, "site_single", "Not for another site than north"),
        ({"to": {"site": None}}, "site_unknown", "not stated"),
        ({"to": {"vendor": "GE"}}, "vendor_single", "Not for another vendor than GE"),
        ({"to": {"vendor": None}}, "vendor_unknown", "not stated"),
        ({"to": {"age": None}}, "age_unknown", "no age"),
        ({"to": {}}, "age_range", "younger than 40 or older than 79"),
        ({"to": {"race": None}}, "race_unknown", "not stated"),
        ({"modality": "DBT", "density": "A", "to": {"race": "Black", "patient_id": "one"}}, "race_thin", "Black (1 p"),
        ({"modality": "DBT", "to": {}, "else": {"race": None}}, "race_mostly_unknown", "33% only"),
        ({"to": {"density_source": "simulated reader"}}, "generated", "the exams were generated"),
        ({"modality": "DBT", "to": {"density_source": "simulated reader"}}, "generated", "120 of 360 images were gen"),
        ({"density": "A", "to": {"implant": True}}, "no_implants", "90 images say that there is an implant"),
    ],
)  # fmt: skip
def test_each_limit_follows_from_the_counts(change, rule, said) -> None:
    rows, change = everything(), dict(change)
    to, other = change.pop("to"), change.pop("else", {})
    for item in rows:
        item.update(to if all(item[name] == value for name, value in change.items()) else other)
    found = rules(table(*rows))
    assert said in found[rule]
    assert rule in ("age_range", "no_implants") or rule not in rules(table(*everything()))


def test_what_is_always_left_out_is_said_with_its_number() -> None:
    excluded = table(
        *[row(n, reason=reason, detail="x") for n, reason in enumerate(["implant", "magnification", "specimen"])],
        kind="excluded",
    )
    found = rules(table(*everything()), excluded)
    assert "(1 here)" in found["no_implants"]
    assert "(2 here)" in found["no_special_views"]
    assert "here" not in found["no_men"]


def test_a_long_list_of_names_is_cut() -> None:
    index = table(*[item | {"site": f"site {number % 20:02d}"} for number, item in enumerate(everything())])
    assert "site 04, site 05 or 14 more" in rules(index)["site_others"]


def test_limits_are_stated_from_the_written_audit_alone() -> None:
    content = audit(table(*everything()), NOTHING)
    assert not_for(json.loads(json.dumps(content))) == content["limits"]
