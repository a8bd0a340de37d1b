"""Stable codes for every reason why an image, exam or request is refused. The one list.

`python -m densityclip.reasons > docs/reasons.md` writes the documents' table of them.
"""

import sys
from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused.

    The value is the stable code that stands in tables; `sentence` says it in words, and `remedy` what a person can do.
    """

    sentence: str
    remedy: str

    def __new__(cls, code: str, sentence: str, remedy: str) -> "Reason":
        """Attach the words to the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        member.remedy = remedy
        return member

    # The file as such.
    UNREADABLE = (
        "unreadable",
        "The file cannot be read as DICOM or as an image.",
        "If it is packed, unpack it; if a viewer opens it, export it again as DICOM; a picture can be named in a "
        "table: `densityclip index --dataset table`.",
    )
    EMPTY_FILE = (
        "empty_file",
        "The file is empty.",
        "Copy or export it again.",
    )
    MISSING_FILE = (
        "missing_file",
        "There is no such file: a table names it, or a link leads nowhere.",
        "Finish the copy, or correct the table's paths; `densityclip index --no-files` plans without images.",
    )
    UNREADABLE_FOLDER = (
        "unreadable_folder",
        "The folder cannot be opened.",
        "Allow yourself to read it, and run the same command again.",
    )
    DUPLICATE = (
        "duplicate",
        "An image with the same id (SOP Instance UID, where there is one) was read before it.",
        "Nothing to do: the first one is used.",
    )
    # What kind of object it is.
    NOT_MAMMOGRAPHY = (
        "not_mammography",
        "The object is not a mammogram.",
        "If a stripped header hides a mammogram, say so in a table: `densityclip index --dataset table`, column "
        "`modality`.",
    )
    STRUCTURED_REPORT = (
        "structured_report",
        "The object is a report, not an image; a density in it was read.",
        "Nothing to do: it is no image.",
    )
    PROPRIETARY = (
        "proprietary",
        "The tomosynthesis is in a proprietary container.",
        "Export the volume as Breast Tomosynthesis Image.",
    )
    FOR_PROCESSING = (
        "for_processing",
        "The image is For Processing (raw); the model knows For Presentation.",
        "Send the For Presentation image of the same view; to train on raw ones, `densityclip index --for-processing`.",
    )
    FOR_PRESENTATION = (
        "for_presentation",
        "The image is For Presentation (ready for the screen); raw images (For Processing) were asked for.",
        "Send the For Processing image of the same view; to train on those for the screen, `densityclip index` without "
        "`--for-processing`.",
    )
    PROJECTION = (
        "projection",
        "The object holds tomosynthesis projections, not slices.",
        "Use the reconstructed slices, or the synthesized image.",
    )
    SPECIAL_ACQUISITION = (
        "special_acquisition",
        "A contrast, stereo, scout or biopsy image is no screening view.",
        "Nothing.",
    )
    UNKNOWN_MODALITY = (
        "unknown_modality",
        "Header and table do not say whether this is DM, s2D or DBT.",
        "Mend the header, or state it in a table: `densityclip index --dataset table`, column `modality`, DM, s2D or "
        "DBT.",
    )
    # Whether it is a standard screening view.
    NONSTANDARD_VIEW = (
        "nonstandard_view",
        "The view is neither CC nor MLO.",
        "Nothing to do: the exam's CC and MLO views are used.",
    )
    UNKNOWN_VIEW = (
        "unknown_view",
        "The view is not stated.",
        "Mend the header, or state it in a table: `densityclip index --dataset table`, column `view`, CC or MLO.",
    )
    UNKNOWN_LATERALITY = (
        "unknown_laterality",
        "The side is not stated.",
        "Mend the header, or state it in a table: `densityclip index --dataset table`, column `laterality`, L or R.",
    )
    CONFLICTING_LATERALITY = (
        "conflicting_laterality",
        "The header states both sides.",
        "Look at the image; mend the header, or state the side in a table: `densityclip index --dataset table`, column "
        "`laterality`.",
    )
    MAGNIFICATION = (
        "magnification",
        "A magnification, spot or tangential view is no screening view.",
        "Nothing to do: the exam's standard views are used.",
    )
    PARTIAL_VIEW = (
        "partial_view",
        "The image shows a part of the breast only (a mosaic of a large breast).",
        "Nothing to do: a part does not show how dense the whole is.",
    )
    SPECIMEN = (
        "specimen",
        "The image shows a specimen.",
        "Nothing.",
    )
    IMPLANT = (
        "implant",
        "An implant is in view.",
        "Use the views with the implant displaced, where there are any.",
    )
    MALE = (
        "male",
        "The patient is male; BI-RADS density is defined for screening of women.",
        "Nothing.",
    )
    # Whether its pixels can be trusted.
    NO_PIXELS = (
        "no_pixels",
        "The object has no pixel data.",
        "Export it again: only its header was saved.",
    )
    BAD_HEADER = (
        "bad_header",
        "An attribute that the pixels need is missing or impossible.",
        "Export it again from its source; the detail names the attribute.",
    )
    DECODE_FAILED = (
        "decode_failed",
        "The pixel data cannot be decoded.",
        "Export it again uncompressed; the detail names the kind of compression or error.",
    )
    TRUNCATED = (
        "truncated",
        "The pixel data is shorter than the header promises.",
        "Copy it again: it was cut short on its way.",
    )
    TOO_LARGE = (
        "too_large",
        "The image would decode to more than the limit.",
        "Check the header's Rows, Columns and NumberOfFrames; a picture has to be made smaller.",
    )
    TOO_SMALL = (
        "too_small",
        "The image is too small to show a breast.",
        "Use the original, not a thumbnail.",
    )
    CONSTANT = (
        "constant",
        "Every pixel has the same value.",
        "Nothing to do, if the exposure failed; else export it again.",
    )
    NO_BREAST = (
        "no_breast",
        "No breast was found in the image.",
        "Look at it: test patterns and empty exposures belong here, breasts do not.",
    )
    # Whether an answer can be relied on; these abstain.
    UNLIKE_TRAINING = (
        "unlike_training",
        "The image is unlike those that the model was trained on.",
        "Look at it; images of such a kind need a model that was trained on them.",
    )
    VIEWS_DISAGREE = (
        "views_disagree",
        "Images of one breast got categories that are too far apart to be of one breast.",
        "Look at the images and at their overlays; a wrong side or view in a header can be the cause.",
    )
    TIMEOUT = (
        "timeout",
        "The image, or its exam, took longer than the time limit.",
        "Allow more (`densityclip prepare --timeout`, `densityclip listen --job-seconds`, "
        "`densityclip serve --job-seconds`), or run fewer workers.",
    )
    CRASHED = (
        "crashed",
        "Reading the file, or answering its exam, crashed.",
        "Leave it out, or convert it to an uncompressed syntax with another tool; where memory was short, run fewer "
        "workers, or allow more (`densityclip listen --job-gb`, `densityclip serve --job-gb`).",
    )
    # Whether what came as a whole can be opened, before there is any image.
    BAD_ARCHIVE = (
        "bad_archive",
        "The zip archive is damaged, encrypted or empty.",
        "Make it again, without a password, or send the files as they are.",
    )
    TOO_MUCH = (
        "too_much",
        "The archive or the study holds more than the limit.",
        "Send each exam by itself; for studies that are fetched, `densityclip serve --max-upload-mb` and "
        "`densityclip serve --max-files` are the limits.",
    )
    # Where a study is to be fetched, there is no image yet.
    NOT_RETRIEVED = (
        "not_retrieved",
        "The study could not be fetched from the DICOMweb server.",
        "Check the Study Instance UID, and whether the server is up; then ask again.",
    )


def reason_of(code: str) -> Reason:
    """The reason of a code as it stands in tables.

    Raises:
        KeyError: There is no such code.
    """
    return {reason.value: reason for reason in Reason}[code]


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


def as_page() -> str:
    """The list as a page of the documents, in Markdown."""
    lines = [
        "# Why an image is left out",
        "",
        "Every image that is found ends in the index, or in `excluded.parquet` with one of these codes in the column",
        "`reason` and the fact about this image in `detail`. What cannot be prepared is in the cache's",
        "`refused.parquet` likewise; predictions of refused images, their CSV and the JSON of an exam carry both. A",
        "code never changes its meaning.",
        "",
        "| code | meaning | what you can do |",
        "|---|---|---|",
        *(f"| `{reason.value}` | {reason.sentence} | {reason.remedy} |" for reason in Reason),
        "",
        "Written by `python -m densityclip.reasons`.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_page())
