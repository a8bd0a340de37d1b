"""Every corruption that decoders pass over in silence is made here, and is refused with its reason."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_samples import BTO, mammogram, with_pixels
from PIL import Image
from pydicom.uid import (
    HTJ2K,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy import ndimage

from compressed_dicom import LOSSLESS, codestream, compress, put_codestreams, saved
from densityclip.dicom.codestream import read_codestream
from densityclip.dicom.display import display_table
from densityclip.dicom.pixels import read_frames
from densityclip.dicom.stored import StoredValues, read_stored
from densityclip.reasons import Reason, Refused

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
WITH_HEADER = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, JPEGExtended12Bit)


def keyword(uid: str) -> str:
    return UID(uid).keyword


def breast_like(top: int = 3600, shape: tuple[int, int] = (96, 72)) -> np.ndarray:
    """Air of 0, then a skin line that rises over some pixels to tissue of up to `top`, with noise."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    inside = 1.0 - np.hypot((rows - shape[0] / 2) / (0.45 * shape[0]), columns / (0.7 * shape[1]))
    rng = np.random.default_rng(5)
    tissue = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    tissue = np.clip(inside * 4, 0, 1) * (0.55 * top + 0.35 * top * tissue / np.abs(tissue).max())
    return np.clip(tissue + (inside > 0) * rng.normal(0, 8, shape), 0, top).astype(np.uint16)


def outcome(path: Path, index: int = 0) -> tuple[Reason | None, str]:
    try:
        with read_frames(path) as reader:
            reader.frame(index)
    except Refused as refused:
        return refused.reason, refused.detail
    return None, ""


def write(pixels: np.ndarray, syntax: str, path: Path, **attributes: object) -> Path:
    """A file of a syntax whose header says something else than the pixels that are written."""
    described = with_pixels(mammogram(BTO if pixels.ndim == 3 else "1.2.840.10008.5.1.4.1.1.1.2"), pixels)
    if syntax in NATIVE:
        if syntax == ExplicitVRBigEndian:
            described.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        described.file_meta.TransferSyntaxUID = UID(syntax)
    else:
        compress(described, pixels, syntax)
    for name, value in attributes.items():
        setattr(described, name, value)
    return saved(described, path)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS, JPEGExtended12Bit], ids=keyword)
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused_as_truncated(tmp_path, syntax, kept) -> None:
    path = write(breast_like(), syntax, tmp_path / "x")
    content = path.read_bytes()
    start = content.find(b"\xe0\x7f\x10\x00")
    start = len(content) // 2 if start < 0 else start + 40
    path.write_bytes(content[: start + int((len(content) - start) * kept)])
    reason, detail = outcome(path)
    # A deflated file that ends early may end in its header.
    allowed = {Reason.TRUNCATED} | ({Reason.UNREADABLE} if syntax == DeflatedExplicitVRLittleEndian else set())
    assert reason in allowed, (reason, detail)


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGExtended12Bit], ids=keyword)
@pytest.mark.parametrize("lost", [1, 3, 40, 1500])
def test_a_frame_that_was_cut_within_a_whole_file_is_refused(tmp_path, syntax, lost) -> None:
    pixels = breast_like()
    dataset = with_pixels(mammogram(), pixels)
    stream = codestream(pixels, syntax)
    reason, detail = outcome(saved(put_codestreams(dataset, [stream[:-lost]], syntax), tmp_path / "x"))
    if syntax == RLELossless and lost == 1:
        # A frame of RLE may end in a byte of padding.
        assert reason in (None, Reason.DECODE_FAILED)
    else:
        assert reason in (Reason.TRUNCATED, Reason.DECODE_FAILED), detail


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=keyword)
def test_bits_stored_of_10_on_data_of_12_is_refused(tmp_path, syntax) -> None:
    reason, detail = outcome(write(breast_like(), syntax, tmp_path / "x", BitsStored=10, HighBit=9))
    assert reason == Reason.BAD_HEADER
    assert "BitsStored 10 allows 0 to 1023, the data holds 0 to " in detail


@pytest.mark.parametrize("syntax", [*NATIVE, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("bits", [12, 16])
def test_unsigned_data_called_signed_is_refused(tmp_path, syntax, bits) -> None:
    pixels = breast_like(top=(1 << bits) - 200)
    changes = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 1}
    if syntax in NATIVE or syntax == RLELossless:
        path = write(pixels, syntax, tmp_path / "x", **changes)
    else:
        dataset = put_codestreams(
            with_pixels(mammogram(), pixels, bits=bits), [codestream(pixels, syntax, bits)], syntax
        )
        dataset.PixelRepresentation = 1
        path = saved(dataset, tmp_path / "x")
    reason, detail = outcome(path)
    assert reason == Reason.BAD_HEADER
    assert "the data is unsigned" in detail


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_data_called_signed_is_read_even_with_white_markers_on_black_air(tmp_path, syntax, bits) -> None:
    half = 1 << (bits - 1)
    pixels = (breast_like(top=2 * half - 200).astype(np.int32) - half).astype(np.int16)
    pixels[4:9, 60:70:2] = half - 1
    path = write(pixels, syntax, tmp_path / "x", BitsStored=bits, HighBit=bits - 1)
    if syntax != ExplicitVRLittleEndian:
        dataset = compress(with_pixels(mammogram(), pixels, bits=bits), pixels, syntax)
        path = saved(dataset, tmp_path / "y")
    with read_frames(path) as reader:
        assert np.array_equal(reader.raw_frame(0), pixels)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_data_is_read_with_padding_at_the_lowest_value_that_there_is(tmp_path, syntax, bits) -> None:
    half = 1 << (bits - 1)
    pixels = breast_like(top=half - 100).astype(np.int16)
    pixels[:, :12] = pixels[:10] = -half
    described = with_pixels(mammogram(), pixels, bits=bits)
    dataset = described if syntax == ExplicitVRLittleEndian else compress(described, pixels, syntax)
    dataset.add_new("PixelPaddingValue", "SS", -half)
    with read_frames(saved(dataset, tmp_path / "x")) as reader:
        assert np.array_equal(reader.raw_frame(0), pixels)


@pytest.mark.parametrize(("name", "value"), [("WindowCenter", "nan"), ("WindowWidth", "nan"), ("RescaleSlope", "nan")])
def test_a_window_of_no_number_is_named_and_not_taken_for_an_empty_picture(name, value) -> None:
    dataset = with_pixels(mammogram(), breast_like())
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", "1"
    dataset.WindowCenter, dataset.WindowWidth = "1000", "900"
    setattr(dataset, name, value)
    with pytest.raises(Refused, match="no finite number"):
        display_table(dataset, 0, StoredValues(bits=12, signed=False, inverted=False, padding=None))


def test_signed_data_called_unsigned_is_refused_where_it_shows(tmp_path) -> None:
    pixels = (breast_like().astype(np.int32) - 2048).astype(np.int16)
    for syntax in (ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, HTJ2K):
        reason, _ = outcome(write(pixels, syntax, tmp_path / keyword(syntax), PixelRepresentation=0))
        assert reason == Reason.BAD_HEADER


@pytest.mark.parametrize("syntax", NATIVE, ids=keyword)
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"Rows": 97}, Reason.TRUNCATED),
        ({"Rows": 95}, Reason.BAD_HEADER),
        ({"Columns": 73}, Reason.TRUNCATED),
        ({"Columns": 71}, Reason.BAD_HEADER),
        ({"NumberOfFrames": 2}, Reason.TRUNCATED),
        ({"SamplesPerPixel": 3}, Reason.BAD_HEADER),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, Reason.BAD_HEADER),
        ({"BitsAllocated": 32}, Reason.BAD_HEADER),
        ({"BitsStored": 17}, Reason.BAD_HEADER),
        ({"PixelRepresentation": 7}, Reason.BAD_HEADER),
    ],
)
def test_a_wrong_size_of_native_data_is_refused(tmp_path, syntax, changes, wanted) -> None:
    assert outcome(write(breast_like(), syntax, tmp_path / "x", **changes))[0] == wanted


@pytest.mark.parametrize("syntax", WITH_HEADER, ids=keyword)
@pytest.mark.parametrize("changes", [{"Rows": 95}, {"Columns": 100}, {"Rows": 72, "Columns": 96}])
def test_a_size_that_the_codestream_contradicts_is_refused_before_decoding(
    tmp_path, syntax, changes, monkeypatch
) -> None:
    path = write(breast_like(), syntax, tmp_path / "x", **changes)
    monkeypatch.setattr("densityclip.dicom.decoders.decode_frame", lambda *_: pytest.fail("it was decoded"))
    reason, detail = outcome(path)
    assert reason == Reason.BAD_HEADER
    assert "the codestream 96 x 72" in detail


def test_fewer_rows_of_rle_than_promised_are_refused(tmp_path) -> None:
    for changes in ({"Rows": 95}, {"Rows": 97}):
        assert outcome(write(breast_like(), RLELossless, tmp_path / "x", **changes))[0] == Reason.DECODE_FAILED


@pytest.mark.parametrize("syntax", LOSSLESS, ids=keyword)
@pytest.mark.parametrize(
    ("promised", "wanted"), [(4, Reason.TRUNCATED), (2, Reason.BAD_HEADER), (1, Reason.BAD_HEADER)]
)
def test_more_or_fewer_frames_than_promised_are_refused(tmp_path, syntax, promised, wanted) -> None:
    volume = np.stack([breast_like()] * 3)
    reason, detail = outcome(write(volume, syntax, tmp_path / "x", NumberOfFrames=promised))
    assert reason == wanted, detail


@pytest.mark.parametrize(("stated", "frames"), [("0", 1), ("", 1), ("1", 1)])
def test_a_number_of_frames_that_says_nothing_is_one(tmp_path, stated, frames) -> None:
    path = write(breast_like(), ExplicitVRLittleEndian, tmp_path / "x", NumberOfFrames=stated)
    with read_frames(path) as reader:
        assert reader.frames == frames
    content = path.read_bytes()
    place = content.find(b"\x28\0\x08\0IS")
    if stated:
        path.write_bytes(content[: place + 8] + b"1." + content[place + 10 :])
        assert outcome(path)[0] in (None, Reason.BAD_HEADER)
        path.write_bytes(content[: place + 8] + b"ab" + content[place + 10 :])
        assert outcome(path)[0] == Reason.BAD_HEADER


def test_native_data_of_more_frames_than_promised_is_refused(tmp_path) -> None:
    volume = np.stack([breast_like()] * 3)
    path = write(volume, ExplicitVRLittleEndian, tmp_path / "x", NumberOfFrames=2)
    assert outcome(path)[0] == Reason.BAD_HEADER


def colour(syntax: str) -> bytes:
    import imagecodecs

    pixels = np.stack([breast_like() >> 4] * 3, axis=-1).astype(np.uint8)
    if syntax == JPEG2000Lossless:
        return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)
    if syntax == JPEGLSLossless:
        return imagecodecs.jpegls_encode(pixels)
    return imagecodecs.jpeg8_encode(pixels)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit])
def test_a_codestream_in_colour_is_refused(tmp_path, syntax) -> None:
    dataset = with_pixels(mammogram(), (breast_like() >> 4).astype(np.uint8), bits=8)
    reason, detail = outcome(saved(put_codestreams(dataset, [colour(syntax)], syntax), tmp_path / "x"))
    assert reason == Reason.BAD_HEADER
    assert "3 samples a pixel" in detail


@pytest.mark.parametrize("syntax", WITH_HEADER, ids=keyword)
def test_a_small_file_that_promises_a_huge_picture_is_refused_before_decoding(tmp_path, syntax, monkeypatch) -> None:
    stream = codestream(breast_like(), syntax)
    huge = struct.pack(">H", 60000)
    if syntax in (JPEG2000Lossless, HTJ2KLossless):
        stream = stream[:8] + struct.pack(">8L", 60000, 60000, 0, 0, 60000, 60000, 0, 0) + stream[40:]
    else:
        place = stream.find(struct.pack(">2H", 96, 72))
        stream = stream[:place] + huge + huge + stream[place + 4 :]
    monkeypatch.setattr("densityclip.dicom.decoders.decode_frame", lambda *_: pytest.fail("it was decoded"))
    dataset = put_codestreams(with_pixels(mammogram(), breast_like()), [stream], syntax)
    reason, detail = outcome(saved(dataset, tmp_path / "x"))
    assert (reason, "60000 x 60000" in detail) == (Reason.TOO_LARGE, True)
    for side in (60000, 9000):
        dataset.Rows = dataset.Columns = side
        frames = 1 if side == 60000 else 1999
        dataset.NumberOfFrames = frames
        assert outcome(saved(dataset, tmp_path / "y"))[0] == Reason.TOO_LARGE


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless], ids=keyword)
@pytest.mark.parametrize("tiles", [(72, 96, 0, 32), (72, 96, 5, 0), (0, 96, 0, 0), (1, 0, 0, 0), (2**32 - 1,) * 4])
def test_tiles_that_do_not_cover_the_picture_are_refused_and_never_decoded(tmp_path, syntax, tiles) -> None:
    # OpenJPH does not come back from the first of them.
    stream = codestream(breast_like(), syntax)
    stream = stream[:24] + struct.pack(">4L", *tiles) + stream[40:]
    dataset = put_codestreams(with_pixels(mammogram(), breast_like()), [stream], syntax)
    reason, detail = outcome(saved(dataset, tmp_path / "x"))
    assert reason == Reason.DECODE_FAILED
    assert "tiles" in detail


def test_a_deflated_bomb_is_refused_without_inflating_it_whole(tmp_path) -> None:
    import tracemalloc

    pixels = np.zeros((8000, 8000), np.uint8)
    dataset = with_pixels(mammogram(), pixels, bits=8, Rows=64, Columns=64)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = saved(dataset, tmp_path / "x")
    del pixels, dataset
    tracemalloc.start()
    reason, _ = outcome(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size < 200_000
    assert reason == Reason.BAD_HEADER
    assert peak < 4_000_000


def test_a_codestream_of_another_kind_than_the_transfer_syntax_says_is_refused(tmp_path) -> None:
    pixels = breast_like()
    for stated, real in (
        (JPEGLSLossless, JPEGLosslessSV1),
        (JPEGLosslessSV1, JPEGLSLossless),
        (JPEG2000Lossless, JPEGLSLossless),
        (JPEGLosslessSV1, JPEG2000Lossless),
    ):
        dataset = put_codestreams(with_pixels(mammogram(), pixels), [codestream(pixels, real)], stated)
        assert outcome(saved(dataset, tmp_path / "x"))[0] == Reason.DECODE_FAILED


def test_native_data_under_a_compressed_syntax_and_the_reverse_are_refused(tmp_path) -> None:
    pixels = breast_like()
    path = write(pixels, ExplicitVRLittleEndian, tmp_path / "x")
    native, compressed = ExplicitVRLittleEndian.encode() + b"\0", RLELossless.encode() + b"\0"
    path.write_bytes(path.read_bytes().replace(native, compressed[:-1].ljust(len(native), b"\0")))
    assert outcome(path)[0] == Reason.BAD_HEADER
    path = write(pixels, RLELossless, tmp_path / "y")
    path.write_bytes(path.read_bytes().replace(compressed, native))
    assert outcome(path)[0] == Reason.BAD_HEADER


def test_a_precision_of_16_with_12_bits_stored_is_normal_and_fewer_bits_than_stored_too(tmp_path) -> None:
    pixels = breast_like()
    for syntax, coded in ((JPEGLosslessSV1, 16), (JPEG2000Lossless, 16), (JPEG2000Lossless, 12)):
        stream = codestream(pixels, syntax, coded)
        found = read_codestream(stream, syntax)
        assert found is not None
        assert found.precision == coded
        for bits in (12, 14):
            dataset = put_codestreams(with_pixels(mammogram(), pixels, bits=bits), [stream], syntax)
            with read_frames(saved(dataset, tmp_path / "x")) as reader:
                assert np.array_equal(reader.raw_frame(0), pixels)


def test_the_header_of_a_codestream_says_what_pydicom_reads_in_it() -> None:
    from pydicom.pixels.utils import get_j2k_parameters

    pixels = breast_like()
    signed = (pixels.astype(np.int32) - 2048).astype(np.int16)
    for source, syntax in ((pixels, JPEG2000Lossless), (signed, JPEG2000Lossless), (pixels, HTJ2K), (signed, HTJ2K)):
        stream = codestream(source, syntax, 16)
        known, found = get_j2k_parameters(stream), read_codestream(stream, syntax)
        assert found is not None
        assert (found.precision, found.signed) == (known["precision"], known["is_signed"])
        assert (found.rows, found.columns, found.components) == (96, 72, 1)
        assert found.coding == ("htj2k" if syntax == HTJ2K else "jpeg-2000")
    kinds = {JPEGLosslessSV1: "jpeg-lossless", JPEGLSLossless: "jpeg-ls", JPEGExtended12Bit: "jpeg"}
    for syntax, coding in kinds.items():
        found = read_codestream(codestream(pixels, syntax), syntax)
        assert found is not None
        assert (found.coding, found.rows, found.columns, found.components) == (coding, 96, 72, 1)
        assert found.precision == (16 if syntax == JPEGLSLossless else 12)
    assert read_codestream(codestream(pixels, RLELossless), RLELossless) is None


def test_jpeg_2000_in_its_file_format_is_read(tmp_path) -> None:
    import imagecodecs

    pixels = breast_like()
    stream = imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", reversible=True)
    assert stream[:4] != b"\xff\x4f\xff\x51"
    dataset = put_codestreams(with_pixels(mammogram(), pixels), [bytes(stream)], JPEG2000Lossless)
    with read_frames(saved(dataset, tmp_path / "x")) as reader:
        assert np.array_equal(reader.raw_frame(0), pixels)


def test_no_refusal_quotes_the_patient(tmp_path) -> None:
    dataset = with_pixels(mammogram(PatientName="Doe^Jane", PatientID="4711"), breast_like(), BitsStored=10, HighBit=9)
    path = tmp_path / "Doe_Jane_4711.dcm"
    with pytest.raises(Refused) as refused, read_frames(saved(dataset, path)) as reader:
        reader.frame(0)
    assert not any(word in str(refused.value) for word in ("Doe", "Jane", "4711"))
    assert isinstance(pydicom.dcmread(path), pydicom.Dataset)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_on_real_mammograms_a_wrong_sign_is_seen_and_a_right_one_is_not(real_images, bits, inverted) -> None:
    paths = sorted((real_images / "density_samples").rglob("*.jp*g"))
    assert len(paths) == 16
    half = 1 << (bits - 1)
    described = StoredValues(bits=bits, signed=True, inverted=inverted, padding=None)
    for path in paths:
        grey = np.asarray(Image.open(path).convert("L")).astype(np.int32)
        grey = (255 - grey if inverted else grey) << (bits - 8)
        grey += np.random.default_rng(0).integers(0, 1 << (bits - 8), grey.shape)
        signed = (grey - half).astype(np.int16)
        assert np.array_equal(read_stored(signed, described), signed)
        # Without the bits above those stored, as JPEG-LS codes it.
        assert np.array_equal(read_stored(signed.view(np.uint16) & np.uint16(2 * half - 1), described), signed)
        with pytest.raises(Refused, match="the data is unsigned"):
            read_stored(grey.astype(np.uint16), described)
