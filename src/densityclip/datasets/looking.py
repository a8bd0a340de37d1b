"""What the file of one candidate adds to its row. Worker processes run this, so it does without polars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from densityclip.dicom.density_report import REPORT_CLASSES, read_composition
from densityclip.dicom.eligibility import check_modality, check_object, check_screening_view
from densityclip.dicom.header import HeaderFacts, read_header
from densityclip.dicom.modality import is_slab, modality_of
from densityclip.dicom.picture import is_picture
from densityclip.reasons import Reason, Refused
from densityclip.records import Modality

STATED = ("laterality", "view", "modality", "implant")
"""What a table may say of an image that decides, with its header, whether it is left out."""

WORKER_IMPORTS = ("densityclip.datasets.looking",)
"""What a worker process needs, for `worker_pool`."""

Known = dict[str, Any]
"""Values under the names of `headers.SEEN`; a name that is missing is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRules:
    """How the headers of files are used beside what a table says; where both speak, the table goes first.

    Attributes:
        read_files: Whether files are looked at at all.
        pictures: Whether a file that is no DICOM (JPEG, PNG, ...) is taken as an image.
        require_view: Whether an image without a stated view, side or modality is left out; else these stay null or
            `unknown`. An image that belongs to no exam (no Study Instance UID, no date) is left out likewise.
        for_processing: Whether raw images (For Processing) are taken, and no others; else they are left out.
    """

    read_files: bool = True
    pictures: bool = True
    require_view: bool = False
    for_processing: bool = False


def look_at_files(rows: Sequence[Mapping[str, Any]], rules: HeaderRules) -> list[Known]:
    """What the files of some rows add to them, in order; one task of a worker.

    Args:
        rows: `path`, `reason` (set where the row is left out already, and its file is not opened) and `STATED`.
        rules: How files are used.
    """
    return [look(row, rules) for row in rows]


def look(row: Mapping[str, Any], rules: HeaderRules) -> dict[str, Any]:
    """What the file of one row adds to it: values under the names of `SEEN`."""
    if row["reason"] is not None:
        return {}
    path = Path(row["path"])
    try:
        facts = read_header(path)
    except Refused as refused:
        if refused.reason is Reason.UNREADABLE and rules.pictures and is_picture(path):
            return {"frames": 1} | judged(None, row, rules)
        return {"reason": refused.reason.value, "detail": refused.detail or refused.reason.sentence}
    if facts.sop_class in REPORT_CLASSES:
        return known_of(facts) | _report(path)
    return known_of(facts) | judged(facts, row, rules)


def judged(facts: HeaderFacts | None, row: Mapping[str, Any], rules: HeaderRules) -> dict[str, Any]:
    """Reason and detail if an image is left out, and in what the header contradicts the table."""
    stated = {name: row[name] for name in STATED if row[name] is not None}
    modality = stated.pop("modality", None)
    merged = replace(facts or HeaderFacts(sop_class=""), **stated)
    if "laterality" in stated:
        merged = replace(merged, laterality_conflict=None)
    differs = {} if facts is None else _differing(facts, row)
    try:
        if facts is not None:
            check_object(facts, modality_stated=modality is not None, for_processing=rules.for_processing)
        check_screening_view(merged, unstated_passes=not rules.require_view)
        if rules.require_view and modality is None:
            check_modality(facts)
    except Refused as refused:
        return differs | {"reason": refused.reason.value, "detail": refused.detail or refused.reason.sentence}
    return differs


def _differing(facts: HeaderFacts, row: Mapping[str, Any]) -> dict[str, Any]:
    modality = modality_of(facts)
    header = {
        "laterality": facts.laterality,
        "view": facts.view,
        "modality": None if modality is Modality.UNKNOWN else modality.value,
    }
    names = [name for name, said in header.items() if None not in (said, row[name]) and said != row[name]]
    return {"_differs": ",".join(names)} if names else {}


def _report(path: Path) -> dict[str, Any]:
    left_out = {"reason": Reason.STRUCTURED_REPORT.value, "detail": Reason.STRUCTURED_REPORT.sentence}
    try:
        composition = read_composition(path)
    except Refused as refused:
        return left_out | {"detail": refused.detail or refused.reason.sentence}
    return left_out | {
        "_report_study": composition.study_uid,
        "_report_left": composition.left,
        "_report_right": composition.right,
        "_report_date": composition.content_date,
        "_report_by": "algorithm" if composition.by_algorithm else "reader",
    }


def known_of(facts: HeaderFacts) -> dict[str, Any]:
    """What a header says, under the names of `SEEN`."""
    modality = modality_of(facts)
    return {
        "series_uid": facts.series_uid,
        "sop_uid": facts.sop_uid,
        "patient_id": facts.patient_id,
        "study_date": facts.study_date,
        "laterality": facts.laterality,
        "view": facts.view,
        "modality": None if modality is Modality.UNKNOWN else modality.value,
        "institution": facts.institution,
        "vendor": facts.vendor,
        "machine": facts.machine,
        "age": facts.age,
        "implant": facts.implant,
        "frames": facts.frames,
        "spacing_mm": facts.spacing_mm,
        "_study_uid": facts.study_uid,
        "_accession_number": facts.accession_number,
        "_implant_displaced": facts.implant_displaced or None,
        "_slab": is_slab(facts) or None,
        "_lossy": facts.lossy or None,
        "_generated": facts.generated or None,
        "_turned": (facts.laterality is not None and facts.laterality_conflict is not None) or None,
    }
