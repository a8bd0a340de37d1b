"""Structured reports with a breast composition, by highdicom and by hand."""

from pathlib import Path
from typing import Any

import numpy as np
from dicom_samples import code, item, mammogram, with_pixels
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.33"
CAD = "1.2.840.10008.5.1.4.1.1.88.50"


def coded(name: str, value: str, *children: Dataset, scheme: str = "SRT", meaning: str = "x") -> Dataset:
    """A CODE content item."""
    answer = code(value, scheme)
    answer.CodeMeaning = meaning
    content = item(
        RelationshipType="CONTAINS",
        ValueType="CODE",
        ConceptNameCodeSequence=Sequence([code(name, scheme)]),
        ConceptCodeSequence=Sequence([answer]),
    )
    if children:
        content.ContentSequence = Sequence(children)
    return content


def container(name: str, *children: Dataset, scheme: str = "DCM") -> Dataset:
    """A CONTAINER content item."""
    content = item(ValueType="CONTAINER", RelationshipType="CONTAINS")
    content.ConceptNameCodeSequence = Sequence([code(name, scheme)])
    content.ContentSequence = Sequence(children)
    return content


def report(*content: Dataset, sop_class: str = COMPREHENSIVE, **attributes: Any) -> Dataset:
    """A report of the study of `dicom_samples.mammogram` by hand, with content items under its root."""
    given: dict[str, Any] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": generate_uid(entropy_srcs=["report", *map(str, attributes.values())]),
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=["reports"]),
        "Modality": "SR",
        "PatientID": "P1",
        "ContentDate": "20240201",
        "ContentTime": "101500",
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": Sequence([code("111400", "DCM")]),
        "ContentSequence": Sequence(content),
    }
    dataset = item(**{name: value for name, value in (given | attributes).items() if value is not None})
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def side(value: str, name: str = "G-C171", scheme: str = "SRT") -> Dataset:
    """The modifier that says which breast an item is about."""
    return coded(name, value, scheme=scheme)


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def measured_report(categories: dict[str, str], *, algorithm: bool, study: str | None = None) -> Dataset:
    """A Comprehensive 3D SR (TID 1500) by highdicom, a group for each breast; SCT codes throughout."""
    import highdicom as hd
    from highdicom.sr import coding
    from pydicom.sr.codedict import codes

    image = with_pixels(mammogram(), np.zeros((8, 8), dtype=np.uint16))
    image.PatientName, image.PatientBirthDate, image.StudyID, image.AccessionNumber = "A^B", "", "1", ""
    image.StudyDate, image.StudyTime, image.ReferringPhysicianName = "20240201", "090000", ""
    if study is not None:
        image.StudyInstanceUID = study
    breasts = {"L": ("80248007", "Left breast"), "R": ("73056007", "Right breast")}
    values = {"A": "129716005", "B": "129717001", "C": "129718006", "D": "129719003"}
    named = hd.sr.AlgorithmIdentification("A reader of density", "1.0") if algorithm else None
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), breast),
            algorithm_id=named,
            finding_sites=[hd.sr.FindingSite(coding.CodedConcept(breasts[breast][0], "SCT", breasts[breast][1]))],
            qualitative_evaluations=[
                hd.sr.QualitativeEvaluation(
                    coding.CodedConcept("129715009", "SCT", "Breast composition"),
                    coding.CodedConcept(values[category], "SCT", "x"),
                )
            ],
        )
        for breast, category in categories.items()
    ]
    observer = hd.sr.PersonObserverIdentifyingAttributes("Reader^A")
    context = hd.sr.ObservationContext(
        observer_person_context=hd.sr.ObserverContext(codes.DCM.Person, observer),
    )
    content = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=coding.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[image],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Maker",
    )
