"""How long the steps after training will take, from what was measured and how much there is of everything."""

from dataclasses import dataclass

from densityclip.datasets.splits import DEFAULT_SHARES
from densityclip.density import CATEGORIES
from densityclip.evaluation.metrics import METRICS
from densityclip.evaluation.subgroups import GROUP_METRICS, GROUPS
from densityclip.explain.faithfulness import pictures_scored
from densityclip.explain.figures import SHUFFLES
from densityclip.records import Level, Part
from densityclip.steps.local import DRAWS, NUMBERS
from densityclip.study.measure import Speeds
from densityclip.study.sizes import Size
from densityclip.study_file import Study

# A map costs the image's way through the tower and back.
_PASSES_A_MAP = 3
# Whose maps `explain.atlas` looks at again with each block randomised, and with all of them several times.
_SAMPLED = 24


@dataclass(frozen=True)
class Scored:
    """What is scored of one cohort.

    Attributes:
        images: By modality.
        exams: Each of two breasts, and one a patient.
    """

    images: dict[str, float]
    exams: float

    def rows(self) -> list[float]:
        """Rows of each cell of an arm: by modality, and over several of them; at the four levels."""
        kinds = [*self.images.values(), *([sum(self.images.values())] if len(self.images) > 1 else [])]
        return [rows for images in kinds for rows in (images, 2 * self.exams, self.exams, self.exams)]


def scored(study: Study, name: str, size: Size) -> Scored:
    """The share of a cohort that is scored: the test part of an internal one."""
    share = DEFAULT_SHARES[Part.TEST.value] if study.cohorts[name].role == "internal" else 1.0
    return Scored({kind: share * number for kind, number in size.images.items()}, share * size.exams)


def evaluate_seconds(study: Study, sizes: dict[str, Size | None], speeds: Speeds) -> float | None:
    """Every figure of every arm at every place, resampled; groups with the few figures that they show."""
    if speeds.resampled is None or None in sizes.values():
        return None
    fixed, each = speeds.resampled
    levels = {Level.IMAGE.value, Level.EXAM.value, study.primary.level}
    kinds = len(study.groups or GROUPS)
    work = 0.0
    for name, size in sizes.items():
        assert size is not None
        mine = scored(study, name, size)
        work += sum(fixed + each * rows for rows in mine.rows())
        if mine.exams < study.smallest_group:
            continue
        over = sum(mine.images.values()) + (len(levels) - 1) * mine.exams
        # A kind of group parts the rows, into two groups or more.
        work += kinds * len(GROUP_METRICS) / len(METRICS) * (2 * len(levels) * fixed + each * over)
    return study.evaluation.resamples * (len(study.arms) + len(study.baselines)) * work


def local_seconds(study: Study, speeds: Speeds) -> float | None:
    """Every draw of labelled exams, at every other site."""
    if speeds.recalibrated is None:
        return None
    external = sum(cohort.role == "external" for cohort in study.cohorts.values())
    return external * DRAWS * len(NUMBERS) * speeds.recalibrated


def mapped_images(study: Study, sizes: dict[str, Size | None]) -> dict[str, float] | None:
    """By cohort, how many images one arm's maps are made of; None where a size is not known."""
    if None in sizes.values():
        return None
    found = {}
    for name, size in sizes.items():
        assert size is not None
        mine, wanted = scored(study, name, size), study.explain
        images = sum(mine.images.values())
        measured = wanted.patients * images / max(1.0, mine.exams)
        drawn = wanted.images_per_cell * len(CATEGORIES) * len(mine.images)
        found[name] = min(images, measured + drawn)
    return found


def explain_seconds(study: Study, arm: str, sizes: dict[str, Size | None], speeds: Speeds) -> float | None:
    """Maps of an arm's images by every model that is compared, and what is measured on them."""
    images = mapped_images(study, sizes)
    if images is None or speeds.scored is None or not images.keys() <= speeds.image.keys():
        return None
    methods = len(study.explain.methods)
    first, *_ = study.members_of(arm)
    models = 1 + sum(one.fold != first.fold for one in study.members_of(arm)) + study.explain.shuffled_labels
    # Methods beside brightness and the middle of the breast; once more under noise.
    passes = pictures_scored(methods + 2) + _PASSES_A_MAP * methods * (models + 1)
    seconds = 0.0
    for name, number in images.items():
        again = min(_SAMPLED, number) * (speeds.blocks + SHUFFLES) * _PASSES_A_MAP * methods
        # Read once for each model, and once more to be drawn.
        seconds += number * speeds.image[name] * (models + 1) + speeds.scored * (number * passes + again)
    return seconds


def stand_in_seconds(study: Study, speeds: Speeds, workers: int) -> float | None:
    """Its exams, their preparation, and its own training."""
    taught = study.foundation.stand_in
    if taught is None or speeds.taught is None:
        return None
    exam, step = speeds.taught
    return taught.exams * exam / workers + taught.steps * step
