"""What a layout decides: ids, places of files, rows of tables, and what becomes of the headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from densityclip.phantom.exam import GeneratedImage
from densityclip.phantom.identity import ExamIdentity
from densityclip.phantom.sites import Site

Row = dict[str, Any]
"""A row of a table: a cell by its column; a column that is not named is blank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Where one image goes.

    Attributes:
        image: The image.
        path: Of its file, under the folder of its patient.
        rows: What the tables say of it, by table.
    """

    image: GeneratedImage
    path: str
    rows: Mapping[str, list[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a collection lays its exams out.

    Attributes:
        dataset: Its name for `densityclip index --dataset`.
        source: Folder to index, under the site's folder; blank for the site's folder itself.
        tables: Columns by table, whose name is its path under the site's folder; the first is the one of labels.
        holds_volumes: Whether its releases hold tomosynthesis volumes; else they are named and left out.
        name_exam: Patient id and accession number of a woman: `(site, seed, number)`.
        folder: Folder of a patient, under the site's folder.
        shelve: Place and rows of an image; a layout may take one image twice, under two names.
        exam_rows: Rows of an exam as a whole, by table.
        finish: Makes the header of an object what it is in a release; None leaves it whole.
    """

    dataset: str
    source: str
    tables: Mapping[str, tuple[str, ...]]
    holds_volumes: bool
    name_exam: Callable[[Site, int, int], tuple[str, str]]
    folder: Callable[[ExamIdentity], str]
    shelve: Callable[[ExamIdentity, GeneratedImage], list[Shelf]]
    exam_rows: Callable[[ExamIdentity], Mapping[str, list[Row]]]
    finish: Callable[[Dataset], None] | None = None
