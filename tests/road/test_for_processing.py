"""An archive that holds every view twice, For Processing and For Presentation, from index to predictions."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from densityclip import steps
from densityclip.artifacts import read_json, read_table
from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import load_foundation
from densityclip.model.bundle import Bundle, load_bundle, save_bundle
from densityclip.model.classifier import class_embeddings
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.probability.calibrate import Calibration
from raw_exams import attenuation, write_raw, write_screen

SCREEN = Recipe(height=160, width=160)
RAW = SCREEN.with_overrides(["intent=for-processing"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients, four views each, every view both ways; and a view of a third that is For Processing only."""
    folder = tmp_path_factory.mktemp("archive")
    for patient in ("P1", "P2"):
        for number, (side, view) in enumerate((side, view) for side in "LR" for view in ("CC", "MLO")):
            known = {"patient": patient, "side": side, "view": view}
            write_raw(folder / patient / f"raw{side}{view}", attenuation(number), **known)
            write_screen(folder / patient / f"screen{side}{view}", attenuation(number), **known)
    write_raw(folder / "P3" / "raw", attenuation(9), patient="P3")
    return folder


@pytest.mark.parametrize(
    ("asked", "indexed", "excluded"), [(False, 8, {"for_processing": 9}), (True, 9, {"for_presentation": 8})]
)
def test_a_view_that_was_sent_both_ways_counts_once(archive, tmp_path, asked, indexed, excluded) -> None:
    kept, left_out = steps.index(archive, tmp_path, dataset="dicom", for_processing=asked)
    index = read_table(tmp_path / "index.parquet", "index")
    assert (kept, left_out) == (indexed, sum(excluded.values()))
    assert set(index["modality"]) == {"DM"}
    assert not index.select("exam_id", "laterality", "view").is_duplicated().any()
    reasons = read_table(tmp_path / "excluded.parquet", "excluded")["reason"]
    assert dict(reasons.value_counts().iter_rows()) == excluded


def test_an_index_of_raw_images_says_so_and_what_must_not_be_made_of_it(archive, tmp_path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("patient_id,density\nP1,A\nP2,B\n")
    steps.index(archive, tmp_path / "raw", dataset="dicom", table=labels, for_processing=True)
    assert read_json(tmp_path / "raw" / "index.manifest.json", "")["config"]["for_processing"] is True
    content = read_json(tmp_path / "raw" / "audit.json", "")
    limits = {limit["rule"]: limit["sentence"] for limit in content["limits"]}
    assert content["for_processing"] is True
    assert "never for images For Presentation nor mixed with them" in limits["raw_images_only"]
    assert "no_raw_images" not in limits
    assert limits["raw_images_only"] in (tmp_path / "raw" / "audit.html").read_text()


def test_the_two_kinds_meet_in_no_index_and_no_cache(archive, tmp_path) -> None:
    for name, asked in (("raw", True), ("screen", False)):
        steps.index(archive, tmp_path / name, dataset="dicom", for_processing=asked)
        with pytest.raises(UserError, match="holds an index of images for-"):
            steps.index(archive, tmp_path / name, dataset="dicom", for_processing=not asked)
    for name, recipe, other in (("raw", RAW, SCREEN), ("screen", SCREEN, RAW)):
        with pytest.raises(UserError, match=r"Prepare with --set recipe\.intent=for-"):
            steps.prepare(tmp_path / name / "index.parquet", tmp_path / "cache", other)
        done = steps.prepare(tmp_path / name / "index.parquet", tmp_path / f"{name}-cache", recipe)
        assert done.refused == 0
    pixels = [np.load(tmp_path / f"{name}-cache" / "images.npy") for name in ("raw", "screen")]
    assert np.abs(pixels[0][:8].astype(int) - pixels[1]).max() <= 2


def test_a_dataset_of_images_for_the_screen_has_no_use_for_the_request(tmp_path) -> None:
    with pytest.raises(UserError, match="--dataset rsna has no use for --for-processing"):
        steps.index(tmp_path, tmp_path / "out", dataset="rsna", for_processing=True)


@pytest.mark.parametrize(
    ("recipe", "answered", "reason"), [(SCREEN, "screen", "for_processing"), (RAW, "raw", "for_presentation")]
)
def test_a_model_answers_for_the_kind_that_its_recipe_names_and_refuses_the_other(
    archive, tmp_path, small_foundation, recipe, answered, reason
) -> None:
    bundle = untrained(tmp_path / "bundle", small_foundation, recipe)
    table = steps.predict(archive, bundle, tmp_path / "out")
    images = table.filter(pl.col("level") == "image")
    assert len(images) == 17
    # An answer is of one image of the view, so an exam is an average of four, not of eight.
    ok, refused = (images.filter(pl.col("status") == status) for status in ("ok", "refused"))
    assert set(refused["reason"]) == {reason}
    assert len(ok) == (8 if answered == "screen" else 9)
    assert not ok.select("exam_id", "laterality", "view").is_duplicated().any()


def untrained(folder: Path, foundation: Path, recipe: Recipe) -> Bundle:
    """The bundle of a model that learnt nothing, for a recipe."""
    loaded = load_foundation(foundation)
    save_bundle(
        folder,
        loaded,
        recipe=recipe,
        prompts=DEFAULT_PROMPTS,
        embeddings=class_embeddings(loaded.clip, loaded.tokenizer, DEFAULT_PROMPTS, ["DM"]),
        calibration=Calibration().to_dict(),
        provenance={"data": {}, "training": {}},
    )
    return load_bundle(folder)
