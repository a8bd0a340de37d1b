"""Each generated site goes through the reader of the dataset whose layout it has; what comes out is what went in."""

import csv
import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest

from densityclip import steps
from densityclip.artifacts import read_json, read_table
from densityclip.imaging.recipe import Recipe
from densityclip.phantom.dicom_objects import to_dataset
from densityclip.phantom.exam import exam_images
from densityclip.phantom.generate import MOST_EXAMS, GeneratedSite, generate, where_to_index
from densityclip.phantom.grid import make_grid
from densityclip.phantom.identity import identify
from densityclip.phantom.layouts import LAYOUTS
from densityclip.phantom.layouts.embed import FINDINGS, IMAGES
from densityclip.phantom.layouts.rsna import OTHER_VIEWS
from densityclip.phantom.population import draw_woman
from densityclip.phantom.randomness import HIGHEST_SEED
from densityclip.phantom.sites import SITES

SIZE = 160
# With rare things made frequent, and seeds whose few exams have each of them: exams, seed.
CHOSEN = {
    "internal": (5, 32, {"implants": 0.2, "spots": 0.2}),
    "rsna-like": (8, 15, {"implants": 0.2}),
    "embed-like": (7, 207, {"implants": 0.2, "spots": 0.2, "men": 0.2}),
}
SITES_AS_THEY_ARE = dict(SITES)
VIEWS = 4
IMPLANT_DISPLACED = "399209000"  # SNOMED CT


def has_standard_views(woman) -> bool:
    """Of every second woman with implants there are views without: with the implant pushed back."""
    return not (woman.implants and woman.number % 2)


@pytest.fixture(scope="module")
def quickly():
    """Exams whose pixels are those of one woman, drawn once: what is tested here is where they go."""
    drawn = list(exam_images(draw_woman("internal", 1, 2), SITES["internal"], 1, make_grid(SIZE, 8.0)))

    def images(woman, site, seed, grid):
        for image in drawn:
            if image.modality not in site.modalities:
                continue
            if woman.implants:
                yield replace(image, kind="implant")
            if not has_standard_views(woman):
                continue
            yield replace(image, kind="standard")
            if image.modality == "DM" and woman.spot == (image.side, image.view):
                yield replace(image, kind="spot")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densityclip.phantom.generate.exam_images", images)
        yield


@pytest.fixture(scope="module")
def frequent(quickly):
    """The sites with their rare images made frequent."""
    with pytest.MonkeyPatch.context() as patch:
        for name, (_, _, shares) in CHOSEN.items():
            patch.setitem(SITES, name, replace(SITES[name], **shares))
        yield


@pytest.fixture(scope="module")
def build(frequent, tmp_path_factory):
    """A site by its name, its women, and the folder of its index; made once."""

    @cache
    def one(name: str) -> tuple[GeneratedSite, list, Path]:
        exams, seed, _ = CHOSEN[name]
        folder = tmp_path_factory.mktemp(name)
        site = generate(folder / "exams", site=name, exams=exams, seed=seed, size=SIZE, slice_mm=8.0)
        dataset, source, table = where_to_index(name, site.folder)
        steps.index(source, folder / "index", dataset=dataset, table=table)
        return site, [draw_woman(name, seed, number) for number in range(exams)], folder / "index"

    return one


@pytest.fixture(params=list(CHOSEN))
def made(request, build) -> tuple[GeneratedSite, list, Path]:
    return build(request.param)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def excluded_as_planned(name: str, women: list) -> Counter:
    """What must be left out, from the women alone."""
    planned: Counter = Counter()
    modalities = len(SITES[name].modalities)
    for woman in women:
        views = VIEWS * modalities
        spots = int(woman.spot is not None and has_standard_views(woman))
        volumes = VIEWS * (name == "embed-like" and has_standard_views(woman))
        if woman.male:
            planned["male"] += views + spots
            continue
        if woman.implants:
            planned["implant"] += views
            # The table of this site states the implant and no modifier.
            if name == "rsna-like" and has_standard_views(woman):
                planned["implant"] += views
        planned["magnification"] += spots
        planned["missing_file"] += volumes
    return +planned


def test_every_row_of_the_tables_is_indexed_or_left_out_for_the_planned_reason(made):
    site, women, folder = made
    name = read_json(site.folder / "site.json", "densityclip phantom")["name"]
    index = read_table(folder / "index.parquet", "index")
    excluded = read_table(folder / "excluded.parquet", "excluded")
    files = sorted(site.source.rglob("*.dcm"))
    assert len(files) == site.images
    found = Counter(excluded["reason"])
    planned = excluded_as_planned(name, women)
    if name == "internal":
        assert len(index) + len(excluded) == site.images
    if name == "rsna-like":
        table = rows(site.table)
        other = sum(row["view"] in OTHER_VIEWS for row in table)
        assert other
        planned["nonstandard_view"] = other
        assert len(index) + len(excluded) == len(table) == site.images
    if name == "embed-like":
        table = rows(site.folder / IMAGES)
        saves = sum(row["FinalImageType"] == "ROI_SSC" for row in table)
        planned["not_mammography"] += saves
        assert len(index) + len(excluded) == len(table)
        assert site.images == len(table) - saves - sum(row["FinalImageType"] == "3D" for row in table)
    assert found == +planned
    assert {woman.number % 2 for woman in women if woman.implants} == {0, 1}


def test_labels_of_the_index_are_the_simulated_readers_and_say_so(made):
    site, _, folder = made
    index = read_table(folder / "index.parquet", "index")
    labelled = index.filter(pl.col("density").is_not_null())
    assert set(labelled["density_source"]) == {"simulated reader"}
    assert all("(invented)" in institution for institution in index["institution"])
    truth = {(row["patient_id"], row["laterality"]): row for row in rows(site.truth)}
    by_breast = site.dataset == "dicom"
    for row in labelled.iter_rows(named=True):
        said = [truth[row["patient_id"], side]["label"] for side in ("L", "R")]
        expected = truth[row["patient_id"], row["laterality"]]["label"] if by_breast else max(said)
        assert row["density"] == expected
        assert (site.folder / "truth" / f"{row['sop_uid']}.npz").is_file()
    audit = read_json(folder / "audit.json", "densityclip index")
    assert "generated" in {limit["rule"] for limit in audit["limits"]}
    assert read_json(folder / "index.manifest.json", "densityclip index")["config"]["redistribute"] is True


@pytest.mark.parametrize("name", ["rsna-like", "embed-like"])
def test_a_plan_without_files_says_that_the_exams_are_generated(build, name, tmp_path):
    site, _, _ = build(name)
    steps.index(site.source, tmp_path, dataset=site.dataset, no_files=True)
    index = read_table(tmp_path / "index.parquet", "index")
    assert set(index["density_source"].drop_nulls()) == {"simulated reader"}
    assert "Emory University" not in set(index["institution"])


def test_tables_that_were_changed_are_no_longer_taken_for_generated_ones_but_the_files_are(build, tmp_path):
    site, _, _ = build("rsna-like")
    table = tmp_path / "train.csv"
    table.write_text(site.table.read_text().replace(",1.0,0,", ",2.0,0,", 1))
    about = json.loads((site.folder / "site.json").read_text())
    (tmp_path / "site.json").write_text(json.dumps(about))
    steps.index(site.source, tmp_path / "index", dataset="rsna", table=table)
    index = read_table(tmp_path / "index/index.parquet", "index")
    assert "Emory University" in set(index["institution"])
    assert set(index["density_source"].drop_nulls()) == {"simulated reader"}


def test_every_indexed_image_can_be_prepared(made, tmp_path):
    _, _, folder = made
    summary = steps.prepare(folder / "index.parquet", tmp_path, Recipe(height=64, width=64))
    assert summary.refused == 0
    cached = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert len(cached) >= len(read_table(folder / "index.parquet", "index"))
    assert (np.median(cached[:, :, -8:], axis=(1, 2)) < 48).all()


def test_headers_of_the_rsna_layout_are_stripped_and_still_say_that_nobody_was_imaged(build):
    site, _, _ = build("rsna-like")
    for file in site.source.rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        for keyword in (
            "Modality",
            "ViewPosition",
            "ImageLaterality",
            "ViewCodeSequence",
            "PatientAge",
            "Manufacturer",
            "StudyDate",
            "ContentDate",
        ):
            assert keyword not in dataset
        assert "simulated" in dataset.ImageComments
        assert dataset.PatientID == file.parent.name
        assert dataset.pixel_array.max() < 4096


def test_volumes_are_written_where_they_are_asked_for(quickly, tmp_path):
    arguments = {"site": "embed-like", "exams": 1, "seed": 4, "size": SIZE, "slice_mm": 8.0}
    without = generate(tmp_path / "without", **arguments)
    whole = generate(tmp_path / "whole", **arguments, volumes=True)
    volumes = sum(row["FinalImageType"] == "3D" for row in rows(tmp_path / "whole" / IMAGES))
    assert volumes
    assert whole.images == without.images + volumes
    assert (tmp_path / "whole" / IMAGES).read_bytes() == (tmp_path / "without" / IMAGES).read_bytes()


def test_real_exams_of_women_with_implants_keep_the_views_that_push_them_back(tmp_path):
    """As `exam_images` makes them: an even number has both kinds of view, an odd one the full views alone."""
    kinds: dict[int, Counter] = {}
    for number in (2, 3):
        woman = replace(draw_woman("internal", 1, number), implants=True, spot=("L", "CC"))
        identity = identify(woman, SITES["internal"], 1, patient_id=f"P{number}", accession_number=f"A{number}")
        images = list(exam_images(woman, SITES["internal"], 1, make_grid(96, 10.0), sides=("L",)))
        kinds[number] = Counter(image.kind for image in images)
        for place, image in enumerate(images):
            dataset = to_dataset(identity, image)
            view = (dataset.get("ViewCodeSequence") or [])[0]
            codes = {item.CodeValue for item in view.ViewModifierCodeSequence}
            assert (IMPLANT_DISPLACED in codes) == (image.kind == "standard")
            dataset.save_as(tmp_path / f"{image.kind}-{number}-{place}.dcm", enforce_file_format=True)
    assert kinds == {2: Counter(implant=6, standard=6, spot=1), 3: Counter(implant=6)}
    steps.index(tmp_path, tmp_path / "index", dataset="dicom")
    index = read_table(tmp_path / "index/index.parquet", "index")
    assert {Path(path).name.split("-")[0] for path in index["path"]} == {"standard"}
    assert (len(index), set(index["patient_id"])) == (6, {"P2"})
    excluded = read_table(tmp_path / "index/excluded.parquet", "excluded")
    assert Counter(excluded["reason"]) == {"implant": 12, "magnification": 1}


def exam_rows(name: str, number: int, seed: int = 9) -> dict:
    site = SITES_AS_THEY_ARE[name]
    layout = LAYOUTS[site.layout]
    patient, accession = layout.name_exam(site, seed, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SITES, name, site)
        woman = draw_woman(name, seed, number)
    identity = identify(woman, site, seed, patient_id=patient, accession_number=accession)
    return {"identity": identity} | dict(layout.exam_rows(identity))


def test_the_findings_table_has_the_quirks_of_the_real_one():
    exams = [exam_rows("embed-like", number) for number in range(1500)]
    findings = [exam[FINDINGS] for exam in exams]
    densities = Counter(found[0]["tissueden"] for found in findings)
    assert set(densities) == {"", "1.0", "2.0", "3.0", "4.0", "5.0"}
    assert 0.015 < densities[""] / 1500 < 0.05
    assert 0.003 < densities["5.0"] / 1500 < 0.02
    assert 0.1 < np.mean([len(found) > 1 for found in findings]) < 0.2
    assert all(len({row["tissueden"] for row in found}) == 1 for found in findings)
    for exam in exams:
        assert (exam[FINDINGS][0]["tissueden"] == "5.0") == exam["identity"].woman.male
        # A float must hold every id exactly.
        assert int(float(exam["identity"].accession_number)) == int(exam["identity"].accession_number)


def test_one_place_of_the_screening_site_gives_no_densities_as_often_as_in_the_real_table():
    places = [exam_rows("rsna-like", number)["identity"].machine.place for number in range(2000)]
    assert np.mean([place == 2 for place in places]) == pytest.approx(25_236 / 54_706, abs=0.03)


def test_ids_are_unique_over_seeds_and_short_enough():
    for name in SITES:
        layout, site = LAYOUTS[SITES[name].layout], SITES[name]
        pairs = [(seed, number) for seed in (0, 1, 99, 10_001, HIGHEST_SEED) for number in (0, 1, MOST_EXAMS - 1)]
        ids = [layout.name_exam(site, seed, number) for seed, number in pairs]
        for found in zip(*ids, strict=True):
            assert set(found) == {""} or len(set(found)) == len(ids), name
            assert all(len(one) <= 16 for one in found)
            # A float must hold every whole number exactly.
            assert all(int(float(one)) == int(one) for one in found if one.isdigit())
