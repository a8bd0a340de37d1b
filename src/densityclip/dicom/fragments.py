"""Where in a file the frames lie (PS3.5 A.4): found once when it is opened, so that any frame is one seek away."""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from densityclip.dicom.codestream import starts_frame
from densityclip.reasons import Reason, Refused

# An encoder's smallest fragments are some kilobytes; a file of empty ones would fill the memory with their places.
MAX_FRAGMENTS = 200_000
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)

Piece = tuple[int, int]
"""Offset in the file and length, in bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the frames lie.

    Attributes:
        start: Offset of the first byte of native pixel data.
        vr: Value representation of native pixel data; big-endian bytes of OW lie in swapped pairs.
        frames: Of each encapsulated frame its fragments; empty for native data.
    """

    start: int = 0
    vr: str = "OW"
    frames: tuple[tuple[Piece, ...], ...] = ()


def find_pixel_data(stream: BinaryIO, syntax: str) -> tuple[str, int | None]:
    """Read the head of the element Pixel Data.

    Args:
        stream: At the element's tag; left at the first byte of its value.
        syntax: Transfer Syntax UID.

    Returns:
        The value representation, and the length of the value, None if it is undefined (encapsulated).

    Raises:
        Refused: `no_pixels` or `truncated`.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = stream.read(8)
    if len(head) < 8:
        raise Refused(Reason.NO_PIXELS)
    group, element = struct.unpack(f"{order}HH", head[:4])
    if (group, element) != (0x7FE0, 0x0010):
        raise Refused(Reason.NO_PIXELS, f"element ({group:04X},{element:04X}) where the pixel data should be")
    # Some files are written without value representations under a syntax that has them; as a length in their place the
    # letters would be odd, which no length is.
    vr = head[4:6].decode("latin-1")
    explicit = vr in ("OB", "OW", "UN")
    four = stream.read(4) if explicit else head[4:]
    if len(four) < 4:
        raise Refused(Reason.TRUNCATED, "the file ends where the pixel data begins")
    length = int(struct.unpack(f"{order}L", four)[0])
    if length == 0:
        raise Refused(Reason.NO_PIXELS, "the pixel data is empty")
    return vr if explicit else "OW", None if length == _UNDEFINED else length


def native_layout(stream: BinaryIO, vr: str, length: int, expected: int, line: int) -> Layout:
    """Check that native pixel data is as long as the header promises.

    Args:
        stream: At the first byte of the value.
        vr: Its value representation.
        length: Length of the value as the element states it.
        expected: Bytes of all frames.
        line: Bytes of a row or a column, the shorter: less than that may follow as padding, more is a wrong header.

    Raises:
        Refused: `truncated`: the data is shorter. `bad_header`: it is longer, so that a size or the number of frames
            is wrong.
    """
    start = stream.tell()
    if length < expected:
        raise Refused(Reason.TRUNCATED, f"{length} bytes of {expected}")
    if length - expected >= max(line, 2):
        raise Refused(Reason.BAD_HEADER, f"size and frames make {expected} bytes, the pixel data has {length}")
    stream.seek(start + expected - 1)
    if not stream.read(1):
        raise Refused(Reason.TRUNCATED, f"the file ends before the {expected} bytes of its pixel data")
    return Layout(start, vr)


def encapsulated_layout(stream: BinaryIO, syntax: str, dataset: Dataset, frames: int) -> Layout:
    """Find the fragments of every frame.

    As many fragments as frames are taken one to one, whatever an offset table says (tables are often wrong). Else the
    extended or basic offset table decides, and where it does not fit, the beginnings of codestreams.

    Args:
        stream: At the first item of the value.
        syntax: Transfer Syntax UID.
        dataset: The header, which holds the extended offset table.
        frames: Number of frames that the header promises.

    Raises:
        Refused: `truncated`: the file ends in a fragment, or there are fewer frames than promised. `no_pixels`.
            `bad_header`: there are more frames than promised.
    """
    table, pieces = _walk(stream)
    if not pieces:
        raise Refused(Reason.NO_PIXELS, "the pixel data is empty")
    if len(pieces) == frames:
        return Layout(frames=tuple((piece,) for piece in pieces))
    starts = _table_starts(table, pieces, dataset) if syntax != RLELossless else None
    if starts is None or len(starts) != frames:
        starts = [place for place, piece in enumerate(pieces) if place == 0 or _starts(stream, piece, syntax)]
    if len(starts) < frames:
        raise Refused(Reason.TRUNCATED, f"{len(starts)} frame(s) of {frames}")
    if len(starts) > frames:
        raise Refused(Reason.BAD_HEADER, f"the header promises {frames} frame(s), the pixel data holds {len(starts)}")
    ends = [*starts[1:], len(pieces)]
    return Layout(frames=tuple(tuple(pieces[first:last]) for first, last in zip(starts, ends, strict=True)))


def read_pieces(stream: BinaryIO, pieces: tuple[Piece, ...]) -> bytes:
    """Read the fragments of one frame.

    Raises:
        Refused: `truncated`: the file has become shorter since it was opened.
    """
    parts = []
    for offset, length in pieces:
        stream.seek(offset)
        parts.append(stream.read(length))
        if len(parts[-1]) < length:
            raise Refused(Reason.TRUNCATED, "the file ends within a frame")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _walk(stream: BinaryIO) -> tuple[bytes, list[Piece]]:
    # pydicom drops encapsulated pixel data that is cut short without a word, so the end is looked for here.
    here = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(here)
    table: bytes | None = None
    pieces: list[Piece] = []
    while True:
        head = stream.read(8)
        group, element, length = struct.unpack("<HHL", head) if len(head) == 8 else (0, 0, 0)
        if (group, element) == _END:
            return table or b"", pieces
        here += 8
        if (group, element) != _ITEM or here + length > end:
            raise Refused(Reason.TRUNCATED, f"the file ends in fragment {len(pieces)} of the pixel data")
        if table is None:
            table = stream.read(min(length, 8 * MAX_FRAGMENTS))
        else:
            pieces.append((here, length))
        if len(pieces) > MAX_FRAGMENTS:
            raise Refused(Reason.TOO_LARGE, f"the pixel data has more than {MAX_FRAGMENTS} fragments")
        here += length
        stream.seek(here)


def _table_starts(table: bytes, pieces: list[Piece], dataset: Dataset) -> list[int] | None:
    extended = dataset.get("ExtendedOffsetTable")
    if isinstance(extended, bytes) and extended:
        offsets = np.frombuffer(extended[: len(extended) // 8 * 8], dtype="<u8")
    else:
        offsets = np.frombuffer(table[: len(table) // 4 * 4], dtype="<u4")
    if not len(offsets):
        return None
    # Offsets count from the first item after the table, its head of 8 bytes included.
    first = pieces[0][0]
    places = {offset - first: place for place, (offset, _) in enumerate(pieces)}
    starts = [places.get(int(offset)) for offset in offsets]
    known = [place for place in starts if place is not None]
    fits = len(known) == len(starts) and known[0] == 0 and all(a < b for a, b in pairwise(known))
    return known if fits else None


def _starts(stream: BinaryIO, piece: Piece, syntax: str) -> bool:
    stream.seek(piece[0])
    return starts_frame(stream.read(min(piece[1], 8)), syntax)
