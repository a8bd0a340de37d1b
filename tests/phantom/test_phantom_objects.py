"""Generated objects are what they say: valid for another validator, and their pixels survive every transfer syntax."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.encaps import parse_basic_offsets
from pydicom.uid import ExplicitVRLittleEndian

from densityclip.dicom.eligibility import check_object, check_screening_view
from densityclip.dicom.header import read_header
from densityclip.dicom.modality import modality_of
from densityclip.phantom.dicom_objects import MAGNIFICATION, to_dataset
from densityclip.phantom.encoding import SYNTAXES
from densityclip.phantom.exam import exam_images, look_of
from densityclip.phantom.grid import make_grid
from densityclip.phantom.identity import identify
from densityclip.phantom.layouts import LAYOUTS
from densityclip.phantom.population import draw_woman
from densityclip.phantom.sites import SITES
from densityclip.reasons import Reason, Refused

GRID = make_grid(96, 8.0)
# Who is imaged, and the kinds of image that an exam of one view of hers must hold.
UNUSUAL = {
    "nothing": {"spot": None},
    "a spot view": {"spot": ("L", "CC")},
    "implants": {"spot": None, "implants": True},
    "a man": {"spot": None, "male": True},
}


def identity_of(name, **unusual):
    site = SITES[name]
    patient, accession = LAYOUTS[site.layout].name_exam(site, 3, 1)
    woman = replace(draw_woman(name, 3, 1), **unusual)
    return identify(woman, site, 3, patient_id=patient, accession_number=accession)


@pytest.fixture(scope="module")
def images():
    """Left CC images of one woman as each site makes them, by site and what is unusual about her."""
    found = {}
    for name, site in SITES.items():
        for what, unusual in UNUSUAL.items():
            if what == "nothing" or name == "embed-like":
                woman = identity_of(name, **unusual).woman
                found[name, what] = list(exam_images(woman, site, 3, GRID, sides=("L",), views=("CC",)))
    for image in list(found["embed-like", "implants"]):
        found["embed-like", "implants"].append(replace(image, kind="standard"))  # the implant is displaced
    return found


def test_unusual_women_have_unusual_images(images):
    kinds = {what: {image.kind for image in images["embed-like", what]} for what in UNUSUAL}
    assert kinds["nothing"] == kinds["a man"] == {"standard"}
    assert kinds["a spot view"] == {"standard", "spot"}
    assert "implant" in kinds["implants"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_another_validator_finds_no_error_in_any_kind_of_object(images, tmp_path):
    seen = set()
    for (name, what), made in images.items():
        site = SITES[name]
        for machine in range(len(site.machines)):
            identity = identity_of(name, **UNUSUAL[what], machine=machine)
            for number, image in enumerate(made):
                path = tmp_path / f"{name}-{what}-{machine}-{number}.dcm"
                to_dataset(identity, image).save_as(path, enforce_file_format=True)
                done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
                assert "Error" not in done.stdout + done.stderr, (path.name, done.stderr)
                assert done.returncode == 0
                header = pydicom.dcmread(path, stop_before_pixels=True)
                seen.add((header.SOPClassUID.name, image.modality, image.kind, header.file_meta.TransferSyntaxUID))
    assert {syntax for *_, syntax in seen} == SYNTAXES
    forms = {(modality, "Tomosynthesis" in sop_class) for sop_class, modality, _, _ in seen}
    assert forms == {("DM", False), ("s2D", False), ("s2D", True), ("DBT", True)}


@pytest.mark.parametrize("syntax", sorted(SYNTAXES))
def test_pixels_survive_every_transfer_syntax(images, syntax, tmp_path):
    identity = identity_of("embed-like")
    identity = replace(identity, site=with_syntax(identity.site, syntax))
    for image in images["embed-like", "nothing"]:
        path = tmp_path / f"{image.modality}.dcm"
        to_dataset(identity, image).save_as(path, enforce_file_format=True)
        dataset = pydicom.dcmread(path)
        np.testing.assert_array_equal(dataset.pixel_array, image.stored.pixels.squeeze())
        if syntax != ExplicitVRLittleEndian:
            offsets = parse_basic_offsets(dataset.PixelData)
            assert len(offsets) == int(dataset.get("NumberOfFrames", 1))


def with_syntax(site, syntax):
    return replace(site, machines=tuple(replace(machine, transfer_syntax=syntax) for machine in site.machines))


def header_of(identity, image, folder):
    path = folder / "one.dcm"
    to_dataset(identity, image).save_as(path, enforce_file_format=True)
    return read_header(path)


def test_our_own_reader_knows_every_object_for_what_it_is(images, tmp_path):
    for (name, what), made in images.items():
        identity = identity_of(name, **UNUSUAL[what])
        for image in made:
            facts = header_of(identity, image, tmp_path)
            assert facts.generated
            assert modality_of(facts).value == image.modality
            assert (facts.laterality, facts.view) == ("L", "CC")
            check_object(facts)
            refused = None
            try:
                check_screening_view(facts)
            except Refused as error:
                refused = error.reason
            expected = {"spot": Reason.MAGNIFICATION, "implant": Reason.IMPLANT}.get(image.kind)
            assert refused == (Reason.MALE if what == "a man" else expected)


def test_a_spot_view_states_its_magnification_and_spacing_at_the_detector(images, tmp_path):
    identity = identity_of("embed-like", **UNUSUAL["a spot view"])
    (spot,) = (image for image in images["embed-like", "a spot view"] if image.kind == "spot")
    dataset = to_dataset(identity, spot)
    assert float(dataset.EstimatedRadiographicMagnificationFactor) == MAGNIFICATION
    assert float(dataset.ImagerPixelSpacing[0]) == pytest.approx(GRID.pitch_mm, rel=1e-4)
    codes = {item.CodeValue for item in dataset.ViewCodeSequence[0].ViewModifierCodeSequence}
    assert codes == {"399163009", "399055006"}


def test_the_sign_of_the_intensity_says_where_the_beam_was_strongest(images):
    signs = set()
    for (name, what), made in images.items():
        for image in made:
            dataset = to_dataset(identity_of(name, **UNUSUAL[what]), image)
            if "PixelIntensityRelationshipSign" not in dataset or image.kind == "spot":
                continue
            # PS3.3 C.8.11.3.1.2: with sign 1 lower values are less X-ray intensity. Nothing lets more of it through
            # than air.
            values = image.stored.pixels.squeeze()
            air_is_brighter = np.median(values[~image.breast]) > np.median(values[image.breast])
            assert dataset.PixelIntensityRelationshipSign == (1 if air_is_brighter else -1), (name, what)
            signs.add(dataset.PixelIntensityRelationshipSign)
    assert signs == {1, -1}


def test_digitised_film_says_so_and_synthesized_images_are_none():
    found = set()
    for name, number in [("film-like", 1), *(("varied", number) for number in range(30))]:
        site, woman = SITES[name], replace(draw_woman(name, 3, number), implants=False, spot=None, male=False)
        look = look_of(woman, site, 3)
        if not look.film and number > 3:
            continue
        for image in exam_images(woman, site, 3, GRID, sides=("L",), views=("CC",)):
            detector = to_dataset(identity_of(name), image).get("DetectorType")
            if detector is not None:
                assert detector == ("FILM" if look.film and image.modality == "DM" else "DIRECT")
                found.add((name, image.modality, detector))
    varied = {("varied", "DM", "FILM"), ("varied", "DM", "DIRECT"), ("varied", "s2D", "DIRECT")}
    assert found == {("film-like", "DM", "FILM"), *varied}
