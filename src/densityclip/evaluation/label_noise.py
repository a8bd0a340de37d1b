"""What a perfect model could reach where the labels are one reader's: the ceiling that noisy labels put on figures.

The model of a reader: she writes down the true category or, with a probability m for each boundary that it has, the
neighbour beyond. So m is the chance to cross one boundary: A and D are left with m, B and C with 2m. Errors of two
categories do not occur, readings are independent given the truth, and every reader has the same m. None of this is
exact; the result is an order of magnitude to hold a figure against, not an estimate of this cohort's readers.

m comes from published agreement, at the category shares of digital screening (Breast Cancer Surveillance Consortium):

- `same reader twice`: 77.2% of 11,755 women got the same category again (Spayne 2012; its weighted kappa of 0.70 was
  not used, and is matched within 0.03 by the linear kappa of this model).
- `another reader`: 17.2% of women were dense to one reader and not dense to the other (Sprague 2016, 83 radiologists).

Test labels usually come from many readers: the second is then the nearer one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from densityclip.density import CATEGORIES, DENSE
from densityclip.evaluation.metrics import Floats, confusion_metrics
from densityclip.phantom.sites import REFERENCE_SHARES

SAME_READER = "same reader twice"
ANOTHER_READER = "another reader"
AGREEMENT = 0.772
DENSE_DISCORDANCE = 0.172
SHOWN: tuple[str, ...] = ("accuracy", "linear_kappa", "quadratic_kappa", "mean_absolute_error")

_DENSE_FROM = CATEGORIES.index(DENSE[0])
# Crossing both boundaries of B or C cannot take more than the whole.
_MOST = 0.5
# EM for four shares: it is within 1e-9 of its end long before.
_ROUNDS = 10_000
_STILL = 1e-12


@dataclass(frozen=True)
class Reader:
    """A reader who confuses neighbours.

    Attributes:
        crossing: Probability to cross one boundary, 0 to 0.5.
    """

    crossing: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.crossing <= _MOST:
            raise ValueError(f"a reader crosses a boundary with a probability from 0 to {_MOST}, not {self.crossing}")

    @property
    def matrix(self) -> Floats:
        """`[4, 4]`: row the truth, column what she writes, each row a distribution."""
        size = len(CATEGORIES)
        steps = self.crossing * (np.eye(size, k=1) + np.eye(size, k=-1))
        return np.asarray(steps + np.diag(1.0 - steps.sum(axis=1)))

    def against_truth(self, truth: Floats) -> Floats:
        """`[4, 4]` joint distribution of her label (row) and the truth (column), from the shares of the truth."""
        return np.asarray((truth[:, None] * self.matrix).T)

    def against_reader(self, truth: Floats) -> Floats:
        """`[4, 4]` joint distribution of two independent readings."""
        return np.asarray(self.matrix.T @ (truth[:, None] * self.matrix))

    @classmethod
    def of_agreement(cls, agreement: float, shares: Sequence[float] = REFERENCE_SHARES) -> "Reader":
        """The reader whose two readings fall into one category this often.

        Args:
            agreement: Share of women, above what the model can reach at worst and at most 1.
            shares: `[4]` categories as readers see them in the population of the published figure.
        """
        return cls._solved(lambda joint: float(np.trace(joint)) - agreement, shares)

    @classmethod
    def of_dense_discordance(cls, discordance: float, shares: Sequence[float] = REFERENCE_SHARES) -> "Reader":
        """The reader of whom two disagree this often on dense or not dense."""

        def beyond(joint: Floats) -> float:
            return discordance - float(
                joint[:_DENSE_FROM, _DENSE_FROM:].sum() + joint[_DENSE_FROM:, :_DENSE_FROM].sum()
            )

        return cls._solved(beyond, shares)

    @classmethod
    def _solved(cls, beyond: Any, shares: Sequence[float]) -> "Reader":
        def off(crossing: float) -> float:
            reader = cls(crossing)
            return float(beyond(reader.against_reader(true_shares(shares, reader))))

        # Up to a quarter both published quantities move one way; beyond it B and C are more often left than kept.
        return cls(float(brentq(off, 0.0, 0.25, xtol=1e-10)))


def true_shares(labelled: Sequence[float], reader: Reader) -> Floats:
    """Shares of the true categories from those of her labels: maximum likelihood by EM, so never negative.

    Args:
        labelled: `[4]` counts or shares of the labels.
        reader: Who wrote them.

    Returns:
        `[4]`, summing to one.
    """
    seen = np.asarray(labelled, dtype=np.float64)
    seen = seen / seen.sum()
    shares = np.full(len(seen), 1.0 / len(seen))
    matrix = reader.matrix
    for _ in range(_ROUNDS):
        expected = shares @ matrix
        ratio = np.divide(seen, expected, out=np.zeros_like(seen), where=expected > 0)
        updated = shares * (matrix @ ratio)
        if np.abs(updated - shares).max() < _STILL:
            return np.asarray(updated)
        shares = updated
    return np.asarray(shares)


def published_readers() -> dict[str, tuple[Reader, str]]:
    """Name to reader and the published figure it stands on."""
    return {
        SAME_READER: (Reader.of_agreement(AGREEMENT), f"{AGREEMENT:.1%} of women get the same category again"),
        ANOTHER_READER: (
            Reader.of_dense_discordance(DENSE_DISCORDANCE),
            f"{DENSE_DISCORDANCE:.1%} of women are dense to one reader and not to another",
        ),
    }


def ceiling(label_counts: Sequence[int], reader: Reader) -> dict[str, Any]:
    """What could be reached against labels of such a reader.

    Args:
        label_counts: `[4]` labels of the cohort.
        reader: Who wrote them.

    Returns:
        `truth_shares` by letter, and for `perfect_model` (always says the truth) and `second_reader` (reads as the
        first) accuracy, kappas and mean absolute error; None where a kappa is not estimable.

    Raises:
        ValueError: There are no labels.
    """
    if sum(label_counts) == 0:
        raise ValueError("a ceiling needs labels")
    truth = true_shares(label_counts, reader)
    joint = np.stack([reader.against_truth(truth), reader.against_reader(truth)])
    figures = confusion_metrics(joint, np.ones(len(CATEGORIES), dtype=bool))

    def shown(k: int) -> dict[str, float | None]:
        return {name: _rounded(figures[name][k]) for name in SHOWN}

    return {
        "truth_shares": {letter: _rounded(share) for letter, share in zip(CATEGORIES, truth, strict=True)},
        "perfect_model": shown(0),
        "second_reader": shown(1),
    }


def _rounded(value: float) -> float | None:
    # More digits would claim a precision that the model of the reader does not have.
    return round(float(value), 4) if np.isfinite(value) else None
