"""Conformal sets: neighbouring categories that hold the true one as often as was asked."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densityclip.density import CATEGORIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformal:
    """A threshold that turns probabilities into sets of neighbouring categories (split conformal prediction).

    A set grows from the most probable category, each time by the more probable of its two neighbours, as long as the
    probability it has gathered is within the threshold; after ordinal adaptive prediction sets (Lu, Angelopoulos and
    Pomerantz 2022, arXiv:2206.12008), which were tried on a graded disease. Nothing is drawn at random at the border,
    so the same exam always gets the same set, and coverage is somewhat more than was asked.

    What is promised: of new patients who are exchangeable with the calibration patients (same site, same reading, same
    mix), one exam each, at least the wanted share have sets that hold the label, on average over calibration parts. Not
    promised: coverage in a subgroup or of one category, or elsewhere; there it is observed, not promised.

    Attributes:
        coverage: The share that was asked for.
        threshold: Largest probability that a set may gather beyond its first category; None where there were too few
            patients to promise anything short of all four categories.
        patients: How many patients of the calibration part it was fitted on.
    """

    coverage: float
    threshold: float | None
    patients: int

    @classmethod
    def fit(cls, probabilities: ArrayLike, labels: ArrayLike, patients: Sequence[str], coverage: float) -> "Conformal":
        """Find the threshold on labelled exams of the calibration part.

        One exam of each patient counts, for exams of one woman are not exchangeable with those of others. Which one is
        chosen by a hash of her id among her exams sorted by their values, so the order of the rows changes nothing. Of
        n scores the threshold is the ceil((n + 1) * coverage)-th smallest.

        Args:
            probabilities: `[n, 4]`.
            labels: `[n]` category index.
            patients: `[n]` ids.
            coverage: Wanted, between 0 and 1.

        Raises:
            ValueError: A coverage outside (0, 1), or probabilities that are not finite.
        """
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"coverage {coverage} is not between 0 and 1")
        values, truth = _checked(probabilities), np.asarray(labels, dtype=np.int64)
        chosen = one_row_a_patient(values, truth, patients)
        scores = np.sort(set_masses(values[chosen])[np.arange(len(chosen)), truth[chosen]])
        # A hair less, for 20 * 0.95 is a little more than 19 in floating point.
        rank = int(np.ceil((len(scores) + 1) * coverage - 1e-9))
        return cls(
            coverage=coverage,
            threshold=float(scores[rank - 1]) if rank <= len(scores) else None,
            patients=len(scores),
        )

    def sets(self, probabilities: ArrayLike) -> NDArray[np.bool_]:
        """Which categories are in the set of each row.

        Args:
            probabilities: `[n, 4]`.

        Returns:
            `[n, 4]`, each row one run of neighbours, never empty: the most probable category is always there.

        Raises:
            ValueError: Probabilities that are not finite.
        """
        values = _checked(probabilities)
        if self.threshold is None:
            return np.ones(values.shape, dtype=np.bool_)
        held = set_masses(values) <= self.threshold
        held[np.arange(len(values)), values.argmax(axis=1)] = True
        return np.asarray(held)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"coverage": self.coverage, "threshold": self.threshold, "patients": self.patients}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Conformal":
        """Read back what `to_dict` gave."""
        threshold = content["threshold"]
        return cls(
            coverage=float(content["coverage"]),
            threshold=None if threshold is None else float(threshold),
            patients=int(content["patients"]),
        )


def set_masses(probabilities: ArrayLike) -> NDArray[np.float64]:
    """What a growing set has gathered when it takes each category in, that category included.

    Args:
        probabilities: `[n, 4]`.

    Returns:
        `[n, 4]`: the most probable category has its own probability, the last one taken in has 1. Of equal neighbours
        the less dense one comes first.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    rows, last = np.arange(len(values)), len(CATEGORIES) - 1
    low = high = values.argmax(axis=1)
    gathered = values[rows, low]
    masses = np.empty_like(values)
    masses[rows, low] = gathered
    for _ in range(last):
        below = np.where(low > 0, values[rows, np.maximum(low - 1, 0)], -1.0)
        above = np.where(high < last, values[rows, np.minimum(high + 1, last)], -1.0)
        down = below >= above
        low, high = low - down, high + ~down
        taken = np.where(down, low, high)
        gathered = gathered + values[rows, taken]
        masses[rows, taken] = gathered
    # Whatever was added up last completes the set; rounding shall not decide whether it is in.
    masses[rows, taken] = 1.0
    return np.minimum(masses, 1.0)


def one_row_a_patient(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], patients: Sequence[str]
) -> NDArray[np.int64]:
    """Index of one row of each patient, in the order of their ids.

    Args:
        probabilities: `[n, 4]`, by which a patient's rows are sorted before one is picked.
        labels: `[n]`, for rows of equal probabilities.
        patients: `[n]` ids; the hash of an id picks.

    Returns:
        `[patients]` indices; the same rows for any order of them.
    """
    ids = np.asarray(patients, dtype=str)
    order = np.lexsort((labels, *probabilities.T[::-1], ids))
    names, first, counts = np.unique(ids[order], return_index=True, return_counts=True)
    picks = [_hash(name) % int(count) for name, count in zip(names, counts, strict=True)]
    return np.asarray(order[first + np.array(picks, dtype=np.int64)], dtype=np.int64)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"one exam of {name}".encode()).digest()[:8], "big")


def _checked(probabilities: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(probabilities, dtype=np.float64).reshape(-1, len(CATEGORIES))
    if not np.isfinite(values).all():
        raise ValueError("probabilities that are not finite have no set; leave those rows out")
    return values
