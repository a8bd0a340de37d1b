"""Each public dataset's layout with its quirks, made small: tables as the releases write them, files as they lie.

What the files hold is the caller's matter: `write(path, side, view, kind, look)` writes one mammogram. `kind` is DM or
s2D; `look` says what became of its header: `plain`, `stripped` (RSNA) or `film` (CBIS-DDSM).
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

Write = Callable[[Path, str, str, str, str], object]
VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]
SYNTHESIZED = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]
DIGITAL_MAMMOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.2"
DIGITAL_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# What is stripped of RSNA's headers, or was never in those of scanned film.
_ABOUT_THE_VIEW = (
    "Modality", "ViewPosition", "ViewCodeSequence", "ImageLaterality", "Laterality", "PatientOrientation", "ImageType",
    "PresentationIntentType", "PatientAge", "PatientSex", "Manufacturer", "DeviceSerialNumber", "InstitutionName",
)  # fmt: skip


def restamp(dataset: Dataset, look: str, key: str) -> Dataset:
    """Make a header what it is in a release; the UIDs follow from a key, the file's name."""
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, generate_uid(entropy_srcs=[key, keyword]))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID = f"header-{hash_of(key)}"[:60]
    if look == "plain":
        return dataset
    for keyword in _ABOUT_THE_VIEW:
        if keyword in dataset:
            delattr(dataset, keyword)
    if look == "stripped":
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = DIGITAL_RADIOGRAPHY
    else:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
        dataset.Modality = "MG"
        dataset.SeriesDescription = "full mammogram images"
    return dataset


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


RSNA_COLUMNS = (
    "site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS",
    "implant", "density", "machine_id", "difficult_negative_case",
)  # fmt: skip


def lay_out_rsna(folder: Path, write: Write) -> Path:
    """Six women of site 1, one with implants and one without a density; one of site 2; a view LMO; a lost file."""
    rows = []
    image = 462822612
    women = [("A", 0), ("B", 0), ("C", 0), ("D", 0), ("", 0), ("B", 1)]
    for number, (density, implant) in enumerate(women):
        for side, view in VIEWS:
            image += 1
            age = "" if number == 3 else f"{50 + number}.0"
            rows.append([1, 10006 + number, image, side, view, age, 0, 0, 0, "", implant, density, 29, False])
    for side, view in VIEWS:
        image += 1
        rows.append([2, 2999, image, side, view, 61.0, 0, 0, 0, "", 0, "", 48, False])
    for row in rows:
        write(folder / f"train_images/{row[1]}/{row[2]}.dcm", row[3], row[4], "DM", "stripped")
    rows.append([1, 10006, image + 1, "L", "LMO", 50.0, 0, 0, 0, "", 0, "A", 29, False])
    write(folder / f"train_images/10006/{image + 1}.dcm", "L", "MLO", "DM", "stripped")
    rows.append([1, 10007, image + 2, "L", "CC", 51.0, 0, 0, 0, "", 0, "B", 29, False])
    write_csv(folder / "train.csv", RSNA_COLUMNS, rows)
    return folder


VINDR_COLUMNS = (
    "study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads",
    "breast_density", "split",
)  # fmt: skip


def lay_out_vindr(folder: Path, write: Write) -> Path:
    """Six studies; the breasts of one differ; tables of findings and of header values beside the one that counts."""
    rows, findings, headers = [], [], []
    for number, (left, right) in enumerate(("AA", "BB", "CC", "DD", "CD", "BB")):
        study = f"{number:032x}"
        for place, (side, view) in enumerate(VIEWS):
            image = f"{1000 * (number + 1) + place:032x}"
            density = f"DENSITY {left if side == 'L' else right}"
            split = "test" if number == 5 else "training"
            rows.append([study, f"{number + 77:032x}", image, side, view, 3518, 2800, "BI-RADS 1", density, split])
            findings += [[*rows[-1][:9], "['Mass']", "BI-RADS 3", 1, 2, 3, 4, split]] * 2
            headers.append([image, f"0{45 + number}Y", side, "SIEMENS"])
            write(folder / f"images/{study}/{image}.dicom", side, view, "DM", "plain")
    write_csv(folder / "breast-level_annotations.csv", VINDR_COLUMNS, rows)
    boxes = ("finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax", "split")
    write_csv(folder / "finding_annotations.csv", (*VINDR_COLUMNS[:9], *boxes), findings)
    names = ("SOP Instance UID", "Patient's Age", "Image Laterality ", "Manufacturer")
    write_csv(folder / "metadata.csv", names, headers)
    return folder


EMBED_IMAGE_COLUMNS = (
    "", "anon_dicom_path", "empi_anon", "acc_anon", "study_date_anon", "SeriesDescription", "FinalImageType",
    "ImageLateralityFinal", "ViewPosition", "spot_mag", "Manufacturer", "PatientSex", "num_roi",
)  # fmt: skip
EMBED_FINDING_COLUMNS = (
    "", "empi_anon", "acc_anon", "study_date_anon", "tissueden", "side", "numfind", "RACE_DESC", "age_at_study",
)  # fmt: skip
EMBED_PREFIX = "/mnt/NAS2/mammo/anon_dicom/"


def lay_out_embed(folder: Path, write: Write) -> Path:
    """Seven exams of six patients, each with 2D and C-view images; rows of volumes, screen saves, spots, a man."""
    images, findings = [], []

    def add(
        exam: int, kind: str, side: str, view: str, *, spot: str = "", series: str = "", there: bool = True
    ) -> None:
        patient = 66685715 + exam % 6
        name = f"1.2.826.0.1.3680043.8.498.{exam}{len(images)}"
        path = f"cohort_{1 + exam % 2}/{patient}/1.2.847.{exam}/1.2.844.{exam}/{name}.dcm"
        accession = 4932273561626049 + exam
        shown = series or f"{side} {view}"
        sex = "M" if exam == 5 else "F"
        images.append(
            [len(images), EMBED_PREFIX + path, patient, accession, f"2017-04-{exam + 1:02d}", shown, kind, side, view,
             spot, "HOLOGIC, Inc.", sex, 0]
        )  # fmt: skip
        if there:
            modality = "s2D" if kind.lower().startswith("c") else "DM"
            write(folder / "images" / path, side, view if view in ("CC", "MLO") else "CC", modality, "plain")

    # Two findings of one exam differ; one exam is a man's; one is blank; one is not in the clinical table.
    densities = [["1.0"], ["2.0", "2.0"], ["3.0", "4"], ["4.0"], [""], ["5.0"]]
    for exam, written in enumerate(densities):
        for number, density in enumerate(written, start=1):
            accession = 4932273561626049 + exam
            race = "African American  or Black" if exam % 2 else "Caucasian or White"
            findings.append(
                [len(findings), 66685715 + exam, accession, "2017-04-19", density, "LRB"[number], number, race, 52.031]
            )  # fmt: skip
    for exam in range(len(densities) + 1):
        for side, view in VIEWS:
            add(exam, "2D", side, view)
            add(exam, "cview" if exam % 2 else "C-view", side, view, series=f"{side} {view} C-View")
    add(0, "3D", "L", "CC", there=False)
    add(0, "ROI_SSC", "L", "CC", there=False)
    add(1, "2D", "L", "CC", spot="1.0")
    add(1, "2D", "R", "ML")
    add(1, "2D", "R", "CC", series="RXCCL")
    write_csv(folder / "tables/EMBED_OpenData_metadata.csv", EMBED_IMAGE_COLUMNS, images)
    write_csv(folder / "tables/EMBED_OpenData_clinical.csv", EMBED_FINDING_COLUMNS, findings)
    return folder


CBIS_COLUMNS = (
    "patient_id", "{density}", "left or right breast", "image view", "abnormality id", "abnormality type",
    "pathology", "image file path", "cropped image file path", "ROI mask file path",
)  # fmt: skip


def lay_out_cbis_ddsm(folder: Path, write: Write, *, layout: str = "retriever") -> Path:
    """Six patients in the four tables; two findings in one image, density 0, one film in two sets, a patient in both.

    Args:
        folder: Where.
        write: Writes one mammogram.
        layout: `retriever` names folders by date and description, `classic` by UID, `series` by the series' UID alone.
    """
    tables: dict[tuple[str, str], list[list[object]]] = {
        (k, s): [] for k in ("Mass", "Calc") for s in ("Training", "Test")
    }

    def add(kind: str, part: str, patient: int, side: str, view: str, density: int, finding: int = 1) -> None:
        case = f"{kind}-{part}_P_{patient:05d}_{'LEFT' if side == 'L' else 'RIGHT'}_{view}"
        study, series = f"1.3.6.1.4.1.9590.100.1.2.1{patient}{ord(kind[0])}", f"1.3.6.1.4.1.9590.{abs(hash_of(case))}"
        full, crop = f"{case}/{study}/{series}/000000.dcm", f"{case}_{finding}/{study}9/{series}9/000000.dcm"
        tables[kind, part].append(
            [f"P_{patient:05d}", density, "LEFT" if side == "L" else "RIGHT", view, finding, kind, "BENIGN", full, crop,
             crop + "\n"]
        )  # fmt: skip
        places = {
            "retriever": f"{case}/07-20-2016-DDSM-NA-{patient}/1.000000-full mammogram images-24515/1-1.dcm",
            "classic": full,
            "series": f"{series}/1-1.dcm",
        }
        mask = f"{case}_{finding}/07-20-2016-DDSM-NA-9/1.000000-ROI mask images-9/1-1.dcm"
        write(folder / "CBIS-DDSM" / places[layout], side, view, "DM", "film")
        if layout != "series":
            write(folder / "CBIS-DDSM" / mask, side, view, "DM", "film")

    for patient, density in enumerate((1, 2, 3, 4, 2, 3), start=1):
        kind, part = ("Mass", "Calc")[patient % 2], ("Training", "Test")[patient >= 5]
        for side, view in VIEWS:
            add(kind, part, patient, side, view, density)
    add("Mass", "Training", 2, "L", "CC", 3, finding=2)
    add("Mass", "Test", 7, "L", "CC", 0)
    add("Mass", "Test", 1, "L", "CC", 1)
    for (kind, part), rows in tables.items():
        density = "breast_density" if kind == "Mass" else "breast density"
        split = "train" if part == "Training" else "test"
        columns = [name.format(density=density) for name in CBIS_COLUMNS]
        write_csv(folder / f"{kind.lower()}_case_description_{split}_set.csv", columns, rows)
    return folder


def hash_of(text: str) -> int:
    return int(generate_uid(entropy_srcs=[text]).split(".")[-1])


INBREAST_COLUMNS = (
    "Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads",
)  # fmt: skip


def lay_out_inbreast(folder: Path, write: Write) -> Path:
    """Six patients whose ids are removed, one of them seen twice; grades with blanks around them, one blank."""
    release = folder / "INbreast Release 1.0"
    rows = []
    image = 20586908
    for number, grade in enumerate(("1", "2", "3", "4", " 2 ", "     ")):
        for month in ("201001", "201103") if number == 0 else ("200903",):
            for side, view in VIEWS:
                image += 26
                rows.append(["removed", "removed", side, view, month, image, grade, "4a"])
                name = f"{image}_{0x6C613A14B80A8591 + number:x}_MG_{side}_{view[:2]}_ANON.dcm"
                write(release / "AllDICOMs" / name, side, view, "DM", "plain")
    write_csv(release / "INbreast.csv", INBREAST_COLUMNS, rows, separator=";")
    return folder


LAYOUTS: dict[str, Callable[[Path, Write], Path]] = {
    "rsna": lay_out_rsna,
    "vindr": lay_out_vindr,
    "embed": lay_out_embed,
    "cbis-ddsm": lay_out_cbis_ddsm,
    "inbreast": lay_out_inbreast,
}


def write_header(path: Path, side: str, view: str, kind: str, look: str) -> None:
    """Write a mammogram of a header only: enough for an index."""
    coded = Dataset()
    code = {"CC": "399162004", "MLO": "399368009"}[view]
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code, "SCT", view
    dataset = Dataset()
    dataset.SOPClassUID = DIGITAL_MAMMOGRAPHY
    dataset.ImageType = SYNTHESIZED if kind == "s2D" else ["ORIGINAL", "PRIMARY"]
    dataset.Modality, dataset.PresentationIntentType, dataset.PatientSex = "MG", "FOR PRESENTATION", "F"
    dataset.ImageLaterality, dataset.ViewCodeSequence = side, Items([coded])
    dataset.Manufacturer, dataset.InstitutionName, dataset.PatientAge = "Header Vendor", "Header Clinic", "099Y"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DIGITAL_MAMMOGRAPHY
    path.parent.mkdir(parents=True, exist_ok=True)
    restamp(dataset, look, path.name if look == "plain" else str(path)).save_as(path, enforce_file_format=True)


def no_file(path: Path, *_: str) -> None:
    """Write nothing: for an index of tables alone."""


def edit(path: Path, old: str, new: str) -> None:
    """Change the first occurrence in a table."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
