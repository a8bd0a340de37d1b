"""Where arms meet: test sets by cohort, part, site, modality and level, and the rows that belong there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from densityclip.artifacts import PROBABILITIES
from densityclip.density import CATEGORIES
from densityclip.evaluation.metrics import Sample
from densityclip.probability.aggregate import label_numbers, members_to_level
from densityclip.probability.ensemble import join_members
from densityclip.probability.joining import Joining, Member
from densityclip.records import MODALITIES, Level, Part

ALL = "all"
UNKNOWN = "unknown"
LEVELS: tuple[str, ...] = (Level.IMAGE.value, Level.BREAST.value, Level.EXAM.value, Level.PATIENT.value)
_UNITS: dict[str, tuple[str, ...]] = {
    Level.IMAGE.value: ("image_id",),
    Level.BREAST.value: ("patient_id", "exam_id", "laterality"),
    Level.EXAM.value: ("patient_id", "exam_id"),
    Level.PATIENT.value: ("patient_id",),
}


@dataclass(frozen=True)
class Place:
    """One test set at one level.

    Attributes:
        cohort: As the study names it; None where predictions do not say.
        part: `test`, `external`, or None where nothing was split.
        site: A site, or `all` where a cohort has several.
        modality: A modality, or `all` where there are several.
        level: `image`, `breast`, `exam` or `patient`.
        whole: Whether it is the whole cohort, not one of its sites.
    """

    cohort: str | None
    part: str | None
    site: str
    modality: str
    level: str
    whole: bool = True

    def as_json(self) -> dict[str, Any]:
        """The keys of a cell."""
        return {name: getattr(self, name) for name in ("cohort", "part", "site", "modality", "level")}


@dataclass(frozen=True, eq=False)
class Joined:
    """Rows at one level.

    Attributes:
        members: Of each training by itself.
        ensemble: Of each arm: the mean of its trainings.
        level: Of both.
    """

    members: pl.DataFrame
    ensemble: pl.DataFrame
    level: str

    def of(self, **values: str | None) -> "Joined":
        """The rows with these values in these columns, null being a value."""
        wanted = [pl.col(name).eq_missing(pl.lit(value, dtype=pl.String())) for name, value in values.items()]
        return Joined(self.members.filter(wanted), self.ensemble.filter(wanted), self.level)

    def arms(self) -> dict[str, "Joined"]:
        """By arm, in the order of the rows; arms without rows are absent."""
        found = self.ensemble["arm"].unique(maintain_order=True).to_list()
        return {arm or UNKNOWN: self.of(arm=arm) for arm in found}

    def test_sets(self) -> Iterator[tuple[dict[str, Any], "Joined"]]:
        """Each cohort and part that has labelled rows, the internal test first."""
        keys = self.ensemble.filter(pl.col("label").is_not_null()).select("cohort", "part").unique()
        for cohort, part in keys.sort(pl.col("part") == Part.EXTERNAL.value, "cohort", "part").iter_rows():
            yield {"cohort": cohort, "part": part}, self.of(cohort=cohort, part=part)


def join(images: pl.DataFrame, level: str, joinings: Mapping[Member, Joining]) -> Joined:
    """Image rows at a level: each member by its own joining, then the members of an arm averaged.

    Args:
        images: Labelled rows of status ok, level `image`, in the order in which arms are shown.
        level: A level of `LEVELS`.
        joinings: Of each member; one that is absent is joined by plain means.
    """
    members = images if level == Level.IMAGE.value else members_to_level(images, level, joinings)  # type: ignore[arg-type]
    known = pl.col("site").fill_null(UNKNOWN)
    return Joined(members.with_columns(known), join_members(members).with_columns(known), level)


def modalities_of(rows: pl.DataFrame) -> list[str]:
    """The modalities that occur, in the order in which they are shown; what has none is `unknown`."""
    present = rows["modality"].fill_null(UNKNOWN).unique().to_list()
    return [name for name in (*MODALITIES, UNKNOWN) if name in present]


def of_modality(images: pl.DataFrame, modality: str) -> pl.DataFrame:
    """The image rows of a modality, or all of them."""
    return images if modality == ALL else images.filter(pl.col("modality").fill_null(UNKNOWN) == modality)


def places(images: pl.DataFrame) -> Iterator[Place]:
    """Every test set, in the order of the results: the internal test first, the whole before its sites."""
    sited = images.select("cohort", "part", pl.col("site", "modality").fill_null(UNKNOWN)).unique(maintain_order=True)
    for (cohort, part), rows in sited.group_by("cohort", "part", maintain_order=True):
        sites = sorted(rows["site"].unique().to_list())
        for site in [ALL, *sites] if len(sites) > 1 else sites:
            present = modalities_of(rows if site == ALL else rows.filter(pl.col("site") == site))
            whole = site == ALL or len(sites) == 1
            for modality in [*present, ALL] if len(present) > 1 else present:
                for level in LEVELS:
                    yield Place(cohort, part, site, modality, level, whole)


def labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows that have a label; where the images of a breast, or the exams of a patient, disagree there is none."""
    return rows.filter(pl.col("label").is_not_null())


def sample_of(rows: pl.DataFrame) -> Sample:
    """What the metrics read: labels and probabilities of labelled rows."""
    return Sample.of(label_numbers(rows["label"]), rows.select(PROBABILITIES).to_numpy())


def unit_ids(rows: pl.DataFrame, level: str) -> pl.Series:
    """What each row stands for, as one text."""
    parts = [pl.col(name).cast(pl.String).fill_null("") for name in _UNITS[level]]
    return rows.select(pl.concat_str(parts, separator="\x1f").alias("unit")).to_series()


def label_counts(labels: pl.Series) -> dict[str, int]:
    """Letter to rows, all four letters."""
    found = dict(labels.value_counts().iter_rows())
    return {letter: int(found.get(letter, 0)) for letter in CATEGORIES}
