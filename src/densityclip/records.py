"""The nouns of the project and the words that stand for them in tables."""

from dataclasses import dataclass, fields
from datetime import date
from enum import StrEnum
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.reasons import Reason


class Modality(StrEnum):
    """Kind of mammogram: digital, synthesized from tomosynthesis, or tomosynthesis."""

    DM = "DM"
    S2D = "s2D"
    DBT = "DBT"
    UNKNOWN = "unknown"


# The `density_source` of generated exams: wherever it stands, no patient was read.
GENERATED_LABEL = "simulated reader"

MODALITIES: tuple[str, ...] = (Modality.DM.value, Modality.S2D.value, Modality.DBT.value)


class Laterality(StrEnum):
    """Side of the breast."""

    L = "L"
    R = "R"


class View(StrEnum):
    """The two standard screening views."""

    CC = "CC"
    MLO = "MLO"


class Part(StrEnum):
    """What a patient's images may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"
    EXTERNAL = "external"


class Status(StrEnum):
    """How a prediction ended."""

    OK = "ok"
    ABSTAINED = "abstained"
    REFUSED = "refused"


class Level(StrEnum):
    """What one row of predictions stands for."""

    SLICE = "slice"
    IMAGE = "image"
    BREAST = "breast"
    EXAM = "exam"
    PATIENT = "patient"


def _one_of(name: str, value: str | None, words: type[StrEnum] | tuple[str, ...]) -> None:
    allowed = words if isinstance(words, tuple) else tuple(word.value for word in words)
    if value is not None and value not in allowed:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(allowed)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image (a DBT volume is one image): a row of `index.parquet`. Missing is None.

    Attributes:
        image_id: Unique in the index; the SOP Instance UID where there is one.
        path: Absolute path.
        exam_id: The Study Instance UID where there is one.
        density: BI-RADS category of this breast, or None.
        density_source: Where the label came from (`table`, `sr`, ...).
        age: Years at the exam.
        implant: Whether an implant is stated, None if nothing is said.
        frames: Number of frames; 1 for DM and most s2D.
        spacing_mm: Pixel spacing at the detector, mm.
        source_split: The split that the dataset itself prescribes.
    """

    image_id: str
    path: str
    patient_id: str
    exam_id: str
    series_uid: str | None = None
    sop_uid: str | None = None
    study_date: date | None = None
    laterality: str | None = None
    view: str | None = None
    modality: str = Modality.UNKNOWN.value
    density: str | None = None
    density_source: str | None = None
    site: str | None = None
    institution: str | None = None
    vendor: str | None = None
    machine: str | None = None
    age: float | None = None
    race: str | None = None
    implant: bool | None = None
    frames: int | None = None
    spacing_mm: float | None = None
    source_split: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_id", "path", "patient_id", "exam_id"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        _one_of("modality", self.modality, Modality)
        _one_of("laterality", self.laterality, Laterality)
        _one_of("view", self.view, View)
        _one_of("density", self.density, CATEGORIES)

    def as_row(self) -> dict[str, Any]:
        """The record as a row of the index, every value a plain Python type."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """One image that an index leaves out: what is known of it, and why.

    Attributes:
        known: Values of index columns as far as known; words outside the index's vocabulary (a view `ML`) are kept.
        reason: The stable code.
        detail: The fact about this file, in a sentence.
    """

    known: dict[str, Any]
    reason: Reason
    detail: str = ""

    def as_row(self) -> dict[str, Any]:
        """The exclusion as a row of `excluded.parquet`, unknown columns None."""
        row: dict[str, Any] = {field.name: self.known.get(field.name) for field in fields(ImageRecord)}
        return row | {"reason": self.reason.value, "detail": self.detail or self.reason.sentence}
