"""Images as a detector sends them twice, For Processing and For Presentation, from one drawn attenuation."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

RAW = "1.2.840.10008.5.1.4.1.1.1.2.1"
SCREEN = "1.2.840.10008.5.1.4.1.1.1.2"
VIEWS = {"CC": "399162004", "MLO": "399368009"}
HIGHEST = (1 << 14) - 1


def attenuation(seed: int = 0, rows: int = 300, columns: int = 240) -> np.ndarray:
    """`[rows, columns]` in `[0, 1]`: half an ellipse of tissue at the left edge, in air."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    breast = ((y - rows / 2) / (0.35 * rows)) ** 2 + (x / (0.55 * columns)) ** 2 <= 1
    coarse = np.asarray(Image.fromarray(draw.random((12, 10), dtype=np.float32)).resize((columns, rows)))
    return np.where(breast, 0.25 + 0.5 * coarse, 0.0)


def stored(tissue: np.ndarray, relationship: str, sign: int) -> np.ndarray:
    """Values of 14 bits that stand for an attenuation, as a detector of this kind would store them."""
    exposure = 16_000 * np.exp(-4 * tissue)
    counts = exposure if relationship == "LIN" else 1_600 * np.log(exposure)
    return np.rint(counts if sign == 1 else HIGHEST - counts).astype(np.uint16)


def write_image(
    path: Path, pixels: np.ndarray, *, patient: str = "P1", side: str = "L", view: str = "CC", **attributes: Any
) -> Path:
    """Write one image of 14 bits; None leaves an attribute out."""
    coded = Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = VIEWS[view], "SCT", view
    given: dict[str, Any] = {
        "SOPClassUID": SCREEN,
        "SOPInstanceUID": generate_uid(entropy_srcs=[path.name, patient, side, view]),
        "StudyInstanceUID": generate_uid(entropy_srcs=[patient]),
        "Modality": "MG",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PatientID": patient,
        "PatientSex": "F",
        "ImageLaterality": side,
        "ViewCodeSequence": Sequence([coded]),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 14,
        "HighBit": 13,
        "PixelRepresentation": 0,
    }
    dataset = Dataset()
    for keyword, value in (given | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_raw(path: Path, tissue: np.ndarray, relationship: str = "LIN", sign: int = 1, **attributes: Any) -> Path:
    """Write a For Processing image of an attenuation."""
    given = {
        "SOPClassUID": RAW,
        "PresentationIntentType": "FOR PROCESSING",
        "PixelIntensityRelationship": relationship,
        "PixelIntensityRelationshipSign": sign,
    }
    return write_image(path, stored(tissue, relationship, sign), **given | attributes)


def write_screen(path: Path, tissue: np.ndarray, **attributes: Any) -> Path:
    """Write a For Presentation image that shows an attenuation as it is."""
    pixels = np.rint(tissue * HIGHEST).astype(np.uint16)
    return write_image(path, pixels, PresentationIntentType="FOR PRESENTATION", **attributes)
