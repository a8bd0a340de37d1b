"""Splits against the rules they must keep, for any cohort."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densityclip.artifacts import conform
from densityclip.datasets.splits import DEFAULT_SHARES, check_splits, make_splits
from densityclip.errors import UserError


def cohort(labels: list[str | None], prefix: str = "P", images: int = 3) -> pl.DataFrame:
    """One patient per label, with several images; one of them a category below the densest."""
    rows = []
    for number, label in enumerate(labels):
        for image in range(images):
            lower = "ABCD"[max("ABCD".index(label) - 1, 0)] if label and image == 1 else label
            rows.append(
                {
                    "image_id": f"{prefix}{number}_{image}",
                    "path": "x",
                    "patient_id": f"{prefix}{number:05d}",
                    "exam_id": f"E{number}",
                    "density": lower,
                }
            )
    return conform(pl.DataFrame(rows, infer_schema_length=None), "index")


LABELS = ["A"] * 40 + ["B"] * 160 + ["C"] * 160 + ["D"] * 40


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.sampled_from(["A", "B", "C", "D", None]), min_size=12, max_size=120),
    folds=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_every_patient_has_exactly_one_part_in_every_fold(labels, folds, seed) -> None:
    splits = make_splits({"in": cohort(labels), "out": cohort(["A"], "X")}, external=["out"], folds=folds, seed=seed)
    assert splits.height == (len(labels) + 1) * folds
    assert splits.group_by("fold", "patient_id").len()["len"].unique().to_list() == [1]
    assert splits.filter(pl.col("cohort") == "out")["part"].unique().to_list() == ["external"]
    for fold in range(folds):
        parts = set(splits.filter((pl.col("fold") == fold) & (pl.col("cohort") == "in"))["part"])
        assert parts == set(DEFAULT_SHARES)


def test_shares_hold_overall_and_within_every_category() -> None:
    splits = make_splits({"in": cohort(LABELS)}, external=[])
    numbers = dict(splits.group_by("part").len().iter_rows())
    assert numbers == {"train": 240, "validation": 60, "calibration": 20, "test": 80}
    densest = pl.DataFrame({"patient_id": [f"P{n:05d}" for n in range(400)], "density": LABELS})
    for (density, part), group in splits.join(densest, on="patient_id").group_by("density", "part"):
        assert abs(group.height - DEFAULT_SHARES[part] * LABELS.count(density)) <= 1.5


def test_the_split_does_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    index = cohort(LABELS[:200])
    one = make_splits({"in": index}, external=[], seed=4)
    assert one.equals(make_splits({"in": index.sample(fraction=1, shuffle=True, seed=1)}, external=[], seed=4))
    assert not one.equals(make_splits({"in": index}, external=[], seed=5))


def test_in_folds_the_test_patients_stay_and_each_other_validates_once() -> None:
    splits = make_splits({"in": cohort(LABELS)}, external=[], folds=5)
    tests = {
        tuple(g.sort("patient_id")["patient_id"]) for _, g in splits.filter(pl.col("part") == "test").group_by("fold")
    }
    assert len(tests) == 1
    validated = splits.filter(pl.col("part") == "validation")["patient_id"]
    assert not validated.is_duplicated().any()
    assert validated.len() == 400 - len(next(iter(tests)))
    calibration = splits.filter(pl.col("part") == "calibration").group_by("fold").len()["len"]
    assert calibration.to_list() == [20] * 5


def test_a_cohort_with_unlabelled_patients_only_is_split_too() -> None:
    assert make_splits({"in": cohort([None] * 20)}, external=[]).height == 20


def test_a_patient_in_two_parts_or_two_cohorts_is_a_leak() -> None:
    splits = make_splits({"in": cohort(LABELS[:100])}, external=[])
    other = splits.head(1).with_columns(part=pl.lit("external"))
    with pytest.raises(UserError, match=r"1 patient.*more than one part"):
        check_splits(pl.concat([splits, other]))
    with pytest.raises(UserError, match=r"share 3 patient_id"):
        make_splits({"in": cohort(LABELS[:100]), "out": cohort(["A"] * 3)}, external=["out"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cohorts": {"in": cohort(["A", "B", "C"])}, "external": []}, "3 patients, too few"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "folds": 5}, "too few for 5 folds"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": ["there"]}, "external cohort there"),
        ({"cohorts": {"in": cohort(["A"] * 9).head(0)}, "external": []}, "no images"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "folds": 0}, "0 folds"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "shares": {"train": 0.5}}, "add up to 1"),
        ({"cohorts": {"in": cohort(["A"] * 9)}, "external": [], "shares": {"train": 1.0}}, "validation need"),
    ],
)
def test_what_cannot_be_split_is_said_with_a_next_step(arguments, said) -> None:
    with pytest.raises(UserError, match=said):
        make_splits(**arguments)
