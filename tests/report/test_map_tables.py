"""What the report says of heat maps: what passed everywhere, and a warning where one failed."""

from typing import Any

import pytest

from densityclip.report.map_curves import curve_pictures, curve_rows
from densityclip.report.map_tables import Maps, map_grids, map_rows, map_sentences

TISSUE = "it finds the known fibroglandular tissue better than the image's own brightness"
INSIDE = "heat lies inside the breast, more than a flat map's would"


def verdict(name: str, claim: str, said: str) -> dict[str, str]:
    return {"map": name, "claim": claim, "verdict": said, "figures": "AUC beyond it 0.05 (0.01 to 0.09)"}


def figure(name: str, which: str, mean: float, *, modality: str = "DM", density: str = "all") -> dict[str, Any]:
    interval = {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "images": 8, "patients": 4}
    return {"modality": modality, "density": density, "map": name, "figure": which} | interval


def maps(cohort: str, *verdicts: dict[str, str], figures: tuple[dict[str, Any], ...] = ()) -> Maps:
    content = {
        "methods": ["gradcam", "attention"],
        "images": 8,
        "verdicts": list(verdicts),
        "figures": list(figures),
        "consistency": [
            {
                "map": "gradcam",
                "kind": "side",
                "modalities": "DM",
                "pairs": 4,
                "patients": 4,
                "same": {"value": 0.5, "low": None, "high": None},
                "other": {"value": 0.25, "low": None, "high": None},
                "difference": {"value": 0.25, "low": 0.125, "high": 0.375},
            }
        ],
    }
    return Maps("multi", cohort, content)


def test_a_claim_counts_as_passed_only_if_it_passed_on_every_cohort_and_a_failure_is_a_warning():
    told = map_sentences(
        [
            maps("home", verdict("gradcam", TISSUE, "passed"), verdict("gradcam", INSIDE, "passed")),
            maps("away", verdict("gradcam", TISSUE, "failed"), verdict("gradcam", INSIDE, "passed")),
        ]
    )
    assert told == [
        f"GradCAM passed 1 of 2 claims wherever measured: {INSIDE}.",
        f"Warning: GradCAM failed the claim that {TISSUE} (multi on away).",
    ]


def test_a_claim_that_one_cohort_could_not_measure_says_so():
    told = map_sentences(
        [
            maps("home", verdict("gradcam", TISSUE, "passed"), verdict("gradcam", INSIDE, "passed")),
            maps("away", verdict("gradcam", INSIDE, "passed")),
        ]
    )
    assert told == [f"GradCAM passed 2 of 2 claims wherever measured: {TISSUE} (measured on 1 of 2 cohorts); {INSIDE}."]


def test_not_shown_is_neither_passed_nor_a_warning():
    assert map_sentences([maps("home", verdict("attention", TISSUE, "not shown"))]) == [
        "Attention with gradient passed 0 of 1 claims wherever measured."
    ]


def test_every_mean_stands_in_a_table_beside_that_of_the_maps_that_know_no_model():
    figures = (
        figure("gradcam", "gland_auc", 0.61),
        figure("brightness", "gland_auc", 0.92),
        figure("gradcam", "pointing", 0.5),
        figure("gradcam", "energy_breast", 0.83),
        figure("flat", "energy_breast", 0.44),
        figure("gradcam", "randomised.norm", 0.93),
        figure("gradcam", "randomised.blocks.1", 0.71),
        figure("gradcam", "randomised.blocks.0", 0.4),
        figure("gradcam", "randomised.everything", 0.07),
    )
    one = maps("home", verdict("gradcam", TISSUE, "failed"), figures=figures)
    grids = {grid.title: grid for grid in map_grids([one])}
    tissue = grids["The known fibroglandular tissue (generated exams)"]
    assert tissue.head == ("Modality", "Category", "Images", "GradCAM", "the image's own brightness")
    assert tissue.rows[1] == (
        "DM",
        "all",
        "8",
        "0.61 (0.59 to 0.63)\npoints 0.50 (0.48 to 0.52)",
        "0.92 (0.90 to 0.94)",
    )
    energy = grids["Where the heat lies"].rows
    assert ("DM", "GradCAM", "83%\n81 to 85", "–", "–", "–", "–") in energy
    assert ("DM", "a flat map", "44%\n42 to 46", "–", "–", "–", "–") in energy
    randomised = grids["Randomised block by block"]
    assert [row[0] for row in randomised.rows[1:]] == ["norm", "blocks.1", "blocks.0", "everything"]
    alike = grids["Whether maps of the same breast agree"].rows[1]
    assert alike == ("GradCAM", "left against right (DM)", "4", "4", "0.50", "0.25", "0.25 (0.12 to 0.38)")
    assert [row["mean"] for row in map_rows([one])] == [row["mean"] for row in figures]


def test_no_maps_no_tables():
    assert map_grids([]) == []
    assert map_sentences([]) == []


@pytest.mark.parametrize("kind", ["modality", "side", "view", "member"])
def test_every_kind_of_pair_has_words(kind):
    one = maps("home")
    one.content["consistency"][0]["kind"] = kind
    (grid,) = map_grids([one])
    assert grid.rows[1][1].endswith("(DM)")
    assert kind not in grid.rows[1][1] or kind in ("side",)


def test_curves_are_a_picture_a_cohort_and_a_row_a_point():
    def curve(name: str, which: str, mean: list[float], low: list[float] | None = None) -> dict[str, Any]:
        high = None if low is None else mean
        about = {"map": name, "curve": which, "share": [0.0, 0.5, 1.0], "images": 8, "patients": 6}
        return about | {"mean": mean, "low": low, "high": high}

    measured, without = maps("home"), maps("away")
    measured.content["curves"] = [
        curve("gradcam", "deletion", [4.0, 1.5, 0.0], [3.0, 1.0, 0.0]),
        curve("gradcam", "insertion", [0.0, 3.0, 4.0], [0.0, 2.0, 3.0]),
        curve("random", "deletion", [4.0, 2.5, 0.0]),
    ]
    (picture,) = curve_pictures([measured, without])
    assert "bands are 95% intervals over patients, point by point" in picture.caption
    assert picture.alternative.endswith("of 4.00 are left: GradCAM 1.50, random orders 2.50")
    rows = list(curve_rows([measured, without]))
    assert [row["share"] for row in rows] == [0.0, 0.5, 1.0] * 3
    assert rows[1] == {
        "arm": "multi", "cohort": "home", "map": "gradcam", "curve": "deletion", "share": 0.5, "mean": 1.5, "low": 1.0,
        "high": 1.5, "images": 8, "patients": 6,
    }  # fmt: skip
    assert rows[-1]["low"] is None
