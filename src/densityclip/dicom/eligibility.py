"""Is this a standard screening view that the model may see? If not, the reason."""

from densityclip.dicom.header import HeaderFacts
from densityclip.dicom.modality import (
    DM_FOR_PRESENTATION,
    DM_FOR_PROCESSING,
    PROJECTIONS,
    SECONDARY_CAPTURE,
    TOMOSYNTHESIS,
    modality_of,
)
from densityclip.reasons import Reason, Refused
from densityclip.records import Modality, View

_SPECIAL_WORDS = frozenset({"SUBTRACTION", "ADDITION", "LOW_ENERGY", "HIGH_ENERGY", "TOMO_SCOUT", "PREFIRE"})
_SPECIAL_STARTS = ("STEREO", "POST")
_NO_SCREENING_VIEW = frozenset({"magnification", "spot compression", "tangential"})


def check_eligible(facts: HeaderFacts) -> None:
    """Check that an object is a standard screening mammogram: CC or MLO of one breast of a woman, for presentation.

    An implant that is displaced out of the view is accepted: the breast itself is shown.

    Raises:
        Refused: It is not; the reason says why, the most basic reason first.
    """
    check_object(facts)
    check_screening_view(facts)
    if modality_of(facts) is Modality.UNKNOWN:
        raise Refused(
            Reason.UNKNOWN_MODALITY,
            f"image type {'/'.join(facts.image_type) or 'not stated'}, {facts.frames} frame(s)",
        )


def check_object(facts: HeaderFacts) -> None:
    """Check what kind of object a header describes, whatever view it shows.

    Raises:
        Refused: `not_mammography`, `proprietary`, `for_processing`, `projection` or `special_acquisition`.
    """
    if facts.sop_class == SECONDARY_CAPTURE and facts.modality_tag == "MG":
        raise Refused(Reason.PROPRIETARY)
    if facts.sop_class in PROJECTIONS or "TOMO_PROJ" in facts.image_type:
        raise Refused(Reason.PROJECTION)
    if facts.sop_class not in (DM_FOR_PRESENTATION, DM_FOR_PROCESSING, TOMOSYNTHESIS):
        raise Refused(Reason.NOT_MAMMOGRAPHY, f"SOP class {facts.sop_class}, modality {facts.modality_tag}")
    if facts.sop_class == DM_FOR_PROCESSING or facts.presentation_intent == "FOR PROCESSING":
        raise Refused(Reason.FOR_PROCESSING)
    special = [word for word in facts.image_type if word in _SPECIAL_WORDS or word.startswith(_SPECIAL_STARTS)]
    if special:
        raise Refused(Reason.SPECIAL_ACQUISITION, f"image type says {special[0]}")


def check_screening_view(facts: HeaderFacts) -> None:
    """Check that a view is a standard one of one breast of a woman.

    Raises:
        Refused: `specimen`, `male`, `magnification`, `implant`, or a view or side that is missing or not standard.
    """
    if facts.view == "specimen" or "specimen" in facts.view_modifiers:
        raise Refused(Reason.SPECIMEN)
    if facts.sex == "M":
        raise Refused(Reason.MALE)
    spoiling = [word for word in facts.view_modifiers if word in _NO_SCREENING_VIEW]
    if spoiling:
        raise Refused(Reason.MAGNIFICATION, f"view modifier {spoiling[0]}")
    if facts.view is None:
        raise Refused(Reason.UNKNOWN_VIEW)
    if facts.view not in tuple(View):
        raise Refused(Reason.NONSTANDARD_VIEW, f"view {facts.view}")
    if facts.laterality is None and facts.laterality_conflict:
        raise Refused(Reason.CONFLICTING_LATERALITY, facts.laterality_conflict)
    if facts.laterality is None:
        raise Refused(Reason.UNKNOWN_LATERALITY)
    if facts.implant and not facts.implant_displaced:
        raise Refused(Reason.IMPLANT)
