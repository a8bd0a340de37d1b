"""Figures of many images in one table: means with intervals over patients, and verdicts in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from densityclip.evaluation.bootstrap import finite_or_none, mean_of_rows, row_weights
from densityclip.explain.figures import (
    DELETION,
    EMPTY,
    EVERYTHING,
    FEWEST_PATIENTS,
    INSERTION,
    INSIDE_BREAST,
    NOISE,
    POINTING,
    RANDOMISED,
    RESAMPLES,
    SCORE_RANGE,
    SHUFFLED,
    TISSUE_AUC,
    beyond,
)

ALL = "all"
PASSED, FAILED, NOT_SHOWN = "passed", "failed", "not shown"
# What the map of a random tower may have left of the model's own, and what a map must keep under noise: rank
# correlations, set here once; no published bound is known to us.
RANDOMISED_BOUND, NOISE_BOUND = 0.5, 0.8
# Share of images without any heat that a method may have; likewise ours.
EMPTY_BOUND = 0.05
_BY_CATEGORY = (TISSUE_AUC, POINTING, beyond(TISSUE_AUC))


def summarise(figures: pl.DataFrame) -> list[dict[str, Any]]:
    """Means of each figure, over all images, by modality, and for the known tissue by category too.

    Args:
        figures: One row an image, map and figure: `image_id patient_id modality density map figure draw value`; `draw`
            numbers the repetitions of what is drawn at random.

    Returns:
        Entries `modality, density, map, figure, mean, low, high, images, patients`; `all` stands for any modality or
        category. The 95% interval resamples patients, and draws where there are several (both at once, as for rows
        and columns: Owen 2007); null under `FEWEST_PATIENTS`.
    """
    return [
        {"modality": modality, "density": density, "map": name, "figure": figure} | _mean(rows)
        for modality, density, part in _parts(figures)
        for (name, figure), rows in sorted(part.group_by("map", "figure"), key=lambda one: str(one[0]))
        if density == ALL or figure in _BY_CATEGORY
    ]


def _parts(figures: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    modalities = sorted(figures["modality"].unique())
    for modality in (ALL, *modalities) if len(modalities) > 1 else modalities:
        mine = figures if modality == ALL else figures.filter(modality=modality)
        yield modality, ALL, mine
        for density in sorted(mine["density"].drop_nulls().unique()):
            yield modality, density, mine.filter(density=density)


def _mean(rows: pl.DataFrame) -> dict[str, Any]:
    # Plain image files state no patient: each is one by itself. The order of rows must not reach the last digits.
    rows = rows.sort("image_id", "draw")
    patients = rows.select(pl.coalesce("patient_id", "image_id")).to_series().to_list()
    weights = row_weights(patients, RESAMPLES, 0)
    if rows["draw"].n_unique() > 1:
        weights = weights * row_weights(rows["draw"].cast(pl.String).to_list(), RESAMPLES, 1)
    number = len(set(patients))
    found = mean_of_rows(rows["value"].to_numpy(), weights, number)
    return {
        "mean": found.value,
        "low": finite_or_none(found.low) if number >= FEWEST_PATIENTS else None,
        "high": finite_or_none(found.high) if number >= FEWEST_PATIENTS else None,
        "images": rows["image_id"].n_unique(),
        "patients": number,
    }


@dataclass(frozen=True)
class Verdict:
    """What is said of one method and one claim.

    Attributes:
        map: The method.
        claim: What is claimed, in words.
        verdict: `passed`, `failed`, `not shown` (the interval holds both).
        figures: The figures that it rests on, in words.
    """

    map: str
    claim: str
    verdict: str
    figures: str


@dataclass(frozen=True)
class _Test:
    """A claim: figures whose whole interval must lie beyond a bound."""

    claim: str
    figures: Mapping[str, str]
    bound: float = 0.0
    above: bool = True


_TESTS = (
    _Test(
        f"it shows something (no heat at all in under {EMPTY_BOUND:.0%} of images)",
        {EMPTY: "share without heat"},
        EMPTY_BOUND,
        above=False,
    ),
    _Test("heat lies inside the breast, more than a flat map's would", {beyond(INSIDE_BREAST): "share beyond it"}),
    _Test(
        "it finds the known fibroglandular tissue better than the image's own brightness",
        {beyond(TISSUE_AUC): "AUC beyond it", beyond(POINTING): "pointing beyond it"},
    ),
    _Test(
        "the answer rests on what is hot: more than on random patches and on the middle of the breast",
        {
            DELETION: "deletion beyond random",
            INSERTION: "insertion beyond random",
            beyond(DELETION): "deletion beyond the middle",
            beyond(INSERTION): "insertion beyond the middle",
            SCORE_RANGE: "of a score that falls, from the whole breast to fat, by",
        },
    ),
    _Test(
        f"it changes when the tower is randomised (rank correlation of either sign below {RANDOMISED_BOUND})",
        {f"{RANDOMISED}.{EVERYTHING}": "rank correlation left"},
        RANDOMISED_BOUND,
        above=False,
    ),
    _Test(
        "it changes when the model is trained on shuffled labels (rank correlation of either sign below "
        f"{RANDOMISED_BOUND})",
        {SHUFFLED: "rank correlation left"},
        RANDOMISED_BOUND,
        above=False,
    ),
    _Test(
        f"it keeps its order under noise that nobody sees (rank correlation above {NOISE_BOUND})",
        {NOISE: "rank correlation"},
        NOISE_BOUND,
    ),
)


def verdicts(summary: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[dict[str, str]]:
    """Each method and claim, over all images; claims that nothing was measured about are left out.

    A claim is passed if the whole interval of each of its figures lies beyond the bound, failed if that of one lies on
    the other side, and else not shown. A figure that another method has and this one has not, because none of its maps
    had heat, fails.

    Args:
        summary: Of `summarise`.
        methods: The methods.

    Returns:
        `map, claim, verdict, figures`, in the order of the methods.
    """
    widest = ALL if any(row["modality"] == ALL for row in summary) else None
    known = {
        (row["map"], row["figure"]): row
        for row in summary
        if row["density"] == ALL and (widest is None or row["modality"] == widest)
    }
    measured = {figure for _, figure in known}
    judged = [_judged(test, method, known, measured) for method in methods for test in _TESTS]
    return [asdict(one) for one in judged if one is not None]


def _judged(
    test: _Test, method: str, known: Mapping[tuple[str, str], Mapping[str, Any]], measured: set[str]
) -> Verdict | None:
    rows = [(known.get((method, figure)), words) for figure, words in test.figures.items()]
    found = [(row, words) for row, words in rows if row is not None]
    if len(found) < len(rows):
        return Verdict(method, test.claim, FAILED, "no heat") if measured.issuperset(test.figures) else None
    most = max(row["images"] for (name, _), row in known.items() if name == method)
    told = "; ".join(f"{words} {interval_words(row)}{_of_images(row, most)}" for row, words in found)
    sides = {_side(row, test) for row, _ in found}
    verdict = FAILED if FAILED in sides else PASSED if sides == {PASSED} else NOT_SHOWN
    return Verdict(method, test.claim, verdict, told)


def _side(row: Mapping[str, Any], test: _Test) -> str:
    if row["low"] is None:
        return NOT_SHOWN
    low, high = row["low"] - test.bound, row["high"] - test.bound
    if not test.above:
        low, high = -high, -low
    return PASSED if low > 0 else FAILED if high < 0 else NOT_SHOWN


def _of_images(row: Mapping[str, Any], most: int) -> str:
    return f", {row['images']} images" if row["images"] < most else ""


def interval_words(row: Mapping[str, Any]) -> str:
    """A mean with its interval, such as `0.71 (0.66 to 0.75)`; small ones with as many digits as they need."""
    given = [row["mean"]] if row["low"] is None else [row["mean"], row["low"], row["high"]]
    largest = max(abs(value) for value in given)
    digits = 2 if largest == 0 or largest >= 0.1 else min(5, 1 - math.floor(math.log10(largest)))
    mean, *ends = (f"{value:.{digits}f}" for value in given)
    return f"{mean} ({' to '.join(ends)})" if ends else mean
