"""A zip archive as a folder of files, unpacked so that nothing inside it decides where anything is written."""

import contextlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from densityclip.artifacts import file_stem
from densityclip.datasets.dicom_folder import is_side_car
from densityclip.dicom.header import is_dicom
from densityclip.errors import UserError

_CHUNK = 1 << 20
_ENCRYPTED = 0x1
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}")
# Small archives of zeros have any ratio and do no harm.
_RATIO_FREE_BYTES = 100 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipLimits:
    """What an archive may hold. Bytes are counted as they come out, not as the archive states them.

    Attributes:
        files: Number of files.
        file_bytes: Of one file, unpacked. The largest tomosynthesis volumes have about 1 GB.
        total_bytes: Of all files, unpacked.
        ratio: Unpacked bytes to bytes of the archive, beyond the first 100 MB. Mammograms reach about 10.
    """

    files: int = 20_000
    file_bytes: int = 4 << 30
    total_bytes: int = 50 << 30
    ratio: float = 200.0


def is_zip(source: Path) -> bool:
    """Whether a source is a zip archive, by its content."""
    return source.is_file() and not is_dicom(source) and zipfile.is_zipfile(source)


class ArchiveTooLarge(UserError):
    """An archive is beyond its limits."""


@contextlib.contextmanager
def unpacked(source: Path, limits: ZipLimits | None = None, *, within: Path | None = None) -> Iterator[Path]:
    """Yield a folder with the files of an archive, removed afterwards; any other source is yielded as it is.

    Files are numbered in the order of the archive; of the name inside, the last part without anything but letters,
    digits, `.`, `_` and `-` follows the number. Folders, links and devices inside an archive are not made, and what is
    passed over in a folder (tables, text, DICOMDIR, hidden files) is here too. A file that is damaged or encrypted
    becomes an empty one, which is refused as such.

    Args:
        source: An archive, or anything else.
        limits: What an archive may hold.
        within: Where the folder is made; without it, where the system has temporary files.

    Raises:
        UserError: The archive is damaged or holds no file.
        ArchiveTooLarge: It is beyond the limits.
    """
    if not is_zip(source):
        if source.is_file() and source.suffix.lower() == ".zip":
            raise UserError(f"{source} is no zip archive, or a damaged one", "copy or make the archive again")
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="densityclip-zip-", dir=within) as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, source, Path(folder), limits or ZipLimits())
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise UserError(
                f"{source} cannot be unpacked ({type(error).__name__})", "make the archive again"
            ) from error
        yield Path(folder)


def _unpack(archive: zipfile.ZipFile, source: Path, folder: Path, limits: ZipLimits) -> None:
    members = [member for member in archive.infolist() if not (member.is_dir() or is_side_car(_name(member)))]
    if not members:
        raise UserError(f"{source} holds no files", "give an archive with DICOM files")
    if all(member.flag_bits & _ENCRYPTED for member in members):
        raise UserError(f"{source} is encrypted", "unpack it, and give the folder")
    if len(members) > limits.files:
        raise _beyond(source, f"{len(members):,} files, {limits.files:,} are allowed")
    by_ratio = _RATIO_FREE_BYTES + limits.ratio * source.stat().st_size
    left = int(min(limits.total_bytes, by_ratio, shutil.disk_usage(folder).free))
    for number, member in enumerate(members):
        name = PurePosixPath(_name(member))
        # The extension says whether a file is tried as a picture.
        extension = name.suffix if _EXTENSION.fullmatch(name.suffix) else ""
        path = folder / f"{number:05d}-{file_stem(name.stem)}{extension}"
        try:
            left -= _write(archive, member, path, min(left, limits.file_bytes))
        except _TooMuchError as error:
            raise _beyond(source, "more data than is allowed or fits on the disk once unpacked") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError):
            # Never half a file, nor a whole one whose checksum is wrong: its pixels would be answered.
            path.write_bytes(b"")


def _name(member: zipfile.ZipInfo) -> str:
    """The last part of a name inside, with either slash as the separator."""
    return PurePosixPath(member.filename.replace("\\", "/")).name


class _TooMuchError(Exception):
    """A file grew beyond what it may have."""


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, most: int) -> int:
    """Unpack one file; returns its bytes."""
    written = 0
    with archive.open(member) as packed, path.open("wb") as out:
        while chunk := packed.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise _TooMuchError
            out.write(chunk)
    return written


def _beyond(source: Path, fact: str) -> ArchiveTooLarge:
    return ArchiveTooLarge(f"{source} holds {fact}", "if you trust it, unpack it yourself and give the folder")
