"""What a model trained on an index must not be used for: sentences that follow from its counts by stated rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.records import GENERATED_LABEL, MODALITIES, Modality

# Below this number of patients, a 95% interval of a sensitivity of 0.8 is wider than 0.28: nothing can be judged.
THIN = 30
_NAMED = 6
_UNNAMED = ("not stated", " further values")
# What is always left out, by the reasons that stand for it, and how it is said.
_ALWAYS_OUT: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("no_implants", ("implant",), "Not for breasts with implants"),
    ("no_men", ("male",), "Not for men"),
    (
        "no_special_views",
        ("nonstandard_view", "unknown_view", "magnification", "partial_view", "specimen", "special_acquisition"),
        "Not for other views than CC and MLO, nor for spot, magnified, specimen, contrast or biopsy images",
    ),
)
_NO_RAW = ("no_raw_images", ("for_processing",), "Not for raw images (For Processing)")
_RAW_ONLY = (
    "raw_images_only",
    ("for_presentation",),
    "Only for raw images (For Processing), never for images For Presentation nor mixed with them",
)

Audit = Mapping[str, Any]
Limit = dict[str, str]


def not_for(audit: Audit) -> list[Limit]:
    """Say what a model trained here must not be used for.

    Args:
        audit: Content of `audit.json`; `totals`, `counts`, `density_by_modality`, `age`, `excluded` and
            `for_processing` are read. Only labelled images count, for only they are trained on; of generated ones all
            do, so that none of them passes as a patient's.

    Returns:
        `rule` (a stable word) and `sentence` of each limit, the general ones first. With no label at all there is
        nothing to train on, and that is said instead.
    """
    limits = [_limit("research_only", "Research use only: not for the care of any patient."), *_generated(audit)]
    if not audit["totals"]["images_labelled"]:
        return [*limits, _limit("no_labels", "No image has a label: nothing can be trained or scored on this index.")]
    rules: tuple[Callable[[Audit], list[Limit]], ...] = (
        _labels,
        _modalities,
        _categories,
        _cells,
        _places,
        _ages,
        _groups,
        _left_out,
    )
    return [*limits, *(limit for rule in rules for limit in rule(audit))]


def _limit(rule: str, sentence: str) -> Limit:
    return {"rule": rule, "sentence": sentence}


def _labelled(audit: Audit, column: str) -> dict[str, int]:
    """Named values of a column and their labelled patients."""
    return {
        row["value"]: row["patients_labelled"]
        for row in audit["counts"][column]
        if row["images_labelled"] and not str(row["value"]).endswith(_UNNAMED)
    }


def _share_named(audit: Audit, column: str) -> float:
    """Share of the labelled images whose value of a column is stated."""
    blank = sum(row["images_labelled"] for row in audit["counts"][column] if row["value"] == _UNNAMED[0])
    return 1 - blank / audit["totals"]["images_labelled"]


def _listed(names: Sequence[str], joint: str = "and") -> str:
    """`A, B and C`; of many, the first six and how many more."""
    shown = list(names[:_NAMED])
    if len(names) > _NAMED:
        return f"{', '.join(shown)} {joint} {len(names) - _NAMED} more"
    return f" {joint} ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _with_patients(numbers: Mapping[str, int]) -> str:
    return _listed([f"{name} ({number} patient{'s' * (number != 1)})" for name, number in numbers.items()])


def _generated(audit: Audit) -> list[Limit]:
    """Said of all images at once if all that are labelled are generated; else with their number."""
    rows, totals = audit["counts"]["density_source"], audit["totals"]
    found = next((row for row in rows if row["value"] == GENERATED_LABEL), None)
    if found is None:
        return []
    whole = found["images"] == totals["images"] or 0 < found["images_labelled"] == totals["images_labelled"]
    which = "the exams" if whole else f"{found['images']:,} of {totals['images']:,} images"
    said = f"Not for any patient: {which} were generated, and any label of theirs is a simulated reader's."
    return [_limit("generated", said)]


def _labels(audit: Audit) -> list[Limit]:
    if set(_labelled(audit, "density_source")) == {GENERATED_LABEL}:
        return []
    return [
        _limit(
            "one_reading",
            "Not as a judge of readers: an image has one label, and nothing says who gave it or how often it was read. "
            "A model learns the habits of these readers; calibrate it where it is used.",
        )
    ]


def _modalities(audit: Audit) -> list[Limit]:
    found = _labelled(audit, "modality")
    limits = []
    absent = [name for name in MODALITIES if name not in found]
    if absent:
        limits.append(_limit("modality_absent", f"Not for {_listed(absent, 'or')}: no labelled image of it is here."))
    thin = {name: number for name, number in found.items() if number < THIN and name in MODALITIES}
    if thin:
        limits.append(_limit("modality_thin", f"Not to be relied on for {_with_patients(thin)}: fewer than {THIN}."))
    unknown = next((row for row in audit["counts"]["modality"] if row["value"] == Modality.UNKNOWN.value), None)
    if unknown is not None and unknown["images_labelled"]:
        limits.append(
            _limit(
                "modality_unknown",
                f"Not for a comparison of DM, s2D and DBT: of {unknown['images_labelled']:,} labelled images nothing "
                "says which they are.",
            )
        )
    return limits


def _categories(audit: Audit) -> list[Limit]:
    found = _labelled(audit, "density")
    limits = []
    absent = [name for name in CATEGORIES if name not in found]
    if absent:
        limits.append(
            _limit("category_absent", f"Not for telling category {_listed(absent, 'or')}: no labelled image of it.")
        )
    thin = {f"category {name}": number for name, number in found.items() if number < THIN}
    if thin:
        limits.append(_limit("category_thin", f"Not to be relied on for {_with_patients(thin)}: fewer than {THIN}."))
    return limits


def _cells(audit: Audit) -> list[Limit]:
    """Categories that are missing or thin in one kind of image only; the rest is said by the rules before."""
    modalities, categories = _labelled(audit, "modality"), _labelled(audit, "density")
    cells = {
        f"{density} on {modality}": row[density]
        for modality, row in audit["density_by_modality"]["patients"].items()
        for density in CATEGORIES
        if modality in MODALITIES and modalities.get(modality, 0) >= THIN and categories.get(density, 0) >= THIN
    }
    limits = []
    empty = [name for name, patients in cells.items() if patients == 0]
    if empty:
        limits.append(_limit("cell_empty", f"Not for category {_listed(empty, 'or')}: no such image is here."))
    thin = {name: patients for name, patients in cells.items() if 0 < patients < THIN}
    if thin:
        limits.append(
            _limit("cell_thin", f"Not to be relied on for category {_with_patients(thin)}: fewer than {THIN}.")
        )
    return limits


def _places(audit: Audit) -> list[Limit]:
    limits = []
    for column, one in (("site", "site"), ("vendor", "vendor")):
        found = _labelled(audit, column)
        if not found:
            said = f"Not for any {one} without a test there: which {one}s these images are from is not stated."
            limits.append(_limit(f"{column}_unknown", said))
            continue
        rule = f"{column}_single" if len(found) == 1 else f"{column}_others"
        said = f"Not for another {one} than {_listed(list(found), 'or')} without a test there."
        limits.append(_limit(rule, said))
    return limits


def _ages(audit: Audit) -> list[Limit]:
    low, high = audit["age"]["low"], audit["age"]["high"]
    if low is None:
        return [_limit("age_unknown", "Not for a given age without a test: no age is stated.")]
    return [
        _limit(
            "age_range",
            f"Not for women younger than {low} or older than {high}: 98% of the labelled images are of ages between.",
        )
    ]


def _groups(audit: Audit) -> list[Limit]:
    found = _labelled(audit, "race")
    if not found:
        return [
            _limit("race_unknown", "Not where it must do equally well in every group: race is not stated, so no test.")
        ]
    limits = []
    thin = {name: number for name, number in found.items() if number < THIN}
    if thin:
        limits.append(
            _limit("race_thin", f"Not to be relied on for these groups: {_with_patients(thin)}; fewer than {THIN}.")
        )
    share = _share_named(audit, "race")
    if share < 0.5:
        limits.append(
            _limit("race_mostly_unknown", f"Not where groups must be compared: race is stated for {share:.0%} only.")
        )
    return limits


def _left_out(audit: Audit) -> list[Limit]:
    numbers = {row["reason"]: row["images"] for row in audit["excluded"]}
    kept = sum(row["images"] for row in audit["counts"]["implant"] if row["value"] == "yes")
    limits = []
    for rule, reasons, lead in (*_ALWAYS_OUT, _RAW_ONLY if audit.get("for_processing") else _NO_RAW):
        left_out = sum(numbers.get(reason, 0) for reason in reasons)
        said = f"{lead}: such images are left out{f' ({left_out:,} here)' if left_out else ''}."
        if rule == "no_implants" and kept:
            said += f" {kept:,} images say that there is an implant and were kept, as it is displaced or not in view."
        limits.append(_limit(rule, said))
    return limits
