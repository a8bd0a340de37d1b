"""Choosing how breasts become an exam on the validation part, and calibrating each level on the calibration part.

The greater of two noisy scores is greater than the greater of the two truths on average, so an exam that takes its
denser breast's answer over-calls; a mean under-calls where breasts truly differ. Which error is smaller depends on the
noise of the model and on how often breasts differ, so labelled exams decide.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import PROBABILITIES
from densityclip.probability.aggregate import label_numbers, log_probabilities, softmax, to_level
from densityclip.probability.calibrate import fit_temperature, patient_shares, too_few, true_log_likelihood
from densityclip.probability.joining import JOINED_LEVELS, PLAIN, Joining, Rule
from densityclip.records import Status

WEIGHTS: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# From the simplest on.
_SIMPLE: tuple[tuple[float, Rule], ...] = ((0.0, "mean"), (1.0, "denser"))
# A level's temperature corrects only what joining did to calibrated probabilities: a factor of two would be much.
_SPREAD = float(np.log(2.0))


@dataclass(frozen=True)
class _Labelled:
    """Rows of one level that have an answer and a label."""

    probabilities: NDArray[np.float64]  # [n, 4]
    labels: NDArray[np.int64]
    patients: list[str]

    @classmethod
    def of(cls, images: pl.DataFrame, level: str, joining: Joining = PLAIN) -> "_Labelled":
        rows = to_level(images, level, joining)  # type: ignore[arg-type]
        rows = rows.filter((pl.col("status") == Status.OK.value) & pl.col("label").is_not_null())
        labels = label_numbers(rows["label"])
        # A row without a patient id is nobody's and everybody's: it counts as a patient of its own.
        patients = rows.select(pl.coalesce("patient_id", pl.concat_str(pl.lit("exam "), "exam_id"))).to_series()
        return cls(rows.select(PROBABILITIES).to_numpy(), labels, patients.to_list())


def fit_joining(validation: pl.DataFrame, calibration: pl.DataFrame) -> Joining:
    """Choose the rule for exams on one part, then fit each level's temperature on another.

    The rule: for each weight of the denser breast from 0 to 1 in tenths, the log-likelihood of the exams' labels, each
    patient counting once, at the temperature that suits that weight best (a temperature is fitted afterwards anyway, so
    a rule is not to be chosen for being sharper or flatter; this one is then forgotten). The best weight is taken only
    where it is better than both simple rules by more than one standard error of the difference, paired by patient
    (Breiman et al. 1984, section 3.4.3); else the mean, or the denser breast where only the mean is worse. The standard
    error does not know that the best of eleven was picked; in 100 simulations of 100 women whose breasts are alike, a
    weight other than 0 was learned twice.

    The temperatures: log-likelihood of each level's labels under the chosen rule, each patient counting once, with a
    mild expectation of 1 (ln T normal around 0 with standard deviation ln 2) that matters where patients are few.

    Args:
        validation: Rows of schema `predictions`, level `image`, of one model, with labels and calibrated probabilities.
        calibration: The same of other patients.

    Returns:
        The joining. Fewer than 10 patients, or labels of one category only, choose and fit nothing, and its notes say
        so: the rule is then `mean` and the temperature 1.
    """
    return fit_temperatures(_choose(validation), calibration)


def fit_temperatures(chosen: Joining, images: pl.DataFrame) -> Joining:
    """Fit each level's temperature under a rule that stands; see `fit_joining`.

    Args:
        chosen: The rule; its temperatures must be 1.
        images: Rows of schema `predictions`, level `image`, of one model, with labels and calibrated probabilities.
    """
    temperatures, notes, patients = {}, list(chosen.notes), 0
    for level in JOINED_LEVELS:
        rows = _Labelled.of(images, level, chosen)
        reason = too_few(rows.labels, rows.patients)
        if reason is None:
            values = log_probabilities(rows.probabilities)
            temperatures[level] = fit_temperature(values, rows.labels, rows.patients, spread=_SPREAD)
            patients = max(patients, len(set(rows.patients)))
        else:
            temperatures[level] = 1.0
            notes.append(f"temperature of {level} not fitted on the {chosen.fitted_part} part: {reason}")
    return replace(chosen, temperatures=temperatures, fitted_on=patients, notes=tuple(notes))


def _choose(validation: pl.DataFrame) -> Joining:
    """The rule, without temperatures."""
    mean, denser = (_Labelled.of(validation, "exam", Joining(denser_weight=w, rule=r)) for w, r in _SIMPLE)
    reason = too_few(mean.labels, mean.patients)
    if reason is not None:
        return Joining(notes=(f"rule not chosen on the validation part: {reason}",))
    # An exam is linear in the weight, so the grid needs the two ends alone.
    scores = np.stack([_by_patient(mean, (1 - w) * mean.probabilities + w * denser.probabilities) for w in WEIGHTS])
    best = int(scores.mean(axis=1).argmax())
    patients = scores.shape[1]
    for weight, rule in _SIMPLE:
        difference = scores[best] - scores[WEIGHTS.index(weight)]
        if difference.mean() <= difference.std(ddof=1) / np.sqrt(patients):
            return Joining(denser_weight=weight, rule=rule, chosen_on=patients)
    return Joining(denser_weight=WEIGHTS[best], rule="learned", chosen_on=patients)


def _by_patient(rows: _Labelled, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[patients]` mean log-likelihood of each patient's exams, at the temperature that is best for all of them."""
    values = log_probabilities(probabilities)
    temperature = fit_temperature(values, rows.labels, rows.patients, spread=_SPREAD)
    each = true_log_likelihood(softmax(values / temperature), rows.labels) * patient_shares(rows.patients)
    _, place = np.unique(np.asarray(rows.patients, dtype=str), return_inverse=True)
    return np.asarray(np.bincount(place, weights=each), dtype=np.float64)
