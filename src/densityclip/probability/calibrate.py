"""From logits to probabilities that mean something: the prior put back, and one temperature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from densityclip.density import CATEGORIES
from densityclip.probability.aggregate import softmax
from densityclip.probability.joining import CALIBRATION_PART, PLAIN, Joining

# Beyond these a fit says that the logits are useless or the calibration part too small, not how to use them.
_TEMPERATURES = (0.05, 20.0)
SMALLEST_FIT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What turns an image's logits into its probabilities, and these into those of breasts, exams and patients.

    An image's probabilities are `softmax(logits / temperature + prior_shift)`.

    In the contrastive softmax an image is compared with the captions of its batch, and a category has as many of them
    as it has images: its frequency cancels, and the logits carry the class weights alone as their prior. The shift puts
    the frequencies of the training data back (logit adjustment after the fact, arXiv:2007.07314, section 4.1). Another
    site's frequencies may differ: that is recalibration, not this.

    Attributes:
        temperature: Above one where the model was too sure of itself.
        prior_shift: Added per category, in the order A, B, C, D.
        calibrated: Whether the temperature was fitted on patients of the calibration part.
        images: How many images it was fitted on.
        patients: How many patients these are of.
        part: Which part of the training's patients these are; `site` where another site's labelled exams were taken.
        why: Why the temperature was not fitted; None where it was, or where nobody tried.
        joining: From images to breasts, exams and patients.
    """

    temperature: float = 1.0
    prior_shift: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    calibrated: bool = False
    images: int = 0
    patients: int = 0
    part: str = CALIBRATION_PART
    why: str | None = None
    joining: Joining = PLAIN

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Probabilities `[n, 4]` of logits `[n, 4]`."""
        return softmax(np.asarray(logits, dtype=np.float64) / self.temperature + np.asarray(self.prior_shift))

    def to_dict(self) -> dict[str, Any]:
        """The content of `calibration.json`."""
        return {
            "calibrated": self.calibrated,
            "why": self.why,
            "temperature": self.temperature,
            "prior_shift": dict(zip(CATEGORIES, self.prior_shift, strict=True)),
            "fitted_on": {"part": self.part, "images": self.images, "patients": self.patients},
            "joining": self.joining.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Calibration":
        """Read `calibration.json` back; one without a joining, as older bundles have, joins as `PLAIN` says."""
        return cls(
            temperature=float(content["temperature"]),
            prior_shift=tuple(float(content["prior_shift"][name]) for name in CATEGORIES),
            calibrated=bool(content["calibrated"]),
            why=content.get("why"),
            images=int(content["fitted_on"]["images"]),
            patients=int(content["fitted_on"]["patients"]),
            part=str(content["fitted_on"].get("part", CALIBRATION_PART)),
            joining=Joining.from_dict(content["joining"]) if "joining" in content else PLAIN,
        )


def prior_shift(counts: Sequence[int], weights: ArrayLike) -> tuple[float, ...]:
    """What puts the categories' frequencies back after a contrastive training.

    With n_k captions of category k in the batch, the softmax of an image fits n_k exp(s_k) to w_k p(k) p(x|k). As n_k
    follows p(k), exp(s_k) goes to w_k p(x|k), and what is wanted is p(k) p(x|k).

    Args:
        counts: Training images per category; half an image is added to each, so that none is impossible.
        weights: `[4]` class weights that the training used.

    Returns:
        ln(frequency) - ln(weight), centred on zero.
    """
    number = np.asarray(counts, dtype=float) + 0.5
    weight = np.where(np.asarray(weights) > 0, weights, 1.0).astype(float)
    shift = np.log(number / weight)
    return tuple(float(value) for value in shift - shift.mean())


def fit_calibration(
    logits: ArrayLike, labels: ArrayLike, patients: Sequence[str], shift: tuple[float, ...]
) -> Calibration:
    """Fit the temperature by the log-likelihood of labelled images, each patient counting once.

    Args:
        logits: `[n, 4]` of images of the calibration part.
        labels: `[n]` category index.
        patients: `[n]` ids.
        shift: Of `prior_shift`.

    Returns:
        The calibration; where `too_few` objects, or the fit ends at a bound, the temperature stays 1, `calibrated` is
        false and `why` says why: one patient who is answered rightly would ask for certainty.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    reason, temperature = too_few(truth, patients), 1.0
    if reason is None:
        temperature = fit_temperature(values, truth, patients, shift)
        reason = _at_a_bound(temperature, lambda one: _misfit(one, values, truth, patient_shares(patients), shift))
    if reason is not None:
        return Calibration(prior_shift=shift, why=f"temperature not fitted on the calibration part: {reason}")
    return Calibration(
        temperature=temperature,
        prior_shift=shift,
        calibrated=True,
        images=len(truth),
        patients=len(set(patients)),
    )


def too_few(labels: NDArray[np.int64], patients: Sequence[str]) -> str | None:
    """Why nothing can be fitted on some labelled rows (fewer than 10 patients, one category only), or None."""
    number = len(set(patients))
    if number < SMALLEST_FIT:
        return f"{number} patient{'' if number == 1 else 's'} with labels, {SMALLEST_FIT} are needed"
    if len(set(labels.tolist())) < 2:
        return f"all labels are {CATEGORIES[labels[0]]}"
    return None


def _at_a_bound(temperature: float, misfit: Callable[[float], float]) -> str | None:
    """What a fit says that a bound would suit as well, or None; where all is answered rightly, no number is wrong."""
    low, high = _TEMPERATURES
    enough = misfit(temperature) + 1e-6
    if misfit(low) <= enough:
        return f"the fit ended at its lower bound, {low:g}: these patients are told apart too well to say how surely"
    if misfit(high) <= enough:
        return f"the fit ended at its upper bound, {high:g}: the logits tell nothing of these patients' labels"
    return None


def _misfit(
    temperature: float,
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    weight: NDArray[np.float64],
    shift: Sequence[float],
) -> float:
    """Negative log-likelihood of the labels at a temperature, rows by weight."""
    probabilities = Calibration(temperature=temperature, prior_shift=tuple(shift)).apply(logits)
    return float(-(weight * true_log_likelihood(probabilities, labels)).sum())


def patient_shares(patients: Sequence[str]) -> NDArray[np.float64]:
    """`[n]` weights by which each patient counts once, however many of the rows are hers."""
    _, place, rows = np.unique(np.asarray(patients, dtype=str), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / rows[place])


def true_log_likelihood(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[n]` logarithms of the probabilities `[n, 4]` that were given to the true categories."""
    return np.asarray(np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300)))


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    patients: Sequence[str],
    shift: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    *,
    spread: float | None = None,
) -> float:
    """The temperature of highest log-likelihood, each patient counting once.

    Args:
        logits: `[n, 4]`, n at least 1.
        labels: `[n]` category index.
        patients: `[n]` ids.
        shift: Added after the temperature.
        spread: Standard deviation of ln(temperature) around 0 that is expected beforehand; None expects nothing. Few
            patients who are all answered rightly would otherwise ask for a temperature of zero.

    Returns:
        A number between 0.05 and 20.
    """
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    weight = patient_shares(patients)

    def loss(log_temperature: float) -> float:
        expected = 0.0 if spread is None else 0.5 * (log_temperature / spread) ** 2
        return _misfit(float(np.exp(log_temperature)), values, truth, weight, shift) + expected

    low, high = np.log(_TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
