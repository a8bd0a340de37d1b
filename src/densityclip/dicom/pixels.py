"""Decode a DICOM file frame by frame into display values in [0, 1]."""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from densityclip.dicom.display import StoredValues, display_table, required_integer, stored_values
from densityclip.dicom.header import PARSE_ERRORS, is_dicom, quiet
from densityclip.reasons import Reason, Refused

MAX_FRAME_PIXELS = 100_000_000
MAX_FRAMES = 2_000
_DECODE_ERRORS = (*PARSE_ERRORS, RuntimeError)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


@dataclass(frozen=True, slots=True)
class FrameReader:
    """The frames of one DICOM file, decoded one at a time, so that a volume of 700 MB never lies in memory whole.

    Attributes:
        path: The file.
        frames: Number of frames.
        rows: Rows of a frame.
        columns: Columns of a frame.
        dataset: The header, functional groups included.
        values: How pixel values are stored.
        syntax: Transfer Syntax UID.
    """

    path: Path
    frames: int
    rows: int
    columns: int
    dataset: Dataset
    values: StoredValues
    syntax: str
    _tables: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def frame(self, index: int) -> NDArray[np.float32]:
        """Decode one frame and bring it to display values.

        Args:
            index: 0 to `frames - 1`.

        Returns:
            `[rows, columns]` float32 in `[0, 1]`; air is 0, whatever the polarity of the file.

        Raises:
            Refused: `decode_failed`, `truncated`, `bad_header` or `constant`.
        """
        raw = self._decode(index)
        if raw.shape != (self.rows, self.columns):
            raise Refused(Reason.BAD_HEADER, f"the header says {self.rows} x {self.columns}, the data {raw.shape}")
        low, high = int(raw.min()), int(raw.max())
        if low == high:
            raise Refused(Reason.CONSTANT)
        if low < self.values.lowest or high > self.values.highest:
            raise Refused(
                Reason.BAD_HEADER,
                f"BitsStored {self.values.bits} allows {self.values.lowest} to {self.values.highest}, "
                f"the data holds {low} to {high}",
            )
        table = self._table(index)
        # Unsigned values are their own positions: no copy of 13 megapixels to shift them by zero.
        positions = raw if self.values.lowest == 0 else raw.astype(np.int32) - self.values.lowest
        return table[positions]

    def _table(self, index: int) -> NDArray[np.float32]:
        # Frames nearly always share one VOI: keep the last table only, keyed by the frame that asked for it.
        if index not in self._tables:
            self._tables.clear()
            self._tables[index] = display_table(self.dataset, index, self.values)
        return self._tables[index]

    def _decode(self, index: int) -> NDArray[Any]:
        # Left alone, pydicom masks what lies above BitsStored, and a wrong BitsStored folds bright tissue into black.
        # Signed values need its sign extension, and old overlays really lie in those bits.
        overlay = any((group, 0x0102) in self.dataset for group in range(0x6000, 0x6020, 2))
        options: dict[str, Any] = {"raw": True, "correct_unused_bits": self.values.signed or overlay}
        try:
            with quiet():
                if self.syntax == DeflatedExplicitVRLittleEndian:
                    return pixel_array(pydicom.dcmread(self.path, force=True), index=index, **options)
                return pixel_array(self.path, index=index, transfer_syntax_uid=self.syntax, **options)
        except _DECODE_ERRORS as error:
            if "less than expected" in str(error) or "number of bytes" in str(error):
                raise Refused(Reason.TRUNCATED) from error
            raise Refused(Reason.DECODE_FAILED, f"transfer syntax {self.syntax}: {type(error).__name__}") from error


@contextlib.contextmanager
def read_frames(path: Path) -> Iterator[FrameReader]:
    """Open a DICOM file for reading its frames one at a time.

    Everything that can be checked without decoding is checked here.

    Raises:
        Refused: `missing_file`, `empty_file`, `unreadable`, `no_pixels`, `bad_header`, `truncated` or `too_large`.
    """
    yield _open(path)


def _open(path: Path) -> FrameReader:
    try:
        size = path.stat().st_size
        if size == 0:
            raise Refused(Reason.EMPTY_FILE)
        if not is_dicom(path):
            raise Refused(Reason.UNREADABLE, "the file does not start like DICOM")
        with path.open("rb") as handle, quiet():
            dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True)
            syntax = _transfer_syntax(dataset)
            rows, columns = required_integer(dataset, "Rows"), required_integer(dataset, "Columns")
            frames = int(dataset.get("NumberOfFrames") or 1)
            _check_shape(dataset, rows, columns, frames)
            if syntax not in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
                bits = required_integer(dataset, "BitsAllocated")
                _check_length(handle, syntax, (rows * columns * frames * bits + 7) // 8)
            return FrameReader(path, frames, rows, columns, dataset, stored_values(dataset), syntax)
    except FileNotFoundError as error:
        raise Refused(Reason.MISSING_FILE) from error
    except PARSE_ERRORS as error:
        raise Refused(Reason.UNREADABLE, f"the header cannot be parsed ({type(error).__name__})") from error


def _transfer_syntax(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", None) or Dataset()
    stated = str(meta.get("TransferSyntaxUID") or "")
    if stated:
        return stated
    implicit, little = dataset.original_encoding
    if not little:
        return str(ExplicitVRBigEndian)
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)


def _check_shape(dataset: Dataset, rows: int, columns: int, frames: int) -> None:
    samples = required_integer(dataset, "SamplesPerPixel")
    if samples != 1:
        raise Refused(Reason.BAD_HEADER, f"SamplesPerPixel is {samples}; a mammogram has 1")
    if min(rows, columns, frames) < 1:
        raise Refused(Reason.BAD_HEADER, f"{rows} rows, {columns} columns, {frames} frames")
    if rows * columns > MAX_FRAME_PIXELS or frames > MAX_FRAMES:
        raise Refused(Reason.TOO_LARGE, f"{frames} frame(s) of {rows} x {columns}")


def _check_length(handle: Any, syntax: str, expected: int) -> None:
    # pydicom drops encapsulated pixel data that is cut short without a word, so the end is looked for here.
    start = handle.tell()
    end = handle.seek(0, 2)
    handle.seek(start)
    head = handle.read(8)
    if len(head) < 8:
        raise Refused(Reason.NO_PIXELS)
    group, element = struct.unpack("<HH", head[:4])
    if (group, element) != (0x7FE0, 0x0010):
        raise Refused(Reason.NO_PIXELS, f"element ({group:04X},{element:04X}) where the pixel data should be")
    length = struct.unpack("<L", head[4:])[0] if syntax == ImplicitVRLittleEndian else _long_length(handle)
    if length == _UNDEFINED:
        _check_fragments(handle, end)
    elif length == 0:
        raise Refused(Reason.NO_PIXELS, "the pixel data is empty")
    else:
        here = min(length, end - handle.tell())
        if here < expected and syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            raise Refused(Reason.TRUNCATED, f"{here} bytes of {expected}")


def _long_length(handle: Any) -> int:
    four = handle.read(4)
    if len(four) < 4:
        raise Refused(Reason.TRUNCATED)
    return int(struct.unpack("<L", four)[0])


def _check_fragments(handle: Any, end: int) -> None:
    fragments = 0
    while True:
        head = handle.read(8)
        if len(head) < 8:
            raise Refused(Reason.TRUNCATED, f"the file ends in fragment {fragments} of the pixel data")
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == _END:
            if fragments < 2:
                # The first item is the offset table; without a second there is no image.
                raise Refused(Reason.NO_PIXELS, "the pixel data is empty")
            return
        if (group, element) != _ITEM or handle.tell() + length > end:
            raise Refused(Reason.TRUNCATED, f"the file ends in fragment {fragments} of the pixel data")
        handle.seek(length, 1)
        fragments += 1
