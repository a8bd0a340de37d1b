"""For Processing (raw) values to attenuation: what the detector counted, before any processing for the screen.

Such an image has no window and no look: its values are proportional to the exposure of the detector or to its
logarithm (PS3.3 C.8.11.3, Pixel Intensity Relationship and its sign). The logarithm is what adds up along the beam, so
both end there; rising, because tissue stops what air lets through.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset

from densityclip.dicom.display import blank_padding
from densityclip.dicom.elements import PARSE_ERRORS, tag, text
from densityclip.dicom.modality import is_for_processing
from densityclip.dicom.stored import StoredValues
from densityclip.reasons import Reason, Refused

_SOP_CLASS = tag("SOPClassUID")
_META_SOP_CLASS = tag("MediaStorageSOPClassUID")
_INTENT = tag("PresentationIntentType")
_RELATIONSHIP = tag("PixelIntensityRelationship")


def holds_exposure(dataset: Dataset) -> bool:
    """Whether a data set is For Processing, by what its header says."""
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    sop_class = text(dataset, _SOP_CLASS) or text(meta, _META_SOP_CLASS)
    return is_for_processing(sop_class, (text(dataset, _INTENT) or "").upper())


def attenuation_table(dataset: Dataset, values: StoredValues) -> NDArray[np.float32]:
    """Attenuation of each stored value of a For Processing image.

    The photometric interpretation, rescaling and windows are not looked at: the relationship is stated of the stored
    values, and its sign says which end is air. A linear value below one unit of exposure counts as one unit.

    Returns:
        `[2^bits]` float32 in `[0, 1]`, entry 0 for the lowest stored value: a rising straight line of the negative
        logarithm of the exposure, 0 for the largest exposure that can be stored and for padding, 1 for the smallest.

    Raises:
        Refused: `bad_header`: the relationship is neither LIN nor LOG, or its sign neither 1 nor -1.
    """
    relationship = (text(dataset, _RELATIONSHIP) or "").upper()
    sign = _sign(dataset)
    if relationship not in ("LIN", "LOG"):
        raise Refused(Reason.BAD_HEADER, f"PixelIntensityRelationship is {relationship or 'missing'}, not LIN or LOG")
    if sign not in (1, -1):
        raise Refused(Reason.BAD_HEADER, f"PixelIntensityRelationshipSign is {sign or 'missing'}, not 1 or -1")
    stored = np.arange(values.lowest, values.highest + 1, dtype=np.float64)
    # Sign 1: lower values are less exposure. With -1 the exposure is counted down from the highest value.
    exposure = stored if sign == 1 else values.highest - stored
    attenuation = -np.log(np.maximum(exposure, 1.0)) if relationship == "LIN" else -exposure
    low, high = float(attenuation.min()), float(attenuation.max())
    table = ((attenuation - low) / max(high - low, 1e-12)).astype(np.float32)
    return blank_padding(table, values)


def _sign(dataset: Dataset) -> int | None:
    # A binary number (SS), which the text readers of `elements` do not know.
    try:
        value = dataset.get("PixelIntensityRelationshipSign")
    except PARSE_ERRORS:
        return None
    return value if isinstance(value, int) else None
