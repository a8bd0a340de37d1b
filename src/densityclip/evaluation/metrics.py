"""Figures of merit for four ordered categories, computed for many weightings of the same rows at once.

A bootstrap resample is a weighting, and so is "every row once": point estimates and their replicates come from the
same code. What cannot be estimated, such as the AUC of a category that no row has, is NaN, never 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densityclip.density import CATEGORIES, DENSE
from densityclip.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Name in metrics.json: what people read.
METRICS: dict[str, str] = {
    "macro_auc": "Macro AUC",
    "accuracy": "Accuracy",
    "quadratic_kappa": "Quadratic kappa",
    "linear_kappa": "Linear kappa",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "dense_auc": "Dense / not dense AUC",
    "auc_a": "AUC, category A",
    "auc_b": "AUC, category B",
    "auc_c": "AUC, category C",
    "auc_d": "AUC, category D",
    "mean_absolute_error": "Mean error in categories",
    "two_or_more_off": "Errors of two or more categories",
}
LOWER_IS_BETTER: frozenset[str] = frozenset({"mean_absolute_error", "two_or_more_off"})

_SIZE = len(CATEGORIES)
_DENSE_FROM = CATEGORIES.index(DENSE[0])


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of positives ranked among those of negatives: sorted once, weighted many times.

    Attributes:
        negatives: Rows that are negative, by rising score.
        positives: Rows that are positive.
        below: For each positive, how many negatives score less.
        up_to: For each positive, how many negatives score no more.
    """

    negatives: Ints
    positives: Ints
    below: Ints
    up_to: Ints

    @classmethod
    def of(cls, scores: ArrayLike, positive: ArrayLike) -> "Ranking":
        """Rank `[n]` scores by a `[n]` truth."""
        values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
        negatives, positives = np.flatnonzero(~truth), np.flatnonzero(truth)
        negatives = negatives[np.argsort(values[negatives], kind="stable")]
        ladder = values[negatives]
        return cls(
            negatives,
            positives,
            np.searchsorted(ladder, values[positives], side="left"),
            np.searchsorted(ladder, values[positives], side="right"),
        )

    def auc(self, weights: Floats) -> Floats:
        """Area under the ROC curve for each weighting; tied scores count one half (Mann and Whitney).

        Args:
            weights: `[n, weightings]`, not negative.

        Returns:
            `[weightings]` in `[0, 1]`; NaN where positives or negatives have no weight.
        """
        rung = np.zeros((len(self.negatives) + 1, weights.shape[1]))
        np.cumsum(weights[self.negatives], axis=0, out=rung[1:])
        positive = weights[self.positives]
        wins = np.einsum("ij,ij->j", positive, rung[self.below]) + np.einsum("ij,ij->j", positive, rung[self.up_to])
        return _ratio(0.5 * wins, positive.sum(axis=0) * rung[-1])


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows to score.

    Attributes:
        labels: `[n]`, 0 (A) to 3 (D).
        probabilities: `[n, 4]`, rows in the order A, B, C, D.
    """

    labels: Ints
    probabilities: Floats

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.labels), _SIZE):
            raise ValueError(f"{len(self.labels)} labels need [n, 4] probabilities, not {self.probabilities.shape}")
        if np.isnan(self.probabilities).any():
            raise UserError("some probabilities are NaN", "leave those rows out, or find out why the model gave NaN")
        if len(self.labels) and (self.labels.min() < 0 or self.labels.max() >= _SIZE):
            raise ValueError("labels are not all in 0 to 3")

    @classmethod
    def of(cls, labels: ArrayLike, probabilities: ArrayLike) -> "Sample":
        """Build from anything array-like."""
        return cls(np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64).reshape(-1, _SIZE))

    @cached_property
    def predicted(self) -> Ints:
        """`[n]` most probable category; of equal probabilities the less dense one."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """`[4]`, the categories that some label has."""
        return np.bincount(self.labels, minlength=_SIZE) > 0

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """One ranking per AUC: each category against the rest, and dense against not dense."""
        each = {
            f"auc_{letter.lower()}": (self.probabilities[:, k], self.labels == k) for k, letter in enumerate("ABCD")
        }
        each["dense_auc"] = (self.probabilities[:, _DENSE_FROM:].sum(axis=1), self.labels >= _DENSE_FROM)
        return {name: Ranking.of(scores, truth) for name, (scores, truth) in each.items()}

    def confusion(self, weights: Floats | None = None) -> Floats:
        """Confusion matrices, label by prediction.

        Args:
            weights: `[n, weightings]`; every row once where absent.

        Returns:
            `[weightings, 4, 4]`.
        """
        weights = np.ones((len(self.labels), 1)) if weights is None else weights
        cells = np.zeros((_SIZE * _SIZE, len(self.labels)))
        cells[self.labels * _SIZE + self.predicted, np.arange(len(self.labels))] = 1.0
        return np.asarray((cells @ weights).T.reshape(-1, _SIZE, _SIZE))

    def score(self, weights: Floats | None = None) -> dict[str, Floats]:
        """Every metric of `METRICS` for each weighting.

        Means over categories (macro AUC, balanced accuracy, macro F1) run over the categories that the labels of the
        whole sample have; a weighting in which one of them vanishes gives NaN, because a mean over fewer categories
        would estimate something else.

        Args:
            weights: `[n, weightings]`; every row once where absent.

        Returns:
            Name to `[weightings]`.
        """
        weights = np.ones((len(self.labels), 1)) if weights is None else weights
        scores = confusion_metrics(self.confusion(weights), self.present)
        scores |= {name: ranking.auc(weights) for name, ranking in self.rankings.items()}
        per_category = np.stack([scores[f"auc_{letter.lower()}"] for letter in CATEGORIES], axis=1)
        scores["macro_auc"] = _mean_of_present(per_category, self.present)
        return {name: scores[name] for name in METRICS}


def confusion_metrics(confusions: Floats, present: NDArray[np.bool_]) -> dict[str, Floats]:
    """The metrics that follow from confusion matrices.

    Kappas are Cohen's, weighted by the distance of the categories or its square.

    Args:
        confusions: `[m, 4, 4]`, label by prediction, counts or weights.
        present: `[4]`, the categories over which means run.

    Returns:
        Name to `[m]`, NaN where not estimable.
    """
    total = confusions.sum(axis=(1, 2))
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    labelled, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    steps = np.abs(np.subtract.outer(np.arange(_SIZE), np.arange(_SIZE))).astype(np.float64)
    f1 = np.where(labelled > 0, _ratio(2 * hits, labelled + predicted), np.nan)
    return {
        "accuracy": _ratio(hits.sum(axis=1), total),
        "balanced_accuracy": _mean_of_present(_ratio(hits, labelled), present),
        "macro_f1": _mean_of_present(f1, present),
        "linear_kappa": _kappa(confusions, steps),
        "quadratic_kappa": _kappa(confusions, steps**2),
        "mean_absolute_error": _ratio((confusions * steps).sum(axis=(1, 2)), total),
        "two_or_more_off": _ratio((confusions * (steps >= 2)).sum(axis=(1, 2)), total),
    }


def point_metrics(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """Every metric of `METRICS`, every row counted once.

    Args:
        labels: `[n]`, 0 to 3.
        probabilities: `[n, 4]`.
    """
    return {name: float(value[0]) for name, value in Sample.of(labels, probabilities).score().items()}


def macro_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean one-against-rest AUC over the categories present among the labels; NaN where only one is.

    Args:
        labels: `[n]`, 0 to 3.
        probabilities: `[n, 4]`.
    """
    return point_metrics(labels, probabilities)["macro_auc"]


def roc_points(labels: ArrayLike, probabilities: ArrayLike, most: int = 200) -> dict[str, dict[str, list[float]]]:
    """ROC curve of each category against the rest.

    Args:
        labels: `[n]`, 0 to 3.
        probabilities: `[n, 4]`.
        most: Longer curves are thinned to this many points, ends kept.

    Returns:
        Letter to `fpr` and `tpr`, both rising from 0 to 1; categories without positives or negatives are absent.
    """
    sample, curves = Sample.of(labels, probabilities), {}
    for k, letter in enumerate(CATEGORIES):
        truth = sample.labels == k
        if truth.all() or not truth.any():
            continue
        order = np.argsort(-sample.probabilities[:, k], kind="stable")
        scores = sample.probabilities[order, k]
        # One point per distinct score: tied rows enter together, as a slanted segment.
        last = np.flatnonzero(np.append(np.diff(scores) != 0, True))
        tpr = np.append(0.0, np.cumsum(truth[order])[last] / truth.sum())
        fpr = np.append(0.0, np.cumsum(~truth[order])[last] / (~truth).sum())
        kept = _corners(fpr, tpr)
        if len(kept) > most:
            kept = kept[np.linspace(0, len(kept) - 1, most).round().astype(int)]
        curves[letter] = {"fpr": fpr[kept].round(5).tolist(), "tpr": tpr[kept].round(5).tolist()}
    return curves


def _corners(fpr: Floats, tpr: Floats) -> Ints:
    """Points that are no mere waypoint of a vertical or horizontal run."""
    moves_x, moves_y = np.diff(fpr) > 0, np.diff(tpr) > 0
    straight = (moves_x[:-1] == moves_x[1:]) & (moves_y[:-1] == moves_y[1:]) & (moves_x[:-1] ^ moves_y[:-1])
    return np.flatnonzero(np.concatenate([[True], ~straight, [True]]))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _mean_of_present(values: Floats, present: NDArray[np.bool_]) -> Floats:
    if not present.any():
        return np.full(len(values), np.nan)
    return np.asarray(values[:, present].mean(axis=1))


def _kappa(confusions: Floats, penalty: Floats) -> Floats:
    expected = np.einsum("mi,mj->mij", confusions.sum(axis=2), confusions.sum(axis=1))
    total = confusions.sum(axis=(1, 2))
    disagreement = _ratio((expected * penalty).sum(axis=(1, 2)), total)
    return 1.0 - _ratio((confusions * penalty).sum(axis=(1, 2)), disagreement)
