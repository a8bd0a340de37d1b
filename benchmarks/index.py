"""How fast `index` reads headers against pydicom's bare loop, and what memory a million rows take.

    python benchmarks/index.py [--quick] [--files 3000] [--rows 1000000] [--only speed|workers|memory]

The bare loop is `pydicom.dcmread(path, stop_before_pixels=True)` for each file, which reads a header and keeps nothing
of it; beside it the same with `specific_tags` of the attributes that an index needs. Each is run on the same generated
files, warm, in turns with ours, in one process.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pydicom

from densityclip.datasets.contract import Candidates, collect, write_index
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.looking import WORKER_IMPORTS
from densityclip.worker_pool import start_early
from index_archive import write_archive

NEEDED = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "AccessionNumber", "Modality", "Manufacturer",
    "PresentationIntentType", "InstitutionName", "StationName", "SeriesDescription", "PatientID", "PatientBirthDate",
    "PatientSex", "PatientAge", "DeviceSerialNumber", "ImagerPixelSpacing", "ViewPosition", "StudyInstanceUID",
    "SeriesInstanceUID", "PatientOrientation", "Laterality", "ImageLaterality", "NumberOfFrames", "PixelSpacing",
    "BreastImplantPresent", "ViewCodeSequence", "AnatomicRegionSequence", "SharedFunctionalGroupsSequence",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=3000, help="files of the generated archive")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="rows of the table whose memory is measured; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("speed", "workers", "memory"), help="one part alone")
    parser.add_argument("--quick", action="store_true", help="1,200 files, 100,000 rows, 3 repeats")
    given = parser.parse_args()
    if given.quick:
        given.files, given.rows, given.repeats = 1200, 100_000, 3
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, Python {platform.python_version()}, ", end="")
    print(f"pydicom {pydicom.__version__}, polars {pl.__version__}; medians of {given.repeats}, in turns\n")
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "memory":
            paths = write_archive(Path(folder) / "archive", given.files)
        if given.only in (None, "speed"):
            speed(paths, given.repeats)
        if given.only in (None, "workers"):
            many = 6_000 if given.quick else 12_000
            two_workers(paths, max(1, many // len(paths)), max(3, given.repeats // 2))
        if given.rows and given.only in (None, "memory"):
            memory(Path(folder), given.rows)


def speed(paths: list[Path], repeats: int) -> None:
    kinds = {kind: [path for path in paths if path.name.startswith(kind)] for kind in ("DM", "s2D", "DBT")}
    print("| files | bare loop | with specific_tags | index, 1 worker | index / bare loop | index / specific_tags |")
    print("|---|---|---|---|---|---|")
    for name, chosen in {**kinds, "all": paths}.items():
        rows = Candidates(rows=pl.DataFrame({"path": [str(path) for path in chosen]}), rules=RULES)
        bare, tags, ours = in_turns(
            [lambda c=chosen: bare_loop(c), lambda c=chosen: bare_loop(c, NEEDED), lambda r=rows: collect(r)], repeats
        )
        per_second = [f"{len(chosen) / seconds:,.0f} files/s" for seconds in (bare, tags, ours)]
        print(f"| {len(chosen)} {name} | {' | '.join(per_second)} | {ours / bare:.2f} | {ours / tags:.2f} |")


def two_workers(paths: list[Path], times: int, repeats: int) -> None:
    """What a second process brings, ours and the bare loop's: the machine sets the limit for both.

    The same files over again for ours, once for the bare loop, which is ten times as slow on volumes. The server that
    workers are forked from is started before, as the command starts it before its own imports; that each worker
    imports this script is in the figure.
    """
    start_early(WORKER_IMPORTS)
    once, paths = paths, paths * times
    rows = pl.DataFrame({"path": [str(path) for path in paths]})
    named = Candidates(rows=rows.with_row_index("image_id").cast({"image_id": pl.String}), rules=RULES)
    one, two, bare_one, bare_two = in_turns(
        [
            lambda: collect(named),
            lambda: collect(named, workers=2),
            lambda: bare_loop(once),
            lambda: bare_loop_in_two(once),
        ],
        repeats,
    )
    print("\n| headers | what | 1 process | 2 processes | gain |\n|---|---|---|---|---|")
    print(f"| {len(paths):,} | index | {one:.1f} s | {two:.1f} s | {one / two:.2f} x |")
    print(f"| {len(once):,} | bare loop | {bare_one:.1f} s | {bare_two:.1f} s | {bare_one / bare_two:.2f} x |")


def bare_loop_in_two(paths: list[Path]) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare_loop, [paths[0::2], paths[1::2]]))


RULES = HeaderRules(pictures=False, require_view=True)


def bare_loop(paths: list[Path], tags: list[str] | None = None) -> None:
    for path in paths:
        pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)


def in_turns(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def memory(folder: Path, rows: int) -> None:
    """Peak memory and time of each in a fresh process."""
    print("\n| rows | what | seconds | peak memory |\n|---|---|---|---|")
    for what, run in (("the table alone, in memory", table_alone), ("indexed, --no-files", index_rows)):
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=measured, args=(run, folder / run.__name__, rows, queue))
        process.start()
        seconds, peak = queue.get()
        process.join()
        print(f"| {rows:,} | {what} | {seconds:.1f} | {peak:.2f} GB |")


def measured(run: Callable[[Path, int], None], folder: Path, rows: int, queue: "multiprocessing.Queue") -> None:
    start = time.perf_counter()
    run(folder, rows)
    queue.put((time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6))


def table_alone(folder: Path, rows: int) -> None:
    many_rows(rows)


def index_rows(folder: Path, rows: int) -> None:
    named = Candidates(rows=many_rows(rows), rules=HeaderRules(read_files=False))
    write_index(named, folder, config={})


def many_rows(rows: int) -> pl.DataFrame:
    """A table of screening exams of four images, as EMBED's: long paths, ids of 20 characters, one in ten left out."""
    number = pl.int_range(rows, eager=True)
    exam = number // 4
    return pl.DataFrame({"n": number, "exam": exam, "patient": exam // 3}).select(
        pl.format("1.2.826.0.1.3680043.8.498.{}.{}", pl.col("n") * 7919, "n").alias("image_id"),
        pl.format("/archive/images/cohort_1/{}/{}/1.2.826.0.1.3680043.8.498.{}.{}.dcm", "patient", "exam",
                  pl.col("n") * 7919, "n").alias("path"),
        pl.format("patient-{}", pl.col("patient") + 10**10).alias("patient_id"),
        pl.format("exam-{}", pl.col("exam") + 10**12).alias("exam_id"),
        pl.date(2013, 1, 1).dt.offset_by(pl.format("{}d", pl.col("exam") % 2500)).alias("study_date"),
        pl.when(pl.col("n") % 2 == 0).then(pl.lit("L")).otherwise(pl.lit("R")).alias("laterality"),
        pl.when(pl.col("n") % 10 == 9).then(pl.lit("ML"))
        .when(pl.col("n") % 4 < 2).then(pl.lit("CC")).otherwise(pl.lit("MLO")).alias("view"),
        pl.when(pl.col("n") % 3 == 0).then(pl.lit("s2D")).otherwise(pl.lit("DM")).alias("modality"),
        pl.col("exam").mod(4).cast(pl.String).replace({"0": "A", "1": "B", "2": "C", "3": "D"}).alias("density"),
        (pl.col("patient") % 45 + 40).cast(pl.Float64).alias("age"),
        pl.lit("Maker").alias("vendor"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
