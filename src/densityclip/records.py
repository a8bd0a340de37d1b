"""The nouns of the project and the words that stand for them in tables."""

from enum import StrEnum


class Modality(StrEnum):
    """Kind of mammogram: digital, synthesized from tomosynthesis, or tomosynthesis."""

    DM = "DM"
    S2D = "s2D"
    DBT = "DBT"
    UNKNOWN = "unknown"


# The `density_source` of generated exams: wherever it stands, no patient was read.
GENERATED_LABEL = "simulated reader"
# Image Comments of every generated object, also where its header is stripped; an index knows it by its beginning.
GENERATED_MARK = "Generated exam"
GENERATED_NOTICE = f"{GENERATED_MARK}: simulated, not a patient. Research and testing only."

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


def number_of(count: int, noun: str) -> str:
    """A count with its noun, such as `1 image` or `12,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
