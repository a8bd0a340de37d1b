"""Tags to header facts, never pixels."""

import contextlib
import logging
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from densityclip.dicom.codes import MODIFIER_SUFFIXES, MODIFIERS, VIEWS
from densityclip.dicom.inflate import parse_header
from densityclip.reasons import Reason, Refused

# What pydicom raises on files that are damaged or are no DICOM at all: truncated, bit-flipped, foreign ones.
PARSE_ERRORS = (
    InvalidDicomError,
    OSError,
    EOFError,
    struct.error,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    NotImplementedError,
    AssertionError,
    OverflowError,
    RecursionError,
    MemoryError,
)

_TAGS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "Modality",
    "PresentationIntentType",
    "Manufacturer",
    "InstitutionName",
    "StationName",
    "SeriesDescription",
    "ManufacturerModelName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "DeviceSerialNumber",
    "ImagerPixelSpacing",
    "ViewPosition",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientOrientation",
    "Laterality",
    "ImageLaterality",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BreastImplantPresent",
    "ViewCodeSequence",
    "AnatomicRegionSequence",
    "SharedFunctionalGroupsSequence",
]
_DAYS_IN = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFacts:
    """What a DICOM header says about one object. Missing is None or an empty tuple.

    Attributes:
        modality_tag: The attribute Modality as written (`MG`), not DM, s2D or DBT.
        laterality: `L` or `R`, None if it is not stated or the explicit attributes contradict each other.
        laterality_conflict: What contradicts what, in a sentence; None if nothing does. With a `laterality` beside it,
            the conflict is only with PatientOrientation, which names the side by convention.
        view: `CC`, `MLO`, or the word of another view.
        view_modifiers: Words of `codes.MODIFIERS`.
        spacing_mm: Spacing of rows, mm: at the detector where that is stated.
        machine: Device serial number, else station name.
        age: Years at the study.
        implant: Whether an implant is stated to be present; None if nothing is said.
    """

    sop_class: str
    sop_uid: str | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    image_type: tuple[str, ...] = ()
    modality_tag: str | None = None
    presentation_intent: str | None = None
    laterality: str | None = None
    laterality_conflict: str | None = None
    view: str | None = None
    view_modifiers: tuple[str, ...] = ()
    frames: int = 1
    rows: int | None = None
    columns: int | None = None
    spacing_mm: float | None = None
    series_description: str | None = None
    vendor: str | None = None
    model: str | None = None
    machine: str | None = None
    institution: str | None = None
    age: float | None = None
    sex: str | None = None
    study_date: date | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    implant: bool | None = None

    @property
    def implant_displaced(self) -> bool:
        """Whether an implant is pushed out of this view, so that the breast itself is shown."""
        return "implant displaced" in self.view_modifiers


def is_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM: the preamble, or without one an element of group 2 or 8.

    Only the first 132 bytes are read; an unreadable file is not DICOM.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(132)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return True
    if len(head) < 12:
        return False
    group, element = struct.unpack("<HH", head[:4])
    return group in (0x0002, 0x0008) and element <= 0x1000 and (head[4:6].isalpha() or head[6:8] == b"\0\0")


def read_header(path: Path) -> HeaderFacts:
    """Read the facts of one DICOM file; the pixels are never read.

    A file without preamble is read as well, if it says what it is (SOP Class UID).

    Raises:
        Refused: `missing_file`, `empty_file`, or `unreadable`.
    """
    try:
        if path.stat().st_size == 0:
            raise Refused(Reason.EMPTY_FILE)
        if not is_dicom(path):
            raise Refused(Reason.UNREADABLE, "the file does not start like DICOM")
        with quiet(), path.open("rb") as file:
            return header_facts(parse_header(file, list(_TAGS))[0])
    except FileNotFoundError as error:
        raise Refused(Reason.MISSING_FILE) from error
    except PARSE_ERRORS as error:
        raise Refused(Reason.UNREADABLE, f"the header cannot be parsed ({type(error).__name__})") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings out: they quote values, and so may quote a patient."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = before


def header_facts(dataset: Dataset) -> HeaderFacts:
    """Facts of a parsed header.

    Raises:
        Refused: `unreadable`: it does not say what it is.
    """
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class = _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    if sop_class is None:
        raise Refused(Reason.UNREADABLE, "the file has no SOP Class UID")
    view, modifiers = _view(dataset)
    laterality, conflict = _laterality(dataset)
    study_date = _date(dataset, "StudyDate")
    implant = _text(dataset, "BreastImplantPresent")
    return HeaderFacts(
        sop_class=sop_class,
        sop_uid=_text(dataset, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        image_type=tuple(word.upper() for word in _words(dataset, "ImageType")),
        modality_tag=_text(dataset, "Modality"),
        presentation_intent=_upper(_text(dataset, "PresentationIntentType")),
        laterality=laterality,
        laterality_conflict=conflict,
        view=view,
        view_modifiers=modifiers,
        frames=max(_integer(dataset, "NumberOfFrames") or 1, 1),
        rows=_integer(dataset, "Rows"),
        columns=_integer(dataset, "Columns"),
        spacing_mm=_spacing(dataset),
        series_description=_text(dataset, "SeriesDescription"),
        vendor=_text(dataset, "Manufacturer"),
        model=_text(dataset, "ManufacturerModelName"),
        machine=_text(dataset, "DeviceSerialNumber") or _text(dataset, "StationName"),
        institution=_text(dataset, "InstitutionName"),
        age=_age(dataset, study_date),
        sex=_upper(_text(dataset, "PatientSex")),
        study_date=study_date,
        patient_id=_text(dataset, "PatientID"),
        accession_number=_text(dataset, "AccessionNumber"),
        implant=None if implant is None else implant.upper() == "YES",
    )


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except PARSE_ERRORS:
        # One attribute that cannot be read (a date of "unknown") is a missing attribute, not a lost file.
        return None


def _words(dataset: Dataset, keyword: str) -> list[str]:
    value = _value(dataset, keyword)
    if value is None:
        return []
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return [str(part).strip(" \0") for part in parts]


def _text(dataset: Dataset, keyword: str) -> str | None:
    words = _words(dataset, keyword)
    return words[0] or None if words else None


def _upper(text: str | None) -> str | None:
    return text.upper() if text else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    text = _text(dataset, keyword)
    try:
        return int(float(text)) if text else None
    except (ValueError, OverflowError):
        return None


def _date(dataset: Dataset, keyword: str) -> date | None:
    text = (_text(dataset, keyword) or "").replace(".", "").replace("-", "")
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) >= 8 else None
    except ValueError:
        return None


def _age(dataset: Dataset, study_date: date | None) -> float | None:
    text = _upper(_text(dataset, "PatientAge")) or ""
    if text[:-1].isdigit() and text[-1:] in _DAYS_IN:
        return float(text[:-1]) if text[-1] == "Y" else round(float(text[:-1]) * _DAYS_IN[text[-1]] / 365.25, 1)
    born = _date(dataset, "PatientBirthDate")
    if born is None or study_date is None or born >= study_date:
        return None
    return float(study_date.year - born.year - ((study_date.month, study_date.day) < (born.month, born.day)))


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = _value(dataset, keyword)
    return list(value) if isinstance(value, pydicom.Sequence) else []


def _shared(dataset: Dataset, keyword: str) -> list[Dataset]:
    return [item for group in _items(dataset, "SharedFunctionalGroupsSequence")[:1] for item in _items(group, keyword)]


def _spacing(dataset: Dataset) -> float | None:
    measures = [*_shared(dataset, "PixelMeasuresSequence"), Dataset()][0]
    for source, keyword in (
        (dataset, "ImagerPixelSpacing"),
        (dataset, "PixelSpacing"),
        (measures, "PixelSpacing"),
    ):
        try:
            spacing = float(_text(source, keyword) or 0)
        except ValueError:
            continue
        if 0 < spacing < 10:
            return spacing
    return None


def _view(dataset: Dataset) -> tuple[str | None, tuple[str, ...]]:
    views: list[str] = []
    modifiers: list[str] = []
    for item in _items(dataset, "ViewCodeSequence"):
        value = _text(item, "CodeValue") or ""
        views.append(VIEWS.get(value, value))
        for modifier in _items(item, "ViewModifierCodeSequence"):
            code = _text(modifier, "CodeValue") or ""
            modifiers.append(MODIFIERS.get(code, code))
    for region in _items(dataset, "AnatomicRegionSequence"):
        if MODIFIERS.get(_text(region, "CodeValue") or "") == "specimen":
            modifiers.append("specimen")
    view = next(iter(views), None) or _upper(_text(dataset, "ViewPosition"))
    if view and not views:
        view, more = _split_view_position(view)
        modifiers.extend(more)
    return view, tuple(dict.fromkeys(word for word in modifiers if word))


def _split_view_position(written: str) -> tuple[str, list[str]]:
    # Vendors write L-CC, RMLO, CCID, MLO SPOT; keep the standard view and name what was added.
    words = written.replace("-", " ").replace("_", " ").split()
    text = "".join(words)
    if text[:1] in "LR" and text[1:] in ("CC", "MLO"):
        text = text[1:]
    for standard in ("MLO", "CC"):
        rest = text.removeprefix(standard)
        if text.startswith(standard) and rest in MODIFIER_SUFFIXES:
            return standard, [MODIFIER_SUFFIXES[rest]]
        if text.startswith(standard) and rest in ("M", "MAG", "S", "SPOT"):
            return standard, ["magnification" if rest.startswith("M") else "spot compression"]
    return text, []


def _laterality(dataset: Dataset) -> tuple[str | None, str | None]:
    stated: dict[str, str] = {}
    for keyword in ("ImageLaterality", "Laterality"):
        stated[keyword] = _upper(_text(dataset, keyword)) or ""
    anatomy = _shared(dataset, "FrameAnatomySequence")
    stated["FrameLaterality"] = (_upper(_text(anatomy[0], "FrameLaterality")) or "") if anatomy else ""
    explicit = {name: side for name, side in stated.items() if side in ("L", "R", "B")}
    by_orientation = _side_of_orientation(_words(dataset, "PatientOrientation"))
    sides = set(explicit.values())
    if "B" in sides or len(sides) > 1:
        return None, "; ".join(f"{name} is {side}" for name, side in explicit.items())
    if not sides:
        return by_orientation, None
    side = sides.pop()
    if by_orientation not in (None, side):
        name = next(iter(explicit))
        return side, f"{name} is {side}, PatientOrientation suggests {by_orientation}"
    return side, None


def _side_of_orientation(orientation: list[str]) -> str | None:
    # By the hanging convention the rows of a left breast run to anterior, those of a right one to posterior
    # (left CC A\R, left MLO A\FR, right CC P\L, right MLO P\FL).
    if len(orientation) != 2 or not orientation[0] or not orientation[1]:
        return None
    first, second = orientation[0].upper(), orientation[1].upper()
    if first.startswith("A") and second.endswith("R"):
        return "L"
    if first.startswith("P") and second.endswith("L"):
        return "R"
    return None
