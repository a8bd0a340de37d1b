"""Headers read from files: every form of DICOM, damaged files, and files that are something else."""

import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import pydicom
import pytest
from dicom_samples import BTO, DM, code, item, mammogram, save, view
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from densityclip.dicom.header import HeaderFacts, header_facts, is_dicom, read_header
from densityclip.reasons import Reason, Refused
from densityclip.records import GENERATED_NOTICE


def test_every_fact_is_read_from_a_file_as_from_the_dataset(tmp_path) -> None:
    dataset = mammogram(
        BTO,
        StudyDate="20240229",
        AccessionNumber="A9",
        Manufacturer="Maker",
        InstitutionName="A Hospital",
        DeviceSerialNumber="77",
        SeriesDescription="L MLO slabs",
        PatientAge="061Y",
        NumberOfFrames=40,
        PatientOrientation=["P", "L"],
        PixelSpacing=["0.1", "0.1"],
        BreastImplantPresent="YES",
        PartialView="YES",
        LossyImageCompression="01",
        VolumeBasedCalculationTechnique="MAX_IP",
        ViewCodeSequence=view("399368009", "399209000"),
        ImageComments=GENERATED_NOTICE,
    )
    dataset.private_block(0x7E01, "HOLOGIC, Inc.", create=True).add_new(0x12, "OB", b"12")
    expected = header_facts(dataset)
    unset = asdict(HeaderFacts(sop_class=""))
    same = [name for name, value in asdict(expected).items() if value == unset[name]]
    assert same == [], "give the dataset a value for each fact"
    found = asdict(read_header(save(dataset, tmp_path / "x")))
    # The private group of a container stands behind the groups of frames; it is looked for in secondary captures only.
    assert found == asdict(expected) | {"hologic_container": False}


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>" * 30, "web page"),
        (b"\n <?xml version='1.0'?>" * 30, "web page or XML"),
        (b"PK\x03\x04" + bytes(300), "packed archive"),
        (b"\x89PNG\r\n" + bytes(300), "a picture, not DICOM"),
    ],
)
def test_what_a_file_is_instead_of_dicom_is_said(tmp_path, content, said) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    with pytest.raises(Refused, match=said):
        read_header(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="no file"):
        read_header(tmp_path / "pipe")


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_syntax_and_form_of_sequence_gives_the_facts_of_the_dataset(tmp_path, syntax) -> None:
    measures = item(PixelMeasuresSequence=Sequence([item(PixelSpacing=["0.1", "0.1"])]))
    dataset = mammogram(
        BTO,
        NumberOfFrames=40,
        SpecificCharacterSet="ISO_IR 192",
        InstitutionName="Clínica Ñandú",
        SharedFunctionalGroupsSequence=Sequence([measures]),
        PerFrameFunctionalGroupsSequence=Sequence([item(FrameContentSequence=Sequence([item(StackID="1")]))] * 40),
        ViewCodeSequence=view("399368009", "399209000"),
    )
    expected = header_facts(dataset)
    assert (expected.institution, expected.spacing_mm, expected.frames) == ("Clínica Ñandú", 0.1, 40)
    for number, is_open in enumerate((False, True)):
        dataset.walk(lambda _, element, o=is_open: setattr(element, "is_undefined_length", o and element.VR == "SQ"))
        dataset.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / str(number)
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        assert read_header(path) == expected


@given(
    text=st.text(st.characters(codec="latin-1", exclude_characters="\\", min_codepoint=32), max_size=60),
    spacing=st.floats(0.01, 1),
    frames=st.integers(1, 200),
)
def test_raw_bytes_and_pydicoms_conversion_say_the_same(text, spacing, frames) -> None:
    dataset = mammogram(
        SpecificCharacterSet="ISO_IR 100",
        InstitutionName=text,
        SeriesDescription=text,
        PatientID=text,
        ImagerPixelSpacing=[f"{spacing:.6g}"] * 2,
        NumberOfFrames=frames,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = save(dataset, Path(folder) / "x")
        converted = pydicom.dcmread(path)
        for element in converted.iterall():
            assert element is not None  # converts it
        assert read_header(path) == header_facts(converted)


def test_a_header_longer_than_the_first_read_is_read_whole(tmp_path) -> None:
    dataset = mammogram(PatientAge="061Y", ImageComments="x" * 10_000)
    block = dataset.private_block(0x0009, "MAKER", create=True)
    block.add_new(1, "OB", bytes(200_000))
    facts = read_header(save(dataset, tmp_path / "x"))
    assert facts == header_facts(dataset)
    assert (facts.view, facts.laterality, facts.age) == ("CC", "L", 61.0)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_header_is_facts_or_a_reason_and_never_a_crash(data) -> None:
    syntax = data.draw(
        st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    )
    dataset = mammogram(NumberOfFrames=3, AnatomicRegionSequence=Sequence([code("76752008")]))
    dataset.file_meta.TransferSyntaxUID = syntax
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        content = bytearray(path.read_bytes())
        for place, value in data.draw(
            st.lists(st.tuples(st.integers(132, len(content) - 1), st.integers(0, 255)), max_size=6)
        ):
            content[place] = value
        path.write_bytes(content)
        outcome(path)


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


def test_a_deflated_header_that_inflates_without_end_is_refused(tmp_path) -> None:
    import tracemalloc

    dataset = mammogram()
    dataset.add_new(0x00091001, "UN", bytes(200_000_000))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "bomb"
    dataset.save_as(path, enforce_file_format=True)
    del dataset
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.reason is Reason.TOO_LARGE
    assert peak < 4_000_000
