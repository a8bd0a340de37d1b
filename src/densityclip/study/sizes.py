"""How many exams, images and trainings a study comes to, from its indexes where they are there, else from its words."""

from dataclasses import dataclass
from pathlib import Path

from densityclip.artifacts import read_table
from densityclip.datasets.splits import DEFAULT_SHARES
from densityclip.imaging.plan import make_plan
from densityclip.imaging.recipe import Recipe, prepared_count
from densityclip.records import Modality, Part
from densityclip.steps import INDEX
from densityclip.study_file import Generate, Member, Study

# Compressed breasts are about so thick: how many slices a generated volume has.
_TYPICAL_MM = 50
VIEWS = 4


@dataclass(frozen=True)
class Size:
    """How large a cohort is.

    Attributes:
        exams: Its exams.
        images: Its images by modality.
        prepared: Its prepared images, slices counted one by one.
        bytes: Of the cache.
        counted: Whether these were counted in the index; else they follow from what is to be generated.
    """

    exams: int
    images: dict[str, int]
    prepared: int
    bytes: int
    counted: bool

    @property
    def total(self) -> int:
        """All its images."""
        return sum(self.images.values())


def size_of(study: Study, name: str, out: Path) -> Size | None:
    """The size of a cohort; None where only its index will tell."""
    recipe = study.resolved_recipe()
    path, generate = out / "cohorts" / name / INDEX, study.cohorts[name].generate
    if path.is_file():
        index = read_table(path, "index")
        plan = make_plan(index, recipe)
        counts = dict(index.group_by("modality").len().iter_rows())
        prepared = plan.slots.replace(0, 1).sum()
        return Size(index["exam_id"].n_unique(), counts, int(prepared), plan.bytes, counted=True)
    return None if generate is None else _to_generate(generate, recipe)


def _to_generate(generate: Generate, recipe: Recipe) -> Size:
    slices = prepared_count(max(2, round(_TYPICAL_MM / generate.slice_mm)), recipe)
    images = dict.fromkeys(generate.modalities, VIEWS * generate.exams)
    prepared = sum(count * (slices if name == Modality.DBT.value else 1) for name, count in images.items())
    each = recipe.height * recipe.width * recipe.dtype.itemsize
    return Size(generate.exams, images, prepared, prepared * each, counted=False)


def validated_by(study: Study, member: Member, sizes: dict[str, Size | None]) -> int | None:
    """Prepared images that a training looks at in each validation; None where that is not known yet."""
    internal = [sizes[name] for name, cohort in study.cohorts.items() if cohort.role == "internal"]
    if any(size is None for size in internal):
        return None
    share = DEFAULT_SHARES[Part.VALIDATION.value]
    if study.folds > 1:
        share = (1 - DEFAULT_SHARES[Part.TEST.value]) / study.folds
    wanted = study.train_config(member).modalities
    seen = sum(
        size.prepared * sum(size.images.get(name, 0) for name in wanted) / max(1, size.total)
        for size in internal
        if size is not None
    )
    return round(share * seen)
