"""Fitting a bundle's calibration to a site from labelled exams of it; weights, prompts and exam rule stay.

An image's probabilities at the site are `softmax(log(p) / t + b)` of those that the bundle gave before. As these are
`softmax(logits / T + shift)`, the fitted ones are `softmax(logits / (T t) + (shift / t + b))`: a calibration of the
same form, which everything that predicts can use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import LOGITS, PROBABILITIES
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.probability.aggregate import fill_derived, label_numbers, log_probabilities, to_level
from densityclip.probability.calibrate import Calibration, fit_temperature
from densityclip.probability.exam_rule import fit_temperatures
from densityclip.probability.joining import JOINED_LEVELS, SITE_PART, Joining
from densityclip.probability.local import Recalibration, fit_recalibration
from densityclip.records import Status

# Labelled patients below which nothing is fitted, and from which on biases are, too: a bias of each category asks for
# some patients of each, and D is one in ten.
SMALLEST_SITE, BIASES_FROM = 25, 50
# Natural logarithm of the temperature expected beforehand where it is fitted alone: a factor of two would be much.
_SPREAD = float(np.log(2.0))
_FOLDS = 10


@dataclass(frozen=True)
class SiteFit:
    """What was fitted to a site.

    Attributes:
        calibration: The bundle's new calibration.
        change: What was fitted upon the old one, image by image.
        with_biases: Whether the biases were fitted, or the temperature alone.
    """

    calibration: Calibration
    change: Recalibration
    with_biases: bool


def labelled_images(images: pl.DataFrame) -> pl.DataFrame:
    """The answered images of exams that have a label, each with the id of a patient.

    Args:
        images: Schema `predictions`, level `image`; an exam that states no patient counts as one of its own.

    Raises:
        UserError: They are of too few patients, or a category has none.
    """
    who = pl.coalesce("patient_id", pl.concat_str(pl.lit("exam "), "exam_id"))
    answered = (pl.col("status") == Status.OK.value) & pl.col("exam_id").is_not_null()
    rows = images.filter(answered & pl.col("label").is_not_null())
    rows = rows.with_columns(who.alias("patient_id")).sort("image_id")
    patients = rows["patient_id"].n_unique()
    if not patients and images["label"].is_null().all():
        raise UserError(
            "none of the exams has a label", "give a table of them as --labels, or an index that holds them"
        )
    if patients < SMALLEST_SITE:
        raise UserError(
            f"{patients} patient{'s' * (patients != 1)} with labelled exams that the model answered cannot fit it to a "
            "site",
            f"label exams of at least {SMALLEST_SITE} patients",
        )
    missing = [name for name in CATEGORIES if name not in rows["label"]]
    if missing:
        raise UserError(
            f"no labelled image is of category {' or '.join(missing)}, so nothing can be learned of it at this site",
            "label exams of every category",
        )
    return rows


def fit_site(images: pl.DataFrame, parent: Calibration, *, with_biases: bool | None = None) -> SiteFit:
    """Fit a calibration to labelled images of a site.

    The temperature, and from 50 patients on biases of the categories, are fitted image by image by penalised
    likelihood, each patient counting once (`local.fit_recalibration`, as the study's secondary analysis); then the
    temperatures of breasts and exams under the rule that the bundle has.

    Args:
        images: Of `labelled_images`, predicted with `parent`.
        parent: The bundle's calibration.
        with_biases: Whether biases are fitted; by default as the number of patients says.
    """
    patients = images["patient_id"].to_list()
    biased = len(set(patients)) >= BIASES_FROM if with_biases is None else with_biases
    change = _change(images, patients, with_biases=biased)
    temperature = parent.temperature * change.temperature
    shift = np.asarray(parent.prior_shift) / change.temperature + np.asarray(change.biases)
    fitted = Calibration(
        temperature=temperature,
        prior_shift=tuple(float(value) for value in shift),
        calibrated=True,
        images=len(images),
        patients=len(set(patients)),
        part=SITE_PART,
        joining=_without_temperatures(parent.joining),
    )
    joining = fit_temperatures(fitted.joining, with_probabilities(images, fitted))
    return SiteFit(replace(fitted, joining=joining), change, biased)


def _change(images: pl.DataFrame, patients: Sequence[str], *, with_biases: bool) -> Recalibration:
    values, labels = images.select(PROBABILITIES).to_numpy(), label_numbers(images["label"])
    if with_biases:
        return fit_recalibration(values, labels, patients)
    return Recalibration(temperature=fit_temperature(log_probabilities(values), labels, patients, spread=_SPREAD))


def _without_temperatures(joining: Joining) -> Joining:
    notes = tuple(note for note in joining.notes if not note.startswith("temperature of "))
    return replace(
        joining, temperatures=dict.fromkeys(JOINED_LEVELS, 1.0), fitted_on=0, fitted_part=SITE_PART, notes=notes
    )


def with_probabilities(images: pl.DataFrame, calibration: Calibration) -> pl.DataFrame:
    """Image rows with the probabilities that a calibration makes of their logits."""
    values = calibration.apply(images.select(LOGITS).to_numpy())
    return fill_derived(images.with_columns(pl.Series(name, values[:, k]) for k, name in enumerate(PROBABILITIES)))


def exams_under(images: pl.DataFrame, calibration: Calibration) -> pl.DataFrame:
    """The labelled exams of some images, as a bundle with this calibration answers them."""
    exams = to_level(with_probabilities(images, calibration), "exam", calibration.joining)
    return exams.filter((pl.col("status") == Status.OK.value) & pl.col("label").is_not_null())


def held_out_exams(images: pl.DataFrame, parent: Calibration, *, seed: int = 0) -> pl.DataFrame:
    """Exams as calibrations answer them that were fitted without their patients, ten folds of patients.

    What the final calibration gains cannot be read off the exams that it was fitted on; this is an estimate of it.

    Args:
        images: Of `labelled_images`.
        parent: The bundle's calibration.
        seed: Of the shuffling of patients into folds.

    Returns:
        The rows of `exams_under`, in its order.
    """
    names = images["patient_id"].unique().sort()
    folds = _fold_of_each(len(names), seed)
    biased = len(names) >= BIASES_FROM
    parts = []
    for fold in range(_FOLDS):
        mine = pl.col("patient_id").is_in(names.filter(pl.Series(folds == fold)).implode())
        fitted = fit_site(images.filter(~mine), parent, with_biases=biased)
        parts.append(exams_under(images.filter(mine), fitted.calibration))
    order = exams_under(images, parent).select("patient_id", "exam_id")
    return order.join(
        pl.concat(parts), on=["patient_id", "exam_id"], how="left", nulls_equal=True, maintain_order="left"
    )


def _fold_of_each(patients: int, seed: int) -> NDArray[np.int64]:
    folds = np.arange(patients) % _FOLDS
    return np.asarray(np.random.default_rng([seed, patients]).permutation(folds))
