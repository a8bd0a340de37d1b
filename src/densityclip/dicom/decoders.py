"""The fast decoders: imagecodecs, registered through pydicom's own hook for decoder plugins.

Seconds for a frame of 3328 x 4096 x 16 bit are in `benchmarks/decode.py`. JPEG Lossless and JPEG-LS take half of the
time of pydicom's first choice (gdcm), and 12-bit JPEG Extended and HTJ2K, which that cannot decode at all, open. Where
imagecodecs is not installed, gdcm and Pillow decode what they can.
"""

import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_decoder
from pydicom.uid import UID, RLELossless

from densityclip.dicom.codestream import (
    JPEG_2000_SYNTAXES,
    JPEG_LS_SYNTAXES,
    JPEG_SYNTAXES,
    Codestream,
    read_codestream,
)
from densityclip.reasons import Reason, Refused

SYNTAXES = JPEG_SYNTAXES | JPEG_LS_SYNTAXES | JPEG_2000_SYNTAXES | {RLELossless}
"""Compressed transfer syntaxes that can be decoded."""

DECODER_DEPENDENCIES = {UID(syntax): ("numpy", "imagecodecs") for syntax in SYNTAXES}
"""What pydicom says is missing when the plugin is not available."""

_LABEL = "imagecodecs"
_EMPTY_TABLE = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, MemoryError)
_lock = threading.Lock()


def is_available(uid: str) -> bool:
    """Whether the plugin can decode a transfer syntax; asked by pydicom when the plugin is registered."""
    try:
        import imagecodecs
    except ImportError:
        return False
    return uid in SYNTAXES and bool(imagecodecs.version())


def register() -> None:
    """Make the fast decoders known to pydicom, once in a process; further calls do nothing.

    pydicom's own order of plugins is left as it is, so that other code in the process decodes as before;
    `decode_frame` asks for this plugin by its name.
    """
    with _lock:
        for syntax in SYNTAXES:
            decoder = get_decoder(UID(syntax))
            if _LABEL not in decoder.available_plugins and is_available(syntax):
                decoder.add_plugin(_LABEL, (__name__, "decode_for_pydicom"))


def decode_frame(data: bytes, syntax: str, options: dict[str, Any]) -> NDArray[Any]:
    """Decode one compressed frame.

    Args:
        data: The frame, its fragments joined.
        syntax: Transfer Syntax UID.
        options: pydicom's options for decoding: `rows`, `columns`, `bits_allocated`, `bits_stored`,
            `samples_per_pixel`, `pixel_representation`, `photometric_interpretation`. `codestream`: its header, if it
            was read before. `numthreads`: threads that a frame of JPEG 2000 may use; 1 unless given, for workers share
            the cores.

    Returns:
        `[rows, columns]` unsigned integers as they were coded, writable: no sign, no rescaling.

    Raises:
        Refused: `decode_failed`: no decoder could.
    """
    register()
    decoder = get_decoder(UID(syntax))
    # As pydicom's encapsulate() does without an offset table, in one copy of 12 MB and not three: 13 ms less a frame.
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(data) + len(data) % 2)
    encapsulated = b"".join((_EMPTY_TABLE, item, data, b"\0" * (len(data) % 2)))
    failures = []
    for plugin in _plugins(decoder.available_plugins):
        try:
            buffer, found = decoder.as_buffer(
                encapsulated, index=0, validate=False, decoding_plugin=plugin, number_of_frames=1, **options
            )
        except _FAILURES as error:
            # pydicom wraps what a plugin raises in one RuntimeError; the others come from its own handling.
            failures.append(f"{plugin}: {type(error).__name__}")
            continue
        pixels = np.frombuffer(buffer, dtype=f"<u{int(found['bits_allocated']) // 8}")
        return pixels.reshape(options["rows"], options["columns"])
    raise Refused(Reason.DECODE_FAILED, f"transfer syntax {syntax}: {', '.join(failures) or 'there is no decoder'}")


def _plugins(available: tuple[str, ...]) -> list[str]:
    # Only Pillow takes over where imagecodecs refuses a frame. gdcm ends the whole process on some damaged JPEG
    # (std::terminate, found by the fuzz test), and pydicom's own RLE unpacks a frame of 4 MB that promises 6,300 pixels
    # to 256 MB and takes the first of them; they decode only where imagecodecs is not installed.
    return [_LABEL, *({"pillow"} & set(available))] if _LABEL in available else list(available)


def decode_for_pydicom(src: bytes, runner: Any) -> bytearray:
    """Decode one frame for pydicom, as its guide to decoder plugins describes.

    Args:
        src: The compressed frame.
        runner: pydicom's `DecodeRunner`; its bits allocated are set to those of the samples returned.

    Returns:
        Little-endian samples of 1 byte for a precision of up to 8 bits, else of 2.

    Raises:
        Refused: The codestream is damaged or ends early.
        ValueError: It has several samples a pixel or more than 16 bits, or another size than the header says.
    """
    if runner.samples_per_pixel != 1:
        raise ValueError("the plugin decodes one sample a pixel")
    found = runner.get_option("codestream") or read_codestream(src, runner.transfer_syntax)
    if found is None:
        return _decode_rle(src, runner)
    if found.components != 1 or found.precision > 16 or (found.rows, found.columns) != (runner.rows, runner.columns):
        raise ValueError("the codestream and the header differ")
    size = 1 if found.precision <= 8 else 2
    kind = "i" if found.signed else "u"
    # The decoder writes into the buffer that pydicom gets: no second copy of 27 MB.
    buffer = bytearray(found.rows * found.columns * size)
    out = np.frombuffer(buffer, dtype=f"{kind}{size}").reshape(found.rows, found.columns)
    _codec(found, runner.get_option("numthreads", 1))(src, out)
    runner.set_option("bits_allocated", 8 * size)
    return buffer


def _codec(found: Codestream, threads: int) -> Callable[[bytes, NDArray[Any]], Any]:
    import imagecodecs

    if found.coding == "jpeg-ls":
        return lambda data, out: imagecodecs.jpegls_decode(data, out=out)
    if found.coding == "jpeg-2000":
        return lambda data, out: imagecodecs.jpeg2k_decode(data, numthreads=threads, out=out)
    if found.coding == "htj2k":
        return lambda data, out: imagecodecs.htj2k_decode(data, out=out)
    if found.coding == "jpeg-lossless" and not found.restarts:
        # As fast as libjpeg-turbo, which fills a stream that ends early with grey and does not say so.
        return lambda data, out: imagecodecs.ljpeg_decode(data, out=out)
    return lambda data, out: imagecodecs.jpeg8_decode(data, out=out)


def _decode_rle(src: bytes, runner: Any) -> bytearray:
    import imagecodecs

    size = runner.bits_allocated // 8
    if struct.unpack_from("<L", src)[0] != size:
        raise ValueError("the RLE frame has another number of segments than the header says")
    # Of a fixed length: a frame of RLE does not state its size, and 20 MB of it can hold 640 MB.
    buffer = bytearray(runner.rows * runner.columns * size)
    decoded = imagecodecs.dicomrle_decode(src, f"<u{size}", out=buffer)
    if len(decoded) != len(buffer):
        raise ValueError("the RLE frame has another length than the header says")
    return buffer
