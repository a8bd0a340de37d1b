"""Who trains, who selects, who calibrates and who is only scored.

Grouped by patient, stratified by density, and balanced over modality and site.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from densityclip.artifacts import conform
from densityclip.datasets.apportion import apportion, even_out, whole_numbers
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.records import MODALITIES, Modality, Part

DEFAULT_SHARES: Mapping[str, float] = {
    Part.TRAIN.value: 0.6,
    Part.VALIDATION.value: 0.15,
    Part.CALIBRATION.value: 0.05,
    Part.TEST.value: 0.2,
}
NEEDED = ("patient_id", "density", "modality", "site", "institution")
# The words by which the readers of datasets say that patients are studies.
_NO_PATIENT_ID = "no patient id"
_KINDS = (*MODALITIES, Modality.UNKNOWN.value)
# How much a patient too many counts in each kind of stratum: labels before modalities and sites, these before pairs.
_WEIGHTS = {"density": 4.0, "modality": 2.0, "site": 2.0, "density and modality": 1.0, "density and site": 1.0}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SameInstitution:
    """Two cohorts of one institution: its patients may be in both, and no id can show it.

    Attributes:
        first: Name of a cohort.
        second: Name of another one.
        institution: As the first one writes it.
    """

    first: str
    second: str
    institution: str

    @property
    def sentence(self) -> str:
        """What is said of the two."""
        return f"{self.first} and {self.second}: same institution, overlap not excluded ({self.institution})"


@dataclass(frozen=True, slots=True, eq=False)
class _Patients:
    """Patients of a cohort in the order of their ids, with their strata.

    Attributes:
        names: Their ids.
        densest: `[patients]`, place of the densest label in `CATEGORIES`, their number where there is no label.
        combinations: `[patients]`, the combination of strata of each.
        images: `[patients, image strata]`, how many images each has of a label, a modality, a site, and of a label in a
            modality.
        strata: `[combinations, strata]`, weights.
    """

    names: pl.Series
    densest: NDArray[np.int64]
    combinations: NDArray[np.int64]
    images: sparse.csr_matrix
    strata: sparse.csr_matrix


def make_splits(
    cohorts: Mapping[str, pl.DataFrame],
    *,
    external: Collection[str],
    folds: int = 1,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Give every patient a part in every fold.

    A patient's strata are the densest label (none is a stratum too), each modality and each site of her images, and
    the pairs of her label with these. Every part gets its share of every stratum, as near as whole patients allow:
    labels first. The result depends on the set of patients and the seed, not on the order of rows. With several
    folds the test patients are the same in all of them, each of the others validates once, and calibration patients
    are drawn from the rest.

    Args:
        cohorts: Name of each cohort and its index; of its columns those of `NEEDED` are read.
        external: Cohorts that are only scored: part `external` in every fold.
        folds: 1 for one split by shares, or the number of folds.
        seed: Of the draw.
        shares: Share of each part, adding up to 1; `DEFAULT_SHARES` if None. With folds, only those of `test` and
            `calibration` count.

    Returns:
        Schema `splits`, sorted by fold, cohort and patient.

    Raises:
        UserError: A cohort is named external but not given, is empty, has too few patients, or shares a patient with
            another one; or the shares do not add up.
    """
    shares = _checked_shares(shares)
    unknown = sorted(set(external) - set(cohorts))
    if unknown:
        raise UserError(f"external cohort {', '.join(unknown)} is not among {', '.join(cohorts)}", "correct its name")
    if folds < 1:
        raise UserError(f"{folds} folds", "give --folds 1 or more")
    _check_disjoint(cohorts)
    tables = []
    for cohort in sorted(cohorts):
        patients = _patients(cohort, cohorts[cohort])
        if cohort in external:
            assigned = [np.full(len(patients.names), Part.EXTERNAL.value)] * folds
        else:
            _warn_of_rare(cohort, patients, len(shares))
            assigned = _assign(cohort, patients, folds, seed, shares)
        tables += [
            pl.DataFrame({"patient_id": patients.names, "part": parts}).with_columns(
                pl.lit(cohort).alias("cohort"), pl.lit(fold, pl.Int32).alias("fold")
            )
            for fold, parts in enumerate(assigned)
        ]
    return check_splits(conform(pl.concat(tables), "splits").sort("fold", "cohort", "patient_id"))


def check_splits(splits: pl.DataFrame) -> pl.DataFrame:
    """Hand a table of splits on if no patient is in two parts, or twice in one, of any fold.

    Raises:
        UserError: One is; the number of such patients is given.
    """
    per_patient = splits.group_by("fold", "patient_id").agg(pl.len().alias("rows"))
    leaking = per_patient.filter(pl.col("rows") > 1)["patient_id"].n_unique()
    if leaking:
        raise UserError(
            f"{leaking} patient(s) stand in more than one part or cohort of the same fold",
            "make the splits again with `densityclip split`; training and scoring on one patient is a leak",
        )
    words = set(splits["part"].unique()) - {part.value for part in Part}
    if words:
        raise UserError(
            f"unknown part {', '.join(sorted(map(str, words)))}", "make the splits with `densityclip split`"
        )
    return splits


def same_institution(cohorts: Mapping[str, pl.DataFrame]) -> list[SameInstitution]:
    """Pairs of cohorts that name the same institution, whatever the case and spaces of its name.

    Args:
        cohorts: Name of each cohort and its index; the column `institution` is read.
    """
    places: dict[str, dict[str, str]] = {}
    for cohort in sorted(cohorts):
        for name in _institutions(cohorts[cohort]):
            places.setdefault(name.casefold(), {}).setdefault(cohort, name)
    return [
        SameInstitution(first, second, names[first])
        for _, names in sorted(places.items())
        for first in names
        for second in names
        if first < second
    ]


def _institutions(index: pl.DataFrame) -> list[str]:
    """Names of a cohort's institutions, one space between words."""
    written = index["institution"].drop_nulls().unique().sort()
    return [name for name in (" ".join(text.split()) for text in written) if name]


def split_notes(
    cohorts: Mapping[str, pl.DataFrame], *, external: Collection[str], index_notes: Mapping[str, Sequence[str]]
) -> list[str]:
    """What a reader of a split must know of its cohorts, in sentences.

    Args:
        cohorts: Name of each cohort and its index; the column `institution` is read.
        external: Cohorts that are only scored.
        index_notes: By cohort, the notes of its index; of a source without patient ids, one says so.
    """
    notes = [
        f"{cohort}: grouped by study: no patient id. {note}"
        for cohort in sorted(cohorts)
        for note in index_notes.get(cohort, ())
        if _NO_PATIENT_ID in note.casefold()
    ]
    for pair in same_institution(cohorts):
        scored = [name for name in (pair.first, pair.second) if name in external]
        tail = f" {' and '.join(scored)} stays scored, but is no external test." if len(scored) == 1 else ""
        notes.append(f"{pair.sentence}.{tail}")
    unknown = [name for name in sorted(cohorts) if not _institutions(cohorts[name])]
    if unknown and len(cohorts) > 1:
        notes.append(
            f"{', '.join(unknown)}: no institution is stated, so whether another cohort is of the same is not known."
        )
    return notes


def _checked_shares(shares: Mapping[str, float] | None) -> dict[str, float]:
    given = dict(DEFAULT_SHARES if shares is None else shares)
    unknown = sorted(set(given) - set(DEFAULT_SHARES))
    if unknown or min(given.values(), default=-1) < 0 or abs(sum(given.values()) - 1) > 1e-6:
        raise UserError(
            f"shares {given} are not shares of {', '.join(DEFAULT_SHARES)} that add up to 1", "correct the shares"
        )
    if not given.get(Part.TRAIN.value) or not given.get(Part.VALIDATION.value):
        raise UserError("train and validation need a share above 0", "correct the shares")
    return {part: given[part] for part in DEFAULT_SHARES if given.get(part)}


def _check_disjoint(cohorts: Mapping[str, pl.DataFrame]) -> None:
    owners = pl.concat(
        cohorts[cohort].select(pl.col("patient_id").unique(), pl.lit(cohort).alias("cohort"))
        for cohort in sorted(cohorts)
    )
    shared = (
        owners.group_by("patient_id")
        .agg(pl.col("cohort").sort())
        .filter(pl.col("cohort").list.len() > 1)
        .select(pl.col("cohort").list.get(0).alias("first"), pl.col("cohort").list.get(1).alias("second"))
        .group_by("first", "second")
        .len()
        .sort("first", "second")
    )
    if shared.height:
        first, second, number = shared.row(0)
        raise UserError(
            f"cohorts {first} and {second} share {number} patient_id(s)",
            "leave the common patients out of one cohort; if they are different people, put the site before their ids",
        )


def _patients(cohort: str, index: pl.DataFrame) -> _Patients:
    if not index.height:
        raise UserError(f"cohort {cohort} has no images", "index it again")
    rank = pl.col("density").replace_strict(
        {name: place for place, name in enumerate(CATEGORIES)}, default=None, return_dtype=pl.Int8
    )
    table = (
        index.group_by("patient_id")
        .agg(
            rank.max().fill_null(len(CATEGORIES)).alias("density"),
            *((pl.col("modality") == name).any().alias(name) for name in _KINDS),
        )
        .join(_sites(index), on="patient_id")
        .sort("patient_id")
    )
    keys = table.select("density", *_KINDS, "sites")
    combinations = keys.unique().sort(keys.columns)
    places = keys.join(combinations.with_row_index("place"), on=keys.columns, how="left", maintain_order="left")
    return _Patients(
        names=table["patient_id"],
        densest=table["density"].to_numpy().astype(np.int64),
        combinations=places["place"].to_numpy().astype(np.int64),
        images=_images(index, table["patient_id"]),
        strata=_strata(combinations),
    )


def _sites(index: pl.DataFrame) -> pl.DataFrame:
    """Sites of each patient as one text; a site that is not stated is a site of its own."""
    pairs = index.select("patient_id", pl.col("site").fill_null("")).unique().sort("patient_id", "site")
    return pairs.group_by("patient_id").agg(pl.col("site").str.join("\n").alias("sites"))


def _images(index: pl.DataFrame, patients: pl.Series) -> sparse.csr_matrix:
    columns = ("density", "modality", "site")
    counted = (
        index.group_by("patient_id", *columns)
        .len()
        .join(patients.to_frame().with_row_index("place"), on="patient_id")
        .with_columns((pl.col(name).fill_null("").rank("dense") - 1).cast(pl.Int64) for name in columns)
    )
    place, number = counted["place"].to_numpy(), counted["len"].to_numpy().astype(np.float64)
    codes = [counted[name].to_numpy() for name in columns]
    codes.append(codes[0] * (codes[1].max() + 1) + codes[1])
    blocks = [sparse.csr_matrix((number, (place, code)), shape=(len(patients), code.max() + 1)) for code in codes]
    images = sparse.hstack(blocks, format="csr")
    # In one order, so that sums of floats do not depend on the order of rows.
    images.sort_indices()
    return images


def _strata(combinations: pl.DataFrame) -> sparse.csr_matrix:
    numbers: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    for row, known in enumerate(combinations.iter_rows(named=True)):
        density = str(known["density"])
        strata: list[tuple[str, ...]] = [("density", density)]
        for kind, names in (("modality", [n for n in _KINDS if known[n]]), ("site", known["sites"].split("\n"))):
            strata += [(kind, name) for name in names]
            strata += [(f"density and {kind}", density, name) for name in names]
        for stratum in strata:
            rows.append(row)
            columns.append(numbers.setdefault(stratum, len(numbers)))
            weights.append(_WEIGHTS[stratum[0]])
    return sparse.csr_matrix((weights, (rows, columns)), shape=(combinations.height, len(numbers)))


def _warn_of_rare(cohort: str, patients: _Patients, parts: int) -> None:
    numbers = np.bincount(patients.densest, minlength=len(CATEGORIES)).tolist()
    rare = {name: number for name, number in zip(CATEGORIES, numbers, strict=False) if 0 < number < parts}
    if rare:
        logger.warning("cohort %s: too few patients for every part: %s", cohort, rare)


def _assign(
    cohort: str, patients: _Patients, folds: int, seed: int, shares: Mapping[str, float]
) -> list[NDArray[np.str_]]:
    """The part of each patient, in each fold."""
    draw = _Draw(cohort, patients, seed)
    everyone = np.arange(len(patients.names))
    if folds == 1:
        wanted = f"the parts {', '.join(shares)}"
        return [np.asarray(list(shares))[draw.share_out(everyone, list(shares.values()), wanted)]]
    test, calibration = shares.get(Part.TEST.value, 0.0), shares.get(Part.CALIBRATION.value, 0.0)
    wanted = f"{folds} folds"
    tested = draw.share_out(everyone, [1 - test, test], wanted) if test else np.zeros_like(everyone)
    rest = everyone[tested == 0]
    if len(rest) < 2 * folds:
        raise draw.too_few(wanted)
    validates = draw.share_out(rest, [1 / folds] * folds, wanted)
    result = []
    for fold in range(folds):
        parts = np.full(len(everyone), Part.TEST.value, dtype="<U11")
        parts[rest] = Part.VALIDATION.value
        training = rest[validates != fold]
        parts[training] = Part.TRAIN.value
        share = calibration * len(rest) / ((1 - test) * len(training))
        if share:
            parts[training[draw.share_out(training, [1 - share, share], wanted) == 1]] = Part.CALIBRATION.value
        result.append(parts)
    return result


class _Draw:
    """Sharing out the patients of one cohort, several times, from one seed."""

    def __init__(self, cohort: str, patients: _Patients, seed: int) -> None:
        self.cohort, self.patients = cohort, patients
        digest = hashlib.sha256(f"split\0{cohort}".encode()).digest()
        self._random = np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])

    def share_out(self, who: NDArray[np.int64], shares: Sequence[float], wanted: str) -> NDArray[np.int64]:
        """Place in `shares` of each of some patients.

        Raises:
            UserError: There are fewer of them than parts.
        """
        if len(who) < len(shares):
            raise self.too_few(wanted)
        # Along a line by number of images, so that the parts take turns at patients with many of them.
        images, combinations = self.patients.images[who], self.patients.combinations[who]
        order = np.asarray(images.sum(axis=1)).ravel() + self._random.permutation(len(who)) / len(who)
        sizes = whole_numbers(len(who), shares)
        parts = apportion(combinations, order, self.patients.strata, sizes)
        return even_out(parts, combinations, images, sizes, self._random)

    def too_few(self, wanted: str) -> UserError:
        """What is said when there are too few patients."""
        return UserError(
            f"cohort {self.cohort} has {len(self.patients.names)} patients, too few for {wanted}",
            "add patients or ask for fewer",
        )
