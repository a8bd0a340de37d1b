"""The same figures over groups of patients or images, and how far the worst group is behind the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from densityclip.evaluation.bootstrap import interval, patient_weights, replicates_of_part
from densityclip.evaluation.cells import Resampling
from densityclip.evaluation.metrics import LOWER_IS_BETTER, Floats
from densityclip.evaluation.places import UNKNOWN, label_counts, sample_of
from densityclip.evaluation.ranking import Ints
from densityclip.records import Level

GROUPS: tuple[str, ...] = ("modality", "site", "vendor", "machine", "view", "age_band", "race", "age_band x race")
GROUP_METRICS: tuple[str, ...] = ("accuracy", "macro_auc", "dense_auc", "quadratic_kappa", "mean_absolute_error")
SMALLEST_GROUP = 20
CROSSING = " x "
# Means over categories: two groups without the same categories have means of different things.
_OVER_CATEGORIES = frozenset({"macro_auc"})
_BANDS = ((40.0, "<40"), (50.0, "40-49"), (60.0, "50-59"), (70.0, "60-69"))
_OLDEST = "70+"
_FACTS = ("modality", "site", "vendor", "machine", "view", "age_band", "race")


@dataclass(frozen=True, eq=False)
class _Group:
    """A group with enough patients, its figures and their replicates; `who` are its patients' positions."""

    name: str
    values: dict[str, float]
    replicated: dict[str, Floats]
    categories: frozenset[str]
    who: Ints

    @property
    def n_patients(self) -> int:
        """How many patients it has."""
        return len(self.who)


def check_groups(groups: Sequence[str]) -> None:
    """Raise ValueError for what is no fact of an image, nor a crossing of two."""
    for by in groups:
        facts = by.split(CROSSING)
        if not 1 <= len(facts) <= 2 or len(set(facts)) != len(facts) or not set(facts) <= set(_FACTS):
            raise ValueError(f"group by one of {', '.join(_FACTS)}, or by two of them as {GROUPS[-1]!r}, not by {by!r}")


def with_age_band(rows: pl.DataFrame) -> pl.DataFrame:
    """A column `age_band`: `<40`, by decades to `60-69`, `70+`, or null where the age is not known."""
    age = pl.col("age").fill_nan(None)
    # The first that fits; an age on a bound is the older band's.
    bands = [pl.when(age < below).then(pl.lit(name)) for below, name in _BANDS]
    return rows.with_columns(pl.coalesce(*bands, pl.when(age.is_not_null()).then(pl.lit(_OLDEST))).alias("age_band"))


def applies(by: str, level: str) -> bool:
    """Whether rows of a level have this fact: a view and a modality belong to an image; an exam joins several."""
    return level == Level.IMAGE.value or not {"view", "modality"} & set(by.split(CROSSING))


def by_group(rows: pl.DataFrame, by: str) -> list[tuple[str, pl.Series]]:
    """Group to which rows are of it, sorted, `unknown` last; nothing where no row has the fact.

    Args:
        rows: With the columns that `by` names.
        by: A fact, or two joined by ` x `; whoever lacks one of them is `unknown`.
    """
    facts = by.split(CROSSING)
    known = pl.all_horizontal(pl.col(fact).is_not_null() & (pl.col(fact) != UNKNOWN) for fact in facts)
    name = pl.when(known).then(pl.concat_str(facts, separator=CROSSING)).otherwise(pl.lit(UNKNOWN))
    names = rows.select(name.alias("group")).to_series()
    present = sorted(set(names.unique().to_list()) - {UNKNOWN})
    if not present:
        return []
    shown = [*present, UNKNOWN] if UNKNOWN in names else present
    return [(group, names == group) for group in shown]


def subgroups(
    rows: pl.DataFrame, level: str, groups: Sequence[str], smallest_group: int, resampling: Resampling
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Figures of every group, and the worst group of every kind.

    All groups are scored on the same resamples of all patients, so the gap of two groups keeps what they share.

    Args:
        rows: Labelled rows of one arm at one level, all modalities.
        level: Of the rows.
        groups: Facts and crossings; those that the level or the rows do not have are left out.
        smallest_group: Groups of fewer patients show neither figures nor their exact size, and a crossing of so few
            is not listed.
        resampling: Of the intervals.

    Returns:
        Entries of `groups` and of `worst`, without arm, cohort and part.
    """
    rows = with_age_band(rows)
    position, counts = patient_weights(rows["patient_id"].to_list(), resampling.resamples, resampling.seed)
    # Every patient once goes first: the figures themselves come out of the same walk as their replicates.
    counts = np.concatenate([np.ones((len(counts), 1), dtype=counts.dtype), counts], axis=1)
    entries, worst = [], []
    for by in groups:
        if not applies(by, level):
            continue
        large: list[_Group] = []
        for name, mask in by_group(rows, by):
            mine, place = rows.filter(mask), {"modality": "all", "level": level, "by": by, "group": name}
            n_patients = mine["patient_id"].n_unique()
            if n_patients < smallest_group:
                if CROSSING not in by:
                    entries.append(place | _suppressed(smallest_group))
                continue
            group = _scored(name, mine, position[mask.to_numpy()], counts)
            entries.append(place | _shown(group, mine))
            if name != UNKNOWN:
                large.append(group)
        worst += [{"level": level, "by": by} | entry for entry in _worst(large, set(rows["label"].unique().to_list()))]
    return entries, worst


def _suppressed(smallest_group: int) -> dict[str, Any]:
    few = f"< {smallest_group}"
    return {"n": None, "n_patients": few, "label_counts": {}, "suppressed": True, "metrics": {}}


def _shown(group: _Group, rows: pl.DataFrame) -> dict[str, Any]:
    return {
        "n": rows.height,
        "n_patients": group.n_patients,
        "label_counts": label_counts(rows["label"]),
        "suppressed": False,
        "metrics": {
            name: interval(group.values[name], group.replicated[name], group.n_patients).as_json()
            for name in GROUP_METRICS
        },
    }


def _scored(name: str, rows: pl.DataFrame, position: Any, counts: Any) -> _Group:
    sample = sample_of(rows)
    drawn = replicates_of_part(sample, position, counts, names=GROUP_METRICS)
    values = {metric: float(figures[0]) for metric, figures in drawn.items()}
    replicated = {metric: figures[1:] for metric, figures in drawn.items()}
    return _Group(name, values, replicated, frozenset(rows["label"].unique()), np.unique(position))


def _worst(groups: Sequence[_Group], categories: set[str]) -> list[dict[str, Any]]:
    """For each metric the worst and the best groups, and their gap; nothing where fewer than two can be compared.

    Groups of exactly one value share the place: which of them comes first in the alphabet is no finding.
    """
    found = []
    for metric in GROUP_METRICS:
        able = [
            group
            for group in groups
            if np.isfinite(group.values[metric]) and (metric not in _OVER_CATEGORIES or group.categories == categories)
        ]
        if len(able) < 2:
            continue
        values = np.array([group.values[metric] for group in able])
        replicated = np.stack([group.replicated[metric] for group in able])
        ends = (values.max(), values.min()) if metric in LOWER_IS_BETTER else (values.min(), values.max())
        worst, best = ([able[k].name for k in np.flatnonzero(np.isclose(values, end, rtol=1e-12))] for end in ends)
        # A resample in which one of the groups cannot be estimated has another set of groups: max - min is NaN there.
        spread = replicated.max(axis=0) - replicated.min(axis=0)
        n_patients = len(np.unique(np.concatenate([group.who for group in able])))
        gap = interval(float(values.max() - values.min()), spread, n_patients)
        found.append(
            {
                "metric": metric,
                "worst_groups": worst,
                "value": float(ends[0]),
                "best_groups": best,
                "best_value": float(ends[1]),
                "groups": len(able),
                "gap": gap.as_json(),
            }
        )
    return found
