"""How pixel values are stored, and whether the decoded ones agree with that (PS3.3 C.7.6.3, PS3.5 8.1).

Seen and refused: values beyond BitsStored (10 bits stated, 12 in the data; signed data called unsigned), and unsigned
data called signed where the grey levels run on smoothly past the largest signed value.

Not seen, because the data does not show it: too few or too many BitsStored, or a wrong sign, when every value fits both
readings (dark data only); rows and columns of native data that are wrong but whose product is right; signed data of
16 bits called unsigned.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from densityclip.dicom.header import PARSE_ERRORS
from densityclip.reasons import Reason, Refused

# Rows between those that are looked at for breaks in the grey levels.
_ROW_STEP = 4


@dataclass(frozen=True, slots=True)
class StoredValues:
    """How pixel values are stored.

    Attributes:
        bits: BitsStored, 1 to 16.
        signed: Whether PixelRepresentation is 1.
        inverted: Whether the photometric interpretation is MONOCHROME1.
        padding: Lowest and highest stored value that stand for air, None without padding.
        allocated: BitsAllocated, 8 or 16.
        overlay_bits: Bits of the container, as a mask, in which old overlays lie; they are no grey level.
    """

    bits: int
    signed: bool
    inverted: bool
    padding: tuple[int, int] | None
    allocated: int = 16
    overlay_bits: int = 0

    @property
    def lowest(self) -> int:
        """Smallest value that can be stored."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Largest value that can be stored."""
        return self.lowest + (1 << self.bits) - 1


def stored_values(dataset: Dataset) -> StoredValues:
    """Read how the pixel values of a data set are stored.

    HighBit is not read: where it is not BitsStored - 1 it is mostly the header that is wrong, and values that really
    lie higher are refused as out of range.

    Raises:
        Refused: `bad_header`: an attribute is missing or impossible.
    """
    bits, allocated = required_integer(dataset, "BitsStored"), required_integer(dataset, "BitsAllocated")
    if allocated not in (8, 16):
        raise Refused(Reason.BAD_HEADER, f"BitsAllocated is {allocated}; a mammogram has 8 or 16")
    if not 1 <= bits <= allocated:
        raise Refused(Reason.BAD_HEADER, f"BitsStored is {bits} of {allocated} allocated")
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Refused(Reason.BAD_HEADER, f"PhotometricInterpretation is {photometric or 'missing'}")
    representation = required_integer(dataset, "PixelRepresentation")
    if representation not in (0, 1):
        raise Refused(Reason.BAD_HEADER, f"PixelRepresentation is {representation}")
    signed = representation == 1
    return StoredValues(
        bits=bits,
        signed=signed,
        inverted=photometric == "MONOCHROME1",
        padding=_padding(dataset, signed),
        allocated=allocated,
        overlay_bits=_overlay_bits(dataset, bits, allocated),
    )


def required_integer(dataset: Dataset, keyword: str) -> int:
    """An integer attribute that the pixels need.

    Raises:
        Refused: `bad_header`: it is missing or is no number.
    """
    try:
        return int(dataset[keyword].value)
    except PARSE_ERRORS as error:
        raise Refused(Reason.BAD_HEADER, f"{keyword} is missing or no number") from error


def read_stored(
    pixels: NDArray[Any], values: StoredValues, *, coded_bits: int | None = None, coded_signed: bool | None = None
) -> NDArray[Any]:
    """Give decoded samples their sign, and check them against what the header says of them.

    Args:
        pixels: `[rows, columns]`, integers of 8 or 16 bits as decoded.
        values: What the header says.
        coded_bits: Precision of a JPEG-LS or JPEG 2000 codestream, whose sign bit lies at its top.
        coded_signed: Whether a JPEG 2000 codestream says that its samples have a sign.

    Returns:
        `[rows, columns]` integers of the same width, signed or unsigned as the header says.

    Raises:
        Refused: `bad_header`: the values are not those that the header describes. `constant`: they are all the same.
    """
    if values.overlay_bits:
        unsigned = pixels.view(np.dtype(f"u{pixels.itemsize}"))
        pixels = unsigned & ~unsigned.dtype.type(values.overlay_bits)
    if values.signed and pixels.itemsize * 8 < values.bits:
        # A codestream of 8 bits for more that are stored: its top bit is the sign only if it says so.
        pixels = pixels.astype(np.int16)
    width = 8 * pixels.itemsize
    kind = "i" if values.signed or coded_signed else "u"
    pixels = pixels.view(np.dtype(f"{kind}{width // 8}"))
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        raise Refused(Reason.CONSTANT)
    if values.signed:
        top = min(values.bits, coded_bits or values.bits)
        if low >= 0 and 1 << (top - 1) <= high < 1 << top:
            # The sign bit was cut off with those above it (JPEG-LS cannot do otherwise), or there never was a sign.
            _check_signed(pixels, top, values.padding)
            sign = pixels.dtype.type(1 << (top - 1))
            pixels = (pixels ^ sign) - sign
            low, high = int(pixels.min()), int(pixels.max())
        elif low < 0 <= high and top == width:
            _check_signed(pixels, top, values.padding)
    elif low < 0:
        raise Refused(Reason.BAD_HEADER, f"the header says unsigned, the codestream holds values down to {low}")
    if low < values.lowest or high > values.highest:
        raise Refused(
            Reason.BAD_HEADER,
            f"BitsStored {values.bits} allows {values.lowest} to {values.highest}, the data holds {low} to {high}",
        )
    return pixels if values.signed else pixels.view(np.dtype(f"u{width // 8}"))


def _check_signed(pixels: NDArray[Any], bits: int, padding: tuple[int, int] | None) -> None:
    # Where a picture crosses the sign bit, one of the two readings makes a small step there and the other a leap of
    # nearly 2^bits. Edges of markers leap in both; skin and tissue do not, and they are the many. Padding lies at the
    # lowest value that there is, half of the range below tissue: its edges say nothing.
    sign = 1 << (bits - 1)
    unsigned = pixels[::_ROW_STEP].astype(np.int32) & ((1 << bits) - 1)
    crossing = np.diff(unsigned >= sign, axis=1)
    if padding is not None:
        signed = (unsigned ^ sign) - sign
        padded = (signed >= padding[0]) & (signed <= padding[1])
        crossing &= ~(padded[:, 1:] | padded[:, :-1])
    steps = np.abs(np.diff(unsigned, axis=1))
    smooth_unsigned = int((steps[crossing] < sign >> 2).sum())
    if 2 * smooth_unsigned > int(crossing.sum()):
        raise Refused(
            Reason.BAD_HEADER,
            f"PixelRepresentation says signed, but the grey levels run on past {(1 << (bits - 1)) - 1}: "
            "the data is unsigned",
        )


def _overlay_bits(dataset: Dataset, bits: int, allocated: int) -> int:
    # An overlay with data of its own says position 0 (PS3.3 C.9.2); the retired kind lies above the stored bits.
    mask = 0
    for group in range(0x6000, 0x6020, 2):
        try:
            position = int(dataset[group, 0x0102].value)
        except PARSE_ERRORS:
            continue
        if bits <= position < allocated:
            mask |= 1 << position
    return mask


def _padding(dataset: Dataset, signed: bool) -> tuple[int, int] | None:
    def stored(keyword: str) -> int | None:
        try:
            raw = int(dataset[keyword].value)
        except PARSE_ERRORS:
            return None
        # The attribute is US or SS by PixelRepresentation, and archives mix the two up: read the bits.
        raw &= (1 << 16) - 1
        return raw - (1 << 16) if signed and raw >= 1 << 15 else raw

    first = stored("PixelPaddingValue")
    if first is None:
        return None
    limit = stored("PixelPaddingRangeLimit")
    last = first if limit is None else limit
    return min(first, last), max(first, last)
