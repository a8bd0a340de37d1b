"""Who trains, who selects, who calibrates and who is only scored: grouped by patient, stratified by density."""

import hashlib
import logging
from collections.abc import Collection, Mapping

import numpy as np
import polars as pl

from densityclip.artifacts import conform
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.records import Part

DEFAULT_SHARES: Mapping[str, float] = {
    Part.TRAIN.value: 0.6,
    Part.VALIDATION.value: 0.15,
    Part.CALIBRATION.value: 0.05,
    Part.TEST.value: 0.2,
}

logger = logging.getLogger(__name__)


def make_splits(
    cohorts: Mapping[str, pl.DataFrame],
    *,
    external: Collection[str],
    folds: int = 1,
    seed: int = 0,
    shares: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """Give every patient a part in every fold.

    Patients are stratified by their densest label; patients without any label are a stratum of their own. The result
    depends on the set of patients and the seed, not on the order of rows. With several folds the test patients are
    the same in all of them, each of the others validates once, and calibration patients are drawn from the rest.

    Args:
        cohorts: Name of each cohort and its index.
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
    rows: list[tuple[str, str, int, str]] = []
    for cohort in sorted(cohorts):
        strata = _strata(cohort, cohorts[cohort])
        if cohort in external:
            patients = [patient for stratum in strata.values() for patient in stratum]
            rows += [(patient, cohort, fold, Part.EXTERNAL.value) for fold in range(folds) for patient in patients]
            continue
        _warn_of_rare(cohort, strata, len(shares))
        ordered = _shuffled(strata, seed, cohort)
        for fold, parts in enumerate(_fold_parts(cohort, len(ordered), folds, shares)):
            rows += [(patient, cohort, fold, part) for patient, part in zip(ordered, parts, strict=True)]
    table = pl.DataFrame(rows, schema=["patient_id", "cohort", "fold", "part"], orient="row")
    return check_splits(conform(table, "splits").sort("fold", "cohort", "patient_id"))


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
    owners: dict[str, str] = {}
    shared: dict[tuple[str, str], int] = {}
    for cohort in sorted(cohorts):
        for patient in cohorts[cohort]["patient_id"].unique():
            if owners.setdefault(patient, cohort) != cohort:
                pair = (owners[patient], cohort)
                shared[pair] = shared.get(pair, 0) + 1
    if shared:
        (first, second), number = next(iter(shared.items()))
        raise UserError(
            f"cohorts {first} and {second} share {number} patient_id(s)",
            "leave the common patients out of one cohort; if they are different people, put the site before their ids",
        )


def _strata(cohort: str, index: pl.DataFrame) -> dict[str, list[str]]:
    if not index.height:
        raise UserError(f"cohort {cohort} has no images", "index it again")
    rank = pl.col("density").replace_strict({name: place for place, name in enumerate(CATEGORIES)}, default=None)
    densest = index.group_by("patient_id").agg(rank.cast(pl.Int32).max().alias("rank")).sort("patient_id")
    strata: dict[str, list[str]] = {name: [] for name in (*CATEGORIES, "none")}
    for patient, place in densest.iter_rows():
        strata["none" if place is None else CATEGORIES[place]].append(patient)
    return strata


def _warn_of_rare(cohort: str, strata: Mapping[str, list[str]], parts: int) -> None:
    rare = {name: len(strata[name]) for name in CATEGORIES if 0 < len(strata[name]) < parts}
    if rare:
        logger.warning("cohort %s: too few patients for every part: %s", cohort, rare)


def _shuffled(strata: Mapping[str, list[str]], seed: int, cohort: str) -> list[str]:
    # Strata one after the other, so that parts handed out in a steady rhythm fall on each of them in proportion.
    ordered: list[str] = []
    for name, patients in strata.items():
        digest = hashlib.sha256(f"{cohort}\0{name}".encode()).digest()
        draw = np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])
        ordered += [patients[place] for place in draw.permutation(len(patients))]
    return ordered


def _fold_parts(cohort: str, patients: int, folds: int, shares: Mapping[str, float]) -> list[list[str]]:
    if folds == 1:
        return [_rhythm(cohort, patients, shares)]
    test, calibration = shares.get(Part.TEST.value, 0.0), shares.get(Part.CALIBRATION.value, 0.0)
    held_out = _rhythm(cohort, patients, {"rest": 1 - test, Part.TEST.value: test} if test else {"rest": 1.0})
    rest = [place for place, part in enumerate(held_out) if part == "rest"]
    if len(rest) < 2 * folds:
        raise _too_few(cohort, patients, f"{folds} folds")
    result = []
    for fold in range(folds):
        parts = list(held_out)
        training = [place for position, place in enumerate(rest) if position % folds != fold]
        for place in rest:
            parts[place] = Part.VALIDATION.value
        share = calibration * len(rest) / ((1 - test) * len(training))
        wanted = {Part.TRAIN.value: 1 - share, Part.CALIBRATION.value: share} if share else {Part.TRAIN.value: 1.0}
        for place, part in zip(training, _rhythm(cohort, len(training), wanted), strict=True):
            parts[place] = part
        result.append(parts)
    return result


def _rhythm(cohort: str, patients: int, shares: Mapping[str, float]) -> list[str]:
    # Whole numbers first (largest remainder, at least one each), then at every place the part that is most behind.
    if patients < len(shares):
        raise _too_few(cohort, patients, f"the parts {', '.join(shares)}")
    numbers = {part: max(int(share * patients), 1) for part, share in shares.items()}
    while sum(numbers.values()) != patients:
        step = 1 if sum(numbers.values()) < patients else -1
        open_parts = [part for part in shares if step > 0 or numbers[part] > 1]
        behind = max(open_parts, key=lambda part: step * (shares[part] * patients - numbers[part]))
        numbers[behind] += step
    given = dict.fromkeys(shares, 0)
    parts = []
    for place in range(1, patients + 1):
        waiting = [part for part in shares if given[part] < numbers[part]]
        chosen = max(waiting, key=lambda part: numbers[part] * place / patients - given[part])
        given[chosen] += 1
        parts.append(chosen)
    return parts


def _too_few(cohort: str, patients: int, wanted: str) -> UserError:
    return UserError(f"cohort {cohort} has {patients} patients, too few for {wanted}", "add patients or ask for fewer")
