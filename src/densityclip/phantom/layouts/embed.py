"""The layout of the EMBED open data: a table of images, a table of findings, and `images/cohort_N/`.

Columns, words and quirks are those of the public description of the tables; no value is of the data. Synthesized images
are `C-view` (some `cview`), volumes `3D`: these are named, and not there unless they are asked for. Screen saves with
marked regions are named only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from densityclip.density import CATEGORIES, denser
from densityclip.phantom.dicom_objects import modifiers, series_description, sop_uid
from densityclip.phantom.exam import GeneratedImage
from densityclip.phantom.identity import ExamIdentity
from densityclip.phantom.layouts.contract import Layout, Row, Shelf
from densityclip.phantom.randomness import keyed
from densityclip.phantom.sites import Site

IMAGES, FINDINGS = "tables/EMBED_OpenData_metadata.csv", "tables/EMBED_OpenData_clinical.csv"
_MODIFIER = "0_ViewCodeSequence_0_ViewModifierCodeSequence_CodeMeaning"
IMAGE_COLUMNS = (
    "", "anon_dicom_path", "empi_anon", "acc_anon", "study_date_anon", "StudyDescription", "SeriesDescription",
    "FinalImageType", "ImageLateralityFinal", "ViewPosition", "spot_mag", "ROI_coords", "num_roi", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "StationName", "PatientSex", "BreastImplantPresent",
    "PhotometricInterpretation", "Rows", "Columns", "BodyPartThickness", "0_ViewCodeSequence_0_CodeMeaning", _MODIFIER,
)  # fmt: skip
FINDING_COLUMNS = (
    "", "empi_anon", "acc_anon", "study_date_anon", "desc", "tissueden", "asses", "side", "numfind", "implanfind",
    "RACE_DESC", "ETHNIC_GROUP_DESC", "GENDER_DESC", "age_at_study",
)  # fmt: skip
_PREFIXES = ("/mnt/NAS2/mammo/anon_dicom/", "/mnt/NAS3/mammo/anon_dicom/")
_COHORTS = 10
_SECOND_FINDING_SHARE, _BLANK_DENSITY_SHARE, _SCREEN_SAVE_SHARE = 0.15, 0.03, 0.05
_MALE = "5.0"


def _name_exam(site: Site, seed: int, number: int) -> tuple[str, str]:
    # Both are whole numbers that a float holds exactly, as in the release.
    return str((seed + 1) * 10_000_000 + number), str(1_000_000_000_000_000 + (seed + 1) * 10_000_000_000 + number)


def _cohort(identity: ExamIdentity) -> str:
    return f"cohort_{1 + identity.woman.number % _COHORTS}"


def _folder(identity: ExamIdentity) -> str:
    return f"images/{_cohort(identity)}/{identity.patient_id}"


def _draws(identity: ExamIdentity, what: str) -> np.random.Generator:
    return keyed(identity.seed, identity.site.name, what, identity.woman.number)


def _shelve(identity: ExamIdentity, image: GeneratedImage) -> list[Shelf]:
    series = identity.uid("series", image.modality, image.side, image.view, image.kind)
    path = f"{identity.study_uid}/{series}/{sop_uid(identity, image)}.dcm"
    rows = [_image_row(identity, image, path)]
    first = (image.modality, image.side, image.view, image.kind) == ("DM", "L", "CC", "standard")
    if first and _draws(identity, "screen save").random() < _SCREEN_SAVE_SHARE:
        saved = f"{identity.study_uid}/{identity.uid('screen save')}.dcm"
        rows.append(rows[0] | {"anon_dicom_path": _anonymous_path(identity, saved), "FinalImageType": "ROI_SSC"})
    return [Shelf(image=image, path=path, rows={IMAGES: rows})]


def _anonymous_path(identity: ExamIdentity, path: str) -> str:
    prefix = _PREFIXES[identity.woman.number % len(_PREFIXES)]
    return f"{prefix}{_cohort(identity)}/{identity.patient_id}/{path}"


def _image_row(identity: ExamIdentity, image: GeneratedImage, path: str) -> Row:
    woman = identity.woman
    synthesized = "cview" if woman.number % 2 else "C-view"
    rows, columns = image.stored.pixels.shape[-2:]
    return _exam(identity) | {
        "anon_dicom_path": _anonymous_path(identity, path),
        "StudyDescription": "MG Screen Bilat w/Tomo",
        "SeriesDescription": series_description(image),
        "FinalImageType": {"DM": "2D", "s2D": synthesized, "DBT": "3D"}[image.modality],
        "ImageLateralityFinal": image.side,
        "ViewPosition": image.view,
        "spot_mag": "1.0" if image.kind == "spot" else "",
        "ROI_coords": "()",
        "num_roi": 0,
        "Manufacturer": identity.machine.manufacturer,
        "ManufacturerModelName": identity.machine.model,
        "DeviceSerialNumber": identity.machine.serial,
        "StationName": identity.machine.station,
        "PatientSex": "M" if woman.male else "F",
        "BreastImplantPresent": "YES" if woman.implants else "NO",
        "PhotometricInterpretation": "MONOCHROME1" if image.stored.inverted else "MONOCHROME2",
        "Rows": rows,
        # Text among numbers in one column, as in the release.
        "Columns": columns if woman.number % 2 else f"{columns}.0",
        "BodyPartThickness": round(image.thickness_mm, 1),
        "0_ViewCodeSequence_0_CodeMeaning": {"CC": "cranio-caudal", "MLO": "medio-lateral oblique"}[image.view],
        # A column holds one modifier, the first.
        _MODIFIER: next((meaning for _, meaning in modifiers(identity, image)), ""),
    }


def _exam(identity: ExamIdentity) -> Row:
    return {
        "empi_anon": identity.patient_id,
        "acc_anon": identity.accession_number,
        "study_date_anon": identity.study_date.isoformat(),
    }


def _exam_rows(identity: ExamIdentity) -> Mapping[str, list[Row]]:
    """One or two findings; both carry the exam's density, race and age."""
    rng = _draws(identity, "findings")
    findings = 2 if rng.random() < _SECOND_FINDING_SHARE else 1
    density = _tissue_density(identity, blank=bool(rng.random() < _BLANK_DENSITY_SHARE))
    sides = rng.permutation(["L", "R"])
    age = round(identity.woman.age + float(rng.random()), 3)
    common: dict[str, Any] = _exam(identity) | {
        "desc": "MG Screen Bilat w/Tomo",
        "tissueden": density,
        "asses": "N",
        "implanfind": int(identity.woman.implants),
        "RACE_DESC": identity.woman.race,
        "ETHNIC_GROUP_DESC": "Unreported, Unknown, Unavailable",
        "GENDER_DESC": "Male" if identity.woman.male else "Female",
        "age_at_study": age,
    }
    rows = [common | {"side": str(sides[k]) if findings > 1 else "", "numfind": k + 1} for k in range(findings)]
    return {FINDINGS: rows}


def _tissue_density(identity: ExamIdentity, *, blank: bool) -> str:
    """The exam's density as the table writes it: the reader's, 1.0 to 4.0; 5.0 is a man."""
    if identity.woman.male:
        return _MALE
    label = denser(identity.woman.labels)
    return "" if blank or label is None else f"{CATEGORIES.index(label) + 1}.0"


EMBED = Layout(
    dataset="embed",
    source="",
    tables={FINDINGS: FINDING_COLUMNS, IMAGES: IMAGE_COLUMNS},
    holds_volumes=False,
    name_exam=_name_exam,
    folder=_folder,
    shelve=_shelve,
    exam_rows=_exam_rows,
)
