"""The layout of the RSNA screening mammography challenge: `train.csv`, and files whose headers are stripped.

The words and shares that are the collection's are of its public table: density blank for all of its site 2 and for 49
of 29,519 rows of site 1, ages of 37 rows blank, 39 rows of other views, integer ids, machines by number. Shares of what
is rare there are raised here, or a hundred exams would show none of it.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from densityclip.density import denser
from densityclip.phantom.exam import GeneratedImage
from densityclip.phantom.identity import ExamIdentity
from densityclip.phantom.layouts.contract import Layout, Row, Shelf
from densityclip.phantom.randomness import keyed
from densityclip.phantom.sites import Site

TABLE = "train.csv"
COLUMNS = (
    "site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS",
    "implant", "density", "machine_id", "difficult_negative_case",
)  # fmt: skip
OTHER_VIEWS = ("AT", "LM", "ML", "LMO")
_OTHER_VIEW_SHARE, _BLANK_AGE_SHARE, _BLANK_DENSITY_SHARE = 0.04, 0.01, 0.0017
# The place that gives no densities.
_UNLABELLED = 2
# The file meta of many files of the collection says so.
_DIGITAL_RADIOGRAPHY = UID("1.2.840.10008.5.1.4.1.1.1.1")
# What is left of a header: ids, pixels and how they are shown; and Image Comments, by which an index knows what was
# generated. All else goes.
_KEPT = frozenset(
    {
        "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
        "InstanceNumber", "SeriesNumber", "ImageComments", "SamplesPerPixel",
        "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
        "PixelRepresentation", "PixelPaddingValue", "PixelIntensityRelationship", "PixelIntensityRelationshipSign",
        "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "RescaleType",
        "WindowCenterWidthExplanation", "LossyImageCompression", "VOILUTFunction", "PresentationLUTShape",
        "PixelData",
    }
)  # fmt: skip


def _name_exam(site: Site, seed: int, number: int) -> tuple[str, str]:
    patient = (seed + 1) * 1_000_000 + number
    return str(patient), ""


def _folder(identity: ExamIdentity) -> str:
    return f"train_images/{identity.patient_id}"


def _draws(identity: ExamIdentity) -> np.random.Generator:
    return keyed(identity.seed, identity.site.name, TABLE, identity.woman.number)


def _other_view(identity: ExamIdentity) -> tuple[str, str] | None:
    """Side and name of a further view that this exam has, or None."""
    rng = keyed(identity.seed, identity.site.name, "other view", identity.woman.number)
    if rng.random() >= _OTHER_VIEW_SHARE:
        return None
    return str(rng.choice(["L", "R"])), str(rng.choice(OTHER_VIEWS))


def _shelve(identity: ExamIdentity, image: GeneratedImage) -> list[Shelf]:
    images = [image]
    other = _other_view(identity)
    if other is not None and (image.side, image.view, image.kind) == (other[0], "MLO", "standard"):
        # Nobody looks at its pixels, because the table leaves it out: they are those of the oblique view.
        images.append(replace(image, view=other[1]))
    return [_one(identity, one) for one in images]


def _one(identity: ExamIdentity, image: GeneratedImage) -> Shelf:
    place = 2 * ("CC", "MLO", *OTHER_VIEWS).index(image.view) + "LR".index(image.side)
    kind = ("standard", "implant", "spot").index(image.kind)
    image_id = int(identity.patient_id) * 100 + 20 * kind + place
    woman = identity.woman
    blank_age, blank_density = _draws(identity).random(2) < (_BLANK_AGE_SHARE, _BLANK_DENSITY_SHARE)
    unlabelled = blank_density or identity.machine.place == _UNLABELLED
    row: Row = {
        "site_id": identity.machine.place,
        "patient_id": identity.patient_id,
        "image_id": image_id,
        "laterality": image.side,
        "view": image.view,
        "age": "" if blank_age else f"{woman.age}.0",
        "cancer": 0,
        "biopsy": 0,
        "invasive": 0,
        "BIRADS": "" if unlabelled else "1.0",
        "implant": int(woman.implants),
        "density": "" if unlabelled else denser(woman.labels),
        "machine_id": identity.machine.serial[-4:],
        "difficult_negative_case": False,
    }
    return Shelf(image=image, path=f"{image_id}.dcm", rows={TABLE: [row]})


def _exam_rows(identity: ExamIdentity) -> Mapping[str, list[Row]]:
    """Nothing: the table is of images."""
    return {}


def _strip(dataset: Dataset) -> None:
    """Strip the header, which then conforms to no class of DICOM, as in the collection."""
    for element in list(dataset):
        if element.keyword not in _KEPT:
            del dataset[element.tag]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _DIGITAL_RADIOGRAPHY


RSNA = Layout(
    dataset="rsna",
    source="",
    tables={TABLE: COLUMNS},
    holds_volumes=True,
    name_exam=_name_exam,
    folder=_folder,
    shelve=_shelve,
    exam_rows=_exam_rows,
    finish=_strip,
)
