"""Generated images as DICOM: Digital Mammography X-Ray (For Presentation) and Breast Tomosynthesis objects."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from densityclip.phantom.exam import GeneratedImage
from densityclip.phantom.population import Woman
from densityclip.phantom.presentation import BITS_STORED
from densityclip.phantom.sites import Machine, Site

DIGITAL_MAMMOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.2"
BREAST_TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
# 2.25 is the arc for UIDs made without a registered organisation (DICOM PS3.5, annex B).
_UID_PREFIX = "2.25."
_NOTICE = "Generated exam: simulated, not a patient. Research and testing only."
_VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
# Direction of rows and of columns (DICOM PS3.3, C.7.6.1.1.1), with the chest wall where real images have it.
_ORIENTATIONS = {
    ("L", "CC"): ["A", "R"],
    ("L", "MLO"): ["A", "FR"],
    ("R", "CC"): ["P", "L"],
    ("R", "MLO"): ["P", "FL"],
}
_SERIES_NUMBERS = {"DM": 1, "s2D": 2, "DBT": 3}
_VIEW_NUMBERS = {("L", "CC"): 1, ("L", "MLO"): 2, ("R", "CC"): 3, ("R", "MLO"): 4}
_SERIES_NAMES = {"DM": "Digital mammogram", "s2D": "Synthesized 2D", "DBT": "Tomosynthesis slices"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamIdentity:
    """The ids of one generated exam; all derive from site, seed and number.

    Attributes:
        patient_id: Unique over sites and seeds.
        accession_number: At most 16 characters.
        study_uid: Study Instance UID.
        study_date: An invented day from 2019 to 2024.
        woman: Age, machine.
        site: Institution.
    """

    patient_id: str
    accession_number: str
    study_uid: str
    study_date: date
    woman: Woman
    site: Site

    @property
    def machine(self) -> Machine:
        """The unit that made the exam."""
        return self.site.machines[self.woman.machine]

    def uid(self, *what: str) -> str:
        """A UID of something in this exam: the same ids and words give the same UID."""
        return uid(self.patient_id, *what)


def uid(*entropy: str) -> str:
    """A UID of the 2.25 arc, derived from the words alone."""
    return str(generate_uid(prefix=_UID_PREFIX, entropy_srcs=["densityclip phantom", *entropy]))


def identify(woman: Woman, site: Site, seed: int) -> ExamIdentity:
    """The ids of a woman's exam."""
    patient = f"{site.code}{seed:03d}-{woman.number:05d}"
    day = date.fromordinal(date(2019, 1, 7).toordinal() + (woman.number * 37 + seed * 101) % 2150)
    return ExamIdentity(
        patient_id=patient,
        accession_number=f"G{site.code}{seed % 10000:04d}{woman.number:06d}",
        study_uid=uid(patient, "study"),
        study_date=day,
        woman=woman,
        site=site,
    )


def sop_uid(identity: ExamIdentity, image: GeneratedImage) -> str:
    """SOP Instance UID of an image."""
    return identity.uid("image", image.modality, image.side, image.view)


def to_dataset(identity: ExamIdentity, image: GeneratedImage) -> Dataset:
    """One image as a DICOM dataset, ready for `save_as`."""
    tomosynthesis = image.modality == "DBT" or (image.modality == "s2D" and identity.site.s2d_form == "tomosynthesis")
    ds = Dataset()
    _add_patient_and_study(ds, identity)
    _add_series(ds, identity, image)
    if tomosynthesis:
        _add_tomosynthesis(ds, identity, image)
    else:
        _add_mammogram(ds, identity, image)
    _add_pixels(ds, image)
    ds.SOPClassUID = BREAST_TOMOSYNTHESIS if tomosynthesis else DIGITAL_MAMMOGRAPHY
    ds.SOPInstanceUID = sop_uid(identity, image)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(uid("implementation"))
    ds.file_meta.ImplementationVersionName = "DENSITYCLIP"
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _add_patient_and_study(ds: Dataset, identity: ExamIdentity) -> None:
    ds.PatientName = "Generated^Phantom"
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "F"
    ds.PatientAge = f"{identity.woman.age:03d}Y"
    ds.PatientComments = _NOTICE
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "None needed: generated exam"
    ds.StudyInstanceUID = identity.study_uid
    ds.StudyID = "1"
    ds.StudyDate = identity.study_date.strftime("%Y%m%d")
    ds.StudyTime = "090000"
    ds.StudyDescription = "Screening mammography (generated)"
    ds.AccessionNumber = identity.accession_number
    ds.ReferringPhysicianName = ""


def _add_series(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    machine = identity.machine
    ds.Modality = "MG"
    ds.SeriesInstanceUID = identity.uid("series", image.modality, image.side, image.view)
    ds.SeriesNumber = 10 * _SERIES_NUMBERS[image.modality] + _VIEW_NUMBERS[image.side, image.view]
    ds.SeriesDescription = f"{image.side} {image.view} {_SERIES_NAMES[image.modality]}"
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.StudyDate
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = ds.StudyTime
    ds.AcquisitionDateTime = ds.StudyDate + ds.StudyTime
    ds.AcquisitionNumber = ds.InstanceNumber = _VIEW_NUMBERS[image.side, image.view]
    ds.Manufacturer = machine.manufacturer
    ds.ManufacturerModelName = machine.model
    ds.DeviceSerialNumber = machine.serial
    ds.StationName = machine.station
    ds.SoftwareVersions = "phantom 1"
    ds.InstitutionName = identity.site.institution
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.BodyPartExamined = "BREAST"
    ds.ViewPosition = image.view
    ds.ImageComments = _NOTICE
    ds.BurnedInAnnotation = "NO"  # it asks for what identifies the patient; a side marker does not
    ds.BreastImplantPresent = "NO"
    ds.LossyImageCompression = "00"
    ds.BodyPartThickness = round(image.thickness_mm, 1)
    ds.KVP = "28"


def _add_view(ds: Dataset, image: GeneratedImage) -> None:
    value, meaning = _VIEW_CODES[image.view]
    view = _code(value, "SCT", meaning)
    view.ViewModifierCodeSequence = Sequence()
    ds.ViewCodeSequence = Sequence([view])


def _add_mammogram(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    if image.modality == "s2D":
        ds.ImageType = ["DERIVED", "PRIMARY", "", "GENERATED_2D"]
        ds.DerivationDescription = "Synthesized from tomosynthesis slices"
    else:
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ImageLaterality = image.side
    ds.PatientOrientation = _ORIENTATIONS[image.side, image.view]
    ds.ImagerPixelSpacing = [f"{image.pitch_mm:.6g}"] * 2
    ds.AnatomicRegionSequence = Sequence([_code("76752008", "SCT", "Breast")])
    ds.OrganExposed = "BREAST"
    ds.PositionerType = "MAMMOGRAPHIC"
    ds.PositionerPrimaryAngle = "0" if image.view == "CC" else "45"
    ds.DetectorType = "DIRECT"
    ds.AcquisitionContextSequence = Sequence()
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = -1 if image.stored.inverted else 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if image.stored.inverted else "IDENTITY"
    _add_view(ds, image)
    _add_window(ds, image)
    if image.stored.padding is not None:
        ds.PixelPaddingValue = image.stored.padding


def _add_window(ds: Dataset, image: GeneratedImage) -> None:
    ds.WindowCenter = str(image.stored.window_center)
    ds.WindowWidth = str(image.stored.window_width)
    ds.WindowCenterWidthExplanation = "NORMAL"
    ds.VOILUTFunction = image.stored.window_function


def _add_tomosynthesis(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    frames = 1 if image.stored.pixels.ndim == 2 else len(image.stored.pixels)
    volume = image.modality == "DBT"
    ds.ImageType = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE" if volume else "GENERATED_2D"]
    ds.PixelPresentation = "MONOCHROME"
    ds.VolumetricProperties = "VOLUME" if volume else "SAMPLED"
    ds.VolumeBasedCalculationTechnique = "TOMOSYNTHESIS" if volume else "MAX_IP"
    ds.ContentQualification = "RESEARCH"
    ds.PresentationLUTShape = "INVERSE" if image.stored.inverted else "IDENTITY"
    ds.PatientOrientation = _ORIENTATIONS[image.side, image.view]
    ds.FrameOfReferenceUID = identity.uid("frame of reference", image.side, image.view)
    ds.PositionReferenceIndicator = ""
    ds.AcquisitionContextSequence = Sequence()
    ds.NumberOfFrames = frames
    if image.stored.padding is not None:
        ds.PixelPaddingValue = image.stored.padding
    _add_view(ds, image)
    _add_dimensions(ds, identity, image)
    ds.SharedFunctionalGroupsSequence = Sequence([_shared_groups(image)])
    frame_type = Dataset()
    frame_type.FrameType = list(ds.ImageType)
    for name in ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"):
        setattr(frame_type, name, ds[name].value)
    ds.PerFrameFunctionalGroupsSequence = Sequence(
        [_frame_groups(identity, image, number, frame_type) for number in range(frames)]
    )


def _add_dimensions(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    """Frames are ordered by their place in the stack."""
    organization = Dataset()
    organization.DimensionOrganizationUID = identity.uid("dimensions", image.modality, image.side, image.view)
    ds.DimensionOrganizationSequence = Sequence([organization])
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer = 0x00209057  # In-Stack Position Number
    index.FunctionalGroupPointer = 0x00209111  # Frame Content Sequence
    ds.DimensionIndexSequence = Sequence([index])


def _shared_groups(image: GeneratedImage) -> Dataset:
    groups = Dataset()
    measures = Dataset()
    measures.PixelSpacing = [f"{image.pitch_mm:.6g}"] * 2
    measures.SliceThickness = f"{image.slab_mm:.6g}"
    groups.PixelMeasuresSequence = Sequence([measures])
    orientation = Dataset()
    orientation.ImageOrientationPatient = _directions(image)
    groups.PlaneOrientationSequence = Sequence([orientation])
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = Sequence([_code("76752008", "SCT", "Breast")])
    anatomy.FrameLaterality = image.side
    groups.FrameAnatomySequence = Sequence([anatomy])
    window = Dataset()
    _add_window(window, image)
    groups.FrameVOILUTSequence = Sequence([window])
    transformation = Dataset()
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = "0", "1", "US"
    groups.PixelValueTransformationSequence = Sequence([transformation])
    return groups


def _directions(image: GeneratedImage) -> list[float]:
    """Row and column cosines in patient coordinates (left, posterior, head positive); an MLO lies at 45 degrees."""
    row = [0.0, -1.0, 0.0] if image.side == "L" else [0.0, 1.0, 0.0]
    medial = -1.0 if image.side == "L" else 1.0
    if image.view == "CC":
        return [*row, medial, 0.0, 0.0]
    return [*row, round(medial * np.sqrt(0.5), 6), 0.0, -round(np.sqrt(0.5), 6)]


def _frame_groups(identity: ExamIdentity, image: GeneratedImage, number: int, frame_type: Dataset) -> Dataset:
    groups = Dataset()
    groups.XRay3DFrameTypeSequence = Sequence([frame_type])
    content = Dataset()
    content.StackID = "1"
    content.InStackPositionNumber = number + 1
    content.DimensionIndexValues = number + 1
    content.FrameAcquisitionNumber = 1
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = (
        identity.study_date.strftime("%Y%m%d") + "090000"
    )
    content.FrameAcquisitionDuration = 0.0
    groups.FrameContentSequence = Sequence([content])
    directions = np.array(_directions(image)).reshape(2, 3)
    along = np.cross(directions[0], directions[1]) * number * image.slab_mm
    position = Dataset()
    position.ImagePositionPatient = [f"{value:.6g}" for value in along + 0.0]
    groups.PlanePositionSequence = Sequence([position])
    return groups


def _add_pixels(ds: Dataset, image: GeneratedImage) -> None:
    pixels = image.stored.pixels
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if image.stored.inverted else "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS_STORED, BITS_STORED - 1
    ds.PixelRepresentation = 0
    ds.PixelData = pixels.astype("<u2").tobytes()
