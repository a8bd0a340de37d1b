"""Decode a DICOM file frame by frame into display values in [0, 1]."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from densityclip.dicom import decoders
from densityclip.dicom.codestream import JPEG_SYNTAXES, Codestream, read_codestream
from densityclip.dicom.display import display_table, has_own_display
from densityclip.dicom.exposure import attenuation_table, holds_exposure
from densityclip.dicom.fragments import Layout, encapsulated_layout, find_pixel_data, native_layout, read_pieces
from densityclip.dicom.header import PARSE_ERRORS, is_dicom, quiet
from densityclip.dicom.inflate import parse_header
from densityclip.dicom.stored import StoredValues, read_stored, required_integer, stored_values
from densityclip.reasons import Reason, Refused

MAX_FRAME_PIXELS = 100_000_000
MAX_FRAMES = 2_000
MAX_PIXELS = 10_000_000_000
"""Of a whole volume; 150 slices of the largest detector have 1.5e9. A deflated file can promise anything."""

NATIVE_SYNTAXES = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
)
_DECODE_ERRORS = (*PARSE_ERRORS, RuntimeError)
_SHARED = -1


@dataclass(frozen=True, slots=True, eq=False)
class FrameReader:
    """The frames of one DICOM file, decoded one at a time, so that a volume of 700 MB never lies in memory whole.

    The file stays open while the reader is in use; each frame is one seek and one decoding.

    Attributes:
        frames: Number of frames.
        rows: Rows of a frame.
        columns: Columns of a frame.
        dataset: The header, functional groups included.
        values: How pixel values are stored.
        syntax: Transfer Syntax UID.
        for_processing: Whether the image is raw; its display values are then attenuations, see `exposure`.
    """

    frames: int
    rows: int
    columns: int
    dataset: Dataset
    values: StoredValues
    syntax: str
    for_processing: bool
    _stream: BinaryIO
    _layout: Layout
    _tables: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def frame(self, index: int) -> NDArray[np.float32]:
        """Decode one frame and bring it to display values.

        Args:
            index: 0 to `frames - 1`.

        Returns:
            `[rows, columns]` float32 in `[0, 1]`; air is 0, whatever the polarity of the file.

        Raises:
            Refused: `decode_failed`, `truncated`, `bad_header`, `too_large` or `constant`.
        """
        return self.display(self.raw_frame(index), index)

    def frames_at(self, indices: Iterable[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Decode some frames, one after the other; each is `(index, frame)` as of `frame`.

        Raises:
            Refused: As `frame`.
        """
        return ((index, self.frame(index)) for index in indices)

    def raw_frame(self, index: int) -> NDArray[Any]:
        """Decode one frame, and check its values against the header; for those who want only a part displayed.

        Args:
            index: 0 to `frames - 1`.

        Returns:
            `[rows, columns]` integers of 8 or 16 bits as stored: no rescaling, no window, no polarity, padding as it
            is. Maybe read-only.

        Raises:
            Refused: `decode_failed`, `truncated`, `bad_header`, `too_large` or `constant`.
        """
        if not 0 <= index < self.frames:
            raise IndexError(f"frame {index} of {self.frames}")
        with quiet():
            if not self._layout.frames:
                return read_stored(self._native(index), self.values)
            pixels, found = self._decoded(index)
        # Only JPEG-LS and JPEG 2000 tie the sign bit to the precision of the codestream.
        bits = None if found is None or self.syntax in JPEG_SYNTAXES else found.precision
        return read_stored(pixels, self.values, coded_bits=bits, coded_signed=found.signed if found else None)

    def display(self, raw: NDArray[Any], index: int) -> NDArray[np.float32]:
        """Display values of raw ones, or of any part of them.

        Args:
            raw: Values of `raw_frame`, in any shape.
            index: The frame they come from; frames may differ in their window.

        Returns:
            float32 in `[0, 1]`, in the shape of `raw`.

        Raises:
            Refused: `bad_header`: a table or window cannot be read.
        """
        return self.table(index)[raw]

    def table(self, index: int) -> NDArray[np.float32]:
        """Display value of every raw value of a frame: `table(index)[raw]`, for negative values as well.

        Raises:
            Refused: `bad_header`: a table or window cannot be read.
        """
        try:
            # Slices nearly always share one window: one table is kept, made again for frames that have their own.
            key = index if has_own_display(self.dataset, index) else _SHARED
        except PARSE_ERRORS as error:
            raise Refused(Reason.BAD_HEADER, "the functional groups of the frames cannot be read") from error
        if key not in self._tables:
            self._tables.clear()
            # Index -1 of an array is its last element, so with 0 first, signed values are their own positions.
            self._tables[key] = np.roll(self._table(index), self.values.lowest)
        return self._tables[key]

    def _table(self, index: int) -> NDArray[np.float32]:
        if self.for_processing:
            return attenuation_table(self.dataset, self.values)
        return display_table(self.dataset, index, self.values)

    def _native(self, index: int) -> NDArray[Any]:
        self._stream.seek(self._layout.start)
        options = self._options() | {
            "number_of_frames": self.frames,
            "pixel_keyword": "PixelData",
            "pixel_vr": self._layout.vr,
            "view_only": True,
            # By itself pydicom masks what lies above BitsStored: a wrong one would fold bright tissue into black.
            "correct_unused_bits": False,
        }
        decoder: Any = get_decoder(UID(self.syntax))
        try:
            pixels, _ = decoder.as_array(self._stream, index=index, raw=True, validate=False, **options)
        except _DECODE_ERRORS as error:
            raise Refused(Reason.TRUNCATED, f"frame {index} cannot be read ({type(error).__name__})") from error
        return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))

    def _decoded(self, index: int) -> tuple[NDArray[Any], Codestream | None]:
        try:
            data = read_pieces(self._stream, self._layout.frames[index])
        except OSError as error:
            raise Refused(Reason.UNREADABLE, f"frame {index} cannot be read ({type(error).__name__})") from error
        found = read_codestream(data, self.syntax)
        if found is not None:
            self._check_codestream(found)
        return decoders.decode_frame(data, self.syntax, self._options() | {"codestream": found}), found

    def _check_codestream(self, found: Codestream) -> None:
        # A precision that is not BitsStored is normal: most encoders code the whole container of 16 bits, some fewer
        # bits than BitsStored promises; what counts is that the decoded values fit, and that is checked.
        if found.rows * found.columns > MAX_FRAME_PIXELS:
            raise Refused(Reason.TOO_LARGE, f"the codestream promises {found.rows} x {found.columns} pixels")
        if (found.rows, found.columns) != (self.rows, self.columns):
            raise Refused(
                Reason.BAD_HEADER,
                f"the header says {self.rows} x {self.columns}, the codestream {found.rows} x {found.columns}",
            )
        if found.components != 1:
            raise Refused(
                Reason.BAD_HEADER, f"the codestream has {found.components} samples a pixel; a mammogram has 1"
            )
        if found.precision > self.values.allocated:
            raise Refused(
                Reason.BAD_HEADER,
                f"the codestream has {found.precision} bits, BitsAllocated is {self.values.allocated}",
            )

    def _options(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "bits_allocated": self.values.allocated,
            "bits_stored": self.values.bits,
            "pixel_representation": int(self.values.signed),
        }


@contextlib.contextmanager
def read_frames(path: Path) -> Iterator[FrameReader]:
    """Open a DICOM file for reading its frames one at a time; it is closed at the end of the `with`.

    Everything that can be checked without decoding is checked here.

    Raises:
        Refused: `missing_file`, `empty_file`, `unreadable`, `no_pixels`, `bad_header`, `truncated`, `too_large` or
            `decode_failed` (a transfer syntax that nothing decodes).
    """
    with contextlib.ExitStack() as files:
        try:
            with quiet():
                reader = _open(path, files)
        except FileNotFoundError as error:
            raise Refused(Reason.MISSING_FILE) from error
        except PARSE_ERRORS as error:
            raise Refused(Reason.UNREADABLE, f"the header cannot be parsed ({type(error).__name__})") from error
        yield reader


def _open(path: Path, files: contextlib.ExitStack) -> FrameReader:
    if path.stat().st_size == 0:
        raise Refused(Reason.EMPTY_FILE)
    file = files.enter_context(path.open("rb"))
    if not is_dicom(path):
        raise Refused(Reason.UNREADABLE, "the file does not start like DICOM")
    dataset, stream = parse_header(file)
    syntax = _transfer_syntax(dataset)
    vr, length = find_pixel_data(stream, syntax)
    rows, columns = required_integer(dataset, "Rows"), required_integer(dataset, "Columns")
    frames = _frames(dataset)
    _check_shape(dataset, rows, columns, frames)
    values = stored_values(dataset)
    if syntax in NATIVE_SYNTAXES:
        if length is None:
            raise Refused(Reason.BAD_HEADER, "the pixel data is encapsulated, the transfer syntax is uncompressed")
        size = values.allocated // 8
        layout = native_layout(stream, vr, length, frames * rows * columns * size, min(rows, columns) * size)
    elif syntax not in decoders.SYNTAXES:
        # Of a damaged header the value may be anything, a name as well.
        known = syntax if set(syntax) <= set("0123456789.") else "that is no UID"
        raise Refused(Reason.DECODE_FAILED, f"nothing decodes transfer syntax {known}")
    elif length is not None:
        raise Refused(Reason.BAD_HEADER, "the pixel data is not encapsulated, the transfer syntax is compressed")
    else:
        layout = encapsulated_layout(stream, syntax, dataset, frames)
    return FrameReader(frames, rows, columns, dataset, values, syntax, holds_exposure(dataset), stream, layout)


def _frames(dataset: Dataset) -> int:
    # Without the attribute, or with nothing or 0 in it, there is one frame; the length of the pixel data is checked.
    element = dataset.get_item("NumberOfFrames")
    return (required_integer(dataset, "NumberOfFrames") or 1) if element is not None and element.value else 1


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
    if rows * columns > MAX_FRAME_PIXELS or frames > MAX_FRAMES or frames * rows * columns > MAX_PIXELS:
        raise Refused(Reason.TOO_LARGE, f"{frames} frame(s) of {rows} x {columns}")
