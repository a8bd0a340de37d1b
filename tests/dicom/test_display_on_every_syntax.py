"""Every transfer syntax shows the same picture as pydicom's own modality and VOI functions, to the last grey level."""

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_samples import BTO, item, mammogram, with_pixels
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from scipy import ndimage

from compressed_dicom import LOSSLESS, codestream, compress, put_codestreams, saved
from densityclip.dicom.pixels import read_frames
from densityclip.reasons import Reason, Refused

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
# A sixteenth of a grey level of 16 bits: what float32 can hold of a value in [0, 1].
EXACT = 1e-6


def picture(seed: int = 1, signed: bool = False) -> np.ndarray:
    """All grey levels of 12 bits, air at 0."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((80, 66)), 7)
    values = (smooth - smooth.min()) / np.ptp(smooth) * 4095
    values[:, 50:] = 0
    whole = np.rint(values).astype(np.uint16)
    return (whole.astype(np.int32) - 2048).astype(np.int16) if signed else whole


def lookup(entries: int, first: int, curve: list[int], bits: int) -> pydicom.Dataset:
    table = item(LUTDescriptor=[entries, first & 0xFFFF, bits], LUTData=curve)
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    return table


def voi(kind: str, signed: bool) -> dict[str, object]:
    shift = -2048 if signed else 0
    if kind == "table":
        curve = np.round(4095 * (np.arange(3000) / 2999) ** 0.6).astype(int).tolist()
        table = lookup(3000, 400 + shift, curve, 12)
        if signed:
            table["LUTDescriptor"].VR, table.LUTDescriptor = "SS", [3000, 400 + shift, 12]
        return {"VOILUTSequence": Sequence([table])}
    if kind == "modality table":
        curve = np.round(65535 * (1 - np.arange(4096) / 4095) ** 0.5).astype(int).tolist()
        table = lookup(4096, 0, curve, 16)
        return {"ModalityLUTSequence": Sequence([table]), "WindowCenter": 30000, "WindowWidth": 20000}
    if kind == "rescale":
        return {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000 + 2 * shift, "WindowWidth": 2500}
    return {"WindowCenter": 1900 + shift, "WindowWidth": 2500.5, "VOILUTFunction": kind}


KINDS = ("LINEAR", "LINEAR_EXACT", "SIGMOID", "table", "modality table", "rescale")


def expected(dataset: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    """What pydicom shows, its output range taken to [0, 1], then polarity and padding by hand (PS3.3 C.7.6.3)."""
    shown = np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), dtype=float)
    low, high = 0.0, 65535.0 if "ModalityLUTSequence" in dataset else 4095.0
    if "VOILUTSequence" not in dataset and "ModalityLUTSequence" not in dataset:
        bottom = -2048 if pixels.dtype.kind == "i" else 0
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        low, high = bottom * slope + intercept, (bottom + 4095) * slope + intercept
    shown = np.clip((shown - low) / (high - low), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    if "PixelPaddingValue" in dataset:
        first, last = sorted(
            (dataset.PixelPaddingValue, dataset.get("PixelPaddingRangeLimit", dataset.PixelPaddingValue))
        )
        shown[(pixels >= first) & (pixels <= last)] = 0
    return shown


def write(dataset: pydicom.Dataset, pixels: np.ndarray, syntax: str, path: Path) -> Path:
    if syntax in NATIVE:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        return saved(dataset, path)
    return saved(compress(dataset, pixels, syntax), path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda uid: UID(uid).keyword)
def test_display_values_equal_pydicoms(tmp_path, syntax, kind) -> None:
    pixels = picture()
    dataset = with_pixels(
        mammogram(),
        pixels,
        PhotometricInterpretation="MONOCHROME1" if kind in ("LINEAR", "table") else "MONOCHROME2",
        PixelPaddingValue=0,
        **voi(kind, signed=False),
    )
    wanted = expected(dataset, pixels)
    with read_frames(write(dataset, pixels, syntax, tmp_path / "x")) as reader:
        np.testing.assert_allclose(reader.frame(0), wanted, atol=EXACT)


@pytest.mark.parametrize("kind", ["LINEAR", "SIGMOID", "table", "rescale"])
@pytest.mark.parametrize("syntax", [*NATIVE, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_signed_display_values_equal_pydicoms(tmp_path, syntax, kind) -> None:
    pixels = picture(signed=True)
    dataset = with_pixels(mammogram(), pixels, **voi(kind, signed=True))
    dataset.add_new("PixelPaddingValue", "SS", -2048)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -2000)
    wanted = expected(dataset, pixels)
    with read_frames(write(dataset, pixels, syntax, tmp_path / "x")) as reader:
        np.testing.assert_allclose(reader.frame(0), wanted, atol=EXACT)


@pytest.mark.parametrize(
    ("syntax", "decode"),
    [(JPEGExtended12Bit, imagecodecs.jpeg8_decode), (JPEGLSNearLossless, imagecodecs.jpegls_decode)],
)
def test_lossy_frames_are_displayed_as_what_they_decode_to(tmp_path, syntax, decode) -> None:
    pixels = picture()
    stream = codestream(pixels, syntax)
    dataset = with_pixels(mammogram(), pixels, **voi("SIGMOID", signed=False))
    wanted = expected(dataset, np.asarray(decode(stream)))
    path = saved(put_codestreams(dataset, [stream], syntax), tmp_path / "x")
    with read_frames(path) as reader:
        np.testing.assert_allclose(reader.frame(0), wanted, atol=EXACT)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda uid: UID(uid).keyword)
def test_frames_with_windows_of_their_own_are_displayed_by_them(tmp_path, syntax) -> None:
    volume = np.stack([picture(seed) for seed in (1, 2, 3)])
    windows = [(1000, 900), (2000, 1500), (3000, 700)]
    per_frame = [item(FrameVOILUTSequence=Sequence([item(WindowCenter=c, WindowWidth=w)])) for c, w in windows]
    dataset = with_pixels(mammogram(BTO), volume, PerFrameFunctionalGroupsSequence=Sequence(per_frame))
    with read_frames(write(dataset, volume, syntax, tmp_path / "x")) as reader:
        for index, frame in reader.frames_at((2, 0, 1)):
            center, width = windows[index]
            alone = with_pixels(mammogram(), volume[index], WindowCenter=center, WindowWidth=width)
            np.testing.assert_allclose(frame, expected(alone, volume[index]), atol=EXACT)


def test_a_part_of_a_frame_is_displayed_as_in_the_whole(tmp_path) -> None:
    for signed in (False, True):
        pixels = picture(signed=signed)
        path = saved(with_pixels(mammogram(), pixels, **voi("SIGMOID", signed)), tmp_path / f"{signed}")
        with read_frames(path) as reader:
            whole, raw = reader.frame(0), reader.raw_frame(0)
            assert np.array_equal(raw, pixels)
            assert np.array_equal(reader.display(raw[7:40, 3:44], 0), whole[7:40, 3:44])
            assert np.array_equal(reader.table(0)[raw[::3]], whole[::3])


def test_eight_bit_big_endian_words_are_read_in_order(tmp_path) -> None:
    # Explicit VR Big Endian writes pairs of bytes as words (PS3.5 8.1.2): an even number of pixels, for simplicity.
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    dataset = with_pixels(mammogram(), pixels, bits=8)
    for vr, content in (("OB", pixels.tobytes()), ("OW", pixels.view("<u2").byteswap().tobytes())):
        dataset.PixelData = content
        dataset["PixelData"].VR = vr
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        with read_frames(saved(dataset, tmp_path / vr)) as reader:
            assert np.array_equal(reader.raw_frame(0), pixels)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_written_as_words_is_read_in_its_byte_order(tmp_path, syntax) -> None:
    pixels = picture()
    dataset = with_pixels(mammogram(), pixels, **voi("table", signed=False))
    wanted = expected(dataset, pixels)
    table = dataset.VOILUTSequence[0]
    words = np.asarray(table.LUTData, dtype=">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    table.add_new("LUTData", "OW", words)
    with read_frames(write(dataset, pixels, syntax, tmp_path / "x")) as reader:
        np.testing.assert_allclose(reader.frame(0), wanted, atol=EXACT)


def test_old_overlays_in_the_upper_bits_are_no_grey_levels(tmp_path) -> None:
    for signed in (False, True):
        pixels = picture(signed=signed)
        stored = pixels.view(np.uint16) & np.uint16(0x0FFF)
        drawn = (stored | (np.uint16(1) << 15) * (pixels > 200)).view(pixels.dtype)
        dataset = with_pixels(mammogram(), drawn, **voi("LINEAR", signed=signed))
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", 15)
        with read_frames(saved(dataset, tmp_path / f"{signed}")) as reader:
            assert np.array_equal(reader.raw_frame(0), pixels)


def test_an_overlay_with_data_of_its_own_hides_no_wrong_header(tmp_path) -> None:
    dataset = with_pixels(mammogram(), picture(), BitsStored=10, HighBit=9)
    dataset.add_new(0x60000102, "US", 0)
    with pytest.raises(Refused) as refused, read_frames(saved(dataset, tmp_path / "x")) as reader:
        reader.raw_frame(0)
    assert refused.value.reason == Reason.BAD_HEADER
