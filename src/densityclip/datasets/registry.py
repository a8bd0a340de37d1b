"""The datasets that `index` knows by name."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from densityclip.errors import UserError
from densityclip.records import MODALITIES, Modality

if TYPE_CHECKING:
    from densityclip.datasets.contract import Candidates, Request


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset.

    Attributes:
        module: Where its `candidates(request)` lives.
        title: What it is, for `--help` and messages.
        options: Options of `index` that it has a use for, besides the source.
        redistribute: Whether its licence lets models and images derived from it be passed on; None where the images are
            the user's own, and only they can say.
        tables: Names of tables by which a folder is recognised.
        modalities: All kinds of image that it can hold; None where that depends on the user's own images.
    """

    module: str
    title: str
    options: frozenset[str]
    redistribute: bool | None = True
    tables: tuple[str, ...] = ()
    modalities: tuple[str, ...] | None = None

    def reader(self) -> "Callable[[Request], Candidates]":
        """The function that reads its tables."""
        return importlib.import_module(f"densityclip.datasets.{self.module}").candidates


_NAMED = frozenset({"table", "no_files", "institution"})
_DM = (Modality.DM.value,)
DATASETS: dict[str, Dataset] = {
    "dicom": Dataset(
        "dicom_folder",
        "a folder of DICOM files",
        frozenset({"table", "label_map", "for_processing", "site", "institution"}),
        redistribute=None,
    ),
    "embed": Dataset(
        "embed",
        "EMBED open data",
        _NAMED,
        redistribute=False,
        tables=("EMBED_OpenData_metadata.csv",),
        modalities=MODALITIES,
    ),
    "rsna": Dataset("rsna", "RSNA screening mammography", _NAMED, tables=("train.csv",), modalities=_DM),
    "vindr": Dataset("vindr", "VinDr-Mammo", _NAMED, tables=("breast-level_annotations.csv",), modalities=_DM),
    "cbis-ddsm": Dataset(
        "cbis_ddsm", "CBIS-DDSM", _NAMED, tables=("mass_case_description_train_set.csv",), modalities=_DM
    ),
    "inbreast": Dataset("inbreast", "INbreast", _NAMED, tables=("INbreast.csv",), modalities=_DM),
    "table": Dataset(
        "table",
        "any CSV or Parquet table of images",
        frozenset({"table", "columns", "label_map", "no_files", "site", "institution"}),
        redistribute=None,
    ),
}


def dataset_named(name: str) -> Dataset:
    """A dataset by its name.

    Raises:
        UserError: There is none of this name.
    """
    if name not in DATASETS:
        raise UserError(f"--dataset {name} is unknown", f"use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def datasets_found(source: Path) -> list[str]:
    """Names of the datasets whose tables lie in a folder, or in its `tables` or `csv`."""
    places = (source, source / "tables", source / "csv")
    return [
        name
        for name, dataset in DATASETS.items()
        if any((place / table).is_file() for place in places for table in dataset.tables)
    ]
