"""Stable codes for every reason why an image, exam or request is refused. The one list."""

from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused. The value is the stable code that stands in tables; `sentence` says it in words."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> "Reason":
        """Attach the sentence to the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    # The file as such.
    UNREADABLE = "unreadable", "The file cannot be read as DICOM or as an image."
    EMPTY_FILE = "empty_file", "The file is empty."
    MISSING_FILE = "missing_file", "The table names a file that does not exist."
    UNREADABLE_FOLDER = "unreadable_folder", "The folder cannot be opened."
    DUPLICATE = "duplicate", "Another file with the same SOP Instance UID was read first."
    # What kind of object it is.
    NOT_MAMMOGRAPHY = "not_mammography", "The object is not a mammogram."
    STRUCTURED_REPORT = "structured_report", "The object is a report, not an image; a density in it was read."
    PROPRIETARY = "proprietary", "The tomosynthesis is in a proprietary container; export it as Breast Tomosynthesis."
    FOR_PROCESSING = "for_processing", "The image is For Processing (raw); the model knows For Presentation."
    PROJECTION = "projection", "The object holds tomosynthesis projections, not slices."
    SPECIAL_ACQUISITION = "special_acquisition", "A contrast, stereo, scout or biopsy image is no screening view."
    UNKNOWN_MODALITY = "unknown_modality", "Header and table do not say whether this is DM, s2D or DBT."
    # Whether it is a standard screening view.
    NONSTANDARD_VIEW = "nonstandard_view", "The view is neither CC nor MLO."
    UNKNOWN_VIEW = "unknown_view", "The view is not stated."
    UNKNOWN_LATERALITY = "unknown_laterality", "The side is not stated."
    CONFLICTING_LATERALITY = "conflicting_laterality", "The header states both sides."
    MAGNIFICATION = "magnification", "A magnification, spot or tangential view is no screening view."
    PARTIAL_VIEW = "partial_view", "The image shows a part of the breast only (a mosaic of a large breast)."
    SPECIMEN = "specimen", "The image shows a specimen."
    IMPLANT = "implant", "An implant is in view."
    MALE = "male", "The patient is male; BI-RADS density is defined for screening of women."
    # Whether its pixels can be trusted.
    NO_PIXELS = "no_pixels", "The object has no pixel data."
    BAD_HEADER = "bad_header", "An attribute that the pixels need is missing or impossible."
    DECODE_FAILED = "decode_failed", "The pixel data cannot be decoded."
    TRUNCATED = "truncated", "The pixel data is shorter than the header promises."
    TOO_LARGE = "too_large", "The image would decode to more than the limit."
    TOO_SMALL = "too_small", "The image is too small to show a breast."
    CONSTANT = "constant", "Every pixel has the same value."
    NO_BREAST = "no_breast", "No breast was found in the image."
    TIMEOUT = "timeout", "The image took longer than the time limit."
    CRASHED = "crashed", "Reading the file crashed."


class Refused(Exception):
    """One image, exam or request is refused; everything else goes on.

    Attributes:
        reason: The stable code.
        detail: The fact about this item, without names of patients.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason.value}: {detail or reason.sentence}")

    def __reduce__(self) -> tuple[type["Refused"], tuple[Reason, str]]:
        # Exceptions are pickled by their message alone; one that comes back from a worker must be whole.
        return type(self), (self.reason, self.detail)
