"""Files on their way into the web service: numbered, synced, and named by what they are."""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import IO

from densityclip.deliver.durable import DiskFullError, is_full, write_synced
from densityclip.dicom.header import starts_like_dicom

REFERENCE = "reference.json"
"""The file of a job whose images a DICOMweb server holds."""

# The first bytes of what can be read, and the ending by which the reader of a folder knows it.
_PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"II*\0": ".tif", b"MM\0*": ".tif", b"BM": ".bmp"}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_SNIFFED = 132


class Upload:
    """Files on their way in; nothing of it stays unless `uploads.Uploads.enter` takes it.

    Attributes:
        files: How many came.
        passed_over: Numbers, from 1, of those that are neither DICOM nor a picture nor a zip archive; not kept.
    """

    def __init__(self, folder: Path) -> None:
        self.id = secrets.token_hex(16)
        self.folder = folder / self.id
        self.files = 0
        self.passed_over: list[int] = []
        self.bytes = 0
        self.is_archive = False
        self._open: IO[bytes] | None = None
        self.folder.mkdir(mode=0o700)

    def begin_file(self) -> None:
        """Begin the next file."""
        self.files += 1
        self._open = (self.folder / f"file-{self.files}").open("wb")

    def write(self, piece: bytes) -> None:
        """Add bytes to the file that was begun.

        Raises:
            DiskFullError: There is no room.
        """
        if self._open is None:
            raise ValueError("no file was begun")
        try:
            self._open.write(piece)
        except OSError as error:
            raise full_or(error) from error
        self.bytes += len(piece)

    def end_file(self) -> None:
        """Sync the file and name it by what it is; what cannot be read is passed over.

        Raises:
            DiskFullError: There is no room.
        """
        if self._open is None:
            return
        try:
            self._open.flush()
            os.fsync(self._open.fileno())
        except OSError as error:
            raise full_or(error) from error
        finally:
            self._open.close()
            self._open = None
        path = self.folder / f"file-{self.files}"
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
        ending = _ending_of(start)
        if ending is None:
            path.unlink()
            self.passed_over.append(self.files)
            return
        self.is_archive = self.is_archive or ending == ".zip"
        path.rename(path.with_name(path.name + ending))

    @property
    def kept(self) -> int:
        """How many files were kept."""
        return self.files - len(self.passed_over)

    def refer(self, server: str, study: str) -> None:
        """Put down which study is to be fetched, in place of files.

        Args:
            server: Name of a DICOMweb server.
            study: Study Instance UID.

        Raises:
            DiskFullError: There is no room.
        """
        self.files = 1
        words = json.dumps({"server": server, "study": study})
        try:
            # No upload has a file of this name: those are named by what they are.
            self.bytes = write_synced(self.folder / REFERENCE, [words.encode()])
        except OSError as error:
            raise full_or(error) from error

    def drop(self) -> None:
        """Remove what came so far; after `uploads.Uploads.enter` there is nothing to remove."""
        if self._open is not None:
            self._open.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ending_of(start: bytes) -> str | None:
    if start.startswith(_ZIP):
        return ".zip"
    if len(start) >= _SNIFFED and starts_like_dicom(start):
        return ".dcm"
    return next((ending for magic, ending in _PICTURES.items() if start.startswith(magic)), None)


def full_or(error: Exception) -> Exception:
    """`DiskFullError` where an error means that; else the error."""
    return DiskFullError() if is_full(error) else error
