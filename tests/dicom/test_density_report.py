"""Breast compositions of reports that highdicom wrote, and of the forms that archives hold."""

import contextlib

import pytest
from report_samples import CAD, coded, container, measured_report, report, save, side

from densityclip.dicom.density_report import composition_of, read_composition
from densityclip.reasons import Refused

SRT = {"A": "F-01711", "B": "F-01712", "C": "F-01713", "D": "F-01714"}


@pytest.mark.parametrize("algorithm", [False, True])
def test_a_report_of_highdicom_is_read_breast_by_breast(tmp_path, algorithm) -> None:
    written = measured_report({"L": "B", "R": "D"}, algorithm=algorithm)
    found = read_composition(save(written, tmp_path / "sr"))
    assert (found.left, found.right, found.by_algorithm) == ("B", "D", algorithm)
    assert found.content_date.startswith(str(written.ContentDate))


@pytest.mark.parametrize("category", list(SRT))
def test_each_category_is_read_in_both_schemes_by_value(category) -> None:
    older = coded("F-01710", SRT[category], meaning="extrem fett")
    newer = coded("129715009", {"A": "129716005", "B": "129717001", "C": "129718006", "D": "129719003"}[category])
    for answer in (older, newer):
        found = composition_of(report(answer))
        assert (found.left, found.right) == (category, category)


@pytest.mark.parametrize(
    ("named", "left", "right"),
    [
        ("T-04030", "C", None),
        ("T-04020", None, "C"),
        ("T-04080", "C", "C"),
        ("80248007", "C", None),
        ("73056007", None, "C"),
        ("63762007", "C", "C"),
        ("G-A101", "C", None),
        ("24028007", None, "C"),
    ],
)
def test_the_side_is_a_modifier_of_the_item_in_either_scheme(named, left, right) -> None:
    # As Swedish reporting stations write it: a section, an item each breast, SRT values, SNM3 sides.
    section = container("F-01710", coded("F-01710", SRT["C"], side(named, scheme="SNM3")), scheme="SRT")
    found = composition_of(report(section))
    assert (found.left, found.right, found.by_algorithm) == (left, right, False)


def test_a_finding_site_breast_with_a_laterality_is_a_side() -> None:
    site = coded("363698007", "76752008", side("7771000", "272741003", "SCT"), scheme="SCT")
    found = composition_of(report(coded("129715009", "129719003", site, scheme="SCT")))
    assert (found.left, found.right) == ("D", None)


def test_breasts_that_differ_are_kept_apart_and_of_two_values_the_denser_stands() -> None:
    found = composition_of(
        report(
            coded("F-01710", SRT["B"], side("T-04030")),
            coded("F-01710", SRT["D"], side("T-04020")),
            coded("F-01710", SRT["A"], side("T-04020")),
        )
    )
    assert (found.left, found.right) == ("B", "D")


def test_a_category_of_the_exam_does_not_stand_for_a_breast_that_has_its_own() -> None:
    both = coded("F-01710", SRT["D"], side("T-04080"))
    of_left = coded("F-01710", SRT["B"], side("T-04030"))
    found = composition_of(report(both, of_left))
    assert (found.left, found.right) == ("B", "D")


def test_what_an_algorithm_says_is_no_readers_label() -> None:
    answer = coded("F-01710", SRT["B"])
    device = coded("121005", "121007", scheme="DCM")
    person = coded("121005", "121006", scheme="DCM")
    assert composition_of(report(answer, sop_class=CAD)).by_algorithm
    assert composition_of(report(device, answer)).by_algorithm
    assert composition_of(report(container("1", coded("111001", "x", scheme="DCM"), answer))).by_algorithm
    # A person who signs with a device beside her is the reader; an algorithm elsewhere in her report is not.
    assert not composition_of(report(device, person, answer)).by_algorithm
    other = container("1", coded("111001", "x", scheme="DCM"), coded("F-01710", SRT["D"]))
    found = composition_of(report(person, other, container("2", answer)))
    assert (found.left, found.by_algorithm) == ("B", False)


def test_meanings_and_other_concepts_say_nothing() -> None:
    named_only = coded("F-01710", "99-1", meaning="Extremely dense")
    elsewhere = coded("X", SRT["D"])
    found = composition_of(report(named_only, elsewhere))
    assert (found.left, found.right, found.by_algorithm) == (None, None, False)
    assert composition_of(report()).left is None


def test_the_study_is_that_of_the_evidence() -> None:
    written = measured_report({"L": "A"}, algorithm=False, study="1.2.3")
    written.StudyInstanceUID = "9.9"
    assert composition_of(written).study_uid == "1.2.3"
    assert composition_of(report(StudyInstanceUID="9.9")).study_uid == "9.9"


def test_a_report_cut_anywhere_is_read_or_refused(tmp_path) -> None:
    whole = save(report(coded("F-01710", SRT["B"], side("T-04030"))), tmp_path / "w").read_bytes()
    for length in range(140, len(whole), 11):
        (tmp_path / "cut").write_bytes(whole[:length])
        with contextlib.suppress(Refused):
            assert read_composition(tmp_path / "cut").left in (None, "B")


def test_the_work_on_a_report_grows_with_its_items_and_not_with_their_square(monkeypatch) -> None:
    from densityclip.dicom import density_report

    looks = 0
    plain = density_report._code

    def counted(item, keyword):
        nonlocal looks
        looks += 1
        return plain(item, keyword)

    monkeypatch.setattr(density_report, "_code", counted)
    found = composition_of(report(*(coded("F-01710", SRT["B"], side("T-04030")) for _ in range(300))))
    assert (found.left, found.right) == ("B", None)
    assert looks < 300 * 20
