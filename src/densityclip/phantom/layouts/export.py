"""A plain export of an archive: patient, study and series folders of whole DICOM headers, and a table of labels."""

from collections.abc import Mapping

from densityclip.phantom.dicom_objects import series_number, sop_uid
from densityclip.phantom.exam import GeneratedImage
from densityclip.phantom.identity import ExamIdentity
from densityclip.phantom.layouts.contract import Layout, Row, Shelf
from densityclip.phantom.sites import Site
from densityclip.records import GENERATED_LABEL

LABELS = "labels.csv"
LABEL_COLUMNS = (
    "patient_id", "accession_number", "study_uid", "laterality", "density", "density_source", "age", "race",
    "site", "institution", "machine",
)  # fmt: skip


def _name_exam(site: Site, seed: int, number: int) -> tuple[str, str]:
    return f"{site.code}{seed:03d}-{number:05d}", f"G{site.code}{seed:04d}{number:06d}"


def _folder(identity: ExamIdentity) -> str:
    return f"dicom/{identity.patient_id}"


def _shelve(identity: ExamIdentity, image: GeneratedImage) -> list[Shelf]:
    series = f"{identity.accession_number}/{series_number(image):03d}_{image.modality}_{image.side}_{image.view}"
    return [Shelf(image=image, path=f"{series}/{sop_uid(identity, image)}.dcm", rows={})]


def _exam_rows(identity: ExamIdentity) -> Mapping[str, list[Row]]:
    woman = identity.woman
    return {
        LABELS: [
            {
                "patient_id": identity.patient_id,
                "accession_number": identity.accession_number,
                "study_uid": identity.study_uid,
                "laterality": side,
                "density": label,
                "density_source": GENERATED_LABEL,
                "age": woman.age,
                "race": woman.race or "",
                "site": identity.site.name,
                "institution": identity.site.institution,
                "machine": identity.machine.serial,
            }
            for side, label in zip("LR", woman.labels, strict=True)
        ]
    }


EXPORT = Layout(
    dataset="dicom",
    source="dicom",
    tables={LABELS: LABEL_COLUMNS},
    holds_volumes=True,
    name_exam=_name_exam,
    folder=_folder,
    shelve=_shelve,
    exam_rows=_exam_rows,
)
