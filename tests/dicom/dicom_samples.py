"""Small mammography objects written with pydicom, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DM = "1.2.840.10008.5.1.4.1.1.1.2"
RAW = "1.2.840.10008.5.1.4.1.1.1.2.1"
BTO = "1.2.840.10008.5.1.4.1.1.13.1.3"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def item(**attributes: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str = "SCT") -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning="x")


def view(value: str, *modifiers: str, scheme: str = "SCT") -> Sequence:
    coded = code(value, scheme)
    coded.ViewModifierCodeSequence = Sequence([code(modifier, scheme) for modifier in modifiers])
    return Sequence([coded])


def mammogram(sop_class: str = DM, **attributes: Any) -> Dataset:
    """A standard left CC digital mammogram without pixels; None removes an attribute."""
    given: dict[str, Any] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": generate_uid(entropy_srcs=["image"]),
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=["series"]),
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "PatientID": "P1",
        "PatientSex": "F",
        "ImageLaterality": "L",
        "ViewCodeSequence": view("399162004"),
    }
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = given["SOPInstanceUID"]
    dataset = item(**{name: value for name, value in (given | attributes).items() if value is not None})
    dataset.file_meta = meta
    return dataset


def with_pixels(dataset: Dataset, pixels: np.ndarray, *, bits: int = 12, **attributes: Any) -> Dataset:
    """Put `[rows, columns]` or `[frames, rows, columns]` integers into a data set."""
    signed = pixels.dtype.kind == "i"
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path
