"""Areas under the ROC and the precision-recall curve: scores sorted once, weighted many times."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Levels at once: with the 64 weightings of a bootstrap piece, half a megabyte for each array in hand, so that they
# stay in a core's own cache (tried: four times as many levels take a fifth longer).
_LEVELS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class _Block:
    """Some neighbouring levels; each matrix is `[levels, units]` and counts rows.

    Attributes:
        positive: Positive rows of the level's score.
        below: Negative rows under the level's score that are under no earlier level's.
        equal: Negative rows of just the level's score; None where there are none.
    """

    positive: Any
    below: Any
    equal: Any | None


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of positives ranked among those of negatives.

    A *level* is a distinct score of a positive; a *unit* is what gets a weight: a row, or all rows of a patient.

    Attributes:
        positives: `[1, units]`, positive rows of each unit.
        negatives: `[1, units]`, negative rows of each unit.
        blocks: The levels by rising score.
    """

    positives: Any
    negatives: Any
    blocks: tuple[_Block, ...]

    @classmethod
    def of(
        cls, scores: ArrayLike, positive: ArrayLike, units: Ints | None = None, n_units: int | None = None
    ) -> "Ranking":
        """Rank scores by a truth.

        Args:
            scores: `[n]`, finite.
            positive: `[n]`, the truth.
            units: `[n]`, the unit of each row, counted from 0; each row its own where absent.
            n_units: How many units there are; as many as rows where absent.
        """
        values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
        unit = np.arange(len(values)) if units is None else units
        size = len(unit) if n_units is None else n_units
        levels, level = np.unique(values[truth], return_inverse=True)
        # A negative is below the first level above it; the last row of `below` holds those below none.
        first_above = np.searchsorted(levels, values[~truth], side="right")
        tied = np.zeros(len(first_above), dtype=bool)
        tied[first_above > 0] = levels[first_above[first_above > 0] - 1] == values[~truth][first_above > 0]
        at_positive = count_rows(level, unit[truth], (len(levels), size))
        below = count_rows(first_above, unit[~truth], (len(levels) + 1, size))
        equal = count_rows(first_above[tied] - 1, unit[~truth][tied], (len(levels), size))
        return cls(
            count_rows(np.zeros_like(level), unit[truth], (1, size)),
            count_rows(np.zeros_like(first_above), unit[~truth], (1, size)),
            tuple(_blocks(at_positive, below, equal)),
        )

    def auc(self, weights: Floats) -> Floats:
        """Area under the ROC curve for each weighting; tied scores count one half (Mann and Whitney).

        Args:
            weights: `[units, weightings]`, not negative.

        Returns:
            `[weightings]` in `[0, 1]`; NaN where positives or negatives have no weight.
        """
        return self.areas(weights, precision=False)[0]

    def average_precision(self, weights: Floats) -> Floats:
        """Average precision, as scikit-learn defines it: rows of one score enter together, no interpolation.

        Args:
            weights: `[units, weightings]`, not negative.

        Returns:
            `[weightings]` in `[0, 1]`; NaN where positives have no weight.
        """
        return self.areas(weights, precision=True)[1]

    def areas(self, weights: Floats, *, precision: bool) -> tuple[Floats, Floats]:
        """AUC and average precision in one walk over the scores.

        Whole-number weights are summed exactly as long as positives times negatives stay under 2**53.

        Args:
            weights: `[units, weightings]`, not negative.
            precision: Whether average precision is wanted; NaN otherwise.

        Returns:
            Two `[weightings]`.
        """
        width = weights.shape[1]
        positives, negatives = (self.positives @ weights)[0], (self.negatives @ weights)[0]
        wins, gained, under, passed = (np.zeros(width) for _ in range(4))
        for block in self.blocks:
            won = block.positive @ weights
            lower = block.below @ weights
            lower[0] += under
            np.cumsum(lower, axis=0, out=lower)
            under = lower[-1].copy()
            wins += np.einsum("ij,ij->j", won, lower)
            if block.equal is not None:
                wins += 0.5 * np.einsum("ij,ij->j", won, block.equal @ weights)
            if precision:
                found = np.cumsum(won, axis=0)
                found += passed
                passed = found[-1].copy()
                found -= won
                np.subtract(positives, found, out=found)
                called = np.subtract(negatives, lower, out=lower)
                called += found
                # Nobody called means nobody found: such a level adds 0.
                gained += np.einsum("ij,ij->j", won, found / np.maximum(called, np.finfo(np.float64).tiny))
        average = ratio(gained, positives) if precision else np.full(width, np.nan)
        return ratio(wins, positives * negatives), average


def count_rows(row: Ints, column: Ints, shape: tuple[int, int], values: Floats | None = None) -> Any:
    """Sparse `[rows, columns]` matrix of how often each place occurs, or of the sums of `values` there."""
    data = np.ones(len(row)) if values is None else values
    return sparse.csr_array((data, (row, column)), shape=shape)


def ratio(above: Floats, below: Floats) -> Floats:
    """Division with NaN where the divisor is not positive: a share of nothing is not estimable."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _blocks(positive: Any, below: Any, equal: Any) -> Iterator[_Block]:
    for start in range(0, positive.shape[0], _LEVELS_AT_ONCE):
        stop = min(start + _LEVELS_AT_ONCE, positive.shape[0])
        tied = equal[start:stop]
        yield _Block(positive[start:stop], below[start:stop], tied if tied.nnz else None)
