"""Deflated files (PS3.5 A.5) read as a stream, so that neither a volume nor a bomb is inflated into memory whole."""

import io
import zlib
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from densityclip.reasons import Reason, Refused

_CHUNK = 1 << 16
_PIXELS = 0x7FE00008
# The header of a volume has a megabyte at most; a small file can claim gigabytes.
_MOST_HEADER = 64_000_000
_LONG_VALUE = 4_000_000


def parse_header(file: BinaryIO, specific_tags: list[Any] | None = None) -> tuple[Dataset, BinaryIO]:
    """Parse what stands before the pixel data.

    Args:
        file: The DICOM file, at its beginning.
        specific_tags: The attributes to keep, all if None.

    Returns:
        The header, and the stream that the pixel data is to be read from, at its element: the file itself, or what it
        inflates to.

    Raises:
        Refused: `too_large`: a deflated header inflates to more than 64 MB.
        Exception: Anything of `header.PARSE_ERRORS`, by pydicom.
    """
    meta = _meta_of_deflated(file)
    if meta is None:
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=specific_tags), file
    # pydicom inflates the whole file into memory before it reads the first attribute.
    inflated = InflatedStream(file, limit=_MOST_HEADER)
    stream = cast(BinaryIO, io.BufferedReader(inflated, _CHUNK))
    # A long value is passed over in small pieces: its stated length alone, up to 4 GB, would be set aside at once.
    dataset = read_dataset(
        stream,
        False,
        True,
        stop_when=lambda tag, vr, length: tag >= _PIXELS,
        defer_size=_LONG_VALUE,
        specific_tags=specific_tags,
    )
    inflated.limit = None
    dataset.file_meta = FileMetaDataset(meta)
    return dataset, stream


def _meta_of_deflated(file: BinaryIO) -> Dataset | None:
    # Leaves the file at the deflated data. The UID is looked for first: few files are deflated, and parsing costs time.
    head = file.read(1024)
    if head[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in head:
        return None
    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return meta if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian else None


class InflatedStream(io.RawIOBase):
    """What a raw deflate stream inflates to, readable and seekable; a step back starts it over.

    Args:
        source: The file, at the first byte of the deflated data.
        limit: Bytes that may be inflated; may be changed at any time. None: any number.
    """

    def __init__(self, source: BinaryIO, limit: int | None = None) -> None:
        self.limit = limit
        self._source = source
        self._start = source.tell()
        self._rewind()

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Bytes inflated so far."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; the end is found by inflating everything, in small pieces."""
        if whence == io.SEEK_END:
            while self._skip(_CHUNK):
                pass
            offset += self._position
        elif whence == io.SEEK_CUR:
            offset += self._position
        if offset < self._position:
            self._rewind()
        while self._position < offset and self._skip(min(_CHUNK, offset - self._position)):
            pass
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Inflate into a buffer.

        Raises:
            OSError: The data is damaged.
            Refused: `too_large`: beyond the limit.
        """
        data = self._inflate(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _rewind(self) -> None:
        self._source.seek(self._start)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._position = 0

    def _skip(self, size: int) -> int:
        return len(self._inflate(size))

    def _inflate(self, size: int) -> bytes:
        while size:
            packed = self._inflater.unconsumed_tail or self._source.read(_CHUNK)
            try:
                data = self._inflater.decompress(packed, size)
            except zlib.error as error:
                raise OSError("the deflated data is damaged") from error
            self._position += len(data)
            if self.limit is not None and self._position > self.limit:
                raise Refused(Reason.TOO_LARGE, f"the deflated header inflates to more than {self.limit:,} bytes")
            if data or not packed or self._inflater.eof:
                return data
        return b""
