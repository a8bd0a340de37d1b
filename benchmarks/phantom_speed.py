"""Seconds that a generated exam takes on one core, and where they go.

    OMP_NUM_THREADS=1 python benchmarks/phantom_speed.py [--site NAME] [--case SIZE:SLICE_MM:EXAMS ...] [--out FILE]

Writes whole exams, four views in each of the site's modalities, as `densityclip phantom` does, in one process, and
removes them. Seconds are those of the processor, all threads together, so that what else runs on the machine counts
little; the time on the wall stands beside. The first exam of each case is not counted. Each function named below is
timed where it is called; what is called within another of them counts there.
"""

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy
from pydicom.dataset import Dataset

from densityclip.artifacts import git_revision, write_text
from densityclip.phantom import exam, generate, tomosynthesis, xray
from densityclip.phantom.sites import SITES

# What is timed, by stage: where each function is looked up when it is called.
STAGES: dict[str, list[tuple[Any, str]]] = {
    "anatomy": [(exam, "draw_traits"), (exam, "build_anatomy")],
    "tissue": [(exam, "draw_style"), (exam, "grow"), (exam, "draw_lines"), (exam, "fill")],
    "attenuation": [(xray, "line_integrals"), (exam, "with_implant")],
    "DM": [(xray, "exposed"), (exam, "mammogram")],
    "DBT": [(tomosynthesis, "slices")],
    "s2D": [(tomosynthesis, "synthesized")],
    "presentation": [(exam, "present")],
    "truth": [(exam, "_truth"), (tomosynthesis, "smaller"), (generate, "_write_arrays")],
    "DICOM": [(generate, "to_dataset"), (Dataset, "save_as")],
}
ALL = "all"


class Clock:
    """Processor seconds by stage; only the outermost of nested stages runs."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*STAGES, ALL), 0.0)
        self._inside = False

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return call(*arguments, **options)
            self._inside, began = True, time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self._inside = False
                self.seconds[stage] += time.process_time() - began

        return run

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for stage, places in STAGES.items():
                for owner, attribute in places:
                    timed = self.timed(stage, getattr(owner, attribute))
                    stack.enter_context(mock.patch.object(owner, attribute, timed))
            began = time.process_time()
            yield
            self.seconds[ALL] += time.process_time() - began


def measure(site: str, size: int, slice_mm: float, exams: int, folder: Path) -> tuple[dict[str, float], float]:
    """Processor seconds of an exam by stage, and its time on the wall."""

    def make(name: str, number: int, seed: int) -> None:
        generate.generate(folder / name, site=site, exams=number, seed=seed, size=size, slice_mm=slice_mm)

    make("first", 1, seed=1)
    clock, began = Clock(), time.perf_counter()
    with clock.running():
        make("counted", exams, seed=2)
    wall = time.perf_counter() - began
    return {stage: seconds / exams for stage, seconds in clock.seconds.items()}, wall / exams


def table(cases: Sequence[tuple[int, float, int]], found: Sequence[tuple[dict[str, float], float]]) -> Iterator[str]:
    yield "| seconds an exam | " + " | ".join(f"{size} px, slices {mm:g} mm" for size, mm, _ in cases) + " |"
    yield "|---" + "|---:" * len(cases) + "|"
    for stage in STAGES:
        cells = [f"{s[stage]:.2f} ({100 * s[stage] / s[ALL]:.0f}%)" for s, _ in found]
        yield f"| {stage} | " + " | ".join(cells) + " |"
    rest = [s[ALL] - sum(s[stage] for stage in STAGES) for s, _ in found]
    yield "| the rest | " + " | ".join(f"{seconds:.2f}" for seconds in rest) + " |"
    yield "| **processor, in all** | " + " | ".join(f"**{s[ALL]:.2f}**" for s, _ in found) + " |"
    yield "| on the wall | " + " | ".join(f"{wall:.2f}" for _, wall in found) + " |"


def case(text: str) -> tuple[int, float, int]:
    size, slice_mm, exams = text.split(":")
    return int(size), float(slice_mm), int(exams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", default="internal", choices=list(SITES))
    parser.add_argument("--case", type=case, nargs="+", default=[(288, 4.0, 4), (288, 1.0, 4), (1024, 1.0, 1)])
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    found = []
    for size, slice_mm, exams in options.case:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(options.site, size, slice_mm, exams, Path(folder)))
    lines = [
        f"{datetime.date.today()}, revision {git_revision()}, one core of {os.cpu_count()}, {platform.system()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}. Site {options.site}: "
        f"four views in {', '.join(SITES[options.site].modalities)}, written as DICOM with their truth.\n",
        *table(options.case, found),
    ]
    if options.out:
        write_text(options.out, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
