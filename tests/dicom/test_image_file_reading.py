"""Plain image files against the arrays they were written from."""

import numpy as np
import pytest
from PIL import Image

from densityclip.dicom.image_file import read_image_file
from densityclip.reasons import Reason, Refused

GREY = np.arange(80 * 60, dtype=np.uint16).reshape(80, 60) * 13


@pytest.mark.parametrize("extension", ["png", "tif", "bmp"])
def test_eight_bits_are_read_exactly(tmp_path, extension) -> None:
    pixels = (GREY >> 8).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"x.{extension}")
    np.testing.assert_array_equal(read_image_file(tmp_path / f"x.{extension}"), pixels.astype(np.float32) / 255)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path, extension) -> None:
    Image.fromarray(GREY).save(tmp_path / f"x.{extension}")
    np.testing.assert_allclose(read_image_file(tmp_path / f"x.{extension}"), GREY / 65535, atol=1e-7)


def test_grey_written_as_colour_is_the_same_grey(tmp_path) -> None:
    pixels = (GREY >> 8).astype(np.uint8)
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image_file(tmp_path / "x.png"), pixels / 255, atol=1e-6)


def test_transparent_pixels_are_air(tmp_path) -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "x.png")
    values = read_image_file(tmp_path / "x.png")
    assert not values[:4].any()
    assert (values[4:] == 1).all()


def test_what_is_no_image_is_refused_with_its_reason(tmp_path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)).save(tmp_path / "w.png")
    cases = {
        "empty.png": (b"", Reason.EMPTY_FILE),
        "text.jpg": (b"patient,density\n1,A\n", Reason.UNREADABLE),
        "cut.png": ((tmp_path / "w.png").read_bytes()[:9000], Reason.TRUNCATED),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Refused) as refused:
            read_image_file(tmp_path / name)
        assert refused.value.reason == reason
    Image.new("L", (50, 50), 9).save(tmp_path / "flat.png")
    with pytest.raises(Refused) as refused:
        read_image_file(tmp_path / "flat.png")
    assert refused.value.reason == Reason.CONSTANT
