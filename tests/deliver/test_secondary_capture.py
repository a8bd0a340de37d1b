"""A capture shows the picture that was drawn, in the study of its image, and says that it is no mammogram."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from exam_samples import exam_rows, sample_bundle, sources_of
from PIL import Image
from validators import dciodvfy

from densityclip.deliver.answer import exam_objects
from densityclip.deliver.secondary_capture import secondary_capture
from densityclip.deliver.source_image import object_bytes
from densityclip.dicom.eligibility import check_object
from densityclip.dicom.header import header_facts
from densityclip.reasons import Reason, Refused

PICTURE = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def captures(exam) -> list[pydicom.Dataset]:
    """One of each image, read back from its bytes."""
    bundle, pictures = sample_bundle(), {name: png(PICTURE) for name in exam["image_id"]}
    objects = exam_objects(exam_rows(exam, bundle), bundle, sources=sources_of(exam), pictures=pictures)
    return [pydicom.dcmread(io.BytesIO(object_bytes(one))) for one in objects.captures]


def test_the_pixels_are_those_of_the_picture(captures):
    assert len(captures) == 12
    # Rows times columns times three is odd here, and pixel data is of even length.
    assert all(np.array_equal(one.pixel_array, PICTURE) for one in captures)


def test_it_says_that_words_are_burned_in_and_which_side_it_shows(captures, exam):
    sides = dict(exam.select("sop_uid", "laterality").iter_rows())
    for one in captures:
        assert one.BurnedInAnnotation == "YES"
        assert one.Laterality == sides[one.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert "Research use only" in one.ImageComments
    # A series is of one side.
    assert len({(one.SeriesInstanceUID, one.Laterality) for one in captures}) == 2
    assert len({one.SOPInstanceUID for one in captures}) == 12


def test_it_belongs_to_the_patient_and_study_of_its_image(captures, exam):
    source = sources_of(exam)[0].header
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert {str(one[keyword].value) for one in captures} == {str(source[keyword].value)}
    assert not {one.SeriesInstanceUID for one in captures} & set(exam["series_uid"])


def test_the_same_picture_is_the_same_object_and_another_picture_another_one(exam):
    source, bundle = sources_of(exam)[0], sample_bundle()
    first, again = (secondary_capture(source, PICTURE, bundle, laterality="L") for _ in range(2))
    assert object_bytes(first) == object_bytes(again)
    other = secondary_capture(source, 255 - PICTURE, bundle, laterality="L")
    assert other.SOPInstanceUID != first.SOPInstanceUID


def test_the_same_picture_at_another_place_in_its_series_is_another_object(exam):
    bundle, source = sample_bundle(), sources_of(exam)[0]
    made = [secondary_capture(source, PICTURE, bundle, laterality="L", number=number) for number in (1, 2)]
    assert len({one.SOPInstanceUID for one in made}) == 2, "else one UID would have two contents"


def test_it_is_never_taken_for_a_mammogram(captures):
    with pytest.raises(Refused) as refused:
        check_object(header_facts(captures[0]))
    assert refused.value.reason is Reason.NOT_MAMMOGRAPHY


def test_pixels_that_were_once_lossy_stay_so(exam):
    source = sources_of(exam)[0]
    source.header.LossyImageCompression = "01"
    source.header.LossyImageCompressionRatio = "8.0"
    capture = secondary_capture(source, PICTURE, sample_bundle(), laterality="L")
    assert (capture.LossyImageCompression, capture.LossyImageCompressionRatio) == ("01", 8.0)


@pytest.mark.parametrize("picture", [PICTURE[..., 0], PICTURE.astype(np.float32)])
def test_what_is_no_picture_is_an_error(exam, picture):
    with pytest.raises(ValueError, match="uint8"):
        secondary_capture(sources_of(exam)[0], picture, sample_bundle(), laterality="L")


def test_dciodvfy_finds_no_error(captures, tmp_path: Path):
    for number, one in enumerate(captures[:2]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(object_bytes(one))
        assert dciodvfy(path) == []
