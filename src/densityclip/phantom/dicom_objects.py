"""Generated images as DICOM: Digital Mammography X-Ray (For Presentation) and Breast Tomosynthesis objects."""

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from densityclip.phantom.encoding import put_pixels
from densityclip.phantom.exam import GeneratedImage
from densityclip.phantom.extras import MAGNIFICATION
from densityclip.phantom.identity import ExamIdentity, uid
from densityclip.phantom.presentation import BITS_STORED
from densityclip.records import GENERATED_NOTICE

DIGITAL_MAMMOGRAPHY = "1.2.840.10008.5.1.4.1.1.1.2"
BREAST_TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
_VIEW_CODES = {
    "CC": ("399162004", "cranio-caudal"),
    "MLO": ("399368009", "medio-lateral oblique"),
    "ML": ("399260004", "medio-lateral"),
    "LM": ("399352003", "latero-medial"),
    "LMO": ("399099002", "latero-medial oblique"),
}
_AXILLARY_TAIL = ("399011000", "axillary tail")
_MODIFIERS = {
    "magnification": ("399163009", "magnification"),
    "spot": ("399055006", "spot compression"),
    "displaced": ("399209000", "implant displaced"),
}
# Direction of rows and of columns (DICOM PS3.3, C.7.6.1.1.1), with the chest wall where real images have it.
_COLUMNS_TO = {"CC": ("R", "L"), "ML": ("F", "F"), "LM": ("F", "F")}
_OBLIQUE = ("FR", "FL")
_SERIES_NUMBERS = {"DM": 1, "s2D": 2, "DBT": 3}
_VIEW_NUMBERS = {("L", "CC"): 1, ("L", "MLO"): 2, ("R", "CC"): 3, ("R", "MLO"): 4}
_SERIES_NAMES = {"DM": "Digital mammogram", "s2D": "Synthesized 2D", "DBT": "Tomosynthesis slices"}


def shows_displaced_implant(identity: ExamIdentity, image: GeneratedImage) -> bool:
    """Whether a woman has implants and this view shows her breast with the implant pushed back."""
    return identity.woman.implants and image.kind == "standard"


def modifiers(identity: ExamIdentity, image: GeneratedImage) -> list[tuple[str, str]]:
    """Codes of what modifies the view, with their meanings (SNOMED CT)."""
    if image.kind == "spot":
        return [_MODIFIERS["magnification"], _MODIFIERS["spot"]]
    found = [_MODIFIERS["displaced"]] if shows_displaced_implant(identity, image) else []
    return [*found, _AXILLARY_TAIL] if image.view == "AT" else found


def sop_uid(identity: ExamIdentity, image: GeneratedImage) -> str:
    """SOP Instance UID of an image."""
    return identity.uid("image", image.modality, image.side, image.view, image.kind)


def series_number(image: GeneratedImage) -> int:
    """Number of an image's series, which holds it alone."""
    tens = 10 * _SERIES_NUMBERS[image.modality] + 100 * ("standard", "implant", "spot").index(image.kind)
    return tens + _VIEW_NUMBERS.get((image.side, image.view), 9)


def series_description(image: GeneratedImage) -> str:
    """Name of an image's series."""
    kind = {"standard": "", "spot": " spot magnification", "implant": " implant"}[image.kind]
    return f"{image.side} {image.view}{kind} {_SERIES_NAMES[image.modality]}"


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
    ds.SOPClassUID = BREAST_TOMOSYNTHESIS if tomosynthesis else DIGITAL_MAMMOGRAPHY
    ds.SOPInstanceUID = sop_uid(identity, image)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = UID(uid("implementation"))
    ds.file_meta.ImplementationVersionName = "DENSITYCLIP"
    _add_pixels(ds, identity, image)
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _add_patient_and_study(ds: Dataset, identity: ExamIdentity) -> None:
    ds.PatientName = "Generated^Phantom"
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "M" if identity.woman.male else "F"
    ds.PatientAge = f"{identity.woman.age:03d}Y"
    ds.PatientComments = GENERATED_NOTICE
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
    ds.SeriesInstanceUID = identity.uid("series", image.modality, image.side, image.view, image.kind)
    ds.SeriesNumber = series_number(image)
    ds.SeriesDescription = series_description(image)
    ds.SeriesDate = ds.ContentDate = ds.StudyDate
    ds.SeriesTime = ds.ContentTime = ds.StudyTime
    ds.InstanceNumber = 1
    ds.Manufacturer = machine.manufacturer
    ds.ManufacturerModelName = machine.model
    ds.DeviceSerialNumber = machine.serial
    ds.StationName = machine.station
    ds.SoftwareVersions = "phantom 2"
    ds.InstitutionName = identity.site.institution
    ds.BodyPartExamined = "BREAST"
    ds.ImageComments = GENERATED_NOTICE
    ds.BurnedInAnnotation = "NO"  # it asks for what identifies the patient; a side marker does not
    ds.BreastImplantPresent = "YES" if identity.woman.implants else "NO"
    ds.LossyImageCompression = "00"


def _add_view(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    # An axillary tail is a modifier of the oblique view.
    value, meaning = _VIEW_CODES["MLO" if image.view == "AT" else image.view]
    view = _code(value, "SCT", meaning)
    view.ViewModifierCodeSequence = Sequence(
        [_code(value, "SCT", meaning) for value, meaning in modifiers(identity, image)]
    )
    ds.ViewCodeSequence = Sequence([view])


def _add_mammogram(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    if image.modality == "s2D":
        ds.ImageType = ["DERIVED", "PRIMARY", "", "GENERATED_2D"]
        ds.DerivationDescription = "Synthesized from tomosynthesis slices"
    else:
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.AcquisitionDate, ds.AcquisitionTime = ds.StudyDate, ds.StudyTime
    ds.AcquisitionDateTime = ds.StudyDate + ds.StudyTime
    ds.AcquisitionNumber = 1
    ds.ImageLaterality = image.side
    ds.ViewPosition = image.view
    ds.PatientOrientation = _orientation(image)
    at_detector = image.pitch_mm * (MAGNIFICATION if image.kind == "spot" else 1.0)
    ds.ImagerPixelSpacing = [f"{at_detector:.6g}"] * 2
    if image.kind == "spot":
        ds.EstimatedRadiographicMagnificationFactor = f"{MAGNIFICATION:.2f}"
    ds.BodyPartThickness = round(image.thickness_mm, 1)
    ds.KVP = "28"
    ds.AnatomicRegionSequence = Sequence([_code("76752008", "SCT", "Breast")])
    ds.OrganExposed = "BREAST"
    ds.PositionerType = "MAMMOGRAPHIC"
    ds.PositionerPrimaryAngle = "0" if image.view == "CC" else "45"
    ds.DetectorType = "FILM" if image.film else "DIRECT"
    ds.AcquisitionContextSequence = Sequence()
    ds.PixelIntensityRelationship = "LOG"
    # 1: lower values are less X-ray intensity; -1: higher values are. Bright is dense, which is less.
    ds.PixelIntensityRelationshipSign = 1 if image.stored.inverted else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if image.stored.inverted else "IDENTITY"
    _add_view(ds, identity, image)
    _add_window(ds, image)
    if image.stored.padding is not None:
        ds.PixelPaddingValue = image.stored.padding


def _orientation(image: GeneratedImage) -> list[str]:
    """Direction of the rows and of the columns, in letters."""
    right = image.side == "R"
    return ["P" if right else "A", _COLUMNS_TO.get(image.view, _OBLIQUE)[right]]


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
    ds.FrameOfReferenceUID = identity.uid("frame of reference", image.side, image.view)
    ds.PositionReferenceIndicator = ""
    ds.AcquisitionContextSequence = Sequence()
    ds.NumberOfFrames = frames
    if image.stored.padding is not None:
        ds.PixelPaddingValue = image.stored.padding
    _add_view(ds, identity, image)
    _add_dimensions(ds, identity, image)
    frame_type = Dataset()
    frame_type.FrameType = list(ds.ImageType)
    for name in ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"):
        setattr(frame_type, name, ds[name].value)
    ds.SharedFunctionalGroupsSequence = Sequence([_shared_groups(image)])
    ds.PerFrameFunctionalGroupsSequence = Sequence(_frame_groups(image, frames, frame_type))


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


def _frame_groups(image: GeneratedImage, frames: int, frame_type: Dataset) -> Iterator[Dataset]:
    """What differs from frame to frame, and the frame type, which may not be shared."""
    across = np.cross(*np.array(_directions(image)).reshape(2, 3))
    for number in range(frames):
        groups = Dataset()
        groups.XRay3DFrameTypeSequence = Sequence([frame_type])
        content = Dataset()
        content.StackID = "1"
        content.InStackPositionNumber = number + 1
        content.DimensionIndexValues = number + 1
        groups.FrameContentSequence = Sequence([content])
        position = Dataset()
        position.ImagePositionPatient = [f"{value:.6g}" for value in across * number * image.slab_mm + 0.0]
        groups.PlanePositionSequence = Sequence([position])
        yield groups


def _add_pixels(ds: Dataset, identity: ExamIdentity, image: GeneratedImage) -> None:
    pixels = image.stored.pixels
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if image.stored.inverted else "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS_STORED, BITS_STORED - 1
    ds.PixelRepresentation = 0
    put_pixels(ds, pixels, BITS_STORED, identity.machine.transfer_syntax)
