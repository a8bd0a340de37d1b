"""What the files say: headers read in worker processes, merged with what the table says, and judged row by row."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRules:
    """How the headers of files are used beside what a table says; where both speak, the table goes first.

    Attributes:
        read_files: Whether files are looked at at all.
        pictures: Whether a file that is no DICOM (JPEG, PNG, ...) is taken as an image.
        require_view: Whether an image without a stated view, side or modality is left out; else these stay null or
            `unknown`.
    """

    read_files: bool = True
    pictures: bool = True
    require_view: bool = False
