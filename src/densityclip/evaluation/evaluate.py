"""Predictions with labels -> the content of `metrics.json`: every cell of arm, cohort, part, site, modality, level."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from densityclip.evaluation.bootstrap import COVERAGE
from densityclip.evaluation.cells import Resampling, score_place
from densityclip.evaluation.coverage import conformal_entries
from densityclip.evaluation.endpoint import Comparison, endpoint_and_family
from densityclip.evaluation.label_noise import ceiling, published_readers
from densityclip.evaluation.places import ALL, LEVELS, Joined, Place, join, labelled, modalities_of, of_modality, places
from densityclip.evaluation.rows import scorable
from densityclip.evaluation.subgroups import GROUPS, SMALLEST_GROUP, check_groups, subgroups
from densityclip.probability.joining import Joining, Member
from densityclip.records import Level

__all__ = ["ALL", "SCHEMA_VERSION", "evaluate"]

# Of metrics.json alone; the tables keep theirs.
SCHEMA_VERSION = 3
# Levels at which groups are shown and conformal sets are made, besides the level of the primary question.
_IN_GROUPS = (Level.IMAGE.value, Level.EXAM.value)


@dataclass(frozen=True, eq=False)
class _Request:
    """What `evaluate` was asked for."""

    joinings: Mapping[Member, Joining]
    resampling: Resampling
    groups: Sequence[str]
    smallest_group: int
    primary: Mapping[str, Any] | None
    pairs: Sequence[tuple[str, str]] | None

    @property
    def detailed_levels(self) -> tuple[str, ...]:
        """Levels of groups and conformal sets."""
        asked = self.primary["level"] if self.primary else None
        return tuple(level for level in LEVELS if level in _IN_GROUPS or level == asked)

    def pairs_of(self, arms: Sequence[str]) -> Sequence[tuple[str, str]] | None:
        """Differences to make: those asked for, else those with an arm of the primary question, else (None) all."""
        if self.pairs is not None or self.primary is None:
            return self.pairs
        first, second = self.primary["contrast"]
        others = [arm for arm in arms if arm not in (first, second)]
        return [(first, second), *((arm, other) for arm in (first, second) for other in others)]


@dataclass(eq=False)
class _Found:
    """Entries as they are made; cells and differences by their place, for they are made modality by modality."""

    cells: dict[Place, list[dict[str, Any]]] = field(default_factory=dict)
    differences: dict[Place, list[dict[str, Any]]] = field(default_factory=dict)
    comparisons: dict[Place, Comparison] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    worst: list[dict[str, Any]] = field(default_factory=list)
    conformal: list[dict[str, Any]] = field(default_factory=list)
    ceiling: list[dict[str, Any]] = field(default_factory=list)


def evaluate(
    predictions: pl.DataFrame,
    *,
    joinings: Mapping[Member, Joining] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] = GROUPS,
    smallest_group: int = SMALLEST_GROUP,
    primary: Mapping[str, Any] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score every arm wherever it was tested, and every pair of arms that met.

    The trainings of an arm (its folds and seeds) are averaged at each level, and that ensemble is scored; each
    training's own figures stand beside it. Only rows of `test`, `external` or no part are scored; conformal sets are
    fitted on rows of `calibration`; rows of `train` and `validation`, rows that are not `ok`, and rows without a label
    are left out and counted. So are the rows of an image that one of an arm's trainings did not answer.

    Args:
        predictions: Schema `predictions`; image rows (or slice rows only, which are averaged first). Other levels are
            made from them here.
        joinings: How each (arm, fold, seed) makes breasts, exams and patients; plain means where absent.
        resamples: Of the bootstrap over patients.
        seed: Of the bootstrap.
        groups: Facts by which figures are also given, or two joined by ` x `.
        smallest_group: Groups of fewer patients show no figures.
        primary: The one question: `metric level modality cohort contrast`, optionally `part`, `kind` (`superiority` or
            `non-inferiority`) and `margin`. With it, differences are made only of pairs with an arm of the contrast.
        pairs: Differences to make, each first minus second; where absent, as `primary` says, or all.
        progress: Told `(done, total)` places.

    Returns:
        Plain values for `metrics.json`; what cannot be estimated is None.

    Raises:
        UserError: No rows, no labels, a cohort without any image to score, a label outside A to D, no patient, an image
            twice in one training, a patient in two parts of one fold, trainings of an arm that were not given the
            same images to score, or probabilities that are missing, NaN, or do not sum to one.
        ValueError: A group of another name.
    """
    check_groups(groups)
    asked = _Request(joinings or {}, Resampling(resamples, seed), groups, smallest_group, primary, pairs)
    rows = scorable(predictions)
    order = list(places(rows.images))
    found, done = _Found(), 0
    for modality, level, here in _stages(rows.images, order):
        joined = join(of_modality(rows.images, modality), level, asked.joinings)
        if modality == ALL:
            _add_ceiling(joined, found)
        if level in asked.detailed_levels:
            if modality == ALL:
                _score_groups(joined, asked, found)
            calibration = join(of_modality(rows.calibration, modality), level, asked.joinings)
            found.conformal += conformal_entries(
                calibration, joined, modality, groups, smallest_group, asked.resampling
            )
        for place in here:
            _score(place, joined, asked, found)
            done += 1
            if progress is not None:
                progress(done, len(order))
    endpoint, family = endpoint_and_family(asked.primary, found.comparisons)
    return {
        "schema_version": SCHEMA_VERSION,
        "bootstrap": {"over": "patients", "resamples": resamples, "seed": seed, "coverage": COVERAGE},
        "cells": [cell for place in order for cell in found.cells.get(place, [])],
        "differences": [entry for place in order for entry in found.differences.get(place, [])],
        "smallest_group": smallest_group,
        "groups": found.groups,
        "worst": found.worst,
        "conformal": found.conformal,
        "ceiling": found.ceiling,
        "endpoint": endpoint,
        "family": family,
        "local": [],
        "refused": rows.left_out,
        "notes": list(rows.notes),
    }


def _stages(images: pl.DataFrame, order: Sequence[Place]) -> Iterator[tuple[str, str, list[Place]]]:
    """Modality and level with the places there: one join serves all of them, and is let go before the next."""
    for modality in [*modalities_of(images), ALL]:
        for level in LEVELS:
            yield modality, level, [place for place in order if (place.modality, place.level) == (modality, level)]


def _score(place: Place, joined: Joined, asked: _Request, found: _Found) -> None:
    here = joined.of(cohort=place.cohort, part=place.part)
    if not place.whole:
        here = here.of(site=place.site)
    arms = here.arms()
    cells, differences, scored = score_place(place, arms, asked.resampling, asked.pairs_of(list(arms)))
    found.cells[place], found.differences[place] = cells, differences
    if asked.primary and place.whole and place.level == asked.primary["level"]:
        comparison = Comparison.of(place, scored, asked.primary, differences)
        if comparison is not None:
            found.comparisons[place] = comparison


def _score_groups(joined: Joined, asked: _Request, found: _Found) -> None:
    for test_set, here in joined.test_sets():
        for arm, of_arm in here.arms().items():
            rows = labelled(of_arm.ensemble)
            groups, worst = subgroups(rows, joined.level, asked.groups, asked.smallest_group, asked.resampling)
            found.groups += [{"arm": arm} | test_set | entry for entry in groups]
            found.worst += [{"arm": arm} | test_set | entry for entry in worst]


def _add_ceiling(joined: Joined, found: _Found) -> None:
    for test_set, here in joined.test_sets():
        most = max((labelled(of_arm.ensemble) for of_arm in here.arms().values()), key=lambda rows: rows.height)
        if most.is_empty():
            continue
        counts = [int((most["label"] == letter).sum()) for letter in "ABCD"]
        found.ceiling += [
            test_set
            | {"level": joined.level, "reader": name, "reader_agreement": source, "crossing": round(reader.crossing, 4)}
            | ceiling(counts, reader)
            for name, (reader, source) in published_readers().items()
        ]
