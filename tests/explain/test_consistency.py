"""Maps with a spot at a known anatomical place: found alike where it is the same one, and nowhere else."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from densityclip.explain.consistency import Aligned, Mapped, across_members, aligned, pairs, summary
from densityclip.explain.geometry import to_canvas

ROWS, COLUMNS = np.mgrid[:160, :160]


def breast(top, height, depth):
    """Half an ellipse with its flat side at the chest wall, `[160, 160]`."""
    return (COLUMNS / depth) ** 2 + ((ROWS - top - height / 2) / (height / 2)) ** 2 < 1


def spot(top, height, depth, down, across):
    """A warm spot at a share of the breast's height and depth, as wide as the breast is large."""
    off = ((ROWS - top) / height - down) ** 2 + (COLUMNS / depth - across) ** 2
    return np.exp(-off / 0.03)


def mapped(image_id, patient, size, place, *, side="L", view="CC", modality="DM", exam="1", noise=0.0):
    mask = breast(*size)
    rng = np.random.default_rng([*image_id.encode()])
    return Mapped(
        image_id=image_id,
        patient_id=patient,
        exam_id=exam,
        laterality=side,
        view=view,
        modality=modality,
        aligned=aligned(spot(*size, *place) + noise * rng.normal(size=mask.shape), mask),
    )


def cohort(patients, *, own_place, noise=0.0, members=("",)):
    """Whole exams of CC and MLO in DM and s2D; a woman's spot lies at a place of her own, or at random each time."""
    maps = {member: [] for member in members}
    for number in range(patients):
        rng = np.random.default_rng([7, number])
        place = rng.uniform((0.25, 0.2), (0.75, 0.7))
        for name in ("L CC DM", "R CC DM", "L MLO DM", "R MLO DM", "L CC s2D", "R CC s2D"):
            side, view, modality = name.split()
            size = rng.integers((0, 90, 50), (40, 120, 120)).tolist()
            for member in members:
                at = place if own_place else rng.uniform((0.25, 0.2), (0.75, 0.7))
                item = mapped(
                    f"p{number} {name}", f"p{number}", size, at, side=side, view=view, modality=modality, noise=noise
                )
                maps[member].append(item)
    return maps if members != ("",) else maps[""]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(0, 40), st.integers(80, 120), st.integers(50, 150)),
    st.tuples(st.integers(0, 40), st.integers(80, 120), st.integers(50, 150)),
    st.tuples(st.floats(0.3, 0.7), st.floats(0.1, 0.6)),
)
def test_a_spot_at_one_anatomical_place_lies_alike_in_breasts_of_any_size(size, other, place):
    first, second = (aligned(spot(*each, *place), breast(*each)) for each in (size, other))
    both = first.inside & second.inside
    assert both.mean() > 0.6
    assert np.abs(first.heat - second.heat)[both].max() < 0.15
    assert spearmanr(first.heat[both], second.heat[both]).statistic > 0.97


def test_cells_are_the_means_over_the_breast_that_they_cover():
    mask = np.zeros((160, 160), dtype=bool)
    mask[32:96, :48] = True  # cells of 4 x 4 pixels
    mask[32:36, 0:2] = False
    mask[32:36, 4:7] = False
    heat = np.random.default_rng(2).normal(size=(160, 160))
    frame = aligned(heat, mask)
    assert frame.heat.shape == (16, 12)
    for row, column in ((0, 0), (5, 7), (15, 11)):
        cell = np.s_[32 + 4 * row : 36 + 4 * row, 4 * column : 4 * column + 4]
        assert frame.heat[row, column] == pytest.approx(heat[cell][mask[cell]].mean(), abs=1e-5)
    assert frame.inside[0, 0]  # half of it
    assert not frame.inside[0, 1]  # a quarter of it
    assert frame.inside.sum() == 16 * 12 - 1


def test_heat_beside_the_breast_does_not_run_into_it():
    mask = breast(10, 110, 90)
    inside = np.where(mask, spot(10, 110, 90, 0.5, 0.4), 0.0)
    np.testing.assert_allclose(aligned(inside + 1e4 * ~mask, mask).heat, aligned(inside, mask).heat, atol=1e-6)


def test_a_token_map_is_spread_over_the_canvas_first():
    tokens = np.random.default_rng(4).random((10, 10))
    frame = aligned(tokens, np.ones((160, 160), dtype=bool), shape=(10, 10))
    means = to_canvas(tokens, 160, 160).reshape(10, 16, 10, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(frame.heat, means, atol=1e-5)


def test_the_profile_is_the_mean_by_depth_and_says_where_there_is_none():
    frame = Aligned(np.array([[1.0, 5.0, 9.0], [3.0, 7.0, 9.0]]), np.array([[True, True, False], [True, False, False]]))
    np.testing.assert_array_equal(frame.profile(), [2.0, 5.0, np.nan])


def test_pairs_are_those_that_differ_in_one_thing_within_an_exam():
    size, place = (10, 100, 80), (0.5, 0.5)
    items = [
        mapped("a", "p", size, place),
        mapped("b", "p", size, place, modality="s2D"),
        mapped("c", "p", size, place, side="R"),
        mapped("d", "p", size, place, view="MLO"),
        mapped("e", "p", size, place, side="R", view="MLO"),
        mapped("f", "p", size, place, exam="2"),
        mapped("g", "q", size, place),
        mapped("h", "p", size, place, side=None),
        mapped("i", "p", size, place, view=None),
        mapped("j", "p", size, place, modality="DBT"),
    ]
    table = pairs(items)
    made = {(row["kind"], row["image_a"], row["image_b"]) for row in table.rows(named=True)}
    assert made == {
        ("modality", "a", "b"), ("modality", "a", "j"), ("modality", "b", "j"), ("side", "a", "c"), ("side", "d", "e"),
        ("view", "a", "d"), ("view", "c", "e"),
    }  # fmt: skip
    assert table["chance"].null_count() == len(table)  # there is no other patient with such pairs
    assert table.filter(pl.col("value") < 0.999).is_empty()


def test_a_spot_of_the_womans_own_is_more_alike_than_other_womens():
    found = {(row["kind"], row["modalities"]): row for row in summary(pairs(cohort(12, own_place=True, noise=0.05)))}
    assert set(found) == {
        ("modality", "DM - s2D"), ("side", "DM"), ("side", "s2D"), ("view", "DM"),
    }  # fmt: skip
    for row in found.values():
        assert row["patients"] == 12
        assert row["same"]["value"] > 0.8
        assert row["difference"]["low"] > 0.1
        assert row["difference"]["value"] == pytest.approx(row["same"]["value"] - row["other"]["value"])
        for name in ("same", "other", "difference"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]


def test_a_spot_anywhere_is_no_more_alike_than_other_womens():
    for row in summary(pairs(cohort(24, own_place=False))):
        assert row["difference"]["low"] < 0 < row["difference"]["high"]


def test_the_value_is_spearmans_over_places_and_over_depth():
    table = pairs(cohort(2, own_place=False))
    items = {item.image_id: item.aligned for item in cohort(2, own_place=False)}
    seen = set()
    for row in table.rows(named=True):
        first, second = items[row["image_a"]], items[row["image_b"]]
        if row["kind"] == "view":
            means = [
                [frame.heat[frame.inside[:, column], column].mean() for column in range(12)]
                for frame in (first, second)
            ]
            reference = spearmanr(*means).statistic
        else:
            both = first.inside & second.inside
            reference = spearmanr(first.heat[both], second.heat[both]).statistic
        assert row["value"] == pytest.approx(reference, abs=1e-9)
        seen.add(row["kind"])
    assert seen == {"modality", "side", "view"}


def test_chance_is_the_mean_over_all_others_where_they_are_few():
    items = [item for item in cohort(5, own_place=False) if item.view == "CC"]
    by_id = {item.image_id: item.aligned for item in items}
    table = pairs(items, seed=3)
    assert {row["kind"] for row in table.rows(named=True)} == {"modality", "side"}
    for row in table.rows(named=True):
        first = by_id[row["image_a"]]
        others = [frame for name, frame in by_id.items() if name[2:] == row["image_b"][2:] and name != row["image_b"]]
        assert len(others) == 4
        values = [
            spearmanr(first.heat[both], other.heat[both]).statistic
            for other in others
            for both in [first.inside & other.inside]
        ]
        assert row["chance"] == pytest.approx(np.mean(values), abs=1e-9)


def test_no_patient_is_compared_with_herself_however_many_exams_she_has():
    # All of her maps are one, all others' are its opposite: any pair of her own among the others would show.
    size = (10, 100, 80)
    ramp = np.where(breast(*size), ROWS, 0).astype(float)
    items = []
    for patient, exams in (("p", 3), ("q", 1), ("r", 2)):
        for exam in range(exams):
            for modality in ("DM", "s2D"):
                item = mapped(
                    f"{patient}{exam}{modality}", patient, size, (0.5, 0.5), modality=modality, exam=str(exam)
                )
                items.append(replace(item, aligned=aligned(ramp if patient == "p" else -ramp, breast(*size))))
    table = pairs(items)
    hers = table.filter(pl.col("patient_id") == "p")
    assert hers["value"].to_list() == pytest.approx([1.0] * 3)
    assert hers["chance"].to_list() == pytest.approx([-1.0] * 3)


def test_order_of_the_images_changes_nothing_and_the_seed_only_the_others():
    items = cohort(9, own_place=False)
    table = pairs(items, seed=1)
    mixed = [items[place] for place in np.random.default_rng(0).permutation(len(items))]
    assert table.equals(pairs(mixed, seed=1))
    other = pairs(items, seed=2)
    keys = ["kind", "image_a", "image_b"]
    assert table.sort(keys)["value"].equals(other.sort(keys)["value"])
    assert not table.sort(keys)["chance"].equals(other.sort(keys)["chance"])


def test_a_constant_map_has_no_value_and_is_left_out_of_the_means():
    items = cohort(4, own_place=True)
    flat = [
        replace(item, aligned=Aligned(np.zeros((16, 12)), item.aligned.inside))
        if item.image_id == "p0 R CC DM"
        else item
        for item in items
    ]
    table = pairs(flat)
    hers = table.filter((pl.col("kind") == "side") & (pl.col("image_a") == "p0 L CC DM"))
    assert hers["value"].to_list() == [None]
    assert hers["chance"].null_count() == 0
    side = next(row for row in summary(table) if (row["kind"], row["modalities"]) == ("side", "DM"))
    assert side["pairs"] == 7  # four of CC and four of MLO, without hers
    assert math.isfinite(side["same"]["value"])


@pytest.mark.parametrize("patients, given_others, interval", [(1, False, False), (4, True, False), (5, True, True)])
def test_few_patients_have_no_interval_and_one_no_comparison(patients, given_others, interval):
    for row in summary(pairs(cohort(patients, own_place=False))):
        assert row["same"]["value"] is not None
        assert (row["difference"]["value"] is not None) == given_others
        assert (row["same"]["low"] is not None) == interval
        assert (row["difference"]["high"] is not None) == interval


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(120):
        patients = [f"p{number}" for number in range(40) for _ in range(2)]
        same = np.repeat(rng.normal(0.5, 0.2, size=40), 2) + rng.normal(0, 0.05, size=80)
        table = pl.DataFrame(
            {"kind": "side", "patient_id": patients, "image_a": patients, "image_b": patients}
            | {"modality_a": "DM", "modality_b": "DM", "value": same, "chance": np.full(80, 0.1)}
        )
        difference = summary(table, resamples=400, seed=trial)[0]["difference"]
        covered += difference["low"] <= 0.4 <= difference["high"]
    assert 0.88 <= covered / 120 <= 0.99  # rows taken for independent would cover it in 83%


def test_nothing_to_compare_is_an_empty_table():
    assert pairs([]).is_empty()
    assert across_members({"a": []}).is_empty()
    assert summary(pairs([])) == []


def test_members_that_agree_are_told_from_those_that_do_not():
    agreeing = summary(across_members(cohort(6, own_place=True, noise=0.05, members=("a", "b", "c"))))
    apart = summary(across_members(cohort(12, own_place=False, members=("a", "b", "c"))))
    assert [(row["kind"], row["modalities"]) for row in agreeing] == [("member", "DM"), ("member", "s2D")]
    for row in agreeing:
        assert row["same"]["value"] > 0.95
        assert row["difference"]["low"] > 0.1
    for row in apart:
        assert row["difference"]["low"] < 0.05


def test_the_value_of_an_image_is_the_mean_over_all_pairs_of_members():
    maps = cohort(3, own_place=False, members=("a", "b", "c"))
    maps["c"] = maps["c"][1:]
    table = across_members(maps)
    assert len(table) == 18
    assert (table["image_a"] == table["image_b"]).all()
    by_id = {member: {item.image_id: item.aligned for item in items} for member, items in maps.items()}
    for row in table.rows(named=True):
        frames = [by_id[member][row["image_a"]] for member in maps if row["image_a"] in by_id[member]]
        values = [
            spearmanr(one.heat[one.inside], other.heat[one.inside]).statistic
            for place, one in enumerate(frames)
            for other in frames[place + 1 :]
        ]
        assert row["value"] == pytest.approx(np.mean(values), abs=1e-9)


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        aligned(np.zeros((10, 10)), np.zeros((160, 160), dtype=bool))
