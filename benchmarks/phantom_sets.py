"""Generated exams for the phantom benchmarks: as display values, made by worker processes, without DICOM on disk."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from densityclip.dicom.display import display_table
from densityclip.dicom.stored import stored_values
from densityclip.phantom.exam import GeneratedImage, exam_images
from densityclip.phantom.grid import Grid, make_grid
from densityclip.phantom.population import Woman, draw_woman
from densityclip.phantom.presentation import BITS_STORED, Stored
from densityclip.phantom.sites import SITES
from densityclip.worker_pool import worker_pool

Answer = TypeVar("Answer")
Job = TypeVar("Job")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A generated image as a workstation shows it.

    Attributes:
        image: The image and its truth.
        display: `[rows, columns]` or `[frames, rows, columns]` in `[0, 1]`, by the header that its file would have.
        woman: Whose it is.
    """

    image: GeneratedImage
    display: NDArray[np.float32]
    woman: Woman

    @property
    def side(self) -> int:
        """0 for the left breast, 1 for the right."""
        return "LR".index(self.image.side)


def displayed(stored: Stored) -> NDArray[np.float32]:
    """Display values of stored ones, by the code that reads files and the part of a header that it needs."""
    header = Dataset()
    header.BitsAllocated, header.BitsStored, header.PixelRepresentation = 16, BITS_STORED, 0
    header.PhotometricInterpretation = "MONOCHROME1" if stored.inverted else "MONOCHROME2"
    header.WindowCenter, header.WindowWidth = str(stored.window_center), str(stored.window_width)
    header.VOILUTFunction = stored.window_function
    if stored.padding is not None:
        header.PixelPaddingValue = stored.padding
    return display_table(header, 0, stored_values(header))[stored.pixels]


def shown_exam(
    site: str,
    seed: int,
    number: int,
    size: int,
    modalities: Sequence[str] | None = None,
    *,
    slice_mm: float | None = None,
) -> Iterator[Shown]:
    """Every standard view of an exam in some modalities, one after the other."""
    woman = draw_woman(site, seed, number)
    for image in exam_images(woman, SITES[site], seed, grid_of(size, slice_mm)):
        if image.kind == "standard" and (modalities is None or image.modality in modalities):
            yield Shown(image, displayed(image.stored), woman)


def grid_of(size: int, slice_mm: float | None = None) -> Grid:
    """The detector, with the usual distance of slices unless one is given."""
    return make_grid(size) if slice_mm is None else make_grid(size, slice_mm=slice_mm)


def in_order(make: Callable[[Job], Answer], jobs: Sequence[Job], workers: int) -> Iterator[Answer]:
    """Answers in the order of the jobs, made here or by worker processes of one thread each."""
    if workers <= 1 or len(jobs) < 2:
        yield from map(make, jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with worker_pool(workers) as pool:
        try:
            yield from pool.map(make, jobs)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
