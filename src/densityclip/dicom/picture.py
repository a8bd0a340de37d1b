"""How a picture file that is no DICOM is told by its first bytes, without the library that decodes it."""

from pathlib import Path

# JPEG, PNG, TIFF (little and big endian), BMP.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"BM")


def is_picture(path: Path) -> bool:
    """Whether a file starts like one of the formats that `image_file` reads; an unreadable file does not."""
    try:
        with path.open("rb") as handle:
            return handle.read(4).startswith(SIGNATURES)
    except OSError:
        return False
