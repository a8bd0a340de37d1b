"""Mean curves of many images, against means and resamples made one by one."""

import numpy as np
import pytest

from densityclip.explain.curves import mean_curves
from densityclip.explain.figures import FEWEST_PATIENTS


def test_means_are_of_images_and_intervals_of_patients_at_each_point():
    random = np.random.default_rng(3)
    patients = [f"p{n // 4}" for n in range(80)]
    # Women differ, the images of one do not: an interval over images would be half as wide.
    of_woman = np.repeat(random.normal(size=20), 4)
    falls, rises = np.linspace(2, 0, 11), np.linspace(0, 2, 11)
    curves = {n: np.stack([falls + of_woman[n], rises - of_woman[n]]) for n in range(80)}
    told = {row["curve"]: row for row in mean_curves(patients, {"gradcam": curves})}
    deletion, insertion = told["deletion"], told["insertion"]
    assert deletion["mean"] == pytest.approx(falls + of_woman.mean())
    assert insertion["mean"] == pytest.approx(rises - of_woman.mean())
    assert deletion["share"] == pytest.approx(np.linspace(0, 1, 11))
    assert (deletion["images"], deletion["patients"]) == (80, 20)
    half = 1.96 * of_woman[::4].std() / np.sqrt(20)
    width = np.array(deletion["high"]) - np.array(deletion["low"])
    assert width == pytest.approx(np.full(11, 2 * half), rel=0.15)


def test_images_without_a_curve_are_not_counted_and_a_handful_of_women_has_no_interval():
    curves = {n: np.zeros((2, 11)) for n in range(FEWEST_PATIENTS - 1)}
    told = mean_curves([f"p{n}" for n in range(30)], {"gradcam": curves, "random": {7: np.ones((2, 11))}})
    assert [(row["map"], row["images"], row["low"]) for row in told] == [
        *[("gradcam", FEWEST_PATIENTS - 1, None)] * 2,
        *[("random", 1, None)] * 2,
    ]
    assert told[2]["mean"] == [1.0] * 11
