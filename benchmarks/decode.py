"""Seconds a frame by transfer syntax, and frames of a volume: ours against pydicom's own choice and bare imagecodecs.

    python benchmarks/decode.py [--quick] [--repeats 5]

Bare is imagecodecs' decoder on the codestream in memory, in one thread; the others open the file. `raw_frame` is ours
up to checked integers, which is what `prepare` uses; `frame` also looks up the display value of every pixel. pydicom's
own choice is the first plugin that it has without ours, and shows no display values. Peak memory is that of a fresh
process beyond what it holds after one frame, while the volume is read once.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy import ndimage

from densityclip.dicom.pixels import read_frames

ROWS, COLUMNS, BITS = 4096, 3328, 12
Times = dict[str, list[float]]


def picture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Air of 0 and half an ellipse of coarse and fine texture with noise: compresses about as a mammogram does."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    inside = ((y - rows / 2) / (0.42 * rows)) ** 2 + (x / (0.75 * columns)) ** 2 < 1
    coarse = ndimage.zoom(draw.standard_normal((rows // 32 + 2, columns // 32 + 2)), 32, order=1)[:rows, :columns]
    return (
        np.where(inside, 1800 + 350 * coarse + draw.normal(0, 15, (rows, columns)), 0).clip(0, 4095).astype(np.uint16)
    )


def rle(pixels: np.ndarray) -> bytes:
    return RLELosslessEncoder.encode(
        pixels.tobytes(), rows=pixels.shape[0], columns=pixels.shape[1], samples_per_pixel=1, bits_allocated=16,
        bits_stored=BITS, pixel_representation=0, photometric_interpretation="MONOCHROME2", number_of_frames=1,
    )  # fmt: skip


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGLosslessSV1: lambda p: imagecodecs.ljpeg_encode(p, bitspersample=BITS),
    JPEG2000Lossless: lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k", bitspersample=BITS, reversible=True),
    HTJ2KLossless: lambda p: imagecodecs.htj2k_encode(p, reversible=True),
    JPEGExtended12Bit: lambda p: imagecodecs.jpeg8_encode(p, level=95, bitspersample=BITS),
    RLELossless: rle,
}
BARE: dict[str, Callable[[bytes], Any]] = {
    JPEGLSLossless: imagecodecs.jpegls_decode,
    JPEGLosslessSV1: imagecodecs.ljpeg_decode,
    JPEG2000Lossless: lambda data: imagecodecs.jpeg2k_decode(data, numthreads=1),
    HTJ2KLossless: imagecodecs.htj2k_decode,
    JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    RLELossless: lambda data: imagecodecs.dicomrle_decode(data, "<u2"),
}


def write(path: Path, frames: list[np.ndarray], syntax: str) -> list[bytes]:
    """Write a mammogram or volume; returns its codestreams."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.Rows, dataset.Columns = frames[0].shape
    dataset.NumberOfFrames, dataset.SamplesPerPixel = len(frames), 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    dataset.WindowCenter, dataset.WindowWidth = 2000, 3000
    if syntax == ExplicitVRLittleEndian:
        streams = [frame.tobytes() for frame in frames]
        dataset.PixelData = b"".join(streams)
        dataset["PixelData"].VR = "OW"
    else:
        streams = [bytes(ENCODERS[syntax](frame)) for frame in frames]
        dataset.PixelData = encapsulate(streams)
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(path, enforce_file_format=True)
    return streams


def in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; all are run once in every round."""
    times: Times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(some) for name, some in times.items()}


def raw_frame(path: Path) -> np.ndarray:
    with read_frames(path) as reader:
        return reader.raw_frame(0)


def frame(path: Path) -> np.ndarray:
    with read_frames(path) as reader:
        return reader.frame(0)


def single_frames(folder: Path, own: dict[str, str], repeats: int) -> None:
    pixels = picture(ROWS, COLUMNS)
    print(f"\nOne frame of {ROWS} x {COLUMNS}, {BITS} bits in 16, seconds:\n")
    print(
        "| transfer syntax | MB | bare | raw_frame | frame | pydicom's own | bare / raw_frame | pydicom's / raw_frame |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for syntax in (*ENCODERS, ExplicitVRLittleEndian):
        path = folder / f"{UID(syntax).keyword}.dcm"
        stream = write(path, [pixels], syntax)[0]
        calls: dict[str, Callable[[], Any]] = {
            "raw": lambda path=path: raw_frame(path),
            "frame": lambda path=path: frame(path),
        }
        if syntax in BARE:
            calls["bare"] = lambda decode=BARE[syntax], data=stream: decode(data)
        if syntax in own:
            calls["own"] = lambda path=path, name=own[syntax]: pixel_array(path, decoding_plugin=name)
        assert np.array_equal(raw_frame(path), pixels) or syntax == JPEGExtended12Bit
        seconds = in_turns(calls, repeats)
        columns = [f"{seconds[name]:.3f}" if name in seconds else "none" for name in ("bare", "raw", "frame", "own")]
        ratios = [f"{seconds[name] / seconds['raw']:.2f}" if name in seconds else "" for name in ("bare", "own")]
        print("|", " | ".join([UID(syntax).keyword, f"{len(stream) / 1e6:.1f}", *columns, *ratios]), "|", flush=True)
        path.unlink()


def volume_task(kind: str, path: Path, plugin: str, queue: Any) -> None:
    """Read every frame of a volume once, in a process of its own."""
    if kind.endswith("ours"):
        with read_frames(path) as reader:
            reader.raw_frame(0)
    else:
        pixel_array(path, index=0, decoding_plugin=plugin)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; Linux only
    before, began = memory("VmRSS"), time.perf_counter()
    total = 0
    if kind == "whole volume, pydicom":
        total = int(pixel_array(path, decoding_plugin=plugin)[:, 0, 0].sum())
    elif kind == "pixel_array(index=k), pydicom":
        with read_frames(path) as reader:
            frames = reader.frames
        for index in range(frames):
            total += int(pixel_array(path, index=index, decoding_plugin=plugin)[0, 0])
    else:
        with read_frames(path) as reader:
            if kind == "frames_at, ours":
                total = sum(int(one[0, 0]) for _, one in reader.frames_at(range(reader.frames)))
            else:
                total = sum(int(reader.raw_frame(index)[0, 0]) for index in range(reader.frames))
    seconds = time.perf_counter() - began
    queue.put((seconds, memory("VmHWM") - before, total))


def memory(name: str) -> float:
    """A figure of this process in MB; the ru_maxrss of a spawned process is its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def volumes(folder: Path, own: dict[str, str], shape: tuple[int, int, int], repeats: int) -> None:
    frames, rows, columns = shape
    kinds = ("raw_frame, ours", "frames_at, ours", "pixel_array(index=k), pydicom", "whole volume, pydicom")
    print(f"\nA volume of {frames} frames of {rows} x {columns}, all frames read in order:\n")
    print("| transfer syntax | reader | seconds a frame | of ours | peak MB beyond the first frame |")
    print("|---|---|---|---|---|")
    one = [picture(rows, columns, seed) for seed in range(4)]
    spawn = get_context("spawn")
    for syntax in (JPEGLSLossless, JPEGLosslessSV1, ExplicitVRLittleEndian):
        path = folder / f"volume-{UID(syntax).keyword}.dcm"
        write(path, [one[index % 4] for index in range(frames)], syntax)
        found: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in kinds}
        for _ in range(repeats):
            for kind in kinds:
                queue = spawn.Queue()
                worker = spawn.Process(target=volume_task, args=(kind, path, own.get(syntax, ""), queue))
                worker.start()
                found[kind].append(queue.get())
                worker.join()
        ours = statistics.median(run[0] for run in found[kinds[0]])
        for kind in kinds:
            seconds = statistics.median(run[0] for run in found[kind])
            peak = max(run[1] for run in found[kind])
            print(
                f"| {UID(syntax).keyword} | {kind} | {seconds / frames:.4f} | {seconds / ours:.2f} | {peak:.0f} |",
                flush=True,
            )
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 repeats, and a smaller volume")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    # Asked before ours is registered, which happens with the first frame that is read.
    own = {uid: plugin for uid in ENCODERS for plugin in list(get_decoder(UID(uid))._available)[:1]}
    own = {uid: name for uid, name in own.items() if not (uid == JPEGExtended12Bit and name == "gdcm")}
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("pydicom", "imagecodecs", "python-gdcm")
    )
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {versions}; ", end=""
    )
    repeats = 2 if given.quick else given.repeats
    print(f"medians of {repeats}, in turns")
    with tempfile.TemporaryDirectory() as folder:
        single_frames(Path(folder), own, repeats)
        shape = (70, 1280, 1024) if given.quick else (70, 2457, 1996)
        volumes(Path(folder), own, shape, 1 if given.quick else 3)


if __name__ == "__main__":
    main()
