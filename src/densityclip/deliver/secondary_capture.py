"""A picture of where the model looked, as a colour secondary capture in the study of its image."""

import io

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from densityclip import __version__
from densityclip.artifacts import hash_bytes
from densityclip.deliver.identity import PRODUCT, derived_uid, model_identity
from densityclip.deliver.source_image import SourceImage, copy_patient_and_study, write_meta
from densityclip.deliver.wording import NOTICE
from densityclip.model.bundle import Bundle

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_SERIES_NUMBERS = {"L": 9811, "R": 9812, None: 9813}
_SIDES = {"L": "left", "R": "right", None: "side not stated"}


def rgb_of_png(picture: bytes) -> NDArray[np.uint8]:
    """A PNG as `[rows, columns, 3]`."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened.convert("RGB"))


def secondary_capture(
    source: SourceImage, picture: NDArray[np.uint8], bundle: Bundle, *, laterality: str | None, number: int = 1
) -> Dataset:
    """One picture about one image: Secondary Capture Image, RGB, uncompressed, one frame (what every viewer takes).

    The picture carries words, so Burned In Annotation is YES. Its pixels and its number are part of what its UID
    derives from: another colour scale, or place in the series, makes another object, never other bytes of the same.

    Args:
        source: The image that the picture is about.
        picture: `[rows, columns, 3]`, uint8.
        bundle: The model that it explains.
        laterality: Side of the breast, `L`, `R` or None; captures of a side are a series.
        number: Instance number in that series.

    Returns:
        The capture, ready for `object_bytes`.

    Raises:
        ValueError: The picture is no RGB image of 8 bits.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture is [rows, columns, 3] of uint8, got {picture.shape} of {picture.dtype}")
    model, pixels = model_identity(bundle), np.ascontiguousarray(picture).tobytes()
    capture = Dataset()
    copy_patient_and_study(source, capture)
    capture.SOPClassUID = SECONDARY_CAPTURE
    capture.SOPInstanceUID = derived_uid("capture", source.sop_uid, model, str(number), hash_bytes(pixels))
    _add_series(capture, source, model, laterality)
    _add_description(capture, source, number)
    _add_pixels(capture, picture, pixels)
    write_meta(capture)
    return capture


def _add_series(capture: Dataset, source: SourceImage, model: str, laterality: str | None) -> None:
    study = str(source.header.StudyInstanceUID)
    capture.Modality = "OT"
    capture.SeriesInstanceUID = derived_uid("capture series", study, model, str(laterality))
    capture.SeriesNumber = _SERIES_NUMBERS[laterality]
    capture.SeriesDescription = f"Where the model looked, {_SIDES[laterality]}, research use only"
    # Type 2C, empty where nobody knows the side (PS3.3 C.7.3.1).
    capture.Laterality = laterality or ""
    capture.BodyPartExamined = "BREAST"
    capture.Manufacturer = capture.ManufacturerModelName = PRODUCT
    capture.SoftwareVersions = __version__
    capture.ConversionType = "WSD"
    capture.SecondaryCaptureDeviceManufacturer = PRODUCT
    capture.SecondaryCaptureDeviceSoftwareVersions = __version__


def _add_description(capture: Dataset, source: SourceImage, number: int) -> None:
    capture.InstanceNumber = number
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "YES"
    capture.PatientOrientation = ""
    capture.ImageComments = NOTICE
    capture.DerivationDescription = "Heat map of what raised the density score, over the source image"
    # Once lossy, always lossy: pixels that derive from a lossy image say so (PS3.3 C.7.6.1.1.5).
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in source.header:
            capture[keyword] = source.header[keyword]
    day, time = source.moment
    if day:
        # No Series Date: the images of a side may have been made at different times, and a series has one.
        capture.ContentDate, capture.ContentTime = day, time or "000000"
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source Image for Image Processing Operation"
    named = Dataset()
    named.ReferencedSOPClassUID = str(source.header.SOPClassUID)
    named.ReferencedSOPInstanceUID = source.sop_uid
    named.PurposeOfReferenceCodeSequence = Sequence([purpose])
    capture.SourceImageSequence = Sequence([named])


def _add_pixels(capture: Dataset, picture: NDArray[np.uint8], pixels: bytes) -> None:
    capture.SamplesPerPixel = 3
    capture.PhotometricInterpretation = "RGB"
    capture.PlanarConfiguration = 0
    capture.Rows, capture.Columns = picture.shape[:2]
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit = 7
    capture.PixelRepresentation = 0
    capture.PixelData = pixels + b"\0" * (len(pixels) % 2)
    capture["PixelData"].VR = "OB"
