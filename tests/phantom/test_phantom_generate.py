import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from datetime import date

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut

from densityclip.errors import UserError
from densityclip.phantom.generate import MOST_EXAMS, TRUTH_COLUMNS, generate, generator_hash
from densityclip.phantom.layouts.export import LABEL_COLUMNS
from densityclip.phantom.randomness import HIGHEST_SEED
from densityclip.phantom.sites import SITES

SIZE = 96
SLICE_MM = 8.0
# Sites in whose few exams nothing is unusual, with this seed: what is has tests of its own.
PLAIN = ("internal", "film-like", "varied")
VIEW_CODES = {"CC": "399162004", "MLO": "399368009"}


def make(out, **order):
    return generate(out, **({"seed": 2, "size": SIZE, "slice_mm": SLICE_MM} | order))


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom")
    return {name: make(out / name, site=name, exams=2) for name in PLAIN}


@pytest.mark.parametrize("name", PLAIN)
def test_every_object_reads_back_and_says_what_it_is(sites, name):
    files = sorted(sites[name].source.rglob("*.dcm"))
    assert len(files) == sites[name].images == 2 * 4 * len(SITES[name].modalities)
    for file in files:
        _, modality, side, view = file.parent.name.split("_")
        ds = pydicom.dcmread(file)
        pixels = ds.pixel_array
        assert ds.Modality == "MG"
        assert ds.PatientID == file.parents[2].name
        assert ds.AccessionNumber == file.parents[1].name
        assert file.stem == ds.SOPInstanceUID
        assert ds.ViewCodeSequence[0].CodeValue == VIEW_CODES[view]
        assert "Generated" in str(ds.PatientName)
        assert "simulated" in ds.ImageComments
        assert date(2019, 1, 1) <= date.fromisoformat(ds.StudyDate) <= date(2024, 12, 31)
        assert pixels.max() < 2**ds.BitsStored == 4096
        assert ds.file_meta.TransferSyntaxUID in {machine.transfer_syntax for machine in SITES[name].machines}
        check_kind(ds, modality, side)


def check_kind(ds, modality, side):
    if ds.SOPClassUID == pydicom.uid.BreastTomosynthesisImageStorage:
        shared = ds.SharedFunctionalGroupsSequence[0]
        assert shared.FrameAnatomySequence[0].FrameLaterality == side
        frames = int(ds.NumberOfFrames)
        assert len(ds.PerFrameFunctionalGroupsSequence) == frames
        assert frames > 1
        positions = [
            frame.PlanePositionSequence[0].ImagePositionPatient for frame in ds.PerFrameFunctionalGroupsSequence
        ]
        steps = np.linalg.norm(np.diff(np.array(positions, dtype=float), axis=0), axis=1)
        thickness = float(shared.PixelMeasuresSequence[0].SliceThickness)
        np.testing.assert_allclose(steps, thickness, rtol=1e-3)
        assert thickness == pytest.approx(SLICE_MM, rel=0.15)
        spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        assert modality == "DBT"
    else:
        assert ds.SOPClassUID == pydicom.uid.DigitalMammographyXRayImageStorageForPresentation
        assert ds.PresentationIntentType == "FOR PRESENTATION"
        assert ds.ImageLaterality == side
        assert ds.PatientOrientation[0] == ("A" if side == "L" else "P")
        assert ("GENERATED_2D" in ds.ImageType) == (modality == "s2D")
        spacing = ds.ImagerPixelSpacing
        shown = apply_voi_lut(ds.pixel_array, ds)
        assert shown.std() > 100
    assert float(spacing[0]) * ds.Rows == pytest.approx(240, rel=0.02)


def test_truth_lies_on_the_grid_of_its_image(sites):
    for site in sites.values():
        for file in sorted(site.source.rglob("*.dcm")):
            ds = pydicom.dcmread(file, stop_before_pixels=True)
            with np.load(site.folder / "truth" / f"{ds.SOPInstanceUID}.npz") as truth:
                assert truth["gland_mm"].shape == truth["breast"].shape == (ds.Rows, ds.Columns)
                assert truth["gland_mm"].dtype == np.float16
                assert truth["pectoral"].shape == truth["breast"].shape
                assert truth["pectoral"].dtype == truth["breast"].dtype == bool
                assert not (truth["pectoral"] & ~truth["breast"]).any()
                # A smaller grid cuts pixels at the skin in two.
                gland = truth["gland_mm"].astype(float)
                assert gland[~truth["breast"]].sum() < 0.01 * gland.sum()


def test_uids_are_unique_over_sites_and_stated_in_the_tables(sites):
    seen = [
        pydicom.dcmread(file, specific_tags=["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientAge"])
        for site in sites.values()
        for file in site.source.rglob("*.dcm")
    ]
    assert len({ds.SOPInstanceUID for ds in seen}) == len(seen)
    assert all(pydicom.uid.UID(ds.SOPInstanceUID).is_valid for ds in seen)
    stated = {row["study_uid"]: row for site in sites.values() for row in rows(site.table)}
    assert {ds.StudyInstanceUID for ds in seen} == set(stated)
    for ds in seen:
        assert stated[ds.StudyInstanceUID]["accession_number"] == ds.AccessionNumber
        assert int(stated[ds.StudyInstanceUID]["age"]) == int(ds.PatientAge[:-1])


def test_tables_have_one_row_for_each_breast(sites):
    for name, site in sites.items():
        labels, truth = rows(site.table), rows(site.truth)
        assert tuple(labels[0]) == LABEL_COLUMNS
        assert tuple(truth[0]) == TRUTH_COLUMNS
        assert [(r["patient_id"], r["laterality"]) for r in labels] == [
            (r["patient_id"], r["laterality"]) for r in truth
        ]
        assert len(labels) == 4
        for row, true in zip(labels, truth, strict=True):
            assert row["density"] == true["label"]
            assert 0 < float(true["fraction_without_skin"]) < float(true["fraction_with_skin"]) < 0.9
            assert row["site"] == name
        summary = json.loads((site.folder / "site.json").read_text())
        assert summary["class_mix_note"] == site.class_mix_note == SITES[name].class_mix_note
        assert sum(summary["counts"]["breasts_by_label"].values()) == 4


def test_some_machines_of_the_external_site_store_inverted(tmp_path):
    site = make(tmp_path, site="rsna-like", exams=6, seed=6)
    kinds = {}
    for file in site.source.rglob("*.dcm"):
        ds = pydicom.dcmread(file)
        kinds.setdefault(ds.PhotometricInterpretation, []).append(np.median(ds.pixel_array))
    assert np.median(kinds["MONOCHROME1"]) > 3900  # air is most of the image
    assert np.median(kinds["MONOCHROME2"]) < 200


@pytest.mark.parametrize("name", ["internal", "embed-like"])
def test_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path, name):
    for folder, workers in (("one", 1), ("two", 2)):
        make(tmp_path / folder, site=name, exams=2, seed=9, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_another_seed_gives_other_files(tmp_path):
    for seed in (1, 2):
        make(tmp_path / str(seed), site="rsna-like", exams=1, seed=seed)
    assert not set(digests(tmp_path / "1").values()) & set(digests(tmp_path / "2").values())


@pytest.mark.parametrize("name", ["internal", "rsna-like"])
def test_a_killed_run_started_again_ends_with_the_same_files(tmp_path, name):
    order = {"site": name, "exams": 3, "seed": 6, "size": SIZE, "slice_mm": SLICE_MM}
    code = (
        "from pathlib import Path; from densityclip.phantom.generate import generate;"
        f"generate(Path({str(tmp_path / 'killed')!r}), **{order!r})"
    )
    running = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 60
    while not list((tmp_path / "killed" / "exams").glob("*.json")) and time.monotonic() < end:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed" / "truth.csv").exists()
    calls = []
    generate(tmp_path / "killed", **order, progress=lambda done, total: calls.append((done, total)))
    generate(tmp_path / "whole", **order)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_a_whole_exam_is_not_made_again(tmp_path):
    first = make(tmp_path, site="rsna-like", exams=1, seed=1)
    stamps = {file: file.stat().st_mtime_ns for file in first.source.rglob("*.dcm")}
    make(tmp_path, site="rsna-like", exams=2, seed=1)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    assert len(rows(tmp_path / "truth.csv")) == 4


def test_fewer_exams_than_a_folder_holds_are_refused_and_what_is_there_stays(tmp_path):
    make(tmp_path, site="rsna-like", exams=2, seed=1)
    before = digests(tmp_path)
    with pytest.raises(UserError, match="holds 1 generated exams more than the 1 asked for"):
        make(tmp_path, site="rsna-like", exams=1, seed=1)
    assert digests(tmp_path) == before


def test_a_folder_that_another_version_of_the_generator_began_is_not_mixed(tmp_path):
    make(tmp_path, site="rsna-like", exams=1, seed=1)
    claim = tmp_path / "phantom.json"
    held = json.loads(claim.read_text())
    assert held["generator"] == generator_hash()
    for older in (held | {"generator": "0" * 12}, {k: v for k, v in held.items() if k != "generator"}):
        claim.write_text(json.dumps(older))
        with pytest.raises(UserError, match="already holds"):
            make(tmp_path, site="rsna-like", exams=2, seed=1)


def test_users_mistakes_are_named(tmp_path):
    make(tmp_path, site="rsna-like", exams=1, seed=1)
    for other in ({"seed": 2}, {"slice_mm": 2.0}):
        with pytest.raises(UserError, match="already holds"):
            make(tmp_path, **({"site": "rsna-like", "exams": 1, "seed": 1} | other))
    with pytest.raises(UserError, match="internal, rsna-like, embed-like"):
        generate(tmp_path / "a", site="mars", exams=1, seed=1)
    with pytest.raises(UserError, match="0 exams"):
        generate(tmp_path / "a", site="internal", exams=0, seed=1)
    with pytest.raises(UserError, match="negative"):
        generate(tmp_path / "a", site="internal", exams=1, seed=-1)
    with pytest.raises(UserError, match="seed 800000"):
        generate(tmp_path / "a", site="internal", exams=1, seed=HIGHEST_SEED + 1)
    with pytest.raises(UserError, match="1,000,001 exams"):
        generate(tmp_path / "a", site="internal", exams=MOST_EXAMS + 1, seed=1)
    with pytest.raises(UserError, match="slice distance"):
        generate(tmp_path / "a", site="internal", exams=1, seed=1, slice_mm=99)
