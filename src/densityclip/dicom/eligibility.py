"""Is this a standard screening view that the model may see? If not, the reason."""

from densityclip.dicom.header import HeaderFacts
from densityclip.dicom.modality import (
    DM_FOR_PRESENTATION,
    DM_FOR_PROCESSING,
    NO_IMAGES,
    PROJECTIONS,
    SECONDARY_CAPTURE,
    TOMOSYNTHESIS,
    is_for_processing,
    modality_of,
)
from densityclip.reasons import Reason, Refused
from densityclip.records import Modality, View

# Image Type of mammograms, PS3.3 C.8.11.7.1.4: value 3 names stereotactic, biopsy, scout and contrast images, value 4
# subtracted ones, value 5 the energies of contrast mammography. Written with and without underscores, so compared
# without. POST_PROCESSED, which some vendors write as value 3 of every image, is none of them.
_SPECIAL_STARTS = (
    "STEREO",
    "TOMOSCOUT",
    "SCOUT",
    "MARKER",
    "PREFIRE",
    "PREBIOPSY",
    "PREMARKER",
    "PRECONTRAST",
    "POST",
    "SUBTRACTION",
    "ADDITION",
    "LOWENERGY",
    "HIGHENERGY",
)
_ORDINARY_START = "POSTPROCESS"
_PROJECTION_STARTS = ("TOMOPROJ", "PROJECTION")
# What mammograms are stored as where headers are stripped or film was scanned; anything else is what it says.
_POSSIBLE_MODALITIES = frozenset({None, "MG", "DX", "CR", "DR", "RG", "OT"})
_STANDARD_VIEWS = frozenset(view.value for view in View)
_NO_SCREENING_VIEW = frozenset({"magnification", "spot compression", "tangential"})


def check_object(facts: HeaderFacts, *, modality_stated: bool = False, for_processing: bool = False) -> None:
    """Check what kind of object a header describes, whatever view it shows.

    Args:
        facts: The header.
        modality_stated: Whether a table says that this is a mammogram, and of which kind: it knows better than the
            header of a digitised film (a secondary capture) or a stripped one (a plain radiograph).
        for_processing: Whether raw images are wanted, and no others.

    Raises:
        Refused: `not_mammography`, `proprietary`, `for_processing`, `for_presentation`, `projection` or
            `special_acquisition`.
    """
    if facts.hologic_container:
        raise Refused(Reason.PROPRIETARY)
    if facts.sop_class == SECONDARY_CAPTURE and facts.modality_tag == "MG" and not modality_stated:
        raise Refused(Reason.PROPRIETARY, "a secondary capture: tomosynthesis in a proprietary container, or a copy")
    kinds = [word.replace("_", "") for word in facts.image_type[2:]]
    if facts.sop_class in PROJECTIONS or any(kind.startswith(_PROJECTION_STARTS) for kind in kinds):
        raise Refused(Reason.PROJECTION)
    known = facts.sop_class in (DM_FOR_PRESENTATION, DM_FOR_PROCESSING, TOMOSYNTHESIS)
    possible = modality_stated and facts.modality_tag in _POSSIBLE_MODALITIES
    if not (known or possible) or facts.sop_class in NO_IMAGES:
        raise Refused(Reason.NOT_MAMMOGRAPHY, f"SOP class {facts.sop_class}, modality {facts.modality_tag}")
    _check_intent(facts, for_processing=for_processing)
    for word, kind in zip(facts.image_type[2:], kinds, strict=True):
        if kind.startswith(_SPECIAL_STARTS) and not kind.startswith(_ORDINARY_START):
            raise Refused(Reason.SPECIAL_ACQUISITION, f"image type says {word}")


def _check_intent(facts: HeaderFacts, *, for_processing: bool) -> None:
    # One kind or the other, so that an exam that was sent both ways cannot count twice.
    raw = is_for_processing(facts.sop_class, facts.presentation_intent)
    if raw and not for_processing:
        raise Refused(Reason.FOR_PROCESSING)
    if for_processing and not raw:
        raise Refused(Reason.FOR_PRESENTATION)
    if raw and modality_of(facts) in (Modality.S2D, Modality.DBT):
        raise Refused(Reason.FOR_PROCESSING, "of images For Processing only DM is taken")


def check_screening_view(facts: HeaderFacts, *, unstated_passes: bool = False) -> None:
    """Check that a view is a standard one of one whole breast of a woman.

    Args:
        facts: The header, or as much as a table says.
        unstated_passes: Whether an image whose view or side nobody states is taken.

    Raises:
        Refused: `specimen`, `male`, `magnification`, `partial_view`, `implant`, or a view or side that is missing or
            not standard.
    """
    if facts.view == "specimen" or "specimen" in facts.view_modifiers:
        raise Refused(Reason.SPECIMEN)
    if facts.sex == "M":
        raise Refused(Reason.MALE)
    spoiling = [word for word in facts.view_modifiers if word in _NO_SCREENING_VIEW]
    if spoiling:
        raise Refused(Reason.MAGNIFICATION, f"view modifier {spoiling[0]}")
    if facts.view is None and not unstated_passes:
        raise Refused(Reason.UNKNOWN_VIEW)
    if facts.view is not None and facts.view not in _STANDARD_VIEWS:
        raise Refused(Reason.NONSTANDARD_VIEW, f"view {facts.view}")
    if facts.partial_view:
        # A part shows too little to grade: a tile of the breast's rim looks fatty whatever the breast is.
        raise Refused(Reason.PARTIAL_VIEW)
    if facts.laterality is None and facts.laterality_conflict:
        raise Refused(Reason.CONFLICTING_LATERALITY, facts.laterality_conflict)
    if facts.laterality is None and not unstated_passes:
        raise Refused(Reason.UNKNOWN_LATERALITY)
    if facts.implant and not facts.implant_displaced:
        raise Refused(Reason.IMPLANT)


def check_modality(facts: HeaderFacts | None) -> None:
    """Check that a header says which kind of mammogram this is.

    Args:
        facts: The header; None if there is none.

    Raises:
        Refused: `unknown_modality`.
    """
    if facts is None:
        raise Refused(Reason.UNKNOWN_MODALITY)
    if modality_of(facts) is Modality.UNKNOWN:
        kind = "/".join(facts.image_type) or "not stated"
        raise Refused(Reason.UNKNOWN_MODALITY, f"image type {kind}, {facts.frames} frame(s)")
