"""Encapsulated pixel data for tests, in every compressed transfer syntax that is decoded."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
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

LOSSLESS = (
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
)
LOSSY = (JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)


def _rle(pixels: np.ndarray, bits: int) -> bytes:
    return RLELosslessEncoder.encode(
        pixels.tobytes(),
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        bits_allocated=8 * pixels.dtype.itemsize,
        bits_stored=bits,
        pixel_representation=int(pixels.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )


def _unsigned(pixels: np.ndarray, bits: int) -> np.ndarray:
    # JPEG and JPEG-LS know no sign: what lies above BitsStored is cut off.
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    return unsigned & unsigned.dtype.type((1 << bits) - 1)


def _j2k(pixels: np.ndarray, bits: int, **more: object) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", bitspersample=bits, **more)


_ENCODERS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    JPEGBaseline8Bit: lambda p, b: imagecodecs.jpeg8_encode(p, level=95),
    JPEGExtended12Bit: lambda p, b: imagecodecs.jpeg8_encode(p, level=100, bitspersample=12),
    JPEGLossless: lambda p, b: imagecodecs.jpeg8_encode(_unsigned(p, b), lossless=True, predictor=6, bitspersample=b),
    JPEGLosslessSV1: lambda p, b: imagecodecs.ljpeg_encode(_unsigned(p, b), bitspersample=b),
    JPEGLSLossless: lambda p, b: imagecodecs.jpegls_encode(_unsigned(p, b)),
    JPEGLSNearLossless: lambda p, b: imagecodecs.jpegls_encode(_unsigned(p, b), level=2),
    JPEG2000Lossless: lambda p, b: _j2k(p, b, reversible=True),
    JPEG2000: lambda p, b: _j2k(p, b, level=60),
    HTJ2KLossless: lambda p, b: imagecodecs.htj2k_encode(p, reversible=True),
    HTJ2KLosslessRPCL: lambda p, b: imagecodecs.htj2k_encode(p, reversible=True),
    HTJ2K: lambda p, b: imagecodecs.htj2k_encode(p, reversible=True),
    RLELossless: _rle,
}


def codestream(pixels: np.ndarray, syntax: str, bits: int = 12) -> bytes:
    """One frame, compressed."""
    return bytes(_ENCODERS[syntax](np.ascontiguousarray(pixels), bits))


def put_codestreams(
    dataset: Dataset, streams: list[bytes], syntax: str, *, table: str = "none", fragments: int = 1
) -> Dataset:
    """Make codestreams the pixel data of a data set, with no offset table, a `basic` or an `extended` one."""
    if table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            streams
        )
    else:
        dataset.PixelData = encapsulate(streams, fragments_per_frame=fragments, has_bot=table == "basic")
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


def compress(dataset: Dataset, pixels: np.ndarray, syntax: str, *, table: str = "none", fragments: int = 1) -> Dataset:
    """Compress the pixels, `[rows, columns]` or `[frames, rows, columns]`, into a data set that describes them."""
    frames = pixels if pixels.ndim == 3 else pixels[None]
    streams = [codestream(frame, syntax, dataset.BitsStored) for frame in frames]
    return put_codestreams(dataset, streams, syntax, table=table, fragments=fragments)


def saved(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path
