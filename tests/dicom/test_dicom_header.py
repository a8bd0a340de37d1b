"""Header facts, modality and eligibility, against what the tests wrote and pydicom's own code tables."""

from datetime import date

import pydicom
import pytest
from dicom_samples import BTO, CAPTURE, DM, RAW, item, mammogram, save, view
from pydicom.sequence import Sequence
from pydicom.sr import _snomed_dict
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from densityclip.dicom.codes import MODIFIERS, VIEWS
from densityclip.dicom.eligibility import check_modality, check_object, check_screening_view
from densityclip.dicom.header import HeaderFacts, header_facts, read_header
from densityclip.dicom.modality import is_slab, modality_of
from densityclip.reasons import Reason, Refused
from densityclip.records import Modality

FUJI = {"ViewCodeSequence": None, "Manufacturer": "FUJIFILM Corporation"}


def codes_of(cid: int) -> set[str]:
    return {value for scheme, names in cid_concepts[cid].items() for name in names for value in concepts[scheme][name]}


def check_eligible(facts: HeaderFacts) -> None:
    """What a header must pass where no table speaks."""
    check_object(facts)
    check_screening_view(facts)
    check_modality(facts)


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
        (DM, {"NumberOfFrames": 40}, Modality.UNKNOWN),
        (DM, {"ImageType": ["GENERATED_2D", "TOMO_2D"]}, Modality.DM),
        (DM, {"SeriesDescription": "R CC S-View"}, Modality.S2D),
        (DM, {"SeriesDescription": "L_MLO_V-Preview"}, Modality.S2D),
        (DM, {"SeriesDescription": "Insight 2D RCC"}, Modality.S2D),
        (RAW, {}, Modality.DM),
        (RAW, {"NumberOfFrames": "3"}, Modality.UNKNOWN),
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
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "PREFIRE_MINUS"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "POSTMARKER"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "TOMO_SCOUT"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "POST_FIRE"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "PREBIOPSY"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "PROJECTION"]}, Reason.PROJECTION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "POST_CONTRAST"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "", "ADDITION"]}, Reason.SPECIAL_ACQUISITION),
        (DM, {"ImageType": ["ORIGINAL", "PRIMARY", "", "", "HIGH_ENERGY"]}, Reason.SPECIAL_ACQUISITION),
        # A vendor's word for every image that it ever wrote, and words where the standard puts others.
        (DM, {"ImageType": ["DERIVED", "PRIMARY", "POST_PROCESSED", "", "", "", "", "", "100000"]}, None),
        (DM, {"ImageType": ["ADDITION", "STEREO"]}, None),
        (DM, {"PartialView": "YES"}, Reason.PARTIAL_VIEW),
        (DM, {"PartialView": "NO"}, None),
        ("1.2.840.10008.5.1.4.1.1.1.1", {"Modality": None}, Reason.NOT_MAMMOGRAPHY),
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


@pytest.mark.parametrize(
    ("sop_class", "attributes", "reason"),
    [
        (RAW, {}, None),
        (RAW, {"PresentationIntentType": None}, None),
        (DM, {"PresentationIntentType": "FOR PROCESSING"}, None),
        (DM, {}, Reason.FOR_PRESENTATION),
        (DM, {"PresentationIntentType": None}, Reason.FOR_PRESENTATION),
        (BTO, {"NumberOfFrames": "40"}, Reason.FOR_PRESENTATION),
        # Raw reconstructions exist; what their values mean is each maker's own.
        (BTO, {"NumberOfFrames": "40", "PresentationIntentType": "FOR PROCESSING"}, Reason.FOR_PROCESSING),
        (RAW, {"ImageType": ["DERIVED", "PRIMARY", "", "GENERATED_2D"]}, Reason.FOR_PROCESSING),
        (RAW, {"ImageType": ["ORIGINAL", "PRIMARY", "", "", "LOW_ENERGY"]}, Reason.SPECIAL_ACQUISITION),
    ],
)
def test_on_request_raw_dm_is_taken_and_nothing_else(sop_class, attributes, reason) -> None:
    found = None
    try:
        check_object(header_facts(mammogram(sop_class, **attributes)), for_processing=True)
    except Refused as refused:
        found = refused.reason
    assert found == reason


@pytest.mark.parametrize(
    ("attributes", "stated", "reason"),
    [
        # A digitised film is a secondary capture, a stripped mammogram a plain radiograph: a table knows better.
        ({"Modality": "MG"}, True, None),
        ({"Modality": "MG"}, False, Reason.PROPRIETARY),
        ({"Modality": None}, True, None),
        ({"Modality": None}, False, Reason.NOT_MAMMOGRAPHY),
    ],
)
def test_a_table_that_says_mammogram_is_believed_about_captures(attributes, stated, reason) -> None:
    assert object_refusal(header_facts(mammogram(CAPTURE, **attributes)), stated) == reason


def test_hologics_container_is_told_by_its_private_data_whatever_a_table_says(tmp_path) -> None:
    dataset = mammogram(CAPTURE, Manufacturer="HOLOGIC, Inc.")
    block = dataset.private_block(0x7E01, "HOLOGIC, Inc.", create=True)
    block.add_new(0x12, "OB", bytes(100_000))
    facts = read_header(save(dataset, tmp_path / "container"))
    assert object_refusal(facts, True) == Reason.PROPRIETARY


def object_refusal(facts: HeaderFacts, stated: bool) -> Reason | None:
    try:
        check_object(facts, modality_stated=stated)
    except Refused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize(
    ("attributes", "slab"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"]}, False),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "MAXIMUM"]}, True),
        ({"VolumeBasedCalculationTechnique": "MAX_IP"}, True),
        ({"SeriesDescription": "L MLO 10 mm Slabs"}, True),
    ],
)
def test_slabs_are_volumes_that_are_told_from_slices(attributes, slab) -> None:
    facts = header_facts(mammogram(BTO, NumberOfFrames=12, **attributes))
    assert (modality_of(facts), is_slab(facts)) == (Modality.DBT, slab)
    assert not is_slab(header_facts(mammogram(DM, **attributes)))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        # A vendor's own code says nothing; what stands beside it does.
        ({"ViewCodeSequence": view("X-1", scheme="99X"), "ViewPosition": "MLO"}, "MLO"),
        ({"ViewCodeSequence": view("X-1", scheme="99X")}, "X-1"),
        # The coded view goes before the free text, and codes are read whatever their scheme is called.
        ({"ViewPosition": "MLO"}, "CC"),
        ({"ViewCodeSequence": view("R-10226", scheme="SNM3")}, "MLO"),
        ({"ViewCodeSequence": None, "ViewPosition": "R-MLO"}, "MLO"),
        # FUJIFILM names the view in its menu.
        (FUJI | {"AcquisitionDeviceProcessingDescription": "MAMMO LMLO"}, "MLO"),
        (FUJI | {"AcquisitionDeviceProcessingDescription": "BREAST,R CC"}, "CC"),
        (FUJI | {"AcquisitionDeviceProcessingDescription": "BREAST,ACCESSORY"}, None),
        ({"ViewCodeSequence": None, "AcquisitionDeviceProcessingDescription": "MLO"}, None),
    ],
)
def test_the_view_is_read_from_wherever_vendors_write_it(attributes, expected) -> None:
    assert header_facts(mammogram(**attributes)).view == expected


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("HOLOGIC, Inc.", "Hologic"),
        ("LORAD, A Hologic Company", "Hologic"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GE Healthcare", "GE"),
        ("SIEMENS Healthineers", "Siemens"),
        ("FUJIFILM Corporation", "Fujifilm"),
        ("I.M.S. S.p.A.", "IMS Giotto"),
        ("A Maker of Its Own", "A Maker of Its Own"),
        ("GEORGE & SONS", "GEORGE & SONS"),
        ("", None),
    ],
)
def test_a_maker_has_one_name(written, name) -> None:
    assert header_facts(mammogram(Manufacturer=written)).vendor == name


def test_a_displaced_implant_is_eligible_and_the_full_view_of_it_is_not() -> None:
    full = {"BreastImplantPresent": "YES"}
    assert refusal(mammogram(**full)) == Reason.IMPLANT
    assert refusal(mammogram(**full, ViewCodeSequence=view("399368009", "399209000"))) is None
    assert refusal(mammogram(**full, ViewCodeSequence=view("R-10226", "R-102D5", scheme="SRT"))) is None


def test_the_side_of_single_frames_is_read_where_nothing_else_states_one(tmp_path) -> None:
    frame = item(FrameAnatomySequence=Sequence([item(FrameLaterality="L")]))
    dataset = mammogram(
        BTO, ImageLaterality=None, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=Sequence([frame, frame])
    )
    assert read_header(save(dataset, tmp_path / "x")).laterality == "L"


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


@pytest.mark.parametrize(("written", "age"), [("000Y", None), ("090Y", 90.0), ("999Y", None), ("620", None)])
def test_an_impossible_age_is_none(written, age) -> None:
    assert header_facts(mammogram(PatientAge=written)).age == age


def test_age_comes_from_months_or_from_the_birth_date() -> None:
    assert header_facts(mammogram(PatientAge="600M")).age == pytest.approx(50.0)
    born = mammogram(PatientBirthDate="19600302", StudyDate="20200301")
    assert header_facts(born).age == 59


def test_one_unreadable_attribute_does_not_lose_the_file() -> None:
    dataset = mammogram(PatientAge="unknown", StudyDate="yesterday", ImagerPixelSpacing=None)
    facts = header_facts(dataset)
    assert (facts.age, facts.study_date, facts.view) == (None, None, "CC")
