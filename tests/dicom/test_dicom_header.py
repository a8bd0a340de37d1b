"""Header facts, modality and eligibility, against what the tests wrote and pydicom's own code tables."""

from datetime import date
from pathlib import Path

import pydicom
import pytest
from dicom_samples import BTO, CAPTURE, DM, RAW, code, item, mammogram, save, view
from pydicom.sequence import Sequence
from pydicom.sr import _snomed_dict
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from densityclip.dicom.codes import MODIFIERS, VIEWS
from densityclip.dicom.eligibility import check_eligible
from densityclip.dicom.header import header_facts, is_dicom, read_header
from densityclip.dicom.modality import modality_of
from densityclip.reasons import Reason, Refused
from densityclip.records import Modality


def codes_of(cid: int) -> set[str]:
    return {value for scheme, names in cid_concepts[cid].items() for name in names for value in concepts[scheme][name]}


def refusal(dataset: pydicom.Dataset) -> Reason | None:
    try:
        check_eligible(header_facts(dataset))
    except Refused as refused:
        return refused.reason
    return None


def test_every_view_and_modifier_code_of_the_standard_is_known_in_both_schemes() -> None:
    srt_to_sct = _snomed_dict.mapping["SRT"]
    for table, cid in ((VIEWS, 4014), (MODIFIERS, 4015)):
        assert codes_of(cid) <= set(table)
        for srt, sct in srt_to_sct.items():
            if sct in codes_of(cid):
                assert table[srt] == table[sct]


def test_a_standard_view_is_read_whole_and_is_eligible(tmp_path) -> None:
    dataset = mammogram(
        PatientAge="061Y",
        StudyDate="20240229",
        Manufacturer="Vendor",
        DeviceSerialNumber="77",
        StationName="ROOM1",
        ImagerPixelSpacing=[0.07, 0.07],
        BreastImplantPresent="NO",
        AccessionNumber="A9",
    )
    facts = read_header(save(dataset, tmp_path / "x"))
    assert (facts.view, facts.laterality, facts.age, facts.study_date) == ("CC", "L", 61.0, date(2024, 2, 29))
    assert (facts.vendor, facts.machine, facts.spacing_mm, facts.implant) == ("Vendor", "77", 0.07, False)
    assert (facts.frames, facts.accession_number, facts.patient_id) == (1, "A9", "P1")
    assert modality_of(facts) is Modality.DM
    check_eligible(facts)


@pytest.mark.parametrize(
    ("sop_class", "attributes", "expected"),
    [
        (DM, {}, Modality.DM),
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]}, Modality.S2D),
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "TOMO_2D"]}, Modality.S2D),
        (BTO, {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]}, Modality.S2D),
        (BTO, {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"], "NumberOfFrames": 40}, Modality.DBT),
        (BTO, {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"]}, Modality.UNKNOWN),
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS"]}, Modality.UNKNOWN),
        (DM, {"SeriesDescription": "L CC C-View"}, Modality.S2D),
        (DM, {"SeriesDescription": "R MLO_Intelligent 2D"}, Modality.S2D),
        (DM, {"SeriesDescription": "L CC, technique as viewed"}, Modality.DM),
        (RAW, {}, Modality.UNKNOWN),
        (CAPTURE, {}, Modality.UNKNOWN),
    ],
)
def test_neither_sop_class_nor_frames_alone_decide_the_modality(sop_class, attributes, expected) -> None:
    assert modality_of(header_facts(mammogram(sop_class, **attributes))) is expected


@pytest.mark.parametrize(
    ("sop_class", "attributes", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", {"Modality": "CT"}, Reason.NOT_MAMMOGRAPHY),
        (CAPTURE, {}, Reason.PROPRIETARY),
        (CAPTURE, {"Modality": "OT"}, Reason.NOT_MAMMOGRAPHY),
        (RAW, {}, Reason.FOR_PROCESSING),
        (DM, {"PresentationIntentType": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        ("1.2.840.10008.5.1.4.1.1.13.1.4", {}, Reason.PROJECTION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "TOMO_PROJ"]}, Reason.PROJECTION),
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "", "SUBTRACTION"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "", "", "LOW_ENERGY"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "STEREO_SCOUT"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "POSTFIRE"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ViewCodeSequence": view("399162004", "399163009")}, Reason.MAGNIFICATION),
        (DM, {"ViewCodeSequence": view("R-10242", "R-102D7", scheme="SRT")}, Reason.MAGNIFICATION),
        (DM, {"ViewCodeSequence": view("399368009", "399110001")}, Reason.MAGNIFICATION),
        (DM, {"ViewCodeSequence": view("127457009")}, Reason.SPECIMEN),
        (DM, {"ViewCodeSequence": view("399260004")}, Reason.NONSTANDARD_VIEW),
        (DM, {"ViewCodeSequence": None}, Reason.UNKNOWN_VIEW),
        (DM, {"ImageLaterality": None}, Reason.UNKNOWN_LATERALITY),
        (DM, {"ImageLaterality": "B"}, Reason.CONFLICTING_LATERALITY),
        (DM, {"ImageLaterality": "L", "Laterality": "R"}, Reason.CONFLICTING_LATERALITY),
        (DM, {"BreastImplantPresent": "YES"}, Reason.IMPLANT),
        (DM, {"PatientSex": "M"}, Reason.MALE),
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS"]}, Reason.UNKNOWN_MODALITY),
        (DM, {"BreastImplantPresent": "YES", "ViewCodeSequence": view("399162004", "399209000")}, None),
        (DM, {"ViewCodeSequence": view("R-10226", scheme="SRT")}, None),
        (DM, {"ViewCodeSequence": None, "ViewPosition": "MLO"}, None),
        (DM, {"ViewCodeSequence": None, "ViewPosition": "CCID", "BreastImplantPresent": "YES"}, None),
    ],
)
def test_each_object_that_is_no_screening_view_has_its_reason(sop_class, attributes, reason) -> None:
    assert refusal(mammogram(sop_class, **attributes)) == reason


def test_the_side_of_a_volume_stands_in_its_shared_functional_groups() -> None:
    groups = Sequence([item(FrameAnatomySequence=Sequence([item(FrameLaterality="R")]))])
    facts = header_facts(mammogram(BTO, ImageLaterality=None, SharedFunctionalGroupsSequence=groups))
    assert facts.laterality == "R"


@pytest.mark.parametrize(
    ("orientation", "side"),
    [(["A", "R"], "L"), (["A", "FR"], "L"), (["P", "L"], "R"), (["P", "FL"], "R"), (["A", "L"], None), (["A"], None)],
)
def test_the_patient_orientation_names_the_side_where_nothing_else_does(orientation, side) -> None:
    assert header_facts(mammogram(ImageLaterality=None, PatientOrientation=orientation)).laterality == side


def test_an_orientation_against_the_stated_side_is_noted_and_not_believed() -> None:
    facts = header_facts(mammogram(ImageLaterality="L", PatientOrientation=["P", "L"]))
    assert facts.laterality == "L"
    assert "PatientOrientation" in (facts.laterality_conflict or "")


def test_age_comes_from_months_or_from_the_birth_date() -> None:
    assert header_facts(mammogram(PatientAge="600M")).age == pytest.approx(50.0)
    born = mammogram(PatientBirthDate="19600302", StudyDate="20200301")
    assert header_facts(born).age == 59


def test_a_file_without_preamble_is_read(tmp_path) -> None:
    whole = save(mammogram(), tmp_path / "whole").read_bytes()
    bare = tmp_path / "bare"
    bare.write_bytes(whole[132:])
    assert is_dicom(bare)
    assert read_header(bare).view == "CC"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"<html><body>404 not found</body></html>" * 9, Reason.UNREADABLE),
        (b"\x00" * 300, Reason.UNREADABLE),
        (b"\x00" * 128 + b"DICM", Reason.UNREADABLE),
        (b"\x00" * 128 + b"DICM" + bytes(range(256)), Reason.UNREADABLE),
        (b"\x08\x00\x05\x00CS", Reason.UNREADABLE),
    ],
)
def test_what_is_no_dicom_is_refused_with_a_reason(tmp_path, content, reason) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(Refused) as refused:
        read_header(path)
    assert refused.value.reason == reason


def test_a_missing_file_is_refused_as_missing(tmp_path) -> None:
    with pytest.raises(Refused) as refused:
        read_header(tmp_path / "none")
    assert refused.value.reason == Reason.MISSING_FILE


def test_a_header_cut_anywhere_is_facts_or_a_reason_and_never_a_crash(tmp_path) -> None:
    whole = save(mammogram(PatientAge="050Y", AnatomicRegionSequence=Sequence([code("76752008")])), tmp_path / "w")
    content = whole.read_bytes()
    path = tmp_path / "cut"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert outcome(path) in {Reason.EMPTY_FILE, Reason.UNREADABLE} or DM.startswith(outcome(path))


def outcome(path: Path) -> str:
    try:
        return read_header(path).sop_class
    except Refused as refused:
        return refused.reason


def test_one_unreadable_attribute_does_not_lose_the_file() -> None:
    dataset = mammogram(PatientAge="unknown", StudyDate="yesterday", ImagerPixelSpacing=None)
    facts = header_facts(dataset)
    assert (facts.age, facts.study_date, facts.view) == (None, None, "CC")
