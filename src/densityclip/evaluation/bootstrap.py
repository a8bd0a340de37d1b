"""Percentile bootstrap over patients: images of one patient are drawn together, as whole-number weights."""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.artifacts import hash_json
from densityclip.evaluation.metrics import Sample, Scoring
from densityclip.evaluation.ranking import Floats, Ints
from densityclip.worker_pool import cores

COVERAGE = 0.95
# Rounded, so that the 26th of 1,001 replicates is met exactly and a test and its interval agree there.
_TAIL = round((1.0 - COVERAGE) / 2.0, 12)
# Resamples scored together: few, so that the weights of a run of images stay in a core's cache, and many, so that
# the calls cost little beside the sums (tried with 16 to 256 on 100,000 images).
_RESAMPLES_AT_ONCE = 64
# Patients x resamples held at once, 8 bytes each: a million patients are taken a few resamples at a time.
_CELLS_AT_ONCE = 2_000_000
# Rows x resamples below which a second thread costs more than it brings.
_WORTH_THREADS = 5_000_000
_ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval.

    Attributes:
        value: On the sample itself; NaN if not estimable.
        low: Lower end, or NaN where no interval can be given (one patient, or no usable resample).
        high: Upper end, or NaN.
        resamples_used: Resamples in which the figure was estimable; the others are left out.
    """

    value: float
    low: float
    high: float
    resamples_used: int

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Estimate":
        """Read back what `as_json` gave; other keys are left."""
        value, low, high = (content[key] if content[key] is not None else float("nan") for key in _ENDS)
        return cls(value, low, high, content["resamples_used"])

    def as_json(self) -> dict[str, Any]:
        """Plain values, NaN as None."""
        return {
            "value": finite_or_none(self.value),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "resamples_used": self.resamples_used,
        }


def finite_or_none(value: float) -> float | None:
    """A float for JSON: NaN and infinities become None."""
    return float(value) if np.isfinite(value) else None


def patient_weights(patients: Sequence[str], resamples: int, seed: int) -> tuple[Ints, NDArray[np.int32]]:
    """How often each resample draws each patient.

    The draw depends on the seed and on who the patients are, not on their order: two arms scored on the same patients
    get the same resamples.

    Args:
        patients: `[n]` patient of each row.
        resamples: How many.
        seed: Any whole number from 0.

    Returns:
        `[n]` position of each row's patient among the sorted patients, and `[patients, resamples]` counts whose columns
        sum to the number of patients.
    """
    names, position = _positions(patients)
    counts = np.empty((len(names), resamples), dtype=np.int32)
    start = 0
    for drawn in _draws(names, resamples, seed):
        counts[:, start : start + len(drawn)] = drawn.T
        start += len(drawn)
    return position, counts


def replicates(
    sample: Sample, patients: Sequence[str], *, resamples: int, seed: int, names: Iterable[str] | None = None
) -> dict[str, Floats]:
    """Metrics on every resample.

    The resamples are drawn in order and scored in pieces on all of the processor's cores; neither the size of a piece
    nor the number of cores changes a result.

    Args:
        sample: The rows.
        patients: `[n]` patient of each row.
        resamples: How many.
        seed: Of the draw.
        names: Of `METRICS`; all where absent. Only these are computed.

    Returns:
        Name to `[resamples]`, NaN where a resample cannot estimate the metric.
    """
    who, position = _positions(patients)
    scoring = Scoring.of(sample, names, position, len(who))
    threaded = len(position) * resamples >= _WORTH_THREADS
    return _scored(scoring, _draws(who, resamples, seed), cores() if threaded else 1)


def replicates_of_part(
    sample: Sample, position: Ints, counts: NDArray[np.int32], *, names: Iterable[str] | None = None
) -> dict[str, Floats]:
    """Metrics of some rows on resamples of all patients: groups that share a draw can be compared.

    Args:
        sample: The rows.
        position: `[n]`, each row's patient as `patient_weights` numbers them.
        counts: `[patients, resamples]` of `patient_weights`.
        names: Of `METRICS`; all where absent.

    Returns:
        Name to `[resamples]`.
    """
    scoring = Scoring.of(sample, names, position, len(counts))
    step = _step(len(counts))
    pieces = (counts[:, start : start + step].T for start in range(0, counts.shape[1], step))
    threaded = len(position) * counts.shape[1] >= _WORTH_THREADS
    return _scored(scoring, pieces, cores() if threaded else 1)


def row_weights(patients: Sequence[str], resamples: int, seed: int) -> Floats:
    """`[resamples, n]`: how often each resample draws each row, which is as often as the row's patient."""
    position, counts = patient_weights(patients, resamples, seed)
    return counts[position].T.astype(np.float64)


def mean_of_rows(values: Floats, weights: Floats, n_patients: int) -> Estimate:
    """The mean over rows with its interval over patients.

    Args:
        values: `[n]`, finite.
        weights: `[resamples, n]` of `row_weights`, or a product of two; several means of the same rows can share them.
        n_patients: Patients of the rows.
    """
    total = weights.sum(axis=1)
    # Where rows are resampled by two things at once, a resample may draw none of them: it cannot tell the mean.
    replicated = np.divide(weights @ values, total, out=np.full(len(total), np.nan), where=total > 0)
    return interval(float(values.mean()), replicated, n_patients)


def interval(value: float, replicated: Floats, n_patients: int) -> Estimate:
    """Percentile interval from replicates; NaN ones are left out.

    Args:
        value: The figure on the sample itself.
        replicated: `[resamples]`.
        n_patients: One patient alone says nothing about the spread between patients: no interval then.
    """
    usable = replicated[np.isfinite(replicated)]
    if n_patients < 2 or not len(usable) or not np.isfinite(value):
        return Estimate(value, float("nan"), float("nan"), len(usable))
    low, high = np.quantile(usable, [_TAIL, 1.0 - _TAIL])
    return Estimate(value, float(low), float(high), len(usable))


def _positions(patients: Sequence[str]) -> tuple[NDArray[np.str_], Ints]:
    """The patients, sorted, and each row's position among them."""
    names, position = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return names, position.astype(np.int64)


def _draws(names: NDArray[np.str_], resamples: int, seed: int) -> Iterator[Ints]:
    """The resamples in order, `[some, patients]` at a time; one stream of random numbers, however it is cut."""
    who = zlib.crc32(hash_json(names.tolist()).encode())
    rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(b"bootstrap over patients"), who]))
    shares = np.full(len(names), 1.0 / max(1, len(names)))
    step = _step(len(names))
    for start in range(0, resamples, step):
        yield rng.multinomial(len(names), shares, size=min(step, resamples - start))


def _step(n_patients: int) -> int:
    return max(1, min(_RESAMPLES_AT_ONCE, _CELLS_AT_ONCE // max(1, n_patients)))


def _scored(scoring: Scoring, pieces: Iterable[NDArray[np.integer]], threads: int) -> dict[str, Floats]:
    """Score `[some, patients]` pieces, in order; NumPy and SciPy let go of the interpreter while they sum."""

    def score(drawn: NDArray[np.integer]) -> dict[str, Floats]:
        return scoring.score(np.ascontiguousarray(drawn.T, dtype=np.float64))

    if threads < 2:
        scored = [score(drawn) for drawn in pieces]
    else:
        scored = []
        waiting: deque[Future[dict[str, Floats]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for drawn in pieces:
                waiting.append(pool.submit(score, drawn))
                # Draw only a little ahead: pieces that wait hold memory.
                while len(waiting) > threads:
                    scored.append(waiting.popleft().result())
            scored += [future.result() for future in waiting]
    return {name: np.concatenate([np.empty(0), *(piece[name] for piece in scored)]) for name in scoring.names}
