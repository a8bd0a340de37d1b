"""What a study file says of exams and of the model that is adapted."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from densityclip.datasets.registry import DATASETS
from densityclip.errors import UserError
from densityclip.phantom.grid import make_grid
from densityclip.phantom.layouts import LAYOUTS
from densityclip.phantom.randomness import HIGHEST_SEED
from densityclip.phantom.sites import SITES
from densityclip.records import Modality

# The site whose exams have a look each: the generated stand-in is taught on it, so that no later site is known already.
STAND_IN_SITE = "varied"


class Strict(BaseModel):
    """Settings of which every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Generate(Strict):
    """Exams to generate for a cohort.

    Attributes:
        site: A site of `densityclip.phantom.sites`.
        exams: Number of exams, one a patient.
        seed: Of everything about them.
        size: Rows of a DM image, of what `densityclip.phantom.grid` can make.
        slice_mm: Distance of tomosynthesis slices, likewise.
        volumes: Write tomosynthesis volumes also where the site's layout names them and leaves them out.
    """

    site: str
    exams: int = Field(ge=1)
    seed: int = Field(ge=0, le=HIGHEST_SEED)
    size: int = 288
    slice_mm: float = 1.0
    volumes: bool = False

    @model_validator(mode="after")
    def _can_be_made(self) -> "Generate":
        if self.site not in SITES:
            raise ValueError(f"there is no generated site {self.site!r}: choose one of {', '.join(SITES)}")
        try:
            make_grid(self.size, self.slice_mm)
        except UserError as error:
            raise ValueError(error.fact) from error
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Kinds of image whose files are written."""
        site = SITES[self.site]
        written = self.volumes or LAYOUTS[site.layout].holds_volumes
        return tuple(name for name in site.modalities if name != Modality.DBT.value or written)


class Cohort(Strict):
    """Where the exams of one cohort come from, and what they may be used for.

    Attributes:
        role: `internal` exams are split; `external` ones are only scored.
        generate: Generate the exams, in the layout of their site, or
        source: take them from this folder (relative paths start at the study file),
        dataset: which is laid out so (a name of `densityclip.datasets.registry`),
        table: with labels in this file,
        columns: whose columns have these names (ours to the table's),
        label_map: and whose own words for a density mean these categories.
        institution: Two cohorts of one institution may share patients that no id shows.
        redistribute: Whether images, ids and what is derived from them may leave the house; by default what the
            licence of the dataset says, and None where the images are one's own and nothing is said.
    """

    role: Literal["internal", "external"]
    generate: Generate | None = None
    source: Path | None = None
    dataset: str = "dicom"
    table: Path | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    label_map: dict[str, Literal["A", "B", "C", "D"]] = Field(default_factory=dict)
    institution: str | None = None
    redistribute: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _licence_of_the_dataset(cls, content: Any) -> Any:
        if isinstance(content, dict) and "redistribute" not in content:
            dataset = DATASETS.get(content.get("dataset", "dicom"))
            licence = dataset.redistribute if dataset is not None else None
            return content | {"redistribute": True if content.get("generate") is not None else licence}
        return content

    @model_validator(mode="after")
    def _possible(self) -> "Cohort":
        if (self.generate is None) == (self.source is None):
            raise ValueError("give either `generate` or `source`")
        if self.generate is not None and (self.dataset != "dicom" or self.table or self.columns or self.label_map):
            raise ValueError("generated exams bring their own layout: no dataset, table, columns or label_map")
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset {self.dataset!r} is not one of {', '.join(DATASETS)}")
        dataset = DATASETS[self.dataset]
        if self.redistribute and dataset.redistribute is False:
            raise ValueError(f"the licence of {dataset.title} does not allow redistribute: true")
        unused = [name for name in ("table", "columns", "label_map") if getattr(self, name)]
        unused = [name for name in unused if name not in dataset.options]
        if unused:
            raise ValueError(f"dataset {self.dataset} has no use for {', '.join(unused)}")
        if self.dataset == "table" and self.table is None:
            raise ValueError("dataset table needs a `table`")
        return self

    @property
    def modalities(self) -> tuple[str, ...] | None:
        """Kinds of image that it can hold; None where only its index will tell."""
        return DATASETS[self.dataset].modalities if self.generate is None else self.generate.modalities


class StandIn(Strict):
    """The generated stand-in, as `densityclip weights stand-in` makes it.

    Attributes:
        exams: Generated exams that it is taught on.
        steps: Optimiser steps.
        seed: Of its patients and its training.
    """

    exams: int = Field(default=200, ge=8)
    steps: int = Field(default=1200, ge=1)
    seed: int = Field(default=700_000, ge=0, le=HIGHEST_SEED)


class Foundation(Strict):
    """The model to adapt: a folder, the small model with random weights, or the same taught on generated exams.

    Attributes:
        path: A model folder of BiomedCLIP's format.
        small_seed: Seed of the small model's random weights.
        stand_in: How the generated stand-in is made.
    """

    path: Path | None = None
    small_seed: int | None = None
    stand_in: StandIn | None = None

    @model_validator(mode="after")
    def _one_model(self) -> "Foundation":
        if sum(choice is not None for choice in (self.path, self.small_seed, self.stand_in)) != 1:
            raise ValueError("give one of `path`, `small_seed` and `stand_in`")
        return self
