"""Which kind of mammogram a header describes: DM, s2D, DBT, or unknown. Never a guess."""

import re

from densityclip.dicom.header import HeaderFacts
from densityclip.records import Modality

DM_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"
DM_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
PROJECTIONS = frozenset({"1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5"})
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

# What a table can never make a mammogram of: the directory of a medium.
NO_IMAGES = frozenset({"1.2.840.10008.1.3.10"})

# GENERATED_2D is the standard's word (PS3.3 C.8.31.1.1.1); TOMO_2D is written by some vendors instead.
_SYNTHETIC_WORDS = frozenset({"GENERATED_2D", "TOMO_2D"})
_SYNTHETIC_NAMES = re.compile(
    r"\bc[\s-]?view\b|\bs[\s-]?view\b|\bintelligent\s?2d\b|\bv[\s-]?preview\b|\binsight\s?2d\b", re.IGNORECASE
)

_SLAB_WORDS = frozenset({"MAXIMUM", "MINIMUM", "MEAN", "MEDIAN", "MAX_IP", "MIN_IP"})


def modality_of(facts: HeaderFacts) -> Modality:
    """Kind of mammogram that a header describes.

    Neither the SOP class nor the number of frames decides alone: synthesized images travel as Digital Mammography or
    as one-frame Breast Tomosynthesis. In order: an image type that says synthesized; a tomosynthesis object with
    several frames; a series named after a vendor's synthesized view; plain Digital Mammography of one frame, For
    Presentation or For Processing (which of the two is wanted, `eligibility` checks).
    """
    if facts.sop_class not in (DM_FOR_PRESENTATION, DM_FOR_PROCESSING, TOMOSYNTHESIS):
        return Modality.UNKNOWN
    if _SYNTHETIC_WORDS.intersection(facts.image_type[2:]):
        return Modality.S2D
    if facts.sop_class == TOMOSYNTHESIS and facts.frames > 1:
        return Modality.DBT
    if _SYNTHETIC_NAMES.search((facts.series_description or "").replace("_", " ")):
        return Modality.S2D
    # A single slice or projection stored in the DM class names itself in value 3; it is no DM.
    plain = not any(word.startswith("TOMO") for word in facts.image_type[2:3])
    if facts.sop_class != TOMOSYNTHESIS and plain and facts.frames == 1:
        return Modality.DM
    return Modality.UNKNOWN


def is_for_processing(sop_class: str | None, presentation_intent: str | None) -> bool:
    """Whether an object is raw, For Processing: by its SOP class, or by Presentation Intent Type where both share one.

    Args:
        sop_class: SOP Class UID.
        presentation_intent: Presentation Intent Type, in capitals.
    """
    return sop_class == DM_FOR_PROCESSING or presentation_intent == "FOR PROCESSING"


def is_slab(facts: HeaderFacts) -> bool:
    """Whether the frames of a tomosynthesis volume are slabs: several thin slices each, joined by maximum or mean.

    Slabs are DBT like slices, but fewer and thicker. Image Type value 4 says so, or Volume Based Calculation Technique
    (PS3.3 C.8.21.6.1), or the name of the series.
    """
    if modality_of(facts) is not Modality.DBT:
        return False
    joined = _SLAB_WORDS.intersection((*facts.image_type[3:4], facts.volume_technique or ""))
    return bool(joined) or "slab" in (facts.series_description or "").lower()
