"""Means over patients, and verdicts that say no more than their intervals."""

import numpy as np
import polars as pl
import pytest

from densityclip.explain.methods import METHODS
from densityclip.explain.summary import ALL, FAILED, NOT_SHOWN, PASSED, interval_words, summarise, verdicts

TISSUE = "gland_auc_beyond_brightness"
POINTS = "pointing_beyond_brightness"


def figures(figure: str, values: dict[str, list[float]], *, modality: str = "DM", name: str = "gradcam") -> list[dict]:
    """Patients with the values of their images."""
    return [
        {
            "image_id": f"{modality}-{patient}-{number}",
            "patient_id": patient,
            "modality": modality,
            "density": "ABCD"[number % 4],
            "map": name,
            "figure": figure,
            "draw": 0,
            "value": value,
        }
        for patient, mine in values.items()
        for number, value in enumerate(mine)
    ]


def around(centre: float, spread: float, patients: int = 30, seed: int = 0) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    return {f"p{n:02}": (centre + random.normal(scale=spread, size=4)).tolist() for n in range(patients)}


def entry(summary: list[dict], **wanted) -> dict:
    found = [row for row in summary if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_means_are_of_images_and_intervals_of_patients():
    values = around(0.2, 0.0)
    values["p00"] = [1.2] * 4
    summary = summarise(pl.DataFrame(figures("deletion", values)))
    whole = entry(summary, modality="DM", density=ALL, figure="deletion")
    assert whole["mean"] == pytest.approx((29 * 0.2 + 1.2) / 30)
    assert (whole["images"], whole["patients"]) == (120, 30)
    # One of thirty patients is far off: a bootstrap over images would hardly ever leave all four of her images out.
    assert whole["low"] == pytest.approx(0.2)
    assert whole["high"] > 0.26


def test_the_known_tissue_is_told_by_category_and_several_modalities_have_a_row_together():
    rows = figures(TISSUE, around(0.1, 0.05)) + figures(TISSUE, around(0.3, 0.05), modality="s2D")
    summary = summarise(pl.DataFrame(rows))
    assert {(row["modality"], row["density"]) for row in summary} == {
        (modality, density) for modality in (ALL, "DM", "s2D") for density in (ALL, *"ABCD")
    }
    assert entry(summary, modality=ALL, density=ALL)["mean"] == pytest.approx(0.2, abs=0.02)
    deletion = summarise(pl.DataFrame(figures("deletion", around(0.1, 0.05))))
    assert {row["density"] for row in deletion} == {ALL}


def test_one_patient_has_no_interval_and_shows_nothing():
    one = {"p": [0.5, 0.6]}
    summary = summarise(pl.DataFrame(tissue(one)))
    assert entry(summary, density=ALL, figure=TISSUE)["low"] is None
    assert by_claim(summary)["it finds"] == NOT_SHOWN


def tissue(values: dict[str, list[float]]) -> list[dict]:
    """Both figures of the claim about tissue, the same values each."""
    return figures(TISSUE, values) + figures(POINTS, values)


def by_claim(summary: list[dict]) -> dict[str, str]:
    names = ("it shows", "heat lies", "it finds", "the answer rests", "it changes", "it keeps")
    return {
        name: row["verdict"]
        for row in verdicts(summary, ["gradcam"])
        for name in names
        if row["claim"].startswith(name)
    }


@pytest.mark.parametrize("centre, spread, verdict", [(0.1, 0.05, PASSED), (-0.1, 0.05, FAILED), (0.0, 0.3, NOT_SHOWN)])
def test_a_claim_is_passed_only_if_its_whole_interval_lies_beyond_the_bound(centre, spread, verdict):
    assert by_claim(summarise(pl.DataFrame(tissue(around(centre, spread)))))["it finds"] == verdict


def test_a_map_that_a_random_tower_draws_as_well_fails_and_one_that_noise_upsets_fails():
    rows = figures("randomised.everything", around(0.9, 0.02)) + figures("noise", around(0.4, 0.05))
    found = by_claim(summarise(pl.DataFrame(rows)))
    assert (found["it changes"], found["it keeps"]) == (FAILED, FAILED)
    rows = figures("randomised.everything", around(0.1, 0.02)) + figures("noise", around(0.95, 0.02))
    found = by_claim(summarise(pl.DataFrame(rows)))
    assert (found["it changes"], found["it keeps"]) == (PASSED, PASSED)
    assert "it finds" not in found


def test_one_failure_among_four_figures_fails_the_claim():
    names = ("deletion", "insertion", "deletion_beyond_centre", "insertion_beyond_centre", "score_range")
    good = [row for name in names for row in figures(name, around(0.3, 0.05))]
    assert by_claim(summarise(pl.DataFrame(good)))["the answer rests"] == PASSED
    bad = [row for row in good if row["figure"] != names[3]] + figures(names[3], around(-0.3, 0.05))
    assert by_claim(summarise(pl.DataFrame(bad)))["the answer rests"] == FAILED
    assert "the answer rests" not in by_claim(summarise(pl.DataFrame(good[: len(good) // 2])))


def test_four_patients_are_too_few_for_an_interval_and_five_are_not():
    for number, given in ((4, False), (5, True)):
        summary = summarise(pl.DataFrame(figures("noise", around(0.9, 0.02, patients=number))))
        assert (entry(summary, density=ALL)["low"] is not None) == given
        assert (by_claim(summary)["it keeps"] == PASSED) == given


def test_the_interval_holds_the_luck_of_the_draws_too():
    """Thirty women agree about each shuffle, and the shuffles differ: women alone would give an interval of nothing."""
    left = (0.1, 0.2, 0.3, 0.5, 0.6)
    rows = [
        row | {"draw": draw}
        for draw, value in enumerate(left)
        for row in figures("randomised.everything", around(value, 0.001))
    ]
    found = entry(summarise(pl.DataFrame(rows)), density=ALL)
    assert found["mean"] == pytest.approx(np.mean(left), abs=0.001)
    assert found["images"] == 120
    spread = np.std(left) / np.sqrt(len(left))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.2)
    alone = entry(summarise(pl.DataFrame([row | {"draw": 0} for row in rows])), density=ALL)
    assert alone["high"] - alone["low"] < 0.001


def test_maps_without_heat_fail_what_maps_with_heat_can_pass():
    rows = [
        *figures("empty", around(0.0, 0.0), name="attention"),
        *figures("noise", around(0.95, 0.01), name="attention"),
        *figures("empty", around(1.0, 0.0)),
    ]
    found = {(row["map"], row["claim"][:8]): row for row in verdicts(summarise(pl.DataFrame(rows)), METHODS[:2])}
    assert [found["attention", claim]["verdict"] for claim in ("it shows", "it keeps")] == [PASSED, PASSED]
    assert [found["gradcam", claim]["verdict"] for claim in ("it shows", "it keeps")] == [FAILED, FAILED]
    assert found["gradcam", "it keeps"]["figures"] == "no heat"


def test_a_figure_of_fewer_images_says_of_how_many():
    rows = figures("empty", around(0.0, 0.0)) + figures("noise", around(0.95, 0.01, patients=6))
    (kept,) = (
        row for row in verdicts(summarise(pl.DataFrame(rows)), ["gradcam"]) if row["claim"].startswith("it keeps")
    )
    assert kept["figures"].endswith(", 24 images")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0.0, 0.0, 0.0), "0.00 (0.00 to 0.00)"),
        ((0.713, 0.658, 0.75), "0.71 (0.66 to 0.75)"),
        ((0.00123, -0.0002, 0.0031), "0.0012 (-0.0002 to 0.0031)"),
        ((8.654, None, None), "8.65"),
    ],
)
def test_small_figures_are_told_with_the_digits_that_they_need(row, words):
    assert interval_words(dict(zip(("mean", "low", "high"), row, strict=True))) == words
