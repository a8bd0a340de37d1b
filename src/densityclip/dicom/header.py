"""Tags to header facts, never pixels."""

import contextlib
import io
import logging
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from densityclip.dicom.codes import vendor_name
from densityclip.dicom.elements import PARSE_ERRORS as PARSE_ERRORS
from densityclip.dicom.elements import day, integer, tag, text, words
from densityclip.dicom.inflate import parse_header
from densityclip.dicom.picture import SIGNATURES
from densityclip.dicom.side_and_view import SIDE_AND_VIEW_TAGS, read_side, read_view, shared_groups
from densityclip.reasons import Reason, Refused
from densityclip.records import GENERATED_MARK

# Nearly every header of a mammogram ends within so many bytes; one read of them replaces hundreds of small ones.
_AT_ONCE = 1 << 16
# The groups of single frames are the longest part of a volume's header and hold nothing that an index needs.
_FRAME_GROUPS = 0x52009230
_LONG_VALUE = 1 << 16
# Hologic's container of tomosynthesis keeps its data in this private group.
_HOLOGIC_DATA = BaseTag(0x7E010010)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_PIXELS = 0x7FE00008
_OLDEST = 120

_DAYS_IN = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_SOP_CLASS = tag("SOPClassUID")
_SOP_UID = tag("SOPInstanceUID")
_META_SOP_CLASS = tag("MediaStorageSOPClassUID")
_META_SOP_UID = tag("MediaStorageSOPInstanceUID")
_STUDY_UID = tag("StudyInstanceUID")
_SERIES_UID = tag("SeriesInstanceUID")
_IMAGE_TYPE = tag("ImageType")
_MODALITY = tag("Modality")
_INTENT = tag("PresentationIntentType")
_FRAMES = tag("NumberOfFrames")
_SERIES_DESCRIPTION = tag("SeriesDescription")
_MANUFACTURER = tag("Manufacturer")
_SERIAL_NUMBER = tag("DeviceSerialNumber")
_STATION = tag("StationName")
_INSTITUTION = tag("InstitutionName")
_SEX = tag("PatientSex")
_AGE = tag("PatientAge")
_BIRTH_DATE = tag("PatientBirthDate")
_STUDY_DATE = tag("StudyDate")
_PATIENT_ID = tag("PatientID")
_ACCESSION = tag("AccessionNumber")
_IMPLANT = tag("BreastImplantPresent")
_IMAGER_SPACING = tag("ImagerPixelSpacing")
_PIXEL_SPACING = tag("PixelSpacing")
_PIXEL_MEASURES = tag("PixelMeasuresSequence")
_LOSSY = tag("LossyImageCompression")
_PARTIAL = tag("PartialView")
_VOLUME_TECHNIQUE = tag("VolumeBasedCalculationTechnique")
_COMMENTS = tag("ImageComments")
# Passing over the other elements makes reading a header a quarter faster.
_WANTED: list[BaseTag | int] = [
    *SIDE_AND_VIEW_TAGS,
    _SOP_CLASS,
    _SOP_UID,
    _STUDY_UID,
    _SERIES_UID,
    _IMAGE_TYPE,
    _MODALITY,
    _INTENT,
    _FRAMES,
    _SERIES_DESCRIPTION,
    _MANUFACTURER,
    _SERIAL_NUMBER,
    _STATION,
    _INSTITUTION,
    _SEX,
    _AGE,
    _BIRTH_DATE,
    _STUDY_DATE,
    _PATIENT_ID,
    _ACCESSION,
    _IMPLANT,
    _IMAGER_SPACING,
    _PIXEL_SPACING,
    _LOSSY,
    _PARTIAL,
    _VOLUME_TECHNIQUE,
    _COMMENTS,
    _HOLOGIC_DATA,
]


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
        vendor: The maker, under one name whatever its devices write, see `codes.vendor_name`.
        machine: Device serial number, else station name.
        age: Years at the study.
        implant: Whether an implant is stated to be present; None if nothing is said.
        partial_view: Whether the image is stated to show a part of the breast only.
        volume_technique: How the frames of a volume were calculated (`TOMOSYNTHESIS`, `MAX_IP`).
        lossy: Whether the pixels went through a lossy compression once.
        hologic_container: Whether this is Hologic's own container of tomosynthesis.
        generated: Whether the image is simulated by this software (`densityclip phantom`).
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
    spacing_mm: float | None = None
    series_description: str | None = None
    vendor: str | None = None
    machine: str | None = None
    institution: str | None = None
    age: float | None = None
    sex: str | None = None
    study_date: date | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    implant: bool | None = None
    partial_view: bool = False
    volume_technique: str | None = None
    lossy: bool = False
    hologic_container: bool = False
    generated: bool = False

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
            return starts_like_dicom(handle.read(132))
    except OSError:
        return False


def starts_like_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file, 132 or more, are those of DICOM; see `is_dicom`."""
    if start[128:132] == b"DICM":
        return True
    if len(start) < 12:
        return False
    group, element = struct.unpack("<HH", start[:4])
    return group in (0x0002, 0x0008) and element <= 0x1000 and (start[4:6].isalpha() or start[6:8] == b"\0\0")


def read_header(path: Path) -> HeaderFacts:
    """Read the facts of one DICOM file; the pixels are never read.

    A file without preamble is read as well, if it says what it is (SOP Class UID).

    Raises:
        Refused: `missing_file`, `empty_file`, or `unreadable`.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file, quiet():
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Refused(Reason.UNREADABLE, "this is no file")
            if found.st_size == 0:
                raise Refused(Reason.EMPTY_FILE)
            facts = header_facts(_parse(file, found.st_size))
            if facts.frames > 1 and facts.laterality is None and facts.laterality_conflict is None:
                # Some volumes say their side with each frame only; reading these groups takes ten times as long.
                file.seek(0)
                facts = header_facts(parse_header(file)[0])
            return facts
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Refused(Reason.MISSING_FILE) from error
    except PermissionError as error:
        raise Refused(Reason.UNREADABLE, "the file may not be read (permission)") from error
    except PARSE_ERRORS as error:
        raise Refused(Reason.UNREADABLE, f"the header cannot be parsed ({type(error).__name__})") from error


def _without_waiting(path: str, flags: int) -> int:
    # A table may name a pipe, which would be waited for without end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _parse(file: BinaryIO, size: int) -> Dataset:
    start = file.read(_AT_ONCE)
    if not starts_like_dicom(start):
        raise Refused(Reason.UNREADABLE, _what_it_is(start))
    if DeflatedExplicitVRLittleEndian.encode() in start[:1024]:
        file.seek(0)
        dataset, _ = parse_header(file)
        return dataset
    with contextlib.suppress(*PARSE_ERRORS):
        dataset, ended = _parse_until(io.BytesIO(start), _FRAME_GROUPS)
        if ended or len(start) == size:
            return _with_container(dataset, file)
    file.seek(0)
    dataset, _ = _parse_until(file, _FRAME_GROUPS)
    return _with_container(dataset, file)


def _parse_until(file: BinaryIO, last: int) -> tuple[Dataset, bool]:
    """The header up to a tag, and whether that tag was reached."""
    reached = False

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal reached
        reached = int.__ge__(tag, last)
        return reached

    return read_partial(file, stop_when=stop, defer_size=_LONG_VALUE, force=True, specific_tags=_WANTED), reached


def _with_container(dataset: Dataset, file: BinaryIO) -> Dataset:
    """A secondary capture with what it has behind the groups of frames: the sign of a vendor's container."""
    if text(dataset, _SOP_CLASS) == _SECONDARY_CAPTURE:
        file.seek(0)
        dataset, _ = _parse_until(file, _PIXELS)
    return dataset


def _what_it_is(start: bytes) -> str:
    if start.lstrip()[:1] == b"<":
        return "the file is a web page or XML, perhaps a download that failed"
    if start[:4] in (b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"\x1f\x8b\x08\x08", b"Rar!", b"7z\xbc\xaf"):
        return "the file is a packed archive"
    if start.startswith(SIGNATURES):
        return "the file is a picture, not DICOM"
    return "the file does not start like DICOM"


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
    sop_class = text(dataset, _SOP_CLASS) or text(meta, _META_SOP_CLASS)
    if sop_class is None:
        raise Refused(Reason.UNREADABLE, "the file has no SOP Class UID")
    manufacturer = text(dataset, _MANUFACTURER)
    view, modifiers = read_view(dataset, manufacturer)
    laterality, conflict = read_side(dataset)
    study_date = day(dataset, _STUDY_DATE)
    implant = _upper(text(dataset, _IMPLANT))
    return HeaderFacts(
        sop_class=sop_class,
        sop_uid=text(dataset, _SOP_UID) or text(meta, _META_SOP_UID),
        study_uid=text(dataset, _STUDY_UID),
        series_uid=text(dataset, _SERIES_UID),
        image_type=tuple(word.upper() for word in words(dataset, _IMAGE_TYPE)),
        modality_tag=text(dataset, _MODALITY),
        presentation_intent=_upper(text(dataset, _INTENT)),
        laterality=laterality,
        laterality_conflict=conflict,
        view=view,
        view_modifiers=modifiers,
        frames=max(integer(dataset, _FRAMES) or 1, 1),
        spacing_mm=_spacing(dataset),
        series_description=text(dataset, _SERIES_DESCRIPTION),
        vendor=vendor_name(manufacturer),
        machine=text(dataset, _SERIAL_NUMBER) or text(dataset, _STATION),
        institution=text(dataset, _INSTITUTION),
        age=_age(dataset, study_date),
        sex=_upper(text(dataset, _SEX)),
        study_date=study_date,
        patient_id=text(dataset, _PATIENT_ID),
        accession_number=text(dataset, _ACCESSION),
        implant=None if implant is None else implant == "YES",
        partial_view=_upper(text(dataset, _PARTIAL)) == "YES",
        volume_technique=_upper(text(dataset, _VOLUME_TECHNIQUE)),
        lossy=text(dataset, _LOSSY) == "01",
        hologic_container="HOLOGIC" in (text(dataset, _HOLOGIC_DATA) or "").upper(),
        generated=(text(dataset, _COMMENTS) or "").startswith(GENERATED_MARK),
    )


def _upper(written: str | None) -> str | None:
    return written.upper() if written else None


def _age(dataset: Dataset, study_date: date | None) -> float | None:
    age = _stated_age(dataset, study_date)
    # 000Y and the like are what anonymisers leave.
    return age if age is not None and 0 < age <= _OLDEST else None


def _stated_age(dataset: Dataset, study_date: date | None) -> float | None:
    written = _upper(text(dataset, _AGE)) or ""
    if written[:-1].isdigit() and written[-1:] in _DAYS_IN:
        number = float(written[:-1])
        return number if written[-1] == "Y" else round(number * _DAYS_IN[written[-1]] / 365.25, 1)
    born = day(dataset, _BIRTH_DATE)
    if born is None or study_date is None or born >= study_date:
        return None
    return float(study_date.year - born.year - ((study_date.month, study_date.day) < (born.month, born.day)))


def _spacing(dataset: Dataset) -> float | None:
    for keyword in (_IMAGER_SPACING, _PIXEL_SPACING):
        spacing = _as_spacing(text(dataset, keyword))
        if spacing is not None:
            return spacing
    measures = shared_groups(dataset, _PIXEL_MEASURES)
    return _as_spacing(text(measures[0], _PIXEL_SPACING)) if measures else None


def _as_spacing(written: str | None) -> float | None:
    try:
        spacing = float(written or 0)
    except ValueError:
        return None
    return spacing if 0 < spacing < 10 else None
