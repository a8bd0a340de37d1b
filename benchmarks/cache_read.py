"""Random reads from a cache: ours against zarr v3, WebDataset and PNG files, interleaved in one run.

python benchmarks/cache_read.py [--images 20000] [--size 224] [--reads 4000] [--repeats 5] [--quick]

Every format gives the same images in batches of 64, in one process. Ours, zarr and PNG read a new random order each
time; WebDataset has no random access, so it streams its shards with a shuffle buffer, as it is meant to be used.
Cold: the files are dropped from the page cache first (posix_fadvise); what lies below, a RAID or a host, may still hold
them. Warm: the same files once more, all of them read before.
"""

import argparse
import importlib.metadata
import io
import os
import platform
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import webdataset
import zarr
from PIL import Image

from densityclip.artifacts import conform
from densityclip.imaging.cache import Cache, build_cache
from densityclip.imaging.recipe import Recipe
from densityclip.imaging.worker import PreparedImage, Timed

BATCH = 64
SHARD = 1_000

Reader = Callable[[np.ndarray], Iterator[np.ndarray]]
Opener = Callable[[], Reader]


def image(number: int, size: int) -> np.ndarray:
    """A bright half ellipse with noise at the left of a black square: about as compressible as a prepared breast."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] / size
    inside = ((y - 0.5) / draw.uniform(0.35, 0.5)) ** 2 + (x / draw.uniform(0.4, 0.8)) ** 2 <= 1
    coarse = draw.integers(40, 180, (12, 12), dtype=np.uint8)
    tissue = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.where(inside, np.clip(tissue + draw.normal(0, 6, (size, size)), 1, 255), 0).astype(np.uint8)


class Drawn:
    """An engine that draws instead of decoding, so that the cache is made by the code that makes every cache."""

    workers = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, paths: pl.Series) -> Iterator[Timed]:
        place = np.array([[0, self.size, self.size, 0, 0, 0, self.size, self.size, *[self.size] * 2, 0, 0, 1, 1]])
        for path in paths:
            yield Timed(PreparedImage(image(int(path.rsplit("/")[-1]), self.size)[None], place.astype(np.int32)), 0.0)


def make_cache(folder: Path, number: int, size: int) -> Cache:
    names = [str(n) for n in range(number)]
    table = {"image_id": names, "path": names, "patient_id": names, "exam_id": names, "frames": [1] * number}
    index = conform(pl.DataFrame(table), "index")
    build_cache(index, folder, Recipe(height=size, width=size), engine=Drawn(size))
    return Cache.open(folder)


def write_zarr(folder: Path, images: np.ndarray, *, shards: bool) -> None:
    options = {"shards": (SHARD, *images.shape[1:])} if shards else {}
    array = zarr.create_array(
        folder,
        shape=images.shape,
        chunks=(1, *images.shape[1:]),
        dtype="u1",
        zarr_format=3,
        compressors=None,
        **options,
    )
    for start in range(0, len(images), SHARD):
        array[start : start + SHARD] = images[start : start + SHARD]


def write_webdataset(folder: Path, images: np.ndarray) -> None:
    folder.mkdir()
    for start in range(0, len(images), SHARD):
        with tarfile.open(folder / f"{start // SHARD:05d}.tar", "w") as tar:
            for number in range(start, min(start + SHARD, len(images))):
                entry = tarfile.TarInfo(f"{number:07d}.raw")
                entry.size = images[number].nbytes
                tar.addfile(entry, io.BytesIO(images[number].tobytes()))


def write_png(folder: Path, images: np.ndarray) -> None:
    folder.mkdir()
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:07d}.png")


def batches(order: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def open_cache(folder: Path) -> Reader:
    images = Cache.open(folder).images
    return lambda order: (images[rows] for rows in batches(order))


def open_zarr(folder: Path) -> Reader:
    array = zarr.open_array(folder, mode="r")
    # A batch's coordinates at once, which zarr reads concurrently: faster than one by one.
    return lambda order: (array.oindex[rows] for rows in batches(order))


def open_png(folder: Path) -> Reader:
    def load(row: int) -> np.ndarray:
        with Image.open(folder / f"{row:07d}.png") as opened:
            return np.asarray(opened)

    return lambda order: (np.stack([load(row) for row in rows]) for rows in batches(order))


def open_webdataset(folder: Path, size: int) -> Reader:
    def read(order: np.ndarray) -> Iterator[np.ndarray]:
        shards = sorted(str(path) for path in folder.iterdir())
        np.random.default_rng(int(order[0])).shuffle(shards)
        stream = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).shuffle(SHARD)
        samples = (np.frombuffer(sample["raw"], np.uint8).reshape(size, size) for sample in stream)
        wanted = islice(samples, len(order))
        while batch := list(islice(wanted, BATCH)):
            yield np.stack(batch)

    return read


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def drop(folder: Path) -> None:
    for path in files_of(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(read: Reader, order: np.ndarray) -> float:
    began, seen, total = time.perf_counter(), 0, 0
    for batch in read(order):
        seen += len(batch)
        total += int(batch[0, 0, 0])
    assert seen == len(order)
    return seen / (time.perf_counter() - began)


def make_all(folder: Path, number: int, size: int) -> dict[str, tuple[Path, Opener]]:
    print(f"writing {number} images of {size} x {size} in five formats ...", flush=True)
    cache = make_cache(folder / "cache", number, size)
    write_zarr(folder / "zarr", cache.images, shards=False)
    write_zarr(folder / "zarr-sharded", cache.images, shards=True)
    write_webdataset(folder / "webdataset", cache.images)
    write_png(folder / "png", cache.images)
    os.sync()
    openers = {
        "densityclip cache (memory map)": ("cache", open_cache),
        "zarr v3, one file an image": ("zarr", open_zarr),
        "zarr v3, shards of 1,000": ("zarr-sharded", open_zarr),
        "WebDataset, shards of 1,000, streamed": ("webdataset", partial(open_webdataset, size=size)),
        "PNG files": ("png", open_png),
    }
    formats = {name: (folder / place, partial(opener, folder / place)) for name, (place, opener) in openers.items()}
    check(formats, cache.images)
    return formats


def check(formats: dict[str, tuple[Path, Opener]], images: np.ndarray) -> None:
    """All formats hold the same images; a shuffled stream is compared by the sums of all its images."""
    order = np.random.default_rng(5).permutation(len(images))[: 4 * BATCH]
    for name, (_, opener) in formats.items():
        if "WebDataset" not in name:
            assert np.array_equal(np.concatenate(list(opener()(order))), images[order]), name
        else:
            got = sorted(int(one.sum(dtype=np.int64)) for batch in opener()(np.arange(len(images))) for one in batch)
            assert got == sorted(int(one.sum(dtype=np.int64)) for one in images), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reads", type=int, default=4_000, help="images read each time")
    parser.add_argument("--quick", action="store_true", help="4,000 images, 2 repeats")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made: a disk, not memory")
    options = parser.parse_args()
    if options.quick:
        options.images, options.reads, options.repeats = 4_000, 1_000, 2
    folder = Path(tempfile.mkdtemp(prefix="cache-read-", dir=options.folder))
    try:
        formats = make_all(folder, options.images, options.size)
        cold: dict[str, list[float]] = {name: [] for name in formats}
        warm: dict[str, list[float]] = {name: [] for name in formats}
        draw = np.random.default_rng(0)
        for repeat in range(options.repeats):
            for name, (place, opener) in formats.items():
                drop(place)
                # Opening is not in the time: it is done once for a training.
                read = opener()
                cold[name].append(timed(read, draw.permutation(options.images)[: options.reads]))
                for path in files_of(place):
                    path.read_bytes()
                warm[name].append(timed(read, draw.permutation(options.images)[: options.reads]))
            print(f"repetition {repeat + 1} of {options.repeats}", flush=True)
        report(options, folder, formats, cold, warm)
    finally:
        shutil.rmtree(folder)


def report(
    options: argparse.Namespace,
    folder: Path,
    formats: dict[str, tuple[Path, Opener]],
    cold: dict[str, list[float]],
    warm: dict[str, list[float]],
) -> None:
    ours = next(iter(formats))
    print("\n| format | size, MB | files | cold, images/s | warm, images/s | ours to it, cold | ours to it, warm |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, (place, _) in formats.items():
        files = files_of(place)
        size = sum(path.stat().st_size for path in files) / 1e6
        times = [
            statistics.median(a / b for a, b in zip(rates[ours], rates[name], strict=True)) for rates in (cold, warm)
        ]
        print(
            f"| {name} | {size:,.0f} | {len(files):,} | {statistics.median(cold[name]):,.0f} |"
            f" {statistics.median(warm[name]):,.0f} | {times[0]:.1f} | {times[1]:.1f} |"
        )
    versions = ", ".join(
        f"{one} {importlib.metadata.version(one)}" for one in ("numpy", "zarr", "webdataset", "pillow")
    )
    print(
        f"\n{options.reads:,} reads from {options.images:,} images of {options.size} x {options.size} uint8, median of"
        f" {options.repeats} interleaved repetitions, one process;"
        f" {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, {platform.system()},"
        f" Python {platform.python_version()}, {versions}."
    )


if __name__ == "__main__":
    main()
