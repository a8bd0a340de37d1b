"""The images that an answer rests on, as far as an output object repeats them: who, which study, which instance."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from densityclip.deliver.identity import PRODUCT, derived_uid
from densityclip.dicom.header import PARSE_ERRORS, quiet
from densityclip.dicom.inflate import parse_header
from densityclip.reasons import Reason, Refused
from densityclip.records import GENERATED_MARK, GENERATED_NOTICE

# Patient, study, and what says how they are written; copied as they are, or left empty where they must be there.
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_COPIED = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
    *_REQUIRED,
    *("IssuerOfPatientID", "PatientAge", "StudyDescription", "IssuerOfAccessionNumberSequence"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
)
_NAMED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MOMENTS = ("Content", "Acquisition", "Series", "Study")


@dataclass(frozen=True)
class SourceImage:
    """One DICOM image of an exam.

    Attributes:
        image_id: Its id in the predictions.
        header: Its header, without pixels.
    """

    image_id: str
    header: Dataset

    @property
    def sop_uid(self) -> str:
        """SOP Instance UID."""
        return str(self.header.SOPInstanceUID)

    @property
    def moment(self) -> tuple[str, str]:
        """Date `YYYYMMDD` and time `HHMMSS` that the header states of the content, blank where it states none."""
        for what in _MOMENTS:
            day = str(self.header.get(f"{what}Date") or "").strip()
            if len(day) == 8 and day.isdigit():
                time = str(self.header.get(f"{what}Time") or "").strip()[:6]
                return day, time if time.isdigit() and len(time) in (2, 4, 6) else ""
        return "", ""

    @property
    def generated(self) -> bool:
        """Whether the image says that it is generated."""
        return str(self.header.get("ImageComments") or "").startswith(GENERATED_MARK)


def read_source(image_id: str, path: Path) -> SourceImage:
    """Read what output objects repeat of an image.

    Raises:
        Refused: `unreadable`, or `bad_header` where a UID is missing that a reference needs.
    """
    try:
        with quiet(), path.open("rb") as file:
            header = parse_header(file)[0]
            missing = [name for name in _NAMED if not header.get(name)]
    except PARSE_ERRORS as error:
        raise Refused(Reason.UNREADABLE, f"the header cannot be parsed ({type(error).__name__})") from error
    if missing:
        raise Refused(Reason.BAD_HEADER, f"{missing[0]} is missing")
    return SourceImage(image_id, header)


def check_one_patient(sources: Sequence[SourceImage]) -> None:
    """Check that some images may be answered in one object.

    Raises:
        Refused: `bad_header`: they are of several patients or studies, or none of them states a date.
    """
    for keyword in ("PatientID", "IssuerOfPatientID", "StudyInstanceUID"):
        if len({str(source.header.get(keyword) or "") for source in sources}) > 1:
            raise Refused(Reason.BAD_HEADER, f"the images of the exam differ in {keyword}")
    if not latest_moment(sources)[0]:
        raise Refused(Reason.BAD_HEADER, "no image states a date")


def latest_moment(sources: Sequence[SourceImage]) -> tuple[str, str]:
    """The latest date and time that any of the images states; a time that none states is midnight."""
    day, time = max(source.moment for source in sources)
    return day, time or "000000"


def reference_to(source: SourceImage) -> Dataset:
    """The identifiers of an image alone: highdicom logs odd names of patients, so it never gets to see one."""
    named = Dataset()
    for keyword in _NAMED:
        setattr(named, keyword, str(source.header.get(keyword)))
    for keyword in _REQUIRED:
        setattr(named, keyword, None)
    return named


def copy_patient_and_study(source: SourceImage, target: Dataset) -> None:
    """Repeat patient and study of an image in an object about it, as they are written there."""
    with quiet():
        for keyword in _COPIED:
            if keyword in source.header:
                target[keyword] = source.header[keyword]
            elif keyword in _REQUIRED:
                setattr(target, keyword, None)
            elif keyword in target:
                delattr(target, keyword)
    target.StudyInstanceUID = str(source.header.StudyInstanceUID)
    if source.generated:
        target.PatientComments = GENERATED_NOTICE


def write_meta(target: Dataset) -> None:
    """File Meta Information that depends on nothing but the object."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = target.SOPClassUID
    meta.MediaStorageSOPInstanceUID = target.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(derived_uid("implementation"))
    meta.ImplementationVersionName = PRODUCT.upper()
    target.file_meta = meta


def object_bytes(target: Dataset) -> bytes:
    """An output object as a DICOM file."""
    buffer = io.BytesIO()
    with quiet():
        target.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
