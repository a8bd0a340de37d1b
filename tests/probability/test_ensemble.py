"""Members of an arm become one answer, against means by hand."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from densityclip.artifacts import LOGITS
from densityclip.errors import UserError
from densityclip.probability.aggregate import fill_derived, to_level
from densityclip.probability.ensemble import join_members
from prediction_rows import probabilities_of, row, table

ONE, TWO = [0.7, 0.2, 0.06, 0.04], [0.1, 0.2, 0.3, 0.4]


def members(rng: np.random.Generator, images: int, folds: int) -> pl.DataFrame:
    rows = [
        row(
            f"{image}", list(rng.dirichlet(np.ones(4))), logits=list(rng.normal(size=4)), patient_id=f"p{image % 3}",
            fold=fold, seed=1, view=("CC", "MLO")[image % 2], laterality=("L", "R", None)[image % 3],
        )
        for image in range(images) for fold in range(folds)
    ]  # fmt: skip
    return fill_derived(table(*rows))


def test_probabilities_are_averaged_and_logits_are_the_log_of_the_mean_softmax():
    images = table(row("1", ONE, logits=[1.0, 0, 0, 2.0]), row("1", TWO, logits=[0, 3.0, 0, 0], fold=1, seed=7))
    joined = join_members(images)
    assert joined.height == 1
    assert joined.select("arm", "fold", "seed", "status", "label", "view").row(0) == ("a", None, None, "ok", "B", "CC")
    np.testing.assert_allclose(probabilities_of(joined)[0], (np.array(ONE) + TWO) / 2)
    raw = softmax([[1.0, 0, 0, 2.0], [0, 3.0, 0, 0]], axis=1).mean(axis=0)
    np.testing.assert_allclose(joined.select(LOGITS).to_numpy()[0], np.log(raw))
    assert joined["predicted"].item() == "A"


@given(st.integers(0, 2**32 - 1), st.permutations(range(5)))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_and_of_members_changes_no_bit(seed: int, order: list[int]):
    images = members(np.random.default_rng(seed), 11, 5)
    joined = join_members(images)
    by_member = pl.concat([images.filter(pl.col("fold") == fold) for fold in order])
    for other in (by_member, images.sample(fraction=1.0, shuffle=True, seed=seed)):
        assert join_members(other).equals(joined, null_equal=True)


def test_a_single_member_passes_through_to_the_last_bit():
    images = members(np.random.default_rng(1), 12, 1)
    images = pl.concat([images, table(row("x", [None] * 4, status="refused", reason="constant", logits=[0.5] * 4))])
    whole = pl.concat([images, to_level(images, "exam")])
    joined = join_members(whole)
    expected = whole.with_columns(pl.lit(None, whole.schema[name]).alias(name) for name in ("fold", "seed"))
    keys = ["level", "patient_id", "exam_id", "image_id"]
    assert joined.sort(keys).equals(expected.sort(keys), null_equal=True)


def test_a_row_is_ok_only_where_every_member_s_is():
    lost = {"status": "refused", "logits": [0.0] * 4}
    images = table(
        row("1", ONE), row("1", TWO, fold=1, status="abstained", reason="unlike"),
        row("2", ONE), row("2", [None] * 4, fold=1, reason="dark", **lost),
        row("2", TWO, fold=2, status="abstained", reason="unlike"), row("2", [None] * 4, fold=3, reason="dark", **lost),
        row("3", ONE), row("3", TWO, fold=1),
    )  # fmt: skip
    joined = join_members(images)
    assert joined.select("image_id", "status", "reason").rows() == [
        ("1", "abstained", "unlike"), ("2", "refused", "dark"), ("3", "ok", None),
    ]  # fmt: skip
    assert joined["prob_a"].is_null().to_list() == [True, True, False]
    assert joined["logit_a"].is_null().to_list() == [True, True, False]


def test_arms_cohorts_parts_and_levels_stay_apart_and_unknown_ids_join_nothing_else():
    images = table(
        *(row("1", ONE, arm=arm, part=part, fold=f) for arm in "ab" for part in ("validation", "test") for f in (0, 1)),
        row("1", ONE, exam_id=None),
    )
    joined = join_members(pl.concat([images, to_level(images, "exam")]))
    assert joined.group_by("level").len().sort("level").rows() == [("exam", 4), ("image", 5)]


def test_repeated_rows_and_labels_that_differ_are_refused():
    with pytest.raises(UserError, match="1 rows occur more than once"):
        join_members(table(row("1", ONE), row("1", TWO)))
    with pytest.raises(UserError, match="different labels for 1 rows"):
        join_members(table(row("1", ONE), row("1", TWO, fold=1, label="C")))


def test_no_rows_are_no_rows():
    images = table(row("1", ONE)).head(0)
    assert join_members(images).equals(images)
