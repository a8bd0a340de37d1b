"""Damaged files, and a process of its own that prepares them: `python fuzzing.py FOLDER FIRST COUNT`.

The process prints `start N` before and `end N OUTCOME` after each file, so that the one that killed it is known. It may
use 1.5 GB more than it starts with, and ends itself when one file takes longer than a minute.
"""

import contextlib
import faulthandler
import os
import resource
import struct
import sys
import traceback
from pathlib import Path

import numpy as np
from breast_samples import drawn, write_dicom
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from compressed_dicom import compress

MEMORY = 1_500_000_000
SECONDS = 60
TOUCHY = (0, 1, 2, 7, 8, 16, 0x7F, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
SINGLE = (
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
)
VOLUMES = ((JPEGLSLossless, "basic", 2), (JPEG2000Lossless, "extended", 1), (RLELossless, "none", 1))


def write_whole_files(folder: Path) -> list[Path]:
    """The files that are damaged: a mammogram and a volume in many syntaxes, and the kinds of image file."""
    folder.mkdir(parents=True, exist_ok=True)
    image, _ = drawn(128, 100)
    paths = [_described(write_dicom(folder / "native.dcm", image), image)]
    for syntax in SINGLE:
        path = folder / f"{UID(syntax).keyword}.dcm"
        dataset = dcmread(paths[0])
        pixels = dataset.pixel_array
        if syntax == JPEGBaseline8Bit:
            pixels = (pixels >> 4).astype(np.uint8)
            dataset.BitsAllocated = dataset.BitsStored = 8
            dataset.HighBit = 7
            dataset.WindowCenter, dataset.WindowWidth = 128, 250
            del dataset.VOILUTSequence
        paths.append(_rewritten(dataset, pixels, syntax, path))
    volume = np.stack([drawn(96, 80, seed=seed)[0] for seed in range(5)])
    paths.append(_described(write_dicom(folder / "volume.dcm", volume), volume))
    for syntax, table, fragments in VOLUMES:
        dataset = dcmread(paths[len(SINGLE) + 1])
        compress(dataset, dataset.pixel_array, syntax, table=table, fragments=fragments)
        paths.append(folder / f"volume-{UID(syntax).keyword}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    for extension in ("png", "jpg", "tif", "bmp"):
        paths.append(folder / f"image.{extension}")
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(paths[-1])
    return paths


def _rewritten(dataset: Dataset, pixels: np.ndarray, syntax: str, path: Path) -> Path:
    if UID(syntax).is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        compress(dataset, pixels, syntax)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    # pydicom cannot turn the bytes of a data set around that it has read: the elements are set anew.
    fresh = Dataset()
    fresh.file_meta = dataset.file_meta
    for element in dataset:
        fresh.add_new(element.tag, element.VR, element.value)
    if UID(syntax).is_encapsulated:
        fresh["PixelData"].is_undefined_length = True
    fresh.save_as(path, enforce_file_format=True)
    return path


def _described(path: Path, image: np.ndarray) -> Path:
    dataset = dcmread(path)
    item = Dataset()
    item.WindowCenter, item.WindowWidth, item.VOILUTFunction = 2000, 3900, "SIGMOID"
    if image.ndim == 3:
        group = Dataset()
        group.FrameVOILUTSequence = Sequence([item])
        dataset.SharedFunctionalGroupsSequence = Sequence([group])
        dataset.PerFrameFunctionalGroupsSequence = Sequence([group] * len(image))
    else:
        dataset.update(item)
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [600, 900, 16])
        table.add_new("LUTData", "US", [109 * value for value in range(600)])
        table.ModalityLUTType = "US"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.VOILUTSequence = Sequence([table])
    dataset.PatientID, dataset.Modality, dataset.ImageType = "P1", "MG", ["ORIGINAL", "PRIMARY"]
    dataset.add_new("PixelPaddingValue", "US", 0)
    dataset.save_as(path)
    return path


def damaged(wholes: list[bytes], number: int) -> bytes:
    """File `number` of an endless row of damaged files; the same for the same number, always."""
    draw = np.random.default_rng([20261123, number])
    content = bytearray(wholes[number % len(wholes)])
    for _ in range(int(draw.choice([1, 1, 1, 2, 5]))):
        _DAMAGES[int(draw.integers(len(_DAMAGES)))](content, draw, wholes)
        if len(content) < 16:
            break
    return bytes(content)


def _place(content: bytearray, draw: np.random.Generator) -> int:
    # Headers of files and codestreams are short and matter most: three of four times the damage is done there.
    pixels = max(content.find(b"\xe0\x7f\x10\x00"), content.find(b"\x7f\xe0\x00\x10"))
    kind = int(draw.integers(4))
    if kind == 0 or pixels < 0:
        return int(draw.integers(len(content)))
    if kind == 1:
        return int(draw.integers(128, max(pixels, 129)) % len(content))
    return min(pixels + int(draw.integers(160)), len(content) - 1)


def _flip(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    for _ in range(int(draw.choice([1, 1, 4, 30]))):
        content[_place(content, draw)] ^= 1 << int(draw.integers(8))


def _number(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    kind = str(draw.choice(["<H", "<L", ">H", ">L"]))
    place = min(_place(content, draw), len(content) - 4)
    largest = (1 << (8 * struct.calcsize(kind))) - 1
    struct.pack_into(kind, content, place, min(int(draw.choice(TOUCHY)), largest))


def _cut(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    del content[_place(content, draw) :]


def _remove(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    place = _place(content, draw)
    del content[place : place + int(draw.choice([1, 2, 8, 100, 5000]))]


def _insert(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    place = _place(content, draw)
    size = int(draw.choice([1, 2, 8, 100, 5000]))
    filler = draw.bytes(size) if draw.integers(2) else bytes([int(draw.choice([0, 255]))]) * size
    content[place:place] = filler


def _repeat(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    place, size = _place(content, draw), int(draw.choice([4, 12, 200, 3000]))
    content[place:place] = content[place : place + size] * int(draw.choice([1, 3, 50]))


def _splice(content: bytearray, draw: np.random.Generator, wholes: list[bytes]) -> None:
    other = wholes[int(draw.integers(len(wholes)))]
    start = int(draw.integers(len(other)))
    part = other[start : start + int(draw.choice([20, 400, 10_000]))]
    place = _place(content, draw)
    content[place : place + len(part)] = part


def _length(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    # Explicit VR: the two letters, then the length in two bytes; for the long ones, in four after two of zero.
    names = [b"US", b"UI", b"SQ", b"OW", b"OB", b"DS", b"IS", b"CS", b"UN", b"LO"]
    name = names[int(draw.integers(len(names)))]
    found = [place for place in range(132, len(content) - 8) if content[place : place + 2] == name]
    if found:
        place = found[int(draw.integers(len(found)))]
        value = int(draw.choice(TOUCHY))
        if name in (b"SQ", b"OW", b"OB", b"UN"):
            struct.pack_into("<L", content, place + 4, value)
        else:
            struct.pack_into("<H", content, place + 2, value & 0xFFFF)


def _element(content: bytearray, draw: np.random.Generator, _: list[bytes]) -> None:
    # One of the attributes that the pixels need, given a value of its kind: the lies of section "real archives hold".
    tags = [(0x28, 0x02), (0x28, 0x08), (0x28, 0x10), (0x28, 0x11), (0x28, 0x100), (0x28, 0x101), (0x28, 0x103)]
    group, element = tags[int(draw.integers(len(tags)))]
    place = content.find(struct.pack("<HH", group, element))
    if 0 <= place < len(content) - 10:
        if (group, element) == (0x28, 0x08):
            content[place + 8 : place + 10] = str(draw.choice(["0 ", "2 ", "99", "-1", "x ", "1.5"])).encode()[:2]
        else:
            struct.pack_into("<H", content, place + 8, int(draw.choice(TOUCHY)) & 0xFFFF)


_DAMAGES = (_flip, _flip, _number, _number, _cut, _remove, _insert, _repeat, _splice, _length, _element, _element)


def outcome_of(path: Path) -> str:
    """How preparing a file ends: `prepared`, a reason, or the traceback of what must not happen."""
    from densityclip.dicom.header import is_dicom, read_header
    from densityclip.imaging.prepare import prepare_file
    from densityclip.imaging.recipe import Recipe
    from densityclip.reasons import Refused

    try:
        if is_dicom(path):
            with contextlib.suppress(Refused):
                read_header(path)
        prepared = prepare_file(path, Recipe(height=48, width=40, dbt_slices="spread:2"))
    except Refused as refused:
        return refused.reason.value
    except BaseException:  # noqa: BLE001
        return "ERROR " + traceback.format_exc().replace("\n", " | ")
    assert all(one.pixels.shape == (48, 40) for one in prepared)
    return "prepared"


def main(folder: Path, first: int, count: int) -> None:
    """Prepare damaged files `first` to `first + count - 1`."""
    wholes = [path.read_bytes() for path in sorted((folder / "whole").iterdir())]
    target = folder / f"damaged-{os.getpid()}"
    faulthandler.enable()
    for whole in sorted((folder / "whole").iterdir()):
        assert outcome_of(whole) == "prepared", outcome_of(whole)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    for number in range(first, first + count):
        target.write_bytes(damaged(wholes, number))
        _say(f"start {number}")
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome = outcome_of(target)
        faulthandler.cancel_dump_traceback_later()
        _say(f"end {number} {outcome}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
