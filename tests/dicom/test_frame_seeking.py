"""Frames of a volume, one seek each, wherever and however they lie, against the volume that was written."""

import io
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_samples import BTO, item, mammogram, with_pixels
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from compressed_dicom import LOSSLESS, codestream, compress, put_codestreams, saved
from densityclip.dicom import display
from densityclip.dicom.inflate import InflatedStream
from densityclip.dicom.pixels import read_frames
from densityclip.reasons import Reason, Refused

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def volume(frames: int = 6, shape: tuple[int, int] = (33, 21)) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 4096, (frames, *shape)).astype(np.uint16)


def described(pixels: np.ndarray) -> pydicom.Dataset:
    return with_pixels(mammogram(BTO), pixels, WindowCenter=2048, WindowWidth=4096)


def check(path: Path, pixels: np.ndarray) -> None:
    order = [4, 0, len(pixels) - 1, 2, 2]
    with read_frames(path) as reader:
        assert reader.frames == len(pixels)
        seen = list(reader.frames_at(order))
        raws = [reader.raw_frame(index) for index in order]
    assert [index for index, _ in seen] == order
    for (index, frame), raw in zip(seen, raws, strict=True):
        assert frame.dtype == np.float32
        assert np.array_equal(raw, pixels[index])
        # Centre 2048 and width 4096 of 12 bits: the identity (PS3.3 C.11.2.1.2.1).
        np.testing.assert_allclose(frame, pixels[index] / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: UID(uid).keyword)
def test_native_frames_are_found_in_any_order(tmp_path, syntax) -> None:
    pixels = volume()
    dataset = described(pixels)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    check(saved(dataset, tmp_path / "x"), pixels)


@pytest.mark.parametrize("table", ["none", "basic", "extended"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: UID(uid).keyword)
def test_compressed_frames_are_found_with_any_offset_table(tmp_path, syntax, table) -> None:
    pixels = volume()
    check(saved(compress(described(pixels), pixels, syntax, table=table), tmp_path / "x"), pixels)


@pytest.mark.parametrize("table", ["none", "basic"])
@pytest.mark.parametrize("syntax", [uid for uid in LOSSLESS if uid != RLELossless], ids=lambda uid: UID(uid).keyword)
def test_frames_of_several_fragments_are_put_together(tmp_path, syntax, table) -> None:
    pixels = volume()
    path = saved(compress(described(pixels), pixels, syntax, table=table, fragments=3), tmp_path / "x")
    check(path, pixels)
    # pydicom's own reader agrees on where the frames lie.
    assert np.array_equal(pixel_array(path, index=4), pixels[4])


def test_a_single_frame_in_several_fragments_is_one_frame(tmp_path) -> None:
    pixels = volume(1)[0]
    dataset = with_pixels(mammogram(), pixels)
    with read_frames(saved(compress(dataset, pixels, JPEGLSLossless, fragments=4), tmp_path / "x")) as reader:
        assert np.array_equal(reader.raw_frame(0), pixels)


@pytest.mark.parametrize("table", [b"\xff" * 24, b"\0" * 8, b"\0\0\0\0\x07\0\0\0"])
def test_a_wrong_offset_table_is_not_believed(tmp_path, table) -> None:
    pixels = volume()
    for fragments in (1, 3):
        dataset = compress(described(pixels), pixels, JPEG2000Lossless, fragments=fragments)
        empty = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
        assert dataset.PixelData.startswith(empty)
        dataset.PixelData = empty[:4] + len(table).to_bytes(4, "little") + table + dataset.PixelData[8:]
        check(saved(dataset, tmp_path / "x"), pixels)


def test_frames_of_different_lengths_with_odd_ones_are_found(tmp_path) -> None:
    pixels = volume()
    pixels[1:4] >>= 6
    streams = [codestream(frame, JPEGLSLossless) for frame in pixels]
    assert len({len(stream) for stream in streams}) > 3
    check(saved(put_codestreams(described(pixels), streams, JPEGLSLossless), tmp_path / "x"), pixels)


def test_a_volume_is_never_in_memory_whole(tmp_path) -> None:
    pixels = (volume(1, (400, 300)) * np.ones((40, 1, 1), np.uint16)).astype(np.uint16)
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless):
        dataset = described(pixels)
        if syntax == JPEGLSLossless:
            compress(dataset, pixels, syntax)
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        path = saved(dataset, tmp_path / UID(syntax).keyword)
        del dataset
        tracemalloc.start()
        with read_frames(path) as reader:
            assert sum(float(frame[0, 0]) for _, frame in reader.frames_at(range(40))) > 0
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # A frame is 0.24 MB, as float32 0.48 MB; all of them are 9.6 MB.
        assert peak < 3_000_000, (syntax, peak)


def test_slices_that_share_a_window_share_its_table(tmp_path, monkeypatch) -> None:
    pixels = volume()
    made = []
    real = display.display_table
    monkeypatch.setattr("densityclip.dicom.pixels.display_table", lambda *given: made.append(given[1]) or real(*given))
    shared = Sequence([item(FrameVOILUTSequence=Sequence([item(WindowCenter=2048, WindowWidth=4096)]))])
    bare = Sequence([item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, 0])])) for _ in pixels])
    dataset = described(pixels)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = shared, bare
    check(saved(dataset, tmp_path / "x"), pixels)
    assert len(made) == 1


def test_pixel_data_without_value_representation_under_a_syntax_that_has_them_is_found(tmp_path) -> None:
    # A file whose meta says explicit and whose data set is implicit: pydicom reads its header.
    pixels = volume()
    dataset = described(pixels)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = saved(dataset, tmp_path / "x")
    implicit, explicit = ImplicitVRLittleEndian.encode() + b"\0", ExplicitVRLittleEndian.encode() + b"\0"
    content = path.read_bytes()
    place = content.find(implicit)
    content = content[: place - 2] + len(explicit).to_bytes(2, "little") + explicit + content[place + len(implicit) :]
    group = content.find(b"\x02\0\0\0UL\x04\0") + 8
    length = int.from_bytes(content[group : group + 4], "little") + len(explicit) - len(implicit)
    path.write_bytes(content[:group] + length.to_bytes(4, "little") + content[group + 4 :])
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    check(path, pixels)


def test_a_frame_that_is_not_there_is_an_error_of_the_caller(tmp_path) -> None:
    pixels = volume()
    with read_frames(saved(described(pixels), tmp_path / "x")) as reader:
        for index in (-1, 6):
            with pytest.raises(IndexError):
                reader.raw_frame(index)


def test_a_file_of_endless_empty_fragments_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("densityclip.dicom.fragments.MAX_FRAGMENTS", 1000)
    dataset = described(volume())
    dataset.PixelData = encapsulate([b"\0\0"] * 1002, has_bot=False)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    with pytest.raises(Refused) as refused, read_frames(saved(dataset, tmp_path / "x")):
        pytest.fail("it was opened")
    assert refused.value.reason == Reason.TOO_LARGE


@given(
    content=st.binary(max_size=3000).map(lambda some: some * 97),
    moves=st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 5000)), max_size=8),
)
def test_an_inflated_stream_reads_like_the_bytes_themselves(content, moves) -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"head" + packer.compress(content) + packer.flush()
    source = io.BytesIO(packed)
    source.seek(4)
    stream, plain = io.BufferedReader(InflatedStream(source), 512), io.BytesIO(content)
    for place, size in moves:
        stream.seek(place)
        plain.seek(min(place, len(content)))
        assert stream.read(size) == plain.read(size)
    assert stream.seek(0, 2) == len(content)
