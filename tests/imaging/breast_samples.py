"""Drawn mammograms with a known outline, as arrays, image files and DICOM; and a table that indexes them."""

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from densityclip.artifacts import conform


def outline(rows: int, columns: int, *, depth: float = 0.55, height: float = 0.7) -> np.ndarray:
    """Half an ellipse on the left edge: the true mask."""
    y, x = np.mgrid[:rows, :columns]
    return ((y - rows / 2) / (height * rows / 2)) ** 2 + (x / (depth * columns)) ** 2 <= 1


def drawn(
    rows: int = 300, columns: int = 240, *, air: float = 0.0, noise: float = 0.0, seed: int = 0, fat: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """A breast with some texture, a marker in the air, and film-like air if asked. Returns image and true mask."""
    draw = np.random.default_rng(seed)
    mask = outline(rows, columns)
    coarse = Image.fromarray(draw.random((12, 10), dtype=np.float32)).resize((columns, rows))
    tissue = fat + 0.5 * np.asarray(coarse) * (0.4 + 0.6 * draw.random((rows, columns)))
    image = np.where(mask, tissue, air + noise * draw.standard_normal((rows, columns)))
    image[10:22, columns - 60 : columns - 20 : 3] = 1.0
    return np.clip(image, 0, 1).astype(np.float32), mask


def write_png(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(np.rint(image * 65535).astype(np.uint16)).save(path)
    return path


def write_dicom(path: Path, image: np.ndarray) -> Path:
    """One frame `[rows, columns]` or a volume `[frames, rows, columns]` in `[0, 1]`, 12 bits."""
    pixels = np.rint(image * 4095).astype(np.uint16)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    volume = pixels.ndim == 3
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.13.1.3" if volume else "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.NumberOfFrames = len(pixels) if volume else 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def index_of(paths: list[Path], frames: list[int | None] | None = None) -> pl.DataFrame:
    """An index over files, in the given order."""
    return conform(
        pl.DataFrame(
            {
                "image_id": [f"image{place:03d}" for place in range(len(paths))],
                "path": [str(path) for path in paths],
                "patient_id": [f"P{place}" for place in range(len(paths))],
                "exam_id": [f"E{place}" for place in range(len(paths))],
                "modality": ["DM"] * len(paths),
                "density": ["ABCD"[place % 4] for place in range(len(paths))],
                "frames": frames or [1] * len(paths),
            }
        ),
        "index",
    )
