"""Each public dataset's layout, with generated images in it, through index, split and prepare by the real commands."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from typer.testing import CliRunner

from dataset_layouts import LAYOUTS, edit, restamp
from densityclip.artifacts import read_json, read_table
from densityclip.cli import app
from densityclip.datasets.licence import restricted_by
from densityclip.errors import UserError
from densityclip.phantom.generate import generate
from densityclip.study import StudyRun
from densityclip.study_file import parse_study

SIZE = 160
# Images indexed, images left out, patients: by hand from the layouts.
COUNTS = {
    "rsna": (24, 6, 6),
    "vindr": (24, 0, 6),
    "embed": (48, 13, 5),
    "cbis-ddsm": (25, 1, 7),
    "inbreast": (28, 0, 6),
}
STUDY = """
name: any
title: Any
cohorts: {}
foundation: {small_seed: 1}
arms: {one: {modalities: [DM]}, two: {modalities: [DM, s2D]}}
primary: {cohort: hanoi, contrast: [two, one]}
explain: {arms: [two]}
"""
SAID = {
    "rsna": "A patient is one exam",
    "vindr": "no patient id",
    "embed": "findings of",
    "cbis-ddsm": "digitised film",
    "inbreast": "pseudonyms",
}


@pytest.fixture(scope="session")
def write(tmp_path_factory) -> Callable[..., None]:
    """Writes generated mammograms, drawn once: the pixels are shared, the headers are the layout's."""
    folder = tmp_path_factory.mktemp("pixels")
    generate(folder, site="internal", exams=1, seed=5, size=SIZE)
    templates = {}
    for path in sorted((folder / "dicom").rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        view = dataset.ViewCodeSequence[0].CodeMeaning
        side = dataset.get("ImageLaterality")
        kind = "s2D" if "GENERATED_2D" in dataset.ImageType else "DM"
        if "NumberOfFrames" not in dataset or int(dataset.NumberOfFrames) == 1:
            templates[side, "MLO" if "oblique" in view.lower() else "CC", kind] = path

    def write_one(path: Path, side: str, view: str, kind: str, look: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = pydicom.dcmread(templates[side, view, kind])
        restamp(dataset, look, path.name if look != "film" else str(path)).save_as(path)

    return write_one


def run(*arguments: str | Path) -> tuple[int, str]:
    """A command of the command line, in this process: exit code and what it prints."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


@pytest.fixture(scope="module", params=list(LAYOUTS))
def archive(request, write, tmp_path_factory) -> tuple[str, Path]:
    return request.param, LAYOUTS[request.param](tmp_path_factory.mktemp(request.param), write)


def test_each_datasets_layout_goes_from_archive_to_cache(archive, tmp_path) -> None:
    name, source = archive
    indexed, left_out, patients = COUNTS[name]
    code, said = run("index", source, "--dataset", name, "--out", tmp_path / "index")
    assert code == (1 if left_out else 0)
    assert f"{indexed} images indexed, {left_out} excluded" in said
    index = read_table(tmp_path / "index/index.parquet", "index")
    assert index["patient_id"].n_unique() == patients
    assert index["density"].drop_nulls().n_unique() >= 3

    assert run("split", tmp_path / "index", "--out", tmp_path / "splits.parquet")[0] == 0
    splits = read_table(tmp_path / "splits.parquet", "splits")
    assert set(splits["patient_id"]) == set(index["patient_id"])

    assert run("prepare", tmp_path / "index", "--out", tmp_path / "cache", "--size", "64")[0] == 0
    cached = np.load(tmp_path / "cache/images.npy", mmap_mode="r")
    assert len(cached) == indexed
    assert restricted_by([tmp_path / "cache"]) == (["embed"] if name == "embed" else [])
    # Every image shows tissue over air; none came out inverted or blank.
    assert (np.median(cached[:, :, -8:], axis=(1, 2)) < 32).all()
    assert (cached.reshape(len(cached), -1).max(axis=1) > 128).all()


def test_the_audit_tells_what_a_person_must_know_of_the_dataset(archive, tmp_path) -> None:
    name, source = archive
    assert run("index", source, "--dataset", name, "--no-files", "--out", tmp_path)[0] in (0, 1)
    config = read_json(tmp_path / "index.manifest.json", "densityclip index")
    assert config["config"]["dataset"] == name
    assert config["config"]["redistribute"] == (name != "embed")
    told = json.dumps(read_json(tmp_path / "audit.json", "densityclip index"))
    assert SAID[name] in told
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert SAID[name] in page


def test_a_study_indexes_any_dataset_and_sees_when_its_tables_change(write, tmp_path) -> None:
    for name in ("embed", "vindr"):
        LAYOUTS[name](tmp_path / name, write)
    (tmp_path / "embed/tables").rename(tmp_path / "tables")
    table = tmp_path / "tables/EMBED_OpenData_metadata.csv"
    content = yaml.safe_load(STUDY)
    content["cohorts"] = {
        "emory": {"role": "internal", "dataset": "embed", "source": str(tmp_path / "embed"), "table": str(table)},
        "hanoi": {"role": "external", "dataset": "vindr", "source": str(tmp_path / "vindr"), "institution": "Hanoi"},
    }
    steps: list[str] = []

    @contextlib.contextmanager
    def progress(name: str):
        steps.append(name)
        yield lambda done, total: None

    study = StudyRun(parse_study(content, "study"), tmp_path / "run", workers=1, progress=progress)
    indexes = {name: read_table(study._cohort(name), "index") for name in ("emory", "hanoi")}
    assert {name: index.height for name, index in indexes.items()} == {"emory": 48, "hanoi": 24}
    assert set(indexes["hanoi"]["institution"]) == {"Hanoi"}
    assert set(indexes["hanoi"]["site"]) == {"VinDr-Mammo"}
    study._cohort("emory")
    assert steps == ["index emory", "index hanoi"]
    edit(tmp_path / "tables/EMBED_OpenData_clinical.csv", ",1.0,", ",2.0,")
    study._cohort("emory")
    assert steps == ["index emory", "index hanoi", "index emory"]


@pytest.mark.parametrize("more", [{"size": 100}, {"size": 64}, {"size": 2048}, {"slice_mm": 11}, {"seed": 800_000}])
def test_a_study_file_that_asks_for_exams_that_cannot_be_made_is_refused_before_it_runs(more) -> None:
    content = yaml.safe_load(STUDY)
    asked = {"site": "internal", "exams": 4, "seed": 1, "size": 96, "slice_mm": 10}
    content["cohorts"] = {"hanoi": {"role": "internal", "generate": asked}}
    assert parse_study(content, "study").cohorts["hanoi"].generate is not None
    content["cohorts"] = {"hanoi": {"role": "internal", "generate": asked | more}}
    with pytest.raises(UserError, match=next(iter(more)) if "slice_mm" not in more else "slice distance"):
        parse_study(content, "study")


@pytest.mark.parametrize("more", [{"dataset": "embed"}, {"table": "labels.csv"}, {"columns": {"density": "grade"}}])
def test_generated_exams_bring_their_own_layout(more) -> None:
    content = yaml.safe_load(STUDY)
    generated = {"role": "internal", "generate": {"site": "embed-like", "exams": 4, "seed": 1}}
    content["cohorts"] = {"hanoi": generated}
    assert parse_study(content, "study").cohorts["hanoi"].redistribute
    content["cohorts"] = {"hanoi": generated | more | {"redistribute": False}}
    with pytest.raises(UserError, match="own layout"):
        parse_study(content, "study")
