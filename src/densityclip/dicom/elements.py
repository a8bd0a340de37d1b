"""Values of a parsed header, without converting what is not asked for.

pydicom converts an element to a Python value when it is first looked at, which costs more than reading it. Most of what
an index needs is plain ASCII text, so its raw bytes will do; anything else goes through pydicom.
"""

import struct
import zlib
from datetime import date
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import BaseTag, Tag

# What pydicom raises on files that are damaged or are no DICOM at all: truncated, bit-flipped, foreign ones.
PARSE_ERRORS = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    struct.error,
    zlib.error,
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
_PADDING = " \0"


def tag(keyword: str) -> BaseTag:
    """The tag of a keyword of the standard."""
    return Tag(keyword)


def words(dataset: Dataset, tag: BaseTag) -> list[str]:
    """The values of an attribute as text, padding removed; empty if it is absent or cannot be read."""
    element = dataset.get_item(tag, keep_deferred=True)
    if element is None:
        return []
    raw = element.value
    if isinstance(element, RawDataElement) and isinstance(raw, bytes) and raw.isascii():
        return [part.strip(_PADDING) for part in raw.decode("ascii").split("\\")] if raw else []
    value = _converted(dataset, tag)
    if value is None:
        return []
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return [str(part).strip(_PADDING) for part in parts]


def text(dataset: Dataset, tag: BaseTag) -> str | None:
    """The first value of an attribute as text, None if there is none."""
    found = words(dataset, tag)
    return found[0] or None if found else None


def integer(dataset: Dataset, tag: BaseTag) -> int | None:
    """The first value of an attribute that is written as text, as an integer; None if it is none."""
    written = text(dataset, tag)
    try:
        return int(float(written)) if written else None
    except (ValueError, OverflowError):
        return None


def day(dataset: Dataset, tag: BaseTag) -> date | None:
    """A date, also as the ACR-NEMA form `2024.01.31`; None if it is none."""
    written = (text(dataset, tag) or "").replace(".", "").replace("-", "")
    try:
        return date(int(written[:4]), int(written[4:6]), int(written[6:8])) if len(written) >= 8 else None
    except ValueError:
        return None


def items(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """The items of a sequence; empty if it is absent or cannot be read."""
    if tag not in dataset:
        return []
    value = _converted(dataset, tag)
    return list(value) if isinstance(value, pydicom.Sequence) else []


def holds(dataset: Dataset, tag: BaseTag, codes: tuple[bytes, ...]) -> bool:
    """Whether a sequence may hold one of some codes: by its raw bytes, without parsing it, where it is still raw."""
    element = dataset.get_item(tag, keep_deferred=True)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        return any(code in element.value for code in codes)
    return element is not None


def _converted(dataset: Dataset, tag: BaseTag) -> Any:
    try:
        return dataset[tag].value
    except PARSE_ERRORS:
        # One attribute that cannot be read (a date of "unknown") is a missing attribute, not a lost file.
        return None
