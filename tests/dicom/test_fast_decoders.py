"""The fast decoders against the arrays that were compressed, and against gdcm and Pillow through pydicom."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from dicom_samples import mammogram, with_pixels
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from scipy import ndimage

from compressed_dicom import LOSSLESS, codestream, compress, put_codestreams, saved
from densityclip.dicom import decoders
from densityclip.dicom.pixels import read_frames
from densityclip.reasons import Reason, Refused


def textured(bits: int = 12, shape: tuple[int, int] = (90, 70), seed: int = 3) -> np.ndarray:
    """A picture that is smooth and noisy, of all grey levels, of odd size."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 6)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * ((1 << bits) - 40)
    return (smooth + rng.integers(0, 39, shape)).astype(np.uint8 if bits <= 8 else np.uint16)


def raw(path: Path, index: int = 0) -> np.ndarray:
    with read_frames(path) as reader:
        return np.array(reader.raw_frame(index))


def by_pydicom(stream: bytes, syntax: str, like: np.ndarray, bits: int, plugin: str) -> np.ndarray:
    options = {
        "rows": like.shape[0],
        "columns": like.shape[1],
        "bits_allocated": 8 * like.dtype.itemsize,
        "bits_stored": bits,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "pixel_representation": int(like.dtype.kind == "i"),
        "photometric_interpretation": "MONOCHROME2",
    }
    decoder = get_decoder(UID(syntax))
    return decoder.as_array(encapsulate([stream]), index=0, raw=True, decoding_plugin=plugin, **options)[0]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: UID(uid).keyword)
def test_lossless_frames_come_back_bit_for_bit(tmp_path, syntax, bits) -> None:
    pixels = textured(bits)
    dataset = compress(with_pixels(mammogram(), pixels, bits=bits), pixels, syntax)
    decoded = raw(saved(dataset, tmp_path / "x"))
    assert decoded.dtype == pixels.dtype
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: UID(uid).keyword)
def test_signed_frames_come_back_bit_for_bit(tmp_path, syntax, bits) -> None:
    pixels = (textured(bits).astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
    dataset = compress(with_pixels(mammogram(), pixels, bits=bits), pixels, syntax)
    decoded = raw(saved(dataset, tmp_path / "x"))
    assert decoded.dtype == np.int16
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("syntax", "bits", "plugin"),
    [
        (JPEGBaseline8Bit, 8, "gdcm"),
        (JPEGBaseline8Bit, 8, "pillow"),
        (JPEGLossless, 12, "gdcm"),
        (JPEGLosslessSV1, 12, "gdcm"),
        (JPEGLosslessSV1, 16, "gdcm"),
        (JPEGLSLossless, 8, "gdcm"),
        (JPEGLSLossless, 12, "gdcm"),
        (JPEGLSNearLossless, 12, "gdcm"),
        (JPEG2000Lossless, 12, "gdcm"),
        (JPEG2000Lossless, 16, "gdcm"),
        (JPEG2000Lossless, 16, "pillow"),
        (JPEG2000, 12, "gdcm"),
        (JPEG2000, 12, "pillow"),
        (RLELossless, 12, "pydicom"),
    ],
    ids=lambda value: UID(value).keyword if isinstance(value, UID) else str(value),
)
def test_other_decoders_decode_a_frame_alike(tmp_path, syntax, bits, plugin) -> None:
    pixels = textured(bits)
    stream = codestream(pixels, syntax, bits)
    expected = by_pydicom(stream, syntax, pixels, bits, plugin)
    dataset = put_codestreams(with_pixels(mammogram(), pixels, bits=bits), [stream], syntax)
    assert np.array_equal(raw(saved(dataset, tmp_path / "x")), expected)


@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000])
def test_lossy_frames_come_back_within_their_loss(tmp_path, syntax) -> None:
    pixels = textured()
    dataset = compress(with_pixels(mammogram(), pixels), pixels, syntax)
    error = np.abs(raw(saved(dataset, tmp_path / "x")).astype(int) - pixels)
    assert 0 < error.max() <= {JPEGLSNearLossless: 2, JPEGExtended12Bit: 8, JPEG2000: 24}[syntax]


def test_jpeg_with_restart_markers_is_decoded(tmp_path) -> None:
    # Made by hand: a lossless stream of two bands, joined with a restart marker between them.
    pixels = textured()
    stream = restarted(pixels)
    assert np.array_equal(by_pydicom(stream, JPEGLosslessSV1, pixels, 12, "gdcm"), pixels)
    dataset = put_codestreams(with_pixels(mammogram(), pixels), [stream], JPEGLosslessSV1)
    assert np.array_equal(raw(saved(dataset, tmp_path / "x")), pixels)


def restarted(pixels: np.ndarray) -> bytes:
    """A JPEG Lossless stream with a restart after half of the rows, from the streams of the halves.

    Prediction starts anew after a restart (T.81 H.1.1), as it does at the beginning of a picture, and the two halves
    are made to share one Huffman table.
    """
    rows, columns = pixels.shape
    half = rows // 2
    table = bytes([0, *([0] * 3), 2, 3, *([1] * 7), *([0] * 4), 3, 4, 2, 5, 6, 1, 0, 7, 8, 9, 10, 11])
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc4" + (len(table) + 2).to_bytes(2, "big") + table,
            b"\xff\xdd\x00\x04" + (half * columns).to_bytes(2, "big"),
            b"\xff\xc3\x00\x0b\x0c" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + b"\x01\x01\x11\x00",
            b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00",
            scan(pixels[:half], table),
            b"\xff\xd0",
            scan(pixels[half:], table),
            b"\xff\xd9",
        ]
    )


def scan(pixels: np.ndarray, table: bytes) -> bytes:
    codes, code, place = {}, 0, 17
    for length in range(1, 17):
        for _ in range(table[length]):
            codes[table[place]] = (code, length)
            code, place = code + 1, place + 1
        code <<= 1
    bits = []
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            above = int(pixels[row - 1, 0]) if row else 1 << 11
            predicted = int(pixels[row, column - 1]) if column else above
            difference = int(pixels[row, column]) - predicted
            size = abs(difference).bit_length()
            code, length = codes[size]
            bits.append(f"{code:0{length}b}")
            if size:
                bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


def test_a_frame_is_decoded_in_one_thread(tmp_path, monkeypatch) -> None:
    import imagecodecs

    given = []
    real = imagecodecs.jpeg2k_decode
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda *data, **how: given.append(how) or real(*data, **how))
    pixels = textured()
    raw(saved(compress(with_pixels(mammogram(), pixels), pixels, JPEG2000Lossless), tmp_path / "x"))
    assert [how["numthreads"] for how in given] == [1]


def test_a_frame_that_is_filled_up_with_zeros_is_decoded(tmp_path) -> None:
    pixels = textured()
    for syntax in (JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2K):
        stream = codestream(pixels, syntax) + bytes(5000)
        dataset = put_codestreams(with_pixels(mammogram(), pixels), [stream], syntax)
        assert np.array_equal(raw(saved(dataset, tmp_path / "x")), pixels)


def test_without_imagecodecs_gdcm_decodes(tmp_path, monkeypatch) -> None:
    decoders.register()
    decoder = get_decoder(UID(JPEGLSLossless))
    decoder.remove_plugin("imagecodecs")
    monkeypatch.setattr(decoders, "is_available", lambda uid: False)
    pixels = textured()
    path = saved(compress(with_pixels(mammogram(), pixels), pixels, JPEGLSLossless), tmp_path / "x")
    try:
        assert np.array_equal(raw(path), pixels)
        assert "imagecodecs" not in decoder.available_plugins
    finally:
        monkeypatch.undo()
        decoders.register()
    assert "imagecodecs" in decoder.available_plugins


def test_gdcm_never_sees_a_frame_that_imagecodecs_refused(tmp_path, monkeypatch) -> None:
    # On some damaged JPEG it ends the process: "terminate called after throwing an instance of 'gdcm::Exception'".
    pixels = textured(8)
    for syntax in (JPEGLSLossless, JPEGBaseline8Bit):
        stream = bytearray(codestream(pixels, syntax, 8))
        # A table of 255 codes of every length; half of the samples.
        place = stream.find(b"\xff\xc4") + 5 if syntax == JPEGBaseline8Bit else len(stream) // 2
        stream[place : place + 16] = b"\xff" * 16
        monkeypatch.setitem(get_decoder(UID(syntax))._available, "gdcm", lambda *_: pytest.fail("gdcm was asked"))
        dataset = put_codestreams(with_pixels(mammogram(), pixels, bits=8), [bytes(stream)], syntax)
        with pytest.raises(Refused) as refused:
            raw(saved(dataset, tmp_path / "x"))
        assert refused.value.reason == Reason.DECODE_FAILED


def test_registering_again_changes_nothing_and_pydicoms_order_stays() -> None:
    decoders.register()
    before = {uid: get_decoder(UID(uid)).available_plugins for uid in decoders.SYNTAXES}
    decoders.register()
    assert before == {uid: get_decoder(UID(uid)).available_plugins for uid in decoders.SYNTAXES}
    pixels = textured()
    stream = codestream(pixels, JPEGLSLossless)
    # The plugin serves anyone who asks pydicom for it by name.
    assert np.array_equal(by_pydicom(stream, JPEGLSLossless, pixels, 12, "imagecodecs"), pixels)


def test_importing_registers_and_loads_nothing() -> None:
    script = (
        "import sys; import densityclip.dicom.pixels; from pydicom.pixels import get_decoder; "
        "from pydicom.uid import JPEGLSLossless; "
        "assert 'imagecodecs' not in get_decoder(JPEGLSLossless).available_plugins; "
        "assert 'imagecodecs' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_spawned_workers_decode(tmp_path) -> None:
    pixels = textured()
    paths = [
        saved(compress(with_pixels(mammogram(), pixels), pixels, syntax), tmp_path / UID(syntax).keyword)
        for syntax in (JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2K)
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        for decoded in workers.map(raw, paths):
            assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("change", [b"\x01", b"\x03"])
def test_a_frame_of_rle_with_other_segments_than_promised_is_refused(tmp_path, change) -> None:
    pixels = textured()
    stream = change + codestream(pixels, RLELossless)[1:]
    dataset = put_codestreams(with_pixels(mammogram(), pixels), [stream], RLELossless)
    with pytest.raises(Refused) as refused:
        raw(saved(dataset, tmp_path / "x"))
    assert refused.value.reason == Reason.DECODE_FAILED


def test_rle_that_holds_more_than_promised_is_refused_and_never_unpacked(tmp_path) -> None:
    pixels = textured(8)
    bomb = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\x00" * 2_000_000
    dataset = put_codestreams(with_pixels(mammogram(), pixels, bits=8), [bomb], RLELossless)
    with pytest.raises(Refused) as refused:
        raw(saved(dataset, tmp_path / "x"))
    assert refused.value.reason == Reason.DECODE_FAILED


def test_an_unknown_transfer_syntax_is_refused_with_its_name(tmp_path) -> None:
    pixels = textured()
    dataset = with_pixels(mammogram(), pixels)
    path = saved(dataset, tmp_path / "x")
    content = path.read_bytes().replace(ExplicitVRLittleEndian.encode() + b"\0", b"1.2.840.10008.1.2.9\0")
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"1\.2\.840\.10008\.1\.2\.9") as refused:
        raw(path)
    assert refused.value.reason == Reason.DECODE_FAILED
