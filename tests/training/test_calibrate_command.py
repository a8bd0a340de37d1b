"""`densityclip calibrate`: a new bundle for a site, with an account of it, and the licence of the exams on it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_data import SIZE, write_cache, write_splits

from densityclip.artifacts import LOGITS, hash_file, read_json, read_table, write_json, write_table
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.inference.predictor import Predictor
from densityclip.model.biomedclip import SAFETENSORS, load_foundation
from densityclip.model.bundle import CALIBRATION, PROVENANCE, Bundle, load_bundle, save_bundle
from densityclip.model.classifier import class_embeddings
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.phantom.generate import generate
from densityclip.probability.calibrate import Calibration
from densityclip.steps import calibrate, to_hub
from densityclip.training.fit import at_size

PATIENTS = 60


def bundle_of(foundation_folder: Path, folder: Path, *, size: int, redistribute: bool | None = True) -> Bundle:
    """A bundle that was never trained; its provenance says of its data what is needed here."""
    foundation = at_size(load_foundation(foundation_folder), (size, size))
    data = {"images": 9, "generated": True, "images_generated": 9}
    save_bundle(
        folder,
        foundation,
        recipe=Recipe(height=size, width=size),
        prompts=DEFAULT_PROMPTS,
        embeddings=class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ["DM"]),
        calibration=Calibration(temperature=2.0, prior_shift=(1.0, 0.3, -0.3, -1.0)).to_dict(),
        provenance={
            "data": data if redistribute is None else data | {"redistribute": redistribute},
            "training": {"caches": [], "config": {"fold": 0}},
        },
    )
    return load_bundle(folder)


@pytest.fixture(scope="module")
def bundle(small_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(small_foundation, tmp_path_factory.mktemp("parent") / "bundle", size=SIZE)


def site_cache(folder: Path, licence: dict | None = None, patients: int = PATIENTS) -> Path:
    """A site's prepared exams, and what their licence says."""
    write_cache(folder, patients=patients)
    if licence is not None:
        write_json(folder / "licence.json", licence)
    return folder


@pytest.fixture(scope="module")
def fitted(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, list[str]]:
    folder, said = tmp_path_factory.mktemp("site"), list[str]()
    cache = site_cache(folder / "cache", {"dataset": "rsna", "redistribute": True})
    calibrate(bundle, cache, folder / "fitted", announce=said.append)
    return load_bundle(folder / "fitted"), cache, said


def test_only_calibration_and_provenance_differ_and_the_parent_is_named(bundle, fitted):
    new = fitted[0]
    differ = {name for name, value in new.provenance["hashes"].items() if bundle.provenance["hashes"][name] != value}
    assert differ == {CALIBRATION}
    assert new.provenance["hashes"][SAFETENSORS] == bundle.model_hash
    parent = new.provenance["site"]["parent"]
    assert parent["provenance_sha256"] == hash_file(bundle.folder / PROVENANCE)
    assert parent["calibration"] == bundle.calibration
    assert new.provenance["training"] == bundle.provenance["training"]
    assert new.calibration["fitted_on"] == {"part": "site", "images": 2 * PATIENTS, "patients": PATIENTS}


def test_what_predicts_with_the_new_bundle_uses_what_was_fitted(bundle, fitted):
    new, cache, _ = fitted
    before, after = (Predictor(one, device="cpu").predict_cache(Cache.open(cache)) for one in (bundle, new))
    assert before.select(LOGITS).equals(after.select(LOGITS))
    told = new.provenance["site"]["fitted"]
    assert set(told["biases"]) == set("ABCD")
    assert new.calibration["temperature"] == pytest.approx(2.0 * told["temperature"])
    expected = Calibration.from_dict(new.calibration).apply(after.select(LOGITS).to_numpy())
    np.testing.assert_allclose(after.select("prob_a", "prob_b", "prob_c", "prob_d").to_numpy(), expected, atol=1e-9)
    assert not np.allclose(expected, before.select("prob_a", "prob_b", "prob_c", "prob_d").to_numpy(), atol=1e-3)


def test_the_account_has_counts_and_figures_with_intervals_and_is_told(fitted):
    new, _, said = fitted
    told = new.provenance["site"]
    assert (told["patients"], told["exams"], told["images"]) == (PATIENTS, PATIENTS, 2 * PATIENTS)
    assert told["patients_by_category"] == dict.fromkeys("ABCD", PATIENTS // 4)
    for name in ("log_loss", "ece"):
        figure = told["figures"][name]
        assert figure["before"]["low"] <= figure["before"]["high"]
        assert figure["change"]["value"] == pytest.approx(figure["after"]["value"] - figure["before"]["value"])
    assert said[0].startswith(f"Fitted to {PATIENTS} patients ({PATIENTS} exams, {2 * PATIENTS} images;")
    assert any("on patients that it was not fitted on" in line for line in said)


@pytest.mark.parametrize(
    ("licence", "parent", "expected"),
    [
        ({"dataset": "embed", "redistribute": False}, True, False),
        ({"dataset": "embed", "redistribute": False}, None, False),
        ({"dataset": "dicom", "redistribute": None}, True, None),
        (None, True, None),
        ({"dataset": "rsna", "redistribute": True}, True, True),
        ({"dataset": "rsna", "redistribute": True}, False, False),
        ({"dataset": "rsna", "redistribute": True}, None, None),
    ],
)
def test_the_licence_of_the_exams_is_on_the_new_bundle(small_foundation, tmp_path, licence, parent, expected):
    bundle = bundle_of(small_foundation, tmp_path / "parent", size=SIZE, redistribute=parent)
    calibrate(bundle, site_cache(tmp_path / "cache", licence), tmp_path / "fitted")
    new = load_bundle(tmp_path / "fitted")
    assert new.provenance["data"].get("redistribute") is expected
    if licence is not None and licence["dataset"] == "embed":
        with pytest.raises(UserError, match="the licence of embed forbids it"):
            to_hub(new, tmp_path / "hub", redistribute=True)


def test_of_a_split_only_patients_that_taught_and_score_nothing_are_used(bundle, tmp_path):
    cache = site_cache(tmp_path / "cache")
    splits = write_splits(tmp_path / "splits.parquet", patients=PATIENTS, calibration=40)
    calibrate(bundle, cache, tmp_path / "fitted", splits=splits)
    told = load_bundle(tmp_path / "fitted").provenance["site"]
    assert told["patients"] == 40
    assert told["fitted"]["biases"] is None


def test_the_cache_of_the_training_wants_its_splits(small_foundation, tmp_path):
    bundle = bundle_of(small_foundation, tmp_path / "parent", size=SIZE)
    cache = site_cache(tmp_path / "cache")
    bundle.provenance["training"]["caches"].append(hash_file(cache / "rows.parquet"))
    with pytest.raises(UserError, match="the model was trained on patients of"):
        calibrate(bundle, cache, tmp_path / "fitted")
    assert not (tmp_path / "fitted").exists()


def test_dicom_files_take_their_labels_from_a_table(small_foundation, tmp_path, densityclip):
    bundle_of(small_foundation, tmp_path / "bundle", size=64)
    generate(tmp_path / "site", site="internal", exams=2, seed=3, size=128, slice_mm=10)
    command = ("calibrate", tmp_path / "bundle", tmp_path / "site" / "dicom", "--out", tmp_path / "fitted")
    refused = densityclip(*command, "--labels", tmp_path / "site" / "labels.csv")
    assert refused.returncode == 2
    assert "2 patients with labelled exams that the model answered cannot fit it to a site" in refused.stderr
    assert not (tmp_path / "fitted").exists()


def test_an_index_is_read_as_it_stands_and_has_its_own_labels(bundle, tmp_path):
    cache = site_cache(tmp_path / "cache")
    rows = Cache.open(cache).rows
    names = read_table(write_index(rows, tmp_path / "index"), "index")
    assert len(names) == 2 * PATIENTS
    with pytest.raises(UserError, match="has its own labels"):
        calibrate(bundle, tmp_path / "index", tmp_path / "fitted", labels=tmp_path / "labels.csv")
    # Its files are gone: nothing could be answered.
    with pytest.raises(UserError, match=r"^0 patients with labelled exams"):
        calibrate(bundle, tmp_path / "index" / "index.parquet", tmp_path / "fitted")


def write_index(rows: pl.DataFrame, folder: Path) -> Path:
    """An index of files that do not exist."""
    table = rows.drop("row", "slice_index").with_columns((pl.lit("gone-") + pl.col("image_id")).alias("path"))
    write_table(table, folder / "index.parquet", "index")
    return folder / "index.parquet"


def test_a_folder_with_something_in_it_is_left_alone(bundle, fitted, tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(UserError, match="exists and is not empty"):
        calibrate(bundle, fitted[1], tmp_path)
    assert read_json(bundle.folder / CALIBRATION, "") == bundle.calibration
