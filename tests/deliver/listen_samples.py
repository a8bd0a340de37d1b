"""Small mammograms, a stand-in for the model, and what the tests of the listener share."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid

from densityclip.dicom.modality import DM_FOR_PRESENTATION

STANDIN_CLASS = "1.2.840.10008.5.1.4.1.1.88.34"
PATIENT = "Doe^Jane"


def mammogram(study: str, *, number: int = 0, pixels: int = 64) -> Dataset:
    """A plain DM object of a few kilobytes; the same study and number give the same object."""
    image = Dataset()
    image.SOPClassUID = DM_FOR_PRESENTATION
    image.SOPInstanceUID = generate_uid(entropy_srcs=[study, str(number)])
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[study])
    image.PatientName, image.PatientID, image.Modality = PATIENT, "ID-4711", "MG"
    image.Rows = image.Columns = pixels
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = bytes(2 * pixels * pixels)
    return with_meta(image)


def with_meta(image: Dataset) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta = meta
    return image


def compressed(image: Dataset) -> Dataset:
    """The same, in RLE."""
    image.compress(RLELossless, generate_instance_uid=False)
    return image


def hashed_pixels(image: Dataset) -> str:
    return hashlib.sha256(image.PixelData).hexdigest()


def as_bytes(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def studies(count: int, *, seed: str = "listen") -> Iterator[str]:
    for number in range(count):
        yield generate_uid(entropy_srcs=[seed, str(number)])


def answer_uid(source_uids: Sequence[str]) -> UID:
    """The one object that these sources have as their answer."""
    digest = hashlib.sha256("\n".join(sorted(source_uids)).encode()).hexdigest()
    return UID(f"2.25.{int(digest[:30], 16)}")


def stand_in_answer(files: Sequence[Path], out: Path, earlier: Sequence[Path]) -> list[Path]:
    """In place of the model: one object whose UID and bytes derive from the sources."""
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    answer = Dataset()
    answer.SOPClassUID = STANDIN_CLASS
    answer.SOPInstanceUID = answer_uid([source.SOPInstanceUID for source in sources])
    answer.StudyInstanceUID = sources[0].StudyInstanceUID
    answer.SeriesInstanceUID = generate_uid(entropy_srcs=[answer.SOPInstanceUID, "series"])
    answer.PatientName, answer.PatientID, answer.Modality = sources[0].PatientName, sources[0].PatientID, "SR"
    answer.InstanceNumber = len(earlier) + 1
    path = out / "answer.dcm"
    pydicom.dcmwrite(path, with_meta(answer), enforce_file_format=True)
    return [path]


def next_job(store, quiet_seconds: float | None = None):
    """What a worker does with the queue's help: take the first job that is due."""
    for name in store.due(quiet_seconds):
        if (job := store.take(name)) is not None:
            return job
    return None


def make_stand_in():
    return stand_in_answer
