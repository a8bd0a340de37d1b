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


def write_report(path: Path, patient: str, *, device: bool = False, **categories: str) -> Path:
    """Write a Comprehensive SR of a patient's study; `left="B"` states a category, in the older SRT codes."""
    sides = {"left": "T-04030", "right": "T-04020", "both": "T-04080"}
    when = categories.pop("date", "20240201")
    answers = [
        _answer("F-01710", f"F-0171{'ABCD'.index(category) + 1}", _answer("G-C171", sides[side]))
        for side, category in categories.items()
    ]
    report = Dataset()
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    report.SOPInstanceUID = generate_uid(entropy_srcs=[path.name, patient, when])
    report.StudyInstanceUID, report.PatientID = study_uid(patient), patient
    report.ContentDate, report.ContentTime, report.ValueType = when, "120000", "CONTAINER"
    report.ContentSequence = Sequence([*([_answer("121005", "121007")] if device else []), *answers])
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(path, enforce_file_format=True)
    return path


def _answer(name: str, value: str, *modifiers: Dataset) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "CODE"
    for keyword, code in (("ConceptNameCodeSequence", name), ("ConceptCodeSequence", value)):
        coded = Dataset()
        coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code, "SRT", "x"
        setattr(item, keyword, Sequence([coded]))
    if modifiers:
        item.ContentSequence = Sequence(modifiers)
    return item


def study_uid(patient: str) -> str:
    return str(generate_uid(entropy_srcs=[patient, "study"]))


def sop_uid(patient: str, side: str, view: str) -> str:
    return str(generate_uid(entropy_srcs=[patient, side, view]))
