"""A calibration fitted to a site: what it recovers, what it composes with, what it refuses, and its honest estimate."""

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import LOGITS, PROBABILITIES, conform
from densityclip.errors import UserError
from densityclip.probability.aggregate import softmax
from densityclip.probability.calibrate import Calibration
from densityclip.probability.joining import Joining
from densityclip.probability.site import (
    BIASES_FROM,
    SMALLEST_SITE,
    exams_under,
    fit_site,
    held_out_exams,
    labelled_images,
    with_probabilities,
)

PARENT = Calibration(
    temperature=1.5,
    prior_shift=(0.3, 0.1, -0.1, -0.3),
    calibrated=True,
    joining=Joining(denser_weight=1.0, rule="denser", temperatures={"breast": 2.0, "exam": 2.0, "patient": 2.0}),
)


def site(patients: int, *, temperature: float = 1.0, biases: tuple[float, ...] = (0, 0, 0, 0), seed: int = 0):
    """Four views a woman, both breasts alike; her category is drawn from what her views' logits would truly mean."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(patients):
        logits = rng.normal(0, 3, 4)
        truth = softmax(logits / temperature + np.array(biases))
        label = "ABCD"[rng.choice(4, p=truth)]
        for side in "LR":
            for view in ("CC", "MLO"):
                facts = {"level": "image", "status": "ok", "modality": "DM", "laterality": side, "view": view}
                facts |= {"image_id": f"{number:04}{side}{view}", "exam_id": f"E{number:04}"}
                facts |= {"patient_id": f"P{number:04}", "label": label}
                rows.append(facts | dict(zip(LOGITS, logits, strict=True)))
    return with_probabilities(conform(pl.DataFrame(rows), "predictions"), PARENT)


def test_the_fitted_calibration_is_the_change_upon_the_old_one():
    images = labelled_images(site(80, temperature=3.0))
    fitted = fit_site(images, PARENT)
    composed = fitted.change.apply(images.select(PROBABILITIES).to_numpy())
    again = with_probabilities(images, fitted.calibration).select(PROBABILITIES).to_numpy()
    np.testing.assert_allclose(again, composed, atol=1e-9)
    assert fitted.with_biases
    told = Calibration.from_dict(fitted.calibration.to_dict())
    assert (told.part, told.patients, told.images, told.calibrated) == ("site", 80, 320, True)
    # The rule is the bundle's, its temperatures are the site's.
    assert (told.joining.rule, told.joining.denser_weight) == ("denser", 1.0)
    assert told.joining.fitted_part == "site"
    assert told.joining.temperatures["exam"] != 2.0


def test_many_exams_of_a_site_tell_what_its_logits_mean():
    truth = {"temperature": 2.5, "biases": (1.0, 0.2, -0.2, -1.0)}
    fitted = fit_site(labelled_images(site(2000, **truth)), PARENT).calibration
    assert fitted.temperature == pytest.approx(2.5, rel=0.15)
    assert fitted.prior_shift == pytest.approx(truth["biases"], abs=0.25)


def test_few_patients_move_the_temperature_alone():
    below = fit_site(labelled_images(site(BIASES_FROM - 1, temperature=4.0)), PARENT)
    assert not below.with_biases
    assert below.change.biases == (0.0, 0.0, 0.0, 0.0)
    assert below.change.temperature > 1.2
    assert fit_site(labelled_images(site(BIASES_FROM)), PARENT).with_biases


def test_too_few_patients_are_refused_however_many_images_they_have():
    images = site(SMALLEST_SITE - 1)
    with pytest.raises(UserError, match=f"^{SMALLEST_SITE - 1} patients with labelled exams that the model answered"):
        labelled_images(images)
    held = site(40).with_columns(
        pl.when(pl.col("patient_id") < "P0030").then(pl.lit("abstained")).otherwise("status").alias("status")
    )
    with pytest.raises(UserError, match=r"^10 patients"):
        labelled_images(held)


def test_exams_without_any_label_are_told_how_labels_are_given():
    with pytest.raises(UserError, match="none of the exams has a label") as caught:
        labelled_images(site(40).with_columns(pl.lit(None, pl.String()).alias("label")))
    assert "--labels" in caught.value.next_step


def test_a_category_that_no_exam_has_is_refused_by_name():
    images = site(80)
    with pytest.raises(UserError, match="no labelled image is of category D"):
        labelled_images(images.filter(pl.col("label") != "D"))


def test_a_patients_own_labels_do_not_move_what_is_held_out_for_her():
    images = labelled_images(site(60))
    before = held_out_exams(images, PARENT)
    assert before["exam_id"].equals(exams_under(images, PARENT)["exam_id"])
    mine = pl.col("patient_id") == "P0007"
    other = {"A": "D", "B": "D", "C": "A", "D": "A"}
    turned = images.with_columns(pl.when(mine).then(pl.col("label").replace(other)).otherwise("label").alias("label"))
    after = held_out_exams(turned, PARENT)
    assert after.filter(mine).select(PROBABILITIES).equals(before.filter(mine).select(PROBABILITIES))
    # They move what is held out for patients of other folds.
    assert not after.filter(~mine).select(PROBABILITIES).equals(before.filter(~mine).select(PROBABILITIES))


def test_the_order_of_rows_changes_nothing():
    images = site(60)
    one = fit_site(labelled_images(images), PARENT)
    other = fit_site(labelled_images(images.reverse()), PARENT)
    assert one == other
    assert held_out_exams(labelled_images(images), PARENT).equals(
        held_out_exams(labelled_images(images.reverse()), PARENT), null_equal=True
    )
