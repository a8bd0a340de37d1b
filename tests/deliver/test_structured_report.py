"""The report says what was predicted, of whom, by what, and nothing else; a repeat is the same object."""

import io
import logging
import warnings
from pathlib import Path

import pydicom
import pytest
from exam_samples import SAID, disagreeing_rows, exam_rows, image_rows, sample_bundle, sources_of
from validators import dciodvfy, dsrdump, pixelmed

from densityclip.deliver.answer import exam_objects
from densityclip.deliver.identity import derived_uid
from densityclip.deliver.source_image import object_bytes, read_source
from densityclip.deliver.structured_report import PROBABILITY_CODES, SCHEME, evidence_uids, structured_report
from densityclip.density import CATEGORIES
from densityclip.dicom.density_report import composition_of
from densityclip.inference.predictor import all_levels
from densityclip.probability.joining import PLAIN
from densityclip.reasons import Reason


@pytest.fixture
def made(exam):
    bundle = sample_bundle()
    return structured_report(exam_rows(exam, bundle), bundle, sources_of(exam))


def written(report) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(object_bytes(report)))


def items(dataset):
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def named(dataset, value: str) -> list[pydicom.Dataset]:
    """Content items whose concept name has this code."""
    return [item for item in items(dataset) if item.ConceptNameCodeSequence[0].CodeValue == value]


def comments(report) -> str:
    return "\n".join(item.TextValue for item in named(report, "121106"))


def test_it_reads_back_as_the_category_of_each_breast_stated_by_an_algorithm(made):
    found = composition_of(written(made))
    assert (found.left, found.right, found.by_algorithm) == ("B", "C", True)
    assert found.study_uid == made.StudyInstanceUID


def test_three_groups_of_template_1501_are_about_exam_left_and_right(made):
    groups = named(written(made), "125007")
    sites = [named(group, "363698007")[0].ConceptCodeSequence[0].CodeValue for group in groups]
    assert sites == ["63762007", "80248007", "73056007"]
    assert {group.ContentTemplateSequence[0].TemplateIdentifier for group in groups} == {"1501"}


def test_the_probabilities_are_those_of_the_prediction_in_a_declared_private_scheme(made):
    report = written(made)
    assert [one.CodingSchemeDesignator for one in report.CodingSchemeIdentificationSequence] == [SCHEME]
    left = named(report, "125007")[1]
    for category, expected in zip(CATEGORIES, SAID["L"], strict=True):
        number = named(left, PROBABILITY_CODES[category])[0]
        assert number.ConceptNameCodeSequence[0].CodingSchemeDesignator == SCHEME
        assert float(number.MeasuredValueSequence[0].NumericValue) == pytest.approx(expected, abs=1e-4)


def test_certainty_is_stated_only_where_the_probabilities_are_calibrated(exam):
    for calibrated in (True, False):
        bundle = sample_bundle(calibrated=calibrated)
        report = structured_report(exam_rows(exam, bundle), bundle, sources_of(exam))
        values = [float(one.MeasuredValueSequence[0].NumericValue) for one in named(report, "111012")]
        assert values == ([pytest.approx(42.5), 60.0, 60.0] if calibrated else [])
        assert ("not calibrated" in comments(report)) is not calibrated
    assert not named(report, "111047")  # probability of cancer


def test_each_group_names_the_algorithm_its_version_its_weights_and_its_family(made):
    for group in named(written(made), "125007"):
        assert named(group, "111001")[0].TextValue == "DensityCLIP"
        assert named(group, "111003")[0].TextValue == "0.1.0-abababababab"
        assert f"weights SHA-256 {'ab' * 32}" in [one.TextValue for one in named(group, "111002")]
        family = [one.ConceptCodeSequence[0] for one in items(group) if "ConceptCodeSequence" in one]
        assert ("123110", "DCM") in [(code.CodeValue, code.CodingSchemeDesignator) for code in family]


def test_nothing_is_verified_or_final_and_research_use_is_stated(made):
    report = written(made)
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert "Research use only" in comments(report)
    assert "research use only" in report.SeriesDescription
    assert "trained on generated exams only" in comments(report)
    assert "Generated exam: simulated" in comments(report)


def test_what_the_codes_say_stands_there_in_words_too(made):
    assert "Left breast: category B, scattered areas of fibroglandular density (not dense)." in comments(made)
    assert "Right breast: category C, heterogeneously dense (dense)." in comments(made)


def test_patient_and_study_are_those_of_the_images_and_the_date_is_theirs(made, exam):
    source, report = sources_of(exam)[0].header, written(made)
    for keyword in ("PatientName", "PatientID", "PatientSex", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert report[keyword].value == source[keyword].value
    assert report.ContentDate == report.SeriesDate == report.InstanceCreationDate == source.StudyDate
    assert report.SeriesInstanceUID not in set(exam["series_uid"])
    assert evidence_uids(report) == set(exam["sop_uid"])


def test_a_breast_rests_on_its_own_images(made, exam):
    sides = dict(exam.select("sop_uid", "laterality").iter_rows())
    for group, side in zip(named(written(made), "125007"), (None, "L", "R"), strict=True):
        images = {
            one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in items(group) if one.ValueType == "IMAGE"
        }
        assert images == {uid for uid, its in sides.items() if side in (None, its)}


def test_the_same_images_and_model_give_the_same_bytes_in_any_order(made, exam):
    bundle = sample_bundle()
    again = structured_report(exam_rows(exam.reverse(), bundle), bundle, sources_of(exam.reverse()))
    assert object_bytes(again) == object_bytes(made)


def test_another_model_or_calibration_or_image_is_another_report(made, exam):
    others = [(exam, sample_bundle(weights="cd" * 32)), (exam.head(11), sample_bundle())]
    uids = {structured_report(exam_rows(rows, b), b, sources_of(rows)).SOPInstanceUID for rows, b in others}
    assert len(uids | {made.SOPInstanceUID}) == 3


def test_a_later_image_makes_a_new_report_that_names_the_old_one(exam):
    bundle = sample_bundle()
    first = structured_report(exam_rows(exam.head(8), bundle), bundle, sources_of(exam.head(8)))
    second = structured_report(exam_rows(exam, bundle), bundle, sources_of(exam), [first])
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert second.SeriesInstanceUID == first.SeriesInstanceUID
    reference = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)


def test_a_repeat_after_a_later_image_is_still_the_same_object(exam):
    bundle, rows, sources = sample_bundle(), exam_rows(exam, sample_bundle()), sources_of(exam)
    first = structured_report(exam_rows(exam.head(8), bundle), bundle, sources_of(exam.head(8)))
    second = structured_report(rows, bundle, sources, [first])
    for earlier in ([first, second], [second, first], [second], [first]):
        read = [written(one) for one in earlier]
        assert object_bytes(structured_report(rows, bundle, sources, read)) == object_bytes(second)
    # Fewer images than a report rests on are no later state of the exam.
    assert "PredecessorDocumentsSequence" not in structured_report(
        exam_rows(exam.head(4), bundle), bundle, sources_of(exam.head(4)), [second]
    )


def test_a_report_of_another_model_is_no_predecessor(made, exam):
    bundle = sample_bundle(weights="cd" * 32)
    report = structured_report(exam_rows(exam, bundle), bundle, sources_of(exam), [made])
    assert "PredecessorDocumentsSequence" not in report


def test_a_breast_without_an_answer_has_no_group_and_what_was_refused_is_said(exam):
    left = exam.filter(exam["laterality"] == "L")
    bundle = sample_bundle()
    report = structured_report(exam_rows(left, bundle, refused={"r": "implant"}), bundle, sources_of(left))
    found = composition_of(report)
    assert len(named(report, "125007")) == 2
    assert (found.left, found.right) == ("B", "B")  # the exam's, where a breast has none of its own
    assert f"1 image was not used (implant): {Reason.IMPLANT.sentence}" in comments(report)


def test_an_exam_without_any_answer_has_no_report(exam):
    import polars as pl

    images = image_rows(exam).with_columns(
        pl.lit("refused").alias("status"), pl.lit("no_breast").alias("reason"), pl.lit(None).alias("predicted")
    )
    objects = exam_objects(all_levels(images, PLAIN), sample_bundle(), sources=sources_of(exam), report=True)
    assert objects.report is None
    assert objects.without == "neither the exam nor a breast has an answer"


def test_what_is_held_back_is_not_stated_and_the_reason_is(exam):
    bundle = sample_bundle()
    rows = disagreeing_rows(exam, bundle)
    report = exam_objects(rows, bundle, sources=sources_of(exam), report=True).report
    found = composition_of(report)
    assert (found.left, found.right) == (None, "C")
    assert f"No category is stated for the exam: {Reason.VIEWS_DISAGREE.sentence}" in comments(report)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_images_of_two_patients_or_studies_are_never_one_report(exam, keyword):
    sources, bundle = sources_of(exam), sample_bundle()
    setattr(sources[3].header, keyword, "1.2.3.4")
    objects = exam_objects(exam_rows(exam, bundle), bundle, sources=sources, report=True)
    assert (objects.report, objects.without) == (None, f"the images of the exam differ in {keyword}")


def test_a_header_without_any_date_gets_no_made_up_one(exam):
    sources, bundle = sources_of(exam), sample_bundle()
    for source in sources:
        for what in ("Content", "Acquisition", "Series", "Study"):
            setattr(source.header, f"{what}Date", "")
    objects = exam_objects(exam_rows(exam, bundle), bundle, sources=sources, report=True)
    assert (objects.report, objects.without) == (None, "no image states a date")


@pytest.mark.parametrize("script", ["ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_a_name_in_another_script_survives_and_never_reaches_a_log(exam, tmp_path, caplog, script):
    name, bundle, sources = "Yamada^Tarou=山田^太郎=やまだ^たろう", sample_bundle(), []
    for number, path in enumerate(exam["path"]):
        image = pydicom.dcmread(path)
        image.SpecificCharacterSet = script
        image.PatientName = name
        image.PatientSex = "X"  # no defined term, which highdicom would not take
        image.save_as(tmp_path / f"{number}.dcm")
        sources.append(read_source(exam["image_id"][number], tmp_path / f"{number}.dcm"))
    with caplog.at_level(logging.DEBUG):
        objects = exam_objects(exam_rows(exam, bundle), bundle, sources=sources, report=True)
        data = object_bytes(objects.report)
    assert str(pydicom.dcmread(io.BytesIO(data)).PatientName) == name
    assert "Yamada" not in caplog.text


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("PatientBirthDate", "DA", b"unknown!"),
        ("PatientID", "LO", b"Secret" * 30),
        ("PatientName", "PN", b"Secret^\xff\xfe\xfc"),
        ("SpecificCharacterSet", "CS", b"ISO_IR 999"),
        ("StudyTime", "TM", b"99:99"),
        ("SOPInstanceUID", "UI", b"1.02.3"),
    ],
)
def test_odd_values_of_a_header_are_copied_without_a_word_and_stop_nothing(exam, caplog, keyword, vr, value):
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    bundle, sources, tag = sample_bundle(), sources_of(exam), Tag(keyword)
    for source in sources:
        source.header[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        objects = exam_objects(exam_rows(exam, bundle), bundle, sources=sources, report=True)
        data = object_bytes(objects.report)
    assert value in data
    assert "Secret" not in caplog.text


def test_derived_uids_are_valid_and_keep_words_apart():
    uid = derived_uid("a", "bc")
    assert uid == derived_uid("a", "bc")
    assert uid != derived_uid("ab", "c")
    assert pydicom.uid.UID(uid).is_valid
    # A UUID as a whole number: at most 128 bits (PS3.5 B.2).
    assert int(uid.removeprefix("2.25.")) < 1 << 128


@pytest.fixture
def emitted(exam, tmp_path: Path) -> list[Path]:
    """Reports as users get them: calibrated, not calibrated, of one breast with a refusal, and a later one."""
    left, calibrated, plain = exam.filter(exam["laterality"] == "L"), sample_bundle(), sample_bundle(calibrated=False)
    first = structured_report(exam_rows(left, calibrated, refused={"r": "implant"}), calibrated, sources_of(left))
    reports = [
        first,
        structured_report(exam_rows(exam, calibrated), calibrated, sources_of(exam), [first]),
        structured_report(exam_rows(exam, plain), plain, sources_of(exam)),
    ]
    paths = [tmp_path / f"{number}.dcm" for number in range(len(reports))]
    for report, path in zip(reports, paths, strict=True):
        path.write_bytes(object_bytes(report))
    return paths


def test_dciodvfy_finds_no_error(emitted: list[Path]):
    assert [dciodvfy(path) for path in emitted] == [[], [], []]


@pytest.mark.slow  # its style sheets take most of a minute a report
def test_pixelmeds_validator_finds_no_error(emitted: list[Path]):
    assert [pixelmed(path) for path in emitted[:2]] == [[], []]


def test_dcmtk_reads_it_with_its_words(emitted: list[Path]):
    said = [dsrdump(path) for path in emitted]
    assert all("Research use only" in text for text in said)
    assert '(129717001,SCT,"Scattered areas of fibroglandular density")' in said[0]
