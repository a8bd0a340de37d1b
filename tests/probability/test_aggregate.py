"""Joining slices, images, breasts and exams, against values computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax as scipy_softmax

from densityclip.artifacts import LOGITS, PREDICTIONS
from densityclip.probability.aggregate import average_slices, fill_derived, softmax, to_level
from prediction_rows import probabilities_of, row, table


@given(st.lists(st.lists(st.floats(-800, 800), min_size=4, max_size=4), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_softmax_is_scipys(logits):
    np.testing.assert_allclose(softmax(logits), scipy_softmax(logits, axis=-1), atol=1e-15)


def test_a_repeated_view_does_not_count_twice():
    images = table(
        row("1", [0.8, 0.2, 0.0 + 1e-9, 1e-9]),
        row("2", [0.6, 0.4, 1e-9, 1e-9]),
        row("3", [0.1, 0.9, 1e-9, 1e-9], view="MLO"),
    )
    breast = to_level(images, "breast")
    assert breast.height == 1
    np.testing.assert_allclose(probabilities_of(breast)[0, :2], [(0.7 + 0.1) / 2, (0.3 + 0.9) / 2], atol=1e-8)
    assert breast["view"].item() is None
    assert breast["modality"].item() == "DM"


def test_calibrated_and_raw_probabilities_are_averaged_alike_and_logits_are_the_log():
    logits = [[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, -2.0]]
    images = table(
        row("1", [0.4, 0.3, 0.2, 0.1], logits=logits[0]),
        row("2", [0.1, 0.2, 0.3, 0.4], logits=logits[1], view="MLO"),
    )
    breast = to_level(images, "breast")
    np.testing.assert_allclose(probabilities_of(breast)[0], [0.25] * 4)
    np.testing.assert_allclose(
        breast.select(LOGITS).to_numpy()[0], np.log(scipy_softmax(logits, axis=1).mean(axis=0)), rtol=1e-12
    )
    assert breast["predicted"].item() == "A"
    assert breast["prob_dense"].item() == pytest.approx(0.5)


def test_an_exam_is_the_mean_of_its_breasts_with_the_label_of_the_denser():
    images = table(
        row("1", [0.7, 0.1, 0.1, 0.1], label="A"),
        row("2", [0.5, 0.3, 0.1, 0.1], label="A", view="MLO"),
        row("3", [0.1, 0.1, 0.1, 0.7], label="C", laterality="R"),
    )
    exam = to_level(images, "exam")
    np.testing.assert_allclose(probabilities_of(exam)[0], [(0.6 + 0.1) / 2, (0.2 + 0.1) / 2, 0.1, (0.1 + 0.7) / 2])
    assert exam["label"].item() == "C"
    assert exam["laterality"].item() is None


def test_conflicting_labels_leave_breast_and_exam_without_one():
    images = table(
        row("1", [0.25] * 4, label="A"),
        row("2", [0.25] * 4, label="B", view="MLO"),
        row("3", [0.25] * 4, label="A", laterality="R"),
    )
    assert to_level(images, "breast")["label"].to_list() == [None, "A"]
    assert to_level(images, "exam")["label"].to_list() == [None]


def test_a_blank_label_is_no_conflict():
    images = table(row("1", [0.25] * 4, label=None), row("2", [0.25] * 4, label="B", view="MLO"))
    assert to_level(images, "breast")["label"].to_list() == ["B"]


def test_refused_images_are_left_out_and_nothing_left_is_refused():
    images = table(
        row("1", [0.7, 0.1, 0.1, 0.1]),
        row("2", [0.1, 0.1, 0.1, 0.7], view="MLO", status="refused", reason="constant"),
        row("3", [0.25] * 4, laterality="R", status="abstained", reason="unlike"),
    )
    breasts = to_level(images, "breast")
    np.testing.assert_allclose(probabilities_of(breasts)[0], [0.7, 0.1, 0.1, 0.1])
    assert breasts["status"].to_list() == ["ok", "refused"]
    assert breasts["reason"].to_list() == [None, "unlike"]
    assert breasts.row(1, named=True)["prob_a"] is None
    assert breasts.row(1, named=True)["predicted"] is None
    assert to_level(images, "exam")["status"].to_list() == ["ok"]


def test_modality_is_null_where_children_differ():
    images = table(row("1", [0.25] * 4), row("2", [0.25] * 4, modality="s2D"))
    assert to_level(images, "exam")["modality"].to_list() == [None]


def test_arms_folds_and_seeds_stay_apart():
    images = table(*(row("1", [0.25] * 4, arm=arm, fold=fold) for arm in "ab" for fold in (0, None)))
    assert to_level(images, "exam").height == 4


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_changes_no_bit(seed):
    rng = np.random.default_rng(0)
    rows = [
        row(f"{exam}{side}{view}{n}", list(rng.dirichlet(np.ones(4))), exam_id=str(exam), laterality=side, view=view)
        for exam in range(3) for side in "LR" for view in ("CC", "MLO") for n in range(3)
    ]  # fmt: skip
    images = table(*rows)
    shuffled = images.sample(fraction=1.0, shuffle=True, seed=seed)
    for level in ("breast", "exam"):
        assert to_level(shuffled, level).equals(to_level(images, level), null_equal=True)


def test_slices_are_averaged_to_their_image():
    slices = table(
        row("1", [0.6, 0.2, 0.1, 0.1], level="slice", slice_index=0),
        row("1", [0.2, 0.2, 0.3, 0.3], level="slice", slice_index=1),
        row("2", [0.1, 0.2, 0.3, 0.4], level="slice", slice_index=0),
    )
    images = average_slices(slices)
    assert images["level"].to_list() == ["image", "image"]
    np.testing.assert_allclose(probabilities_of(images), [[0.4, 0.2, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]])
    assert images["view"].to_list() == ["CC", "CC"]


def test_the_schema_is_kept_and_other_levels_are_a_mistake():
    images = table(row("1", [0.25] * 4))
    assert dict(to_level(images, "exam").schema) == PREDICTIONS
    with pytest.raises(ValueError, match="level image"):
        to_level(to_level(images, "breast"), "exam")


def test_derived_columns_follow_the_probabilities_and_stay_null_without_them():
    filled = fill_derived(table(row("1", [0.1, 0.2, 0.4, 0.3]), row("2", [0.1, 0.2, 0.4, 0.3], prob_a=None)))
    assert filled["predicted"].to_list() == ["C", None]
    assert filled["prob_dense"].to_list() == [pytest.approx(0.7), None]
