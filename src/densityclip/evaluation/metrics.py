"""Figures of merit for four ordered categories, computed for many weightings of the same rows at once.

A bootstrap resample is a weighting, and so is "every row once": point estimates and their replicates come from the
same code. What cannot be estimated, such as the AUC of a category that no row has, is NaN, never 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densityclip.density import CATEGORIES, DENSE
from densityclip.errors import UserError
from densityclip.evaluation.calibration_error import ECE_BINS, calibration_gaps, reliability_bins
from densityclip.evaluation.ranking import Floats, Ints, Ranking, count_rows, ratio

_LETTERS = tuple(letter.lower() for letter in CATEGORIES)

# Name in metrics.json: what people read.
METRICS: dict[str, str] = {
    "macro_auc": "Macro AUC",
    "accuracy": "Accuracy",
    "quadratic_kappa": "Quadratic kappa",
    "linear_kappa": "Linear kappa",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "dense_auc": "Dense / not dense AUC",
    "dense_auprc": "Dense / not dense average precision",
    "dense_sensitivity": "Sensitivity for dense",
    "dense_specificity": "Specificity for dense",
    **{f"auc_{letter}": f"AUC, category {letter.upper()}" for letter in _LETTERS},
    "macro_auprc": "Macro average precision",
    **{f"auprc_{letter}": f"Average precision, category {letter.upper()}" for letter in _LETTERS},
    **{f"precision_{letter}": f"Precision, category {letter.upper()}" for letter in _LETTERS},
    **{f"recall_{letter}": f"Recall, category {letter.upper()}" for letter in _LETTERS},
    "mean_absolute_error": "Mean error in categories",
    "two_or_more_off": "Errors of two or more categories",
    "ece": "Expected calibration error",
    "brier": "Brier score",
}
LOWER_IS_BETTER: frozenset[str] = frozenset({"mean_absolute_error", "two_or_more_off", "ece", "brier"})

_SIZE = len(CATEGORIES)
_CELLS = _SIZE * _SIZE
_DENSE_FROM = CATEGORIES.index(DENSE[0])
# The areas by what they rank; the macro means need those of every category.
AREAS = {name: (f"auc_{name}", f"auprc_{name}") for name in _LETTERS} | {"dense": ("dense_auc", "dense_auprc")}


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
    def confidence(self) -> Floats:
        """`[n]` probability of the predicted category."""
        return self.probabilities.max(axis=1) if len(self.labels) else np.empty(0)

    @cached_property
    def prob_dense(self) -> Floats:
        """`[n]` probability of dense tissue (C or D)."""
        return np.asarray(self.probabilities[:, _DENSE_FROM:].sum(axis=1))

    @cached_property
    def dense(self) -> NDArray[np.bool_]:
        """`[n]`, whether the label is dense (C or D)."""
        return np.asarray(self.labels >= _DENSE_FROM)

    @cached_property
    def ranked(self) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
        """What `AREAS` rank, by its keys: the scores and which rows are positive."""
        each = {name: (self.probabilities[:, k], self.labels == k) for k, name in enumerate(_LETTERS)}
        return each | {"dense": (self.prob_dense, self.dense)}

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """`[4]`, the categories that some label has."""
        return np.bincount(self.labels, minlength=_SIZE) > 0

    def confusion(self, weights: Floats | None = None) -> Floats:
        """Confusion matrices, label by prediction.

        Args:
            weights: `[n, weightings]`; every row once where absent.

        Returns:
            `[weightings, 4, 4]`.
        """
        return Scoring.of(self, ("accuracy",)).confusions(self._weights(weights))

    def score(self, weights: Floats | None = None, names: Iterable[str] | None = None) -> dict[str, Floats]:
        """Metrics for each weighting; see `Scoring`.

        Args:
            weights: `[n, weightings]`, not negative; every row once where absent.
            names: Of `METRICS`; all where absent. Only these are computed.

        Returns:
            Name to `[weightings]`.
        """
        return Scoring.of(self, names).score(self._weights(weights))

    def _weights(self, weights: Floats | None) -> Floats:
        return np.ones((len(self.labels), 1)) if weights is None else np.ascontiguousarray(weights, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Scoring:
    """What the named metrics of a sample need, made once for any number of weightings.

    A *unit* is what gets a weight: a row, or all rows of a patient, whose sums are then taken once and for all.

    Means over categories (macro AUC, balanced accuracy, macro F1) run over the categories that the labels of the
    whole sample have; a weighting in which one of them vanishes gives NaN, because a mean over fewer categories
    would estimate something else.

    Attributes:
        names: The metrics, in the order of `METRICS`.
        present: `[4]`, the categories over which means run.
        sums: Sparse `[16 + ECE bins + 1, units]`: confusion cells, hits minus confidence by bin, squared error.
        rankings: One for each area that is needed: a letter, or `dense`.
    """

    names: tuple[str, ...]
    present: NDArray[np.bool_]
    sums: Any
    rankings: dict[str, Ranking]

    @classmethod
    def of(
        cls,
        sample: Sample,
        names: Iterable[str] | None = None,
        units: Ints | None = None,
        n_units: int | None = None,
    ) -> "Scoring":
        """Prepare.

        Args:
            sample: The rows.
            names: Of `METRICS`; all where absent.
            units: `[n]`, the unit of each row, counted from 0; each row its own where absent.
            n_units: How many units there are; as many as rows where absent.

        Raises:
            ValueError: A name is not in `METRICS`.
        """
        wanted = set(METRICS) if names is None else set(names)
        if wanted - set(METRICS):
            raise ValueError(f"unknown metrics: {', '.join(sorted(wanted - set(METRICS)))}")
        unit = np.arange(len(sample.labels)) if units is None else units
        size = len(unit) if n_units is None else n_units
        return cls(
            tuple(name for name in METRICS if name in wanted),
            sample.present,
            _sums(sample, unit, size),
            {
                name: Ranking.of(*sample.ranked[name], unit, size)
                for name, areas in _needed_areas(wanted).items()
                if areas
            },
        )

    def confusions(self, weights: Floats) -> Floats:
        """Confusion matrices `[weightings, 4, 4]`, label by prediction, from `[units, weightings]`."""
        return np.asarray((self.sums[:_CELLS] @ weights).T.reshape(-1, _SIZE, _SIZE))

    def score(self, weights: Floats) -> dict[str, Floats]:
        """The metrics for each weighting.

        Args:
            weights: `[units, weightings]`, not negative, C-contiguous for speed.

        Returns:
            Name to `[weightings]`; NaN where not estimable.
        """
        sums = self.sums @ weights
        confusions = sums[:_CELLS].T.reshape(-1, _SIZE, _SIZE)
        scores = confusion_metrics(confusions, self.present)
        total = confusions.sum(axis=(1, 2))
        scores["ece"] = ratio(np.abs(sums[_CELLS:-1]).sum(axis=0), total)
        scores["brier"] = ratio(sums[-1], total)
        needed = _needed_areas(self.names)
        for name, ranking in self.rankings.items():
            both = ranking.areas(weights, precision=AREAS[name][1] in needed[name])
            scores |= dict(zip(AREAS[name], both, strict=True))
        for mean, position in (("macro_auc", 0), ("macro_auprc", 1)):
            if mean in self.names:
                each = np.stack([scores[AREAS[letter][position]] for letter in _LETTERS], axis=1)
                scores[mean] = _mean_of_present(each, self.present)
        return {name: scores[name] for name in self.names}


def _needed_areas(names: Iterable[str]) -> dict[str, set[str]]:
    """By what is ranked, the areas that the named metrics need."""
    wanted = set(names)
    wanted |= {f"auc_{letter}" for letter in _LETTERS if "macro_auc" in wanted}
    wanted |= {f"auprc_{letter}" for letter in _LETTERS if "macro_auprc" in wanted}
    return {name: wanted & set(areas) for name, areas in AREAS.items()}


def _sums(sample: Sample, unit: Ints, size: int) -> Any:
    """Everything that is a plain sum over rows, by unit; zero places are not stored."""
    bins, gaps = calibration_gaps(sample.confidence, sample.predicted == sample.labels)
    truth = np.eye(_SIZE)[sample.labels]
    squared = ((sample.probabilities - truth) ** 2).sum(axis=1)
    rows = np.concatenate(
        [sample.labels * _SIZE + sample.predicted, _CELLS + bins, np.full(len(unit), _CELLS + ECE_BINS)]
    )
    values = np.concatenate([np.ones(len(unit)), gaps, squared])
    return count_rows(rows, np.tile(unit, 3), (_CELLS + ECE_BINS + 1, size), values)


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
    f1 = np.where(labelled > 0, ratio(2 * hits, labelled + predicted), np.nan)
    precision, recall = ratio(hits, predicted), ratio(hits, labelled)
    dense, rest = slice(_DENSE_FROM, None), slice(None, _DENSE_FROM)
    return {
        "accuracy": ratio(hits.sum(axis=1), total),
        "balanced_accuracy": _mean_of_present(recall, present),
        "macro_f1": _mean_of_present(f1, present),
        "linear_kappa": _kappa(confusions, steps),
        "quadratic_kappa": _kappa(confusions, steps**2),
        "dense_sensitivity": ratio(confusions[:, dense, dense].sum(axis=(1, 2)), labelled[:, dense].sum(axis=1)),
        "dense_specificity": ratio(confusions[:, rest, rest].sum(axis=(1, 2)), labelled[:, rest].sum(axis=1)),
        **{f"precision_{letter}": precision[:, k] for k, letter in enumerate(_LETTERS)},
        **{f"recall_{letter}": recall[:, k] for k, letter in enumerate(_LETTERS)},
        "mean_absolute_error": ratio((confusions * steps).sum(axis=(1, 2)), total),
        "two_or_more_off": ratio((confusions * (steps >= 2)).sum(axis=(1, 2)), total),
    }


def point_metrics(labels: ArrayLike, probabilities: ArrayLike, names: Iterable[str] | None = None) -> dict[str, float]:
    """Metrics with every row counted once.

    Args:
        labels: `[n]`, 0 to 3.
        probabilities: `[n, 4]`.
        names: Of `METRICS`; all where absent.
    """
    return {name: float(value[0]) for name, value in Sample.of(labels, probabilities).score(names=names).items()}


def macro_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean one-against-rest AUC over the categories present among the labels; NaN where only one is.

    Args:
        labels: `[n]`, 0 to 3.
        probabilities: `[n, 4]`.
    """
    return point_metrics(labels, probabilities, ("macro_auc",))["macro_auc"]


def reliability(sample: Sample, bins: int = 10) -> dict[str, list[dict[str, Any]]]:
    """Reliability curves: what was said against what then was so.

    No intervals: rows of one patient are alike, and an interval over rows would be too narrow.

    Args:
        sample: The rows.
        bins: Of equal width over 0 to 1.

    Returns:
        `chosen` (the chosen category's probability against its being the label) and `dense` (the probability of C or
        D against a dense label), each as `reliability_bins` gives it.
    """
    return {
        "chosen": reliability_bins(sample.confidence, sample.predicted == sample.labels, bins),
        "dense": reliability_bins(sample.prob_dense, sample.dense, bins),
    }


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


def _mean_of_present(values: Floats, present: NDArray[np.bool_]) -> Floats:
    if not present.any():
        return np.full(len(values), np.nan)
    return np.asarray(values[:, present].mean(axis=1))


def _kappa(confusions: Floats, penalty: Floats) -> Floats:
    expected = np.einsum("mi,mj->mij", confusions.sum(axis=2), confusions.sum(axis=1))
    total = confusions.sum(axis=(1, 2))
    disagreement = ratio((expected * penalty).sum(axis=(1, 2)), total)
    return 1.0 - ratio((confusions * penalty).sum(axis=(1, 2)), disagreement)
