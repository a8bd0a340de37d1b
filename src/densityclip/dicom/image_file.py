"""Plain image files (JPEG, PNG, TIFF, BMP), as research sets publish mammograms."""

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from densityclip.reasons import Reason, Refused

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
MAX_PIXELS = 100_000_000
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")
# What Pillow raises on damaged files; the last five from its own code, on tags of the wrong type.
_PILLOW_ERRORS = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    EOFError,
    MemoryError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
)


def read_image_file(path: Path) -> NDArray[np.float32]:
    """Read a grey or colour image file.

    Args:
        path: JPEG, PNG, TIFF or BMP of 8 or 16 bits; colour is turned to its luminance. The first page of several.

    Returns:
        `[rows, columns]` float32 in `[0, 1]`: the full range of the file's type (255 or 65535) is 1.

    Raises:
        Refused: `missing_file`, `empty_file`, `unreadable`, `too_large`, `truncated` or `constant`.
    """
    image = _open(path)
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise Refused(Reason.TOO_LARGE, f"{image.height} x {image.width} pixels")
        try:
            pixels = _grey(image)
        except _PILLOW_ERRORS as error:
            raise Refused(Reason.TRUNCATED, f"the image data cannot be read ({type(error).__name__})") from error
    if pixels.min() == pixels.max():
        raise Refused(Reason.CONSTANT)
    return pixels


def _open(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise Refused(Reason.EMPTY_FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=_FORMATS)
    except FileNotFoundError as error:
        raise Refused(Reason.MISSING_FILE) from error
    except (PermissionError, IsADirectoryError) as error:
        raise Refused(Reason.UNREADABLE, f"the file cannot be opened ({type(error).__name__})") from error
    except Image.DecompressionBombError as error:
        raise Refused(Reason.TOO_LARGE) from error
    except _PILLOW_ERRORS as error:
        raise Refused(Reason.UNREADABLE, "the file is neither DICOM nor JPEG, PNG, TIFF or BMP") from error


def _grey(image: Image.Image) -> NDArray[np.float32]:
    if image.mode in ("I;16", "I;16L", "I;16B", "I"):
        pixels = np.asarray(image).astype(np.float32) / np.float32(65535)
    elif image.mode == "F":
        pixels = np.asarray(image, dtype=np.float32)
    else:
        if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
            # Transparent pixels show nothing: they are air, whatever colour lies beneath.
            flat = Image.new("RGBA", image.size, (0, 0, 0, 255))
            flat.alpha_composite(image.convert("RGBA"))
            image = flat.convert("RGB")
        pixels = np.asarray(image.convert("L")).astype(np.float32) / np.float32(255)
    if not np.isfinite(pixels).all():
        raise ValueError("values that are no numbers")
    return np.clip(pixels, 0, 1)
