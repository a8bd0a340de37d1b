"""Mammography files with headers only, enough for an index."""

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

VIEWS = {"CC": "399162004", "MLO": "399368009", "ML": "399260004"}


def write_view(path: Path, patient: str, side: str = "L", view: str = "CC", **attributes: Any) -> Path:
    """Write one digital mammogram of a patient; her study and image UIDs follow from the names."""
    coded = Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = VIEWS[view], "SCT", view
    dataset = Dataset()
    given: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
        "SOPInstanceUID": generate_uid(entropy_srcs=[patient, side, view]),
        "StudyInstanceUID": generate_uid(entropy_srcs=[patient, "study"]),
        "AccessionNumber": f"ACC{patient}",
        "PatientID": patient,
        "PatientSex": "F",
        "Modality": "MG",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PresentationIntentType": "FOR PRESENTATION",
        "ImageLaterality": side,
        "ViewCodeSequence": Sequence([coded]),
        "PatientAge": "055Y",
        "DeviceSerialNumber": "M1",
        "InstitutionName": "Header Clinic",
    }
    for keyword, value in (given | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def study_uid(patient: str) -> str:
    return str(generate_uid(entropy_srcs=[patient, "study"]))


def sop_uid(patient: str, side: str, view: str) -> str:
    return str(generate_uid(entropy_srcs=[patient, side, view]))
