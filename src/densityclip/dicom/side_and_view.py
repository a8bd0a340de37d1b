"""Which breast an image shows, and in which view: read from wherever vendors write it."""

import re

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from densityclip.dicom.codes import MODIFIER_SUFFIXES, MODIFIERS, VIEWS
from densityclip.dicom.elements import holds, items, tag, text, words

_VIEW_CODE = tag("ViewCodeSequence")
_VIEW_MODIFIER = tag("ViewModifierCodeSequence")
_VIEW_POSITION = tag("ViewPosition")
_ANATOMIC_REGION = tag("AnatomicRegionSequence")
_CODE_VALUE = tag("CodeValue")
# Acquisition Device Processing Description: FUJIFILM writes the menu of the view here.
_FUJI_MENU = tag("AcquisitionDeviceProcessingDescription")
_IMAGE_LATERALITY = tag("ImageLaterality")
_LATERALITY = tag("Laterality")
_SHARED_GROUPS = tag("SharedFunctionalGroupsSequence")
_FRAME_GROUPS = tag("PerFrameFunctionalGroupsSequence")
_FRAME_ANATOMY = tag("FrameAnatomySequence")
_FRAME_LATERALITY = tag("FrameLaterality")
_PATIENT_ORIENTATION = tag("PatientOrientation")
# What of a header `read_view` and `read_side` look at, the groups of single frames aside.
SIDE_AND_VIEW_TAGS: tuple[BaseTag, ...] = (
    _VIEW_CODE,
    _VIEW_POSITION,
    _ANATOMIC_REGION,
    _FUJI_MENU,
    _IMAGE_LATERALITY,
    _LATERALITY,
    _SHARED_GROUPS,
    _PATIENT_ORIENTATION,
)
_SPECIMEN_CODES = tuple(code.encode() for code, word in MODIFIERS.items() if word == "specimen")
_MENU_VIEW = re.compile(r"(?<![A-Z])[LR]?(CC|MLO)(?![A-Z])")


def read_view(dataset: Dataset, vendor: str | None) -> tuple[str | None, tuple[str, ...]]:
    """View and what modifies it.

    The coded view goes before View Position, which is optional and written freely; FUJIFILM's menu is the last resort.

    Args:
        dataset: The header.
        vendor: The manufacturer's name.

    Returns:
        `CC`, `MLO`, the word of another view, or None; and words of `codes.MODIFIERS` or unknown codes as they are.
    """
    views: list[str] = []
    modifiers: list[str] = []
    for item in items(dataset, _VIEW_CODE):
        code = text(item, _CODE_VALUE) or ""
        views.append(code)
        # Said as a modifier too: a table that names the view would otherwise make a breast of it.
        modifiers.extend(["specimen"] if VIEWS.get(code) == "specimen" else [])
        for modifier in items(item, _VIEW_MODIFIER):
            code = text(modifier, _CODE_VALUE) or ""
            modifiers.append(MODIFIERS.get(code, code))
    if holds(dataset, _ANATOMIC_REGION, _SPECIMEN_CODES):
        regions = (text(region, _CODE_VALUE) or "" for region in items(dataset, _ANATOMIC_REGION))
        modifiers.extend("specimen" for code in regions if MODIFIERS.get(code) == "specimen")
    view = next((VIEWS[code] for code in views if code in VIEWS), None)
    if view is None:
        # A code of the vendor's own says nothing to us; what is written beside it may.
        written, more = split_position((text(dataset, _VIEW_POSITION) or "").upper())
        modifiers.extend(more)
        view = written or _menu_view(dataset, vendor) or next((code for code in views if code), None)
    return view, tuple(dict.fromkeys(word for word in modifiers if word))


def split_position(written: str) -> tuple[str | None, list[str]]:
    """The standard view in what vendors write (L-CC, RMLO, CCID, MLO SPOT), and what was added.

    Args:
        written: A view in capitals.

    Returns:
        `CC`, `MLO`, another view as written but without blanks and dashes, or None for a blank; and words of what
        modifies it.
    """
    joined = "".join(written.replace("-", " ").replace("_", " ").split())
    if joined[:1] in ("L", "R") and joined[1:] in ("CC", "MLO"):
        joined = joined[1:]
    for standard in ("MLO", "CC"):
        rest = joined.removeprefix(standard)
        if joined.startswith(standard) and rest in MODIFIER_SUFFIXES:
            return standard, [MODIFIER_SUFFIXES[rest]]
        if joined.startswith(standard) and rest in ("M", "MAG", "S", "SPOT"):
            return standard, ["magnification" if rest.startswith("M") else "spot compression"]
    return joined or None, []


def _menu_view(dataset: Dataset, vendor: str | None) -> str | None:
    if not (vendor or "").upper().startswith("FUJI"):
        return None
    found = set(_MENU_VIEW.findall((text(dataset, _FUJI_MENU) or "").upper()))
    return found.pop() if len(found) == 1 else None


def shared_groups(dataset: Dataset, sequence: BaseTag) -> list[Dataset]:
    """Items of a sequence of the functional groups that all frames share."""
    return [item for group in items(dataset, _SHARED_GROUPS)[:1] for item in items(group, sequence)]


def read_side(dataset: Dataset) -> tuple[str | None, str | None]:
    """Side, and what contradicts it.

    Returns:
        `L`, `R` or None; and a sentence if the explicit attributes contradict each other or state both breasts (then
        the side is None), or if Patient Orientation suggests the other side (then the explicit one is kept).
    """
    anatomy = shared_groups(dataset, _FRAME_ANATOMY)
    if not anatomy:
        anatomy = [item for group in items(dataset, _FRAME_GROUPS)[:1] for item in items(group, _FRAME_ANATOMY)]
    stated = {
        "ImageLaterality": text(dataset, _IMAGE_LATERALITY),
        "Laterality": text(dataset, _LATERALITY),
        "FrameLaterality": text(anatomy[0], _FRAME_LATERALITY) if anatomy else None,
    }
    explicit = {name: side.upper() for name, side in stated.items() if side and side.upper() in ("L", "R", "B")}
    by_orientation = _side_of_orientation(words(dataset, _PATIENT_ORIENTATION))
    sides = set(explicit.values())
    if "B" in sides or len(sides) > 1:
        return None, "; ".join(f"{name} is {side}" for name, side in explicit.items())
    if not sides:
        return by_orientation, None
    side = sides.pop()
    if by_orientation not in (None, side):
        return side, f"{next(iter(explicit))} is {side}, PatientOrientation suggests {by_orientation}"
    return side, None


def _side_of_orientation(orientation: list[str]) -> str | None:
    # By the hanging convention the rows of a left breast run to anterior, those of a right one to posterior
    # (left CC A\R, left MLO A\FR, right CC P\L, right MLO P\FL).
    if len(orientation) != 2 or not orientation[0] or not orientation[1]:
        return None
    first, second = orientation[0].upper(), orientation[1].upper()
    if first.startswith("A") and second.endswith("R"):
        return "L"
    if first.startswith("P") and second.endswith("L"):
        return "R"
    return None
