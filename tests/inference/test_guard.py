"""What is unlike the training data, and what contradicts itself, is not answered."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.inference.guard import Guard, fit_guard, hold_back_disagreeing, hold_back_unlike, load_guard
from densityclip.inference.predictor import all_levels
from densityclip.model.bundle import GUARD, Bundle
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.probability.aggregate import fill_derived
from densityclip.probability.joining import PLAIN


def features(seed: int, number: int, shift: float = 0.0) -> np.ndarray:
    """`[number, 12]` around one direction, moved along another."""
    draw = np.random.default_rng(seed).normal(size=(number, 12)) * np.linspace(0.05, 0.3, 12)
    draw[:, 0] += 2.0
    draw[:, 5] += shift
    return draw


def test_distances_are_those_of_mahalanobis_with_a_shrunk_covariance():
    train = features(0, 300)
    guard = fit_guard(train, features(1, 200))
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    reference = LedoitWolf().fit(unit)
    for row in features(2, 20, shift=0.5):
        expected = mahalanobis(row / np.linalg.norm(row), reference.location_, reference.precision_)
        assert guard.distances(row[None])[0] == pytest.approx(expected, rel=1e-6)


def test_it_keeps_the_share_that_it_promises_and_turns_strangers_away():
    guard = fit_guard(features(0, 500), features(1, 2000), share=0.95)
    assert np.mean(guard.is_unlike(features(1, 2000))) == pytest.approx(0.05, abs=0.001)
    assert np.mean(guard.is_unlike(features(3, 2000))) == pytest.approx(0.05, abs=0.02)
    assert np.mean(guard.is_unlike(features(4, 200, shift=3.0))) == 1.0


def test_length_does_not_count_and_what_is_no_number_is_unlike():
    guard = fit_guard(features(0, 300), features(1, 200))
    some = features(2, 5)
    np.testing.assert_allclose(guard.distances(some), guard.distances(7 * some))
    assert guard.is_unlike(np.full((1, 12), np.nan)).all()


@pytest.mark.parametrize(("train", "calibration", "share"), [(49, 100, 0.9), (100, 49, 0.9), (100, 60, 0.99)])
def test_too_few_images_place_no_guard(train: int, calibration: int, share: float):
    with pytest.raises(UserError, match="cannot place a guard"):
        fit_guard(features(0, train), features(1, calibration), share=share)


def bundle_with(guard: Guard | None, folder: Path) -> Bundle:
    """A bundle as far as its guard goes."""
    if guard is not None:
        save_file(guard.to_arrays(), folder / GUARD)
    hashes = {} if guard is None else {GUARD: "checked when a bundle is opened"}
    return Bundle(folder, Recipe(), DEFAULT_PROMPTS, {}, {"hashes": hashes})


def test_a_guard_survives_its_file_and_a_damaged_one_stops(tmp_path: Path):
    guard = fit_guard(features(0, 300), features(1, 200))
    bundle = bundle_with(guard, tmp_path)
    again = load_guard(bundle)
    assert again is not None
    assert np.array_equal(again.distances(features(2, 9)), guard.distances(features(2, 9)))
    assert (again.threshold, again.share, again.images) == (guard.threshold, 0.99, 200)
    (tmp_path / GUARD).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="damaged"):
        load_guard(bundle)
    (tmp_path / GUARD).unlink()
    with pytest.raises(UserError, match="damaged"):
        load_guard(bundle)


def test_a_file_that_the_bundle_does_not_vouch_for_is_no_guard(tmp_path: Path):
    save_file(fit_guard(features(0, 300), features(1, 200)).to_arrays(), tmp_path / GUARD)
    assert load_guard(bundle_with(None, tmp_path)) is None


def exam(**said: tuple[float, ...]) -> pl.DataFrame:
    """Image rows of one exam; a name is side and view."""
    rows = [
        {
            "level": "image",
            "status": "ok",
            "image_id": name,
            "exam_id": "E",
            "patient_id": "P",
            "modality": "DM",
            "laterality": name[0],
            "view": name[1:],
            **dict(zip(PROBABILITIES, values, strict=True)),
            **dict(zip(LOGITS, np.log(np.maximum(values, 1e-9)), strict=True)),
        }
        for name, values in said.items()
    ]
    return fill_derived(conform(pl.DataFrame(rows), "predictions"))


A, C, D = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)


def status(table: pl.DataFrame) -> dict[str, tuple[str, str | None]]:
    return {
        f"{row['level']} {row['laterality'] or ''}".strip(): (row["status"], row["predicted"])
        for row in table.filter(pl.col("level") != "image").iter_rows(named=True)
    }


def test_a_breast_whose_views_are_three_categories_apart_is_not_answered_nor_its_exam():
    before = all_levels(exam(LCC=A, LMLO=D, RCC=C, RMLO=C), PLAIN)
    table = hold_back_disagreeing(before)
    assert status(table) == {"breast L": ("abstained", None), "breast R": ("ok", "C"), "exam": ("abstained", None)}
    assert set(table.filter(pl.col("status") == "abstained")["reason"]) == {"views_disagree"}
    # The numbers stay, and the images' own answers.
    assert table.select(PROBABILITIES).equals(before.select(PROBABILITIES))
    assert table.filter(pl.col("level") == "image").equals(before.filter(pl.col("level") == "image"), null_equal=True)
    assert hold_back_disagreeing(table).equals(table, null_equal=True)


def test_breasts_may_differ_and_two_categories_are_just_borne():
    for said in (exam(LCC=A, LMLO=A, RCC=D, RMLO=D), exam(LCC=A, LMLO=C, RCC=C)):
        table = all_levels(said, PLAIN)
        assert hold_back_disagreeing(table).equals(table, null_equal=True)


def test_an_image_unlike_the_training_data_is_held_back_and_joins_nothing():
    images = hold_back_unlike(exam(LCC=A, LMLO=C, RCC=C), [True, False, False])
    assert images["status"].to_list() == ["abstained", "ok", "ok"]
    assert images["reason"].to_list() == ["unlike_training", None, None]
    table = all_levels(images, PLAIN)
    assert status(table)["breast L"] == ("ok", "C")
