"""The breast composition that a structured report states, for each breast.

Codes are read by value, of SNOMED CT (SCT) and of the older SRT form, never by their meaning, which is written in any
language and wording, and whatever the coding scheme is called (archives hold SRT, SNM3 and 99SDM for the same codes).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from densityclip.density import CONCEPT_CODE, SRT_VALUE_CODES, VALUE_CODES, denser
from densityclip.dicom.header import PARSE_ERRORS, quiet
from densityclip.dicom.inflate import parse_header
from densityclip.reasons import Reason, Refused

# SOP classes of reports that may hold a breast composition: Basic Text, Enhanced, Comprehensive, Comprehensive 3D,
# Extensible, Mammography CAD.
REPORT_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in ("11", "22", "33", "34", "35", "50"))

# The older concept of CAD reports, 111006, gave way to the one of SNOMED.
_CONCEPTS = frozenset({CONCEPT_CODE[0], "F-01710", "111006"})
_CATEGORIES = {code: name for codes in (VALUE_CODES, SRT_VALUE_CODES) for name, code in codes.items()}
# Left breast, right breast, both breasts; left, right, both: each in SCT and SRT.
_SITES = {
    "80248007": "L",
    "T-04030": "L",
    "7771000": "L",
    "G-A101": "L",
    "73056007": "R",
    "T-04020": "R",
    "24028007": "R",
    "G-A100": "R",
    "63762007": "LR",
    "T-04080": "LR",
    "51440002": "LR",
    "G-A102": "LR",
}
# Laterality and finding site, each in SCT and SRT.
_SIDE_NAMES = frozenset({"272741003", "G-C171", "363698007", "G-C0E3"})
_ALGORITHM_NAME, _OBSERVER_TYPE = "111001", "121005"
_DEVICE, _PERSON = "121007", "121006"
_CAD = "1.2.840.10008.5.1.4.1.1.88.50"
# Far above any report (the largest CAD reports have a few thousand); a damaged file shall not take minutes.
_MOST_ITEMS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What one report states.

    Attributes:
        left: Category `A` to `D` of the left breast; None if nothing is stated.
        right: Of the right breast.
        study_uid: The study whose images the report was made from, as its evidence says; else its own.
        content_date: Date and time of the content, `YYYYMMDDHHMMSS` as far as stated; `""` if not.
        by_algorithm: Whether a device or an algorithm stated it; such a category is no reader's label.
    """

    left: str | None
    right: str | None
    study_uid: str | None
    content_date: str
    by_algorithm: bool


def read_composition(path: Path) -> Composition:
    """Read the breast composition of a structured report.

    A category without a side, or for both, holds for a breast that has none of its own: a report may state the exam's
    beside those of the breasts. If it states several for one breast, the denser is taken, and those of readers before
    those of algorithms.

    Raises:
        Refused: `unreadable`: the file cannot be parsed.
    """
    try:
        with quiet(), path.open("rb") as file:
            return composition_of(parse_header(file)[0])
    except PARSE_ERRORS as error:
        raise Refused(Reason.UNREADABLE, f"the report cannot be parsed ({type(error).__name__})") from error


def composition_of(report: Dataset) -> Composition:
    """The composition of a parsed report, see `read_composition`."""
    stated: dict[bool, dict[str, list[str]]] = {who: {"L": [], "R": [], "LR": []} for who in (False, True)}
    is_cad = str(report.get("SOPClassUID")) == _CAD
    for item, context in _items(report):
        category = _CATEGORIES.get(_code(item, "ConceptCodeSequence"))
        if category is None or _code(item, "ConceptNameCodeSequence") not in _CONCEPTS:
            continue
        stated[is_cad or context.by_algorithm][context.sides].append(category)
    by_algorithm = not any(stated[False].values()) and any(stated[True].values())
    found = stated[by_algorithm]
    return Composition(
        left=denser(found["L"] or found["LR"]),
        right=denser(found["R"] or found["LR"]),
        study_uid=_study(report),
        content_date=f"{report.get('ContentDate') or ''}{report.get('ContentTime') or ''}"[:14],
        by_algorithm=by_algorithm,
    )


@dataclass(frozen=True, slots=True)
class _Context:
    """What holds for an item by its own modifiers, or by the nearest group around it that says something."""

    sides: str = "LR"
    by_algorithm: bool = False


def _items(report: Dataset) -> Iterator[tuple[Dataset, _Context]]:
    """Every content item with its context; no recursion, because a damaged file nests at will."""
    waiting = [(report, _Context())]
    for _ in range(_MOST_ITEMS):
        if not waiting:
            return
        item, around = waiting.pop()
        children = _children(item)
        # Worked out once for each group: once for each of its items would take the square of their number.
        context = _Context(_sides(children) or around.sides, _by_algorithm(children, around.by_algorithm))
        yield item, context
        waiting.extend((child, context) for child in children)


def _children(item: Dataset) -> list[Dataset]:
    value = item.get("ContentSequence")
    return list(value) if isinstance(value, pydicom.Sequence) else []


def _code(item: Dataset, keyword: str) -> str:
    sequence = item.get(keyword)
    if not isinstance(sequence, pydicom.Sequence) or not len(sequence):
        return ""
    return str(sequence[0].get("CodeValue") or "").strip()


def _sides(children: list[Dataset]) -> str | None:
    """Sides that the modifiers among some items name, None if none does."""
    named = [child for child in children if _code(child, "ConceptNameCodeSequence") in _SIDE_NAMES]
    # A finding site "breast" may itself be modified by a laterality.
    for child in (*named, *(below for site in named for below in _children(site))):
        sides = _SITES.get(_code(child, "ConceptCodeSequence"))
        if sides is not None:
            return sides
    return None


def _by_algorithm(children: list[Dataset], around: bool) -> bool:
    """Whether an algorithm is named among some items, or a device alone observed them; else as around them."""
    if any(_code(child, "ConceptNameCodeSequence") == _ALGORITHM_NAME for child in children):
        return True
    observers = {
        _code(child, "ConceptCodeSequence")
        for child in children
        if _code(child, "ConceptNameCodeSequence") == _OBSERVER_TYPE
    }
    return _DEVICE in observers and _PERSON not in observers if observers else around


def _study(report: Dataset) -> str | None:
    evidence = report.get("CurrentRequestedProcedureEvidenceSequence")
    items = list(evidence) if isinstance(evidence, pydicom.Sequence) else []
    studies = {str(item.get("StudyInstanceUID") or "") for item in items} - {""}
    own = str(report.get("StudyInstanceUID") or "")
    return studies.pop() if len(studies) == 1 else own or None
