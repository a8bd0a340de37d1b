"""Preparing a file against bare decoding of the same codestream; two workers against one; memory on tomosynthesis.

    python benchmarks/prepare.py [--quick] [--repetitions N] [--files N] [--folder DIR]

Makes its own mammograms (3328 x 4096 at 12 bits in 16, and a 1996 x 2457 x 70 tomosynthesis at 10 bits in 16), writes
them as DICOM in every transfer syntax, and removes them. Both sides of a ratio alternate in one process and one thread;
the bare decoding starts from the codestream in memory, the preparation from the path of the file, whose pages are in
the system's cache.
"""

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import PIL
import polars as pl
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from densityclip.artifacts import conform
from densityclip.imaging.cache import build_cache
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe

ROWS, COLUMNS, BITS = 4096, 3328, 12
DBT_ROWS, DBT_COLUMNS, DBT_FRAMES, DBT_BITS = 2457, 1996, 70, 10
# The high-water mark of the process's own memory: that of getrusage begins with its parent's.
CHILD = """
import re, sys
from pathlib import Path
from densityclip.imaging.prepare import prepare_file
from densityclip.imaging.recipe import Recipe
if sys.argv[2]:
    prepare_file(Path(sys.argv[1]), Recipe(dbt_slices=sys.argv[2]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@dataclass(frozen=True)
class Coding:
    name: str
    uid: UID
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], object]


def rle(pixels: np.ndarray) -> bytes:
    return RLELosslessEncoder.encode(
        pixels.tobytes(),
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=BITS,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )


def ljpeg(pixels: np.ndarray) -> bytes:
    return imagecodecs.ljpeg_encode(pixels, bitspersample=BITS)


def jpeg2k(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k", numthreads=2)


CODINGS = (
    Coding("JPEG-LS", JPEGLSLossless, imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    Coding("JPEG Lossless", JPEGLosslessSV1, ljpeg, imagecodecs.ljpeg_decode),
    Coding("JPEG 2000", JPEG2000Lossless, jpeg2k, lambda data: imagecodecs.jpeg2k_decode(data, numthreads=1)),
    Coding("HTJ2K", HTJ2KLossless, lambda a: imagecodecs.htj2k_encode(a, reversible=True), imagecodecs.htj2k_decode),
    Coding("RLE", RLELossless, rle, lambda data: imagecodecs.dicomrle_decode(data, "<u2")),
    # Its bare decoding is one copy of the bytes.
    Coding("uncompressed", ExplicitVRLittleEndian, np.ndarray.tobytes, bytearray),
)


def drawn(rows: int, columns: int, bits: int, seed: int) -> np.ndarray:
    """A breast over half of the image, with tissue and the noise that decides what a codec takes."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    breast = ((y - rows / 2) / (0.43 * rows)) ** 2 + (x / (0.62 * columns)) ** 2 <= 1
    cells = draw.random((rows // 64, columns // 64), dtype=np.float32)
    tissue = np.asarray(Image.fromarray(cells).resize((columns, rows), Image.Resampling.BICUBIC))
    full = float((1 << bits) - 1)
    noise = draw.standard_normal((rows, columns), dtype=np.float32) * np.where(breast, 0.006, 0.0015)
    values = np.where(breast, 0.3 + 0.45 * tissue, 0.015) + noise
    return np.rint(np.clip(values, 0, 1) * full).astype(np.uint16)


def write_dicom(path: Path, frames: list[bytes], uid: UID, shape: tuple[int, int], bits: int) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid
    volume = len(frames) > 1
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.13.1.3" if volume else "1.2.840.10008.5.1.4.1.1.1.2"
    ds.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    ds.NumberOfFrames = len(frames)
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, 0
    ds.WindowCenter, ds.WindowWidth = (1 << bits) // 2, 1 << bits
    compressed = uid.is_compressed
    ds.PixelData = encapsulate(frames) if compressed else b"".join(frames)
    ds["PixelData"].VR = "OB" if compressed else "OW"
    ds["PixelData"].is_undefined_length = compressed
    ds.save_as(path, enforce_file_format=True)
    return path


def measured(*sides: Callable[[], object], repetitions: int) -> list[list[float]]:
    """Seconds of each side, taken in turn; the first round is not counted."""
    seconds: list[list[float]] = [[] for _ in sides]
    for repetition in range(repetitions + 1):
        for side, taken in zip(sides, seconds, strict=True):
            began = time.perf_counter()
            side()
            if repetition:
                taken.append(time.perf_counter() - began)
    return seconds


def against_decoding(folder: Path, repetitions: int) -> None:
    pixels = drawn(ROWS, COLUMNS, BITS, seed=1)
    recipe = Recipe()
    print(f"\nOne {ROWS} x {COLUMNS} image, {BITS} bits in 16, one thread, medians of {repetitions}:\n")
    print("| transfer syntax | MB | bare decoding, ms | preparing, ms | difference, ms | bare / preparing |")
    print("|---|---:|---:|---:|---:|---:|")
    for coding in CODINGS:
        codestream = bytes(coding.encode(pixels))
        path = write_dicom(folder / "image.dcm", [codestream], coding.uid, pixels.shape, BITS)
        bare, whole = measured(
            lambda coding=coding, data=codestream: coding.decode(data),
            lambda path=path: prepare_file(path, recipe),
            repetitions=repetitions,
        )
        ratio = statistics.median(a / b for a, b in zip(bare, whole, strict=True))
        more = statistics.median(b - a for a, b in zip(bare, whole, strict=True))
        print(
            f"| {coding.name} | {len(codestream) / 1e6:.1f} | {1e3 * statistics.median(bare):.0f} "
            f"| {1e3 * statistics.median(whole):.0f} | {1e3 * more:.0f} | {ratio:.2f} |"
        )
        path.unlink()


def two_workers(folder: Path, files: int, repetitions: int) -> None:
    paths = []
    for number in range(4):
        data = bytes(imagecodecs.jpegls_encode(drawn(ROWS, COLUMNS, BITS, seed=number)))
        paths.append(write_dicom(folder / f"{number}.dcm", [data], JPEGLSLossless, (ROWS, COLUMNS), BITS))
    rows = [
        {"image_id": f"i{n}", "path": str(paths[n % 4]), "patient_id": f"p{n}", "exam_id": f"e{n}", "modality": "DM"}
        for n in range(files)
    ]
    index = conform(pl.DataFrame(rows).with_columns(frames=1), "index")
    made = iter(range(10_000))

    def build(workers: int) -> None:
        build_cache(index, folder / f"cache{next(made)}", Recipe(), workers=workers)

    one, two = measured(lambda: build(1), lambda: build(2), repetitions=repetitions)
    ratio = statistics.median(a / b for a, b in zip(one, two, strict=True))
    print(
        f"\n`build_cache` of {files} such images in JPEG-LS, start of the workers included, medians of {repetitions}:\n"
    )
    print("| workers | s | images/s |\n|---:|---:|---:|")
    for workers, seconds in ((1, statistics.median(one)), (2, statistics.median(two))):
        print(f"| {workers} | {seconds:.1f} | {files / seconds:.1f} |")
    print(f"\nTwo workers do {ratio:.2f} times the work of one.")


def memory(folder: Path, frames: int) -> None:
    slices = [bytes(imagecodecs.jpegls_encode(drawn(DBT_ROWS, DBT_COLUMNS, DBT_BITS, seed=n))) for n in range(4)]
    stack = [slices[n % 4] for n in range(frames)]
    path = write_dicom(folder / "volume.dcm", stack, JPEGLSLossless, (DBT_ROWS, DBT_COLUMNS), DBT_BITS)
    raw = DBT_ROWS * DBT_COLUMNS * frames * 2 / 1e6
    print(
        f"\nA volume of {frames} frames of {DBT_ROWS} x {DBT_COLUMNS} ({raw:.0f} MB decoded), JPEG-LS, own process:\n"
    )
    print("| recipe.dbt_slices | s | peak memory, MB |\n|---|---:|---:|")
    for what in ("", "central", "spread:3", "slab:7", "max"):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", CHILD, path, what], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        print(f"| {what or '(imports alone)'} | {seconds:.1f} | {1.024e-3 * int(done.stdout):.0f} |")
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and files")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--files", type=int, help="images of the cache that two workers build")
    parser.add_argument(
        "--folder", type=Path, help="where the files are made; the system's temporary folder if not given"
    )
    parser.add_argument("--only", choices=("decoding", "workers", "memory"))
    options = parser.parse_args()
    repetitions = options.repetitions or (5 if options.quick else 25)
    print(
        f"{datetime.date.today()}, {os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, Pillow {PIL.__version__}, imagecodecs {imagecodecs.__version__}, "
        f"pydicom {pydicom.__version__}"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.only in (None, "decoding"):
            against_decoding(folder, repetitions)
        if options.only in (None, "workers"):
            two_workers(folder, options.files or (24 if options.quick else 100), 2 if options.quick else 5)
        if options.only in (None, "memory"):
            memory(folder, DBT_FRAMES)


if __name__ == "__main__":
    main()
