"""Fitting a frozen model's probabilities to a site: on some labelled exams of it, or on its unlabelled exams.

Secondary analyses, both: the primary external result is the model as it is.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from densityclip.artifacts import PROBABILITIES
from densityclip.density import CATEGORIES
from densityclip.probability.aggregate import fill_derived, label_numbers, log_probabilities, softmax
from densityclip.probability.calibrate import patient_shares
from densityclip.probability.conformal import one_row_a_patient
from densityclip.records import Status

# What is expected before a label is seen: a slope of 1 and biases of 0, give or take this much. At a share of a quarter
# ten labels weigh 10 * 0.19 against 1 / 0.5^2 = 4, so they move a bias a third of the way; a thousand nearly all of it.
_SLOPE_SPREAD, _BIAS_SPREAD = 0.5, 0.5
_SLOPES = (0.05, 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """`softmax(log(p) / temperature + biases)`: how a site's readers and patients differ, with the model frozen.

    Attributes:
        temperature: Above one where the model is too sure at this site.
        biases: Added per category, in the order A, B, C, D.
    """

    temperature: float = 1.0
    biases: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def apply(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """Probabilities `[n, 4]` of probabilities `[n, 4]`."""
        return softmax(log_probabilities(probabilities) / self.temperature + np.asarray(self.biases))


def fit_recalibration(probabilities: ArrayLike, labels: ArrayLike, patients: Sequence[str]) -> Recalibration:
    """Fit temperature and biases to labelled exams by penalised likelihood, each patient counting once.

    The penalty is that of normal expectations: slope 1 / temperature around 1 and biases around 0, each with a standard
    deviation of 0.5, so no label leaves the model as it is, and ten do not make it certain. The problem is convex: one
    answer, from any start. The biases sum to zero, as the optimum does.

    Args:
        probabilities: `[n, 4]` of the frozen model.
        labels: `[n]` category index.
        patients: `[n]` ids.

    Returns:
        The recalibration; the identity for no exams.
    """
    values, truth = log_probabilities(probabilities).reshape(-1, len(CATEGORIES)), np.asarray(labels, dtype=np.int64)
    if len(truth) == 0:
        return Recalibration()
    weight, target = patient_shares(patients), np.eye(len(CATEGORIES))[truth]

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, biases = parameters[0], parameters[1:]
        given = softmax(values * slope + biases)
        likelihood = (weight * np.log(np.maximum((given * target).sum(axis=1), 1e-300))).sum()
        expected = ((slope - 1) / _SLOPE_SPREAD) ** 2 + (biases**2).sum() / _BIAS_SPREAD**2
        error = weight[:, None] * (given - target)
        gradient = np.concatenate([[(error * values).sum()], error.sum(axis=0)])
        gradient += np.concatenate([[(slope - 1) / _SLOPE_SPREAD**2], biases / _BIAS_SPREAD**2])
        return float(0.5 * expected - likelihood), gradient

    low, high = 1 / _SLOPES[1], 1 / _SLOPES[0]
    bounds = [(low, high), *[(None, None)] * len(CATEGORIES)]
    start = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9})
    return Recalibration(temperature=float(1 / found.x[0]), biases=tuple(float(value) for value in found.x[1:]))


@dataclass(frozen=True)
class LocalDraw:
    """One draw of labelled exams of a site, and what the model says of its other patients after they were used.

    Attributes:
        k: How many exams were labelled, one a patient.
        draw: Number of the draw, from 0.
        recalibration: What was fitted on them.
        before: Rows of the patients who were not drawn, as they were.
        after: The same rows in the same order with recalibrated probabilities (logits are the model's own).
    """

    k: int
    draw: int
    recalibration: Recalibration
    before: pl.DataFrame
    after: pl.DataFrame


def local_curve(exams: pl.DataFrame, numbers: Sequence[int], *, draws: int, seed: int) -> Iterator[LocalDraw]:
    """Recalibrate on k labelled exams of a site, for several k and several draws of each.

    Patients are drawn, not exams: k patients, of each one exam, picked by a hash of her id; all her exams leave the
    scoring. Within a draw the patients of a smaller k are among those of a greater one. Compare `after` with `before`
    of the same draw, for other draws leave other patients.

    Args:
        exams: Rows of schema `predictions`, level `exam`, of one site and one model (or ensemble). Those without an
            answer or a label are left out.
        numbers: The k to try; 0 changes nothing. One that would leave fewer patients than it takes is left out.
        draws: How often each is drawn.
        seed: Of the draws; the order of the rows does not matter.

    Yields:
        By draw, then in the order of `numbers`. Metrics are the caller's.

    Raises:
        ValueError: Rows of another level, or without a patient id.
    """
    if set(exams["level"].unique()) - {"exam"} or exams["patient_id"].null_count():
        raise ValueError("rows of level exam with patient ids are expected")
    rows = exams.filter((pl.col("status") == Status.OK.value) & pl.col("label").is_not_null()).sort(
        "patient_id", "exam_id", *PROBABILITIES
    )
    values, names = rows.select(PROBABILITIES).to_numpy(), rows["patient_id"].to_list()
    labels = label_numbers(rows["label"])
    chosen = one_row_a_patient(values, labels, names)
    for draw in range(draws):
        key = [seed, zlib.crc32(b"labelled exams of a site"), draw]
        order = np.random.default_rng(np.random.SeedSequence(key)).permutation(len(chosen))
        for k in numbers:
            if k > len(chosen) - k:
                continue
            taken = chosen[order[:k]]
            mine = [names[n] for n in taken]
            fitted = fit_recalibration(values[taken], labels[taken], mine)
            before = rows.filter(~pl.col("patient_id").is_in(mine))
            yield LocalDraw(k, draw, fitted, before, _recalibrated(before, fitted))


def _recalibrated(rows: pl.DataFrame, fitted: Recalibration) -> pl.DataFrame:
    adapted = fitted.apply(rows.select(PROBABILITIES).to_numpy())
    return fill_derived(rows.with_columns(pl.Series(name, adapted[:, k]) for k, name in enumerate(PROBABILITIES)))


@dataclass(frozen=True)
class PriorShift:
    """What `estimate_prior` found.

    Attributes:
        prior: `[4]` estimated shares of the categories among the patients.
        probabilities: `[n, 4]` adapted to it.
        iterations: Steps of the EM algorithm that were made.
        converged: Whether the last one changed no share by more than the tolerance.
    """

    prior: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    iterations: int
    converged: bool


def estimate_prior(
    probabilities: ArrayLike,
    prior: ArrayLike,
    patients: Sequence[str],
    *,
    tolerance: float = 1e-8,
    most_iterations: int = 20_000,
) -> PriorShift:
    """Estimate the shares of the categories in unlabelled exams by EM, and adapt their probabilities to them.

    Saerens, Latinne and Decaestecker 2002 (Neural Computation 14:21-41): with w = new prior / old prior, an exam's
    probabilities become w p / sum(w p), and the new prior is their mean, until nothing changes. Each patient counts
    once. The likelihood is concave in the prior, so the answer does not hang on the start.

    It is transductive: the exams that are scored are those that the prior was estimated from, so it says nothing of one
    exam alone, and an answer changes with the company. It assumes that only the shares differ (label shift: within a
    category the images look alike at both sites) and that the probabilities are calibrated for the old prior. Another
    vendor, another reader or another age mix breaks the first, and nothing in the unlabelled data shows it.

    Args:
        probabilities: `[n, 4]`, calibrated for `prior`, n at least 1.
        prior: `[4]` shares of the categories where they were calibrated, all positive; made to sum to one.
        patients: `[n]` ids.
        tolerance: Largest change of a share in a step that counts as none.
        most_iterations: When to give up.

    Raises:
        ValueError: No rows, values that are not finite, or a share of the old prior that is not positive.
    """
    values, old = np.asarray(probabilities, dtype=np.float64), np.asarray(prior, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("finite probabilities of at least one exam are expected")
    if not (old > 0).all():
        raise ValueError(f"a prior of {old.tolist()} has a share that is not positive: its ratio is unknown")
    old, share = old / old.sum(), patient_shares(patients)
    share = share / share.sum()
    new, iterations, change = old, 0, np.inf
    while change > tolerance and iterations < most_iterations:
        before, new = new, share @ _reweighted(values, new / old)
        change = float(np.abs(new - before).max())
        iterations += 1
    return PriorShift(new, _reweighted(values, new / old), iterations, change <= tolerance)


def _reweighted(values: NDArray[np.float64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    weighted = values * ratio
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))
