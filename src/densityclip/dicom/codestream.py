"""What a compressed frame says about itself, read from its own header without decoding it.

The DICOM header and the codestream each state size, precision and sign, and archives hold files where the two differ:
decoders then return a wrong picture or none, and seldom say so. Sources: ITU-T T.81 (JPEG) annex B, ITU-T T.87
(JPEG-LS) annex C, ITU-T T.800 (JPEG 2000) annex A, which ITU-T T.814 (HTJ2K) shares.
"""

import struct
from dataclasses import dataclass

import numpy as np
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from densityclip.reasons import Reason, Refused

JPEG_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
JPEG_LS_SYNTAXES = frozenset({JPEGLSLossless, JPEGLSNearLossless})
JPEG_2000_SYNTAXES = frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})

_SOI, _EOI, _SOS, _DRI = 0xFFD8, 0xFFD9, 0xFFDA, 0xFFDD
_SOF_JPEG_LS = 0xFFF7
# SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC), which lie between them.
_SOF_JPEG = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
_SOF_LOSSLESS = 0xFFC3
_ALONE = frozenset({0xFF01, *range(0xFFD0, 0xFFD8)})
_SOC, _SIZ, _SOT, _EOC = 0xFF4F, 0xFF51, 0xFF90, 0xFFD9
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_TAIL = 64
# T.800 A.4.2 numbers them in 16 bits.
_MOST_TILES = 65535


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of one compressed frame.

    Attributes:
        coding: `jpeg`, `jpeg-lossless`, `jpeg-ls`, `jpeg-2000` or `htj2k`.
        rows: Rows of the picture.
        columns: Columns of the picture.
        precision: Bits of a sample.
        components: Samples of a pixel.
        signed: Whether samples have a sign; None where the coding cannot say (JPEG, JPEG-LS).
        restarts: Whether a JPEG has restart markers.
    """

    coding: str
    rows: int
    columns: int
    precision: int
    components: int
    signed: bool | None = None
    restarts: bool = False


def read_codestream(data: bytes, syntax: str) -> Codestream | None:
    """Read the header of a compressed frame, and check that the frame does not end early.

    Args:
        data: The frame, its fragments joined.
        syntax: Transfer Syntax UID.

    Returns:
        None for RLE and other syntaxes whose frames say nothing about themselves.

    Raises:
        Refused: `decode_failed`: the data is not what the transfer syntax says, or is damaged where that can be seen
            (a flipped bit in the samples of a JPEG cannot). `truncated`: its end is missing.
    """
    try:
        if syntax in JPEG_2000_SYNTAXES:
            return _read_jpeg_2000(data)
        if syntax in JPEG_SYNTAXES or syntax in JPEG_LS_SYNTAXES:
            return _read_jpeg(data, wanted_ls=syntax in JPEG_LS_SYNTAXES)
    except (struct.error, IndexError) as error:
        raise Refused(Reason.TRUNCATED, "the codestream ends in its header") from error
    return None


def starts_frame(head: bytes, syntax: str) -> bool:
    """Whether the first bytes of a fragment begin a codestream, so that a frame begins there.

    Args:
        head: At least 4 bytes.
        syntax: Transfer Syntax UID. Each fragment of an RLE image is a frame (PS3.5 A.4.2).
    """
    if syntax in JPEG_2000_SYNTAXES:
        return head[:4] == b"\xff\x4f\xff\x51" or head[:4] == _JP2_SIGNATURE[:4]
    if syntax in JPEG_SYNTAXES or syntax in JPEG_LS_SYNTAXES:
        return head[:3] == b"\xff\xd8\xff"
    return syntax == RLELossless


def _two(data: bytes, position: int) -> int:
    return int(struct.unpack_from(">H", data, position)[0])


def _read_jpeg(data: bytes, *, wanted_ls: bool) -> Codestream:
    if data[:2] != b"\xff\xd8":
        raise Refused(Reason.DECODE_FAILED, "the data does not start like JPEG or JPEG-LS")
    frame: tuple[int, bytes] | None = None
    restarts = False
    position = 2
    while True:
        while data[position : position + 2] == b"\xff\xff":
            position += 1
        marker = _two(data, position)
        position += 2
        if marker in _ALONE:
            continue
        if marker < 0xFF00 or marker in (_SOI, _EOI):
            raise Refused(Reason.DECODE_FAILED, "the header of the JPEG codestream is damaged")
        length = _two(data, position)
        if marker == _SOS:
            break
        if marker in _SOF_JPEG or marker == _SOF_JPEG_LS:
            frame = (marker, data[position + 2 : position + 8])
        elif marker == _DRI:
            # T.81 has two bytes here, T.87 up to four.
            restarts = any(data[position + 2 : position + length])
        position += length
    if frame is None:
        raise Refused(Reason.DECODE_FAILED, "the JPEG codestream does not state its size")
    marker, content = frame
    if (marker == _SOF_JPEG_LS) != wanted_ls:
        raise Refused(Reason.DECODE_FAILED, "transfer syntax and codestream differ: one is JPEG, the other JPEG-LS")
    _check_end(data)
    precision, rows, columns, components = struct.unpack(">BHHB", content)
    coding = "jpeg-ls" if wanted_ls else "jpeg-lossless" if marker == _SOF_LOSSLESS else "jpeg"
    if coding == "jpeg-lossless":
        _check_scan(data, position + length)
    return Codestream(coding, rows, columns, precision, components, None, restarts)


def _check_end(data: bytes) -> None:
    # Neither coding can hold the marker within its data. Some writers fill up to a fixed length behind it.
    if b"\xff\xd9" not in data[-_TAIL:] and b"\xff\xd9" not in data.rstrip(b"\0")[-_TAIL:]:
        raise Refused(Reason.TRUNCATED, "the codestream has no end")


def _check_scan(data: bytes, start: int) -> None:
    # Decoders go on over a damaged scan and return a wrong picture. Within the one scan of a lossless JPEG of one
    # component 0xFF is followed by 0, by a restart or by more of its kind; 2 ms for 7 MB.
    scan = np.frombuffer(data, dtype=np.uint8)[start:]
    after = scan[np.flatnonzero(scan[:-1] == 0xFF) + 1]
    strange = after[(after != 0) & (after != 0xFF) & ((after < 0xD0) | (after > 0xD7))]
    if len(strange) != 1 or strange[0] != 0xD9:
        raise Refused(Reason.DECODE_FAILED, "the JPEG scan is damaged")


def _read_jpeg_2000(data: bytes) -> Codestream:
    start = _start_of_jp2(data) if data[:12] == _JP2_SIGNATURE else 0
    if _two(data, start) != _SOC or _two(data, start + 2) != _SIZ:
        raise Refused(Reason.DECODE_FAILED, "the data does not start like JPEG 2000")
    right, bottom, left, top, *tiles = struct.unpack_from(">8L", data, start + 8)
    components, depth, across, down = struct.unpack_from(">HBBB", data, start + 40)
    if components == 1 and (across, down) != (1, 1):
        raise Refused(Reason.DECODE_FAILED, "the JPEG 2000 codestream is subsampled")
    if right <= left or bottom <= top:
        raise Refused(Reason.DECODE_FAILED, "the JPEG 2000 codestream has no size")
    _check_tiles((right, bottom, left, top), tiles)
    _walk_tile_parts(data, start + 2)
    # Bit 14 of Rsiz announces part 15 of the standard, the high-throughput block coder.
    coding = "htj2k" if _two(data, start + 6) & 0x4000 else "jpeg-2000"
    return Codestream(coding, bottom - top, right - left, (depth & 0x7F) + 1, components, bool(depth & 0x80))


def _check_tiles(image: tuple[int, int, int, int], tiles: list[int]) -> None:
    # T.800 B.3. OpenJPH never returns from a picture whose first tile begins beyond it (found by the fuzz test).
    right, bottom, left, top = image
    width, height, tile_left, tile_top = tiles
    if not (tile_left <= left < tile_left + width and tile_top <= top < tile_top + height):
        raise Refused(Reason.DECODE_FAILED, "the tiles of the JPEG 2000 codestream do not cover its picture")
    across, down = -(-(right - tile_left) // width), -(-(bottom - tile_top) // height)
    if across * down > _MOST_TILES:
        raise Refused(Reason.DECODE_FAILED, f"the JPEG 2000 codestream has {across * down} tiles")


def _start_of_jp2(data: bytes) -> int:
    # DICOM wants the bare codestream; some archives hold the file format around it.
    position = 0
    while True:
        length, kind = struct.unpack_from(">L4s", data, position)
        header = 8
        if length == 1:
            length, header = struct.unpack_from(">Q", data, position + 8)[0], 16
        if kind == b"jp2c":
            return position + header
        if length < header:
            raise Refused(Reason.DECODE_FAILED, "the JP2 file holds no codestream")
        position += length


def _walk_tile_parts(data: bytes, position: int) -> None:
    # OpenJPH fills what is missing at the end of a cut stream without a word: one byte less changed 5 % of the pixels.
    while _two(data, position) != _SOT:
        if _two(data, position) <= 0xFF00 or _two(data, position) == _EOC:
            raise Refused(Reason.DECODE_FAILED, "the header of the JPEG 2000 codestream is damaged")
        position += 2 + _two(data, position + 2)
    while (marker := _next_marker(data, position)) != _EOC:
        if marker != _SOT:
            raise Refused(Reason.DECODE_FAILED, "the tiles of the JPEG 2000 codestream are damaged")
        length = struct.unpack_from(">L", data, position + 6)[0]
        if length == 0:
            # The last tile-part may leave its length open: it goes on to the end.
            _check_end(data)
            return
        if length < 14:
            raise Refused(Reason.DECODE_FAILED, "the tiles of the JPEG 2000 codestream are damaged")
        position += length


def _next_marker(data: bytes, position: int) -> int:
    if position + 2 > len(data):
        raise Refused(Reason.TRUNCATED, "the codestream ends within a tile")
    return _two(data, position)
