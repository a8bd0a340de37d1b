"""Display values against pydicom's own modality LUT and VOI, and hand-computed arrays."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_samples import BTO, item, mammogram, save, with_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from densityclip.dicom.display import display_table
from densityclip.dicom.pixels import MAX_FRAME_PIXELS, read_frames
from densityclip.dicom.stored import stored_values
from densityclip.reasons import Reason, Refused

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def shown(dataset: pydicom.Dataset, path: Path, frame: int = 0) -> np.ndarray:
    with read_frames(save(dataset, path)) as reader:
        return reader.frame(frame)


def reason_of(path: Path) -> Reason:
    with pytest.raises(Refused) as refused, read_frames(path) as reader:
        reader.frame(0)
    return refused.value.reason


def by_pydicom(dataset: pydicom.Dataset, pixels: np.ndarray, high: float = 4095.0) -> np.ndarray:
    values = np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), dtype=float)
    return values / high


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1500.5, 777), (300, 2), (4000, 20)])
def test_windows_equal_pydicoms(tmp_path, function, center, width) -> None:
    dataset = with_pixels(mammogram(), RAMP, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    np.testing.assert_allclose(shown(dataset, tmp_path / "x"), by_pydicom(dataset, RAMP), atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(
    center=st.floats(-500, 5000),
    width=st.floats(1.5, 9000),
    slope=st.sampled_from([1.0, 0.5, 2.0]),
    intercept=st.sampled_from([0.0, -100.0, 37.0]),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    signed=st.booleans(),
)
def test_the_table_equals_pydicom_for_any_window_and_rescale(center, width, slope, intercept, function, signed) -> None:
    pixels = (RAMP.astype(np.int16) - 2048) if signed else RAMP
    dataset = with_pixels(mammogram(), pixels, VOILUTFunction=function, RescaleSlope=slope, RescaleIntercept=intercept)
    dataset.WindowCenter, dataset.WindowWidth = round(center, 3), round(width, 3)
    table = display_table(dataset, 0, stored_values(dataset))
    # pydicom scales into the range of the modality LUT's output; ours is the same range taken to [0, 1].
    low, high = (pixels.min() * slope + intercept, pixels.max() * slope + intercept)
    expected = (np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), dtype=float) - low) / (
        high - low
    )
    np.testing.assert_allclose(table[pixels.astype(int) - int(pixels.min())], expected, atol=1e-5)


def test_the_first_of_several_windows_counts(tmp_path) -> None:
    several = with_pixels(mammogram(), RAMP, WindowCenter=[1000, 3000], WindowWidth=[800, 100])
    one = with_pixels(mammogram(), RAMP, WindowCenter=1000, WindowWidth=800)
    assert np.array_equal(shown(several, tmp_path / "a"), shown(one, tmp_path / "b"))


def test_a_voi_table_equals_pydicoms(tmp_path) -> None:
    curve = np.round(4095 * (np.arange(2000) / 1999) ** 0.5).astype(int).tolist()
    table = item(LUTDescriptor=[2000, 500, 12], LUTData=curve)
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    dataset = with_pixels(mammogram(), RAMP, VOILUTSequence=Sequence([table]), WindowCenter=10, WindowWidth=5)
    np.testing.assert_allclose(shown(dataset, tmp_path / "x"), by_pydicom(dataset, RAMP), atol=2e-6)


def test_a_modality_table_equals_pydicoms(tmp_path) -> None:
    curve = np.linspace(4095, 0, 4096).round().astype(int).tolist()
    table = item(LUTDescriptor=[4096, 0, 16], LUTData=curve, ModalityLUTType="US")
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    dataset = with_pixels(mammogram(), RAMP, ModalityLUTSequence=Sequence([table]))
    expected = np.asarray(apply_modality_lut(RAMP, dataset), dtype=float) / 4095
    np.testing.assert_allclose(shown(dataset, tmp_path / "x"), expected, atol=2e-6)


def test_a_window_of_width_zero_shows_the_whole_range(tmp_path) -> None:
    dataset = with_pixels(mammogram(), RAMP, WindowCenter=100, WindowWidth=0)
    np.testing.assert_allclose(shown(dataset, tmp_path / "x"), RAMP / 4095, atol=1e-6)


def test_monochrome1_is_inverted_once(tmp_path) -> None:
    upright = shown(with_pixels(mammogram(), RAMP, WindowCenter=2000, WindowWidth=1000), tmp_path / "a")
    inverted = with_pixels(
        mammogram(),
        RAMP,
        WindowCenter=2000,
        WindowWidth=1000,
        PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE",
    )
    np.testing.assert_allclose(shown(inverted, tmp_path / "b"), 1 - upright, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_air_whatever_the_polarity(tmp_path, photometric) -> None:
    dataset = with_pixels(
        mammogram(), RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=658, PhotometricInterpretation=photometric
    )
    values = shown(dataset, tmp_path / "x")
    assert not values[RAMP <= 658].any()
    assert (values[(RAMP > 700) & (RAMP < 4000)] > 0).all()


def test_signed_padding_written_as_unsigned_is_understood() -> None:
    pixels = RAMP.astype(np.int16) - 2048
    dataset = with_pixels(mammogram(), pixels)
    dataset.add_new("PixelPaddingValue", "US", (1 << 16) - 2048)
    table = display_table(dataset, 0, stored_values(dataset))
    assert table[0] == 0
    assert stored_values(dataset).padding == (-2048, -2048)


def test_each_frame_of_a_volume_has_its_own_window(tmp_path) -> None:
    windows = [(1000, 500), (3000, 500)]
    groups = Sequence([item(FrameVOILUTSequence=Sequence([item(WindowCenter=c, WindowWidth=w)])) for c, w in windows])
    shared = Sequence([item(PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=0)]))])
    volume = np.stack([RAMP, RAMP[::-1]])
    dataset = with_pixels(mammogram(BTO), volume, PerFrameFunctionalGroupsSequence=groups)
    dataset.SharedFunctionalGroupsSequence = shared
    for frame, (center, width) in enumerate(windows):
        single = with_pixels(mammogram(), volume[frame], WindowCenter=center, WindowWidth=width)
        expected = by_pydicom(single, volume[frame])
        np.testing.assert_allclose(shown(dataset, tmp_path / f"{frame}", frame), expected, atol=2e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes_give_the_same_values(tmp_path, syntax) -> None:
    dataset = with_pixels(mammogram(), RAMP)
    expected = shown(dataset, tmp_path / "a")
    dataset.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(shown(dataset, tmp_path / "b"), expected)


def test_a_file_without_preamble_and_meta_is_decoded(tmp_path) -> None:
    dataset = with_pixels(mammogram(), RAMP)
    expected = shown(dataset, tmp_path / "a")
    bare = tmp_path / "bare"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    pydicom.dcmwrite(bare, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with read_frames(bare) as reader:
        assert np.array_equal(reader.frame(0), expected)


def compressed(tmp_path: Path, frames: int = 1) -> Path:
    dataset = with_pixels(mammogram(), RAMP)
    dataset.compress(RLELossless)
    return save(dataset, tmp_path / "rle")


def test_a_compressed_image_equals_the_uncompressed_one(tmp_path) -> None:
    expected = shown(with_pixels(mammogram(), RAMP), tmp_path / "a")
    with read_frames(compressed(tmp_path)) as reader:
        assert np.array_equal(reader.frame(0), expected)


@pytest.mark.parametrize("kept", [0.99, 0.7, 0.4])
def test_pixel_data_cut_short_is_truncated_compressed_or_not(tmp_path, kept) -> None:
    plain = save(with_pixels(mammogram(), RAMP), tmp_path / "plain")
    for path in (plain, compressed(tmp_path)):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        assert reason_of(path) == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": None}, Reason.BAD_HEADER),
        ({"BitsStored": None}, Reason.BAD_HEADER),
        ({"PhotometricInterpretation": None}, Reason.BAD_HEADER),
        ({"PixelRepresentation": None}, Reason.BAD_HEADER),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, Reason.BAD_HEADER),
        ({"BitsStored": 10, "HighBit": 9}, Reason.BAD_HEADER),
        ({"Rows": 0}, Reason.BAD_HEADER),
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
        ({"Rows": 128}, Reason.TRUNCATED),
    ],
)
def test_a_header_that_the_pixels_contradict_is_refused(tmp_path, attributes, reason) -> None:
    assert reason_of(save(with_pixels(mammogram(), RAMP, **attributes), tmp_path / "x")) == reason


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path) -> None:
    side = int(MAX_FRAME_PIXELS**0.5) + 1
    path = save(with_pixels(mammogram(), RAMP, Rows=side, Columns=side), tmp_path / "x")
    with pytest.raises(Refused) as refused, read_frames(path):
        pytest.fail("it was opened")
    assert refused.value.reason == Reason.TOO_LARGE


def test_what_cannot_be_decoded_is_refused_with_its_reason(tmp_path) -> None:
    assert reason_of(save(mammogram(Rows=4, Columns=4, SamplesPerPixel=1, BitsAllocated=16), tmp_path / "a")) == (
        Reason.NO_PIXELS
    )
    constant = with_pixels(mammogram(), np.full((64, 64), 7, np.uint16))
    assert reason_of(save(constant, tmp_path / "b")) == Reason.CONSTANT
    broken = with_pixels(mammogram(), RAMP)
    broken.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(400)])
    broken["PixelData"].VR, broken["PixelData"].is_undefined_length = "OB", True
    broken.file_meta.TransferSyntaxUID = JPEG2000Lossless
    assert reason_of(save(broken, tmp_path / "c")) == Reason.DECODE_FAILED


def test_a_real_jpeg2000_volume_equals_pydicoms_decoding(real_images) -> None:
    path = real_images / "dbt_j2k.dcm"
    volume = pydicom.dcmread(path).pixel_array.astype(float)
    # Its window is centre 512, width 512, its padding 0 to 4 (PS3.3 C.11.2.1.2.1, by hand).
    expected = np.clip((volume - 511.5) / 511 + 0.5, 0, 1) * (volume > 4)
    with read_frames(path) as reader:
        for frame in range(reader.frames):
            np.testing.assert_allclose(reader.frame(frame), expected[frame], atol=1e-6)
