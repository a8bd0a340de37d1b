"""A folder of maps, made by the model and on the exams of the miniature road."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from densityclip import steps
from densityclip.artifacts import file_stem, read_json, read_table
from densityclip.errors import UserError
from densityclip.explain.agreement import gland_auc, rank_correlation
from densityclip.explain.followers import follower_maps
from densityclip.explain.geometry import to_original
from densityclip.explain.maps import map_images
from densityclip.explain.stored import read_maps
from densityclip.imaging.prepare import prepare_file
from densityclip.inference.predictor import Predictor
from densityclip.model.bundle import load_bundle
from densityclip.study.maps import choose

KEYS = ("gradcam", "attention")


@pytest.fixture(scope="module")
def predictor(road: Path) -> Predictor:
    return Predictor(load_bundle(road / "arms" / "multi" / "bundle"), device="cpu")


@pytest.fixture(scope="module")
def other(road: Path) -> Predictor:
    return Predictor(load_bundle(road / "arms" / "single" / "bundle"), device="cpu")


@pytest.fixture(scope="module")
def some(road: Path) -> pl.DataFrame:
    """All images of three patients: DM, s2D and DBT of two sides and views."""
    index = read_table(road / "cohorts" / "embed-like" / "index.parquet", "index")
    return index.filter(pl.col("patient_id").is_in(index["patient_id"].unique().sort().head(3).implode()))


@pytest.fixture(scope="module")
def truth(road: Path) -> Path:
    return road / "cohorts" / "embed-like" / "exams" / "truth"


@pytest.fixture(scope="module")
def atlas(predictor, other, some, truth, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("maps")
    written = steps.explain(
        {"": some},
        predictor,
        out,
        methods=KEYS,
        targets=("density-score", "D"),
        others=[other],
        shuffled=other,
        drawn=set(some["image_id"].head(2)),
        truth={"": truth},
    )
    return out, written[""]


def test_every_image_has_its_raw_maps_and_the_chosen_ones_a_picture_of_each_method_and_target(atlas, some):
    out, written = atlas
    assert written["images"] == len(some) == len(list(out.glob("*.npz")))
    for name in [*map(file_stem, some["image_id"].head(2)), "sheet"]:
        for suffix in ("", "-gradcam-D", "-attention-density-score", "-attention-D"):
            assert (out / f"{name}{suffix}.png").is_file()
    assert len(list(out.glob("*.png"))) == 3 * 4


def test_maps_of_a_batch_are_those_of_each_image_alone_and_a_volume_is_the_mean_of_its_slices(atlas, predictor, some):
    out, _ = atlas
    for row in some.filter(pl.col("modality").is_in(["DBT", "s2D"])).head(6).iter_rows(named=True):
        (alone,) = map_images(predictor, predictor.predict_files(some.filter(image_id=row["image_id"])), KEYS)
        stored = read_maps(out, row)
        for method in KEYS:
            slices = alone.slices[method, "density-score"]
            assert len(slices) == (3 if row["modality"] == "DBT" else 1)
            kept = stored.tokens[method, "density-score"]
            np.testing.assert_allclose(kept, slices.mean(axis=0), atol=1e-5 * max(1.0, np.abs(kept).max()))
        assert stored.slab == alone.shown.slab
        assert np.array_equal(stored.mask, alone.shown.mask)


def test_a_figure_about_the_tissue_is_that_of_the_stored_map_on_the_original_grid(atlas, predictor, some, truth):
    out, _ = atlas
    figures = pl.read_csv(out / "figures.csv")
    for row in some.filter(modality="DM").head(3).iter_rows(named=True):
        (prepared,) = prepare_file(Path(row["path"]), predictor.bundle.recipe)
        stored = read_maps(out, row)
        with np.load(truth / f"{file_stem(row['sop_uid'])}.npz") as content:
            gland = content["gland_mm"].astype(np.float32)
        maps = {method: stored.tokens[method, "density-score"] for method in KEYS}
        maps["brightness"] = follower_maps(prepared.pixels, prepared.mask, maps["gradcam"].shape)["brightness"]
        found = {}
        for name, tokens in maps.items():
            found[name] = gland_auc(to_original(tokens, prepared.geometry), gland, stored.outline)
            told = figures.filter(image_id=row["image_id"], map=name, figure="gland_auc")["value"].item()
            assert told == pytest.approx(found[name], abs=1e-9)
        beyond = figures.filter(image_id=row["image_id"], map="gradcam", figure="gland_auc_beyond_brightness")
        assert beyond["value"].item() == pytest.approx(found["gradcam"] - found["brightness"], abs=1e-9)


def test_what_shuffled_labels_leave_is_the_agreement_with_the_other_model(atlas, other, some):
    out, written = atlas
    row = some.filter(modality="DM").row(0, named=True)
    told = pl.read_csv(out / "figures.csv").filter(image_id=row["image_id"], map="attention", figure="shuffled_labels")
    (there,) = map_images(other, other.predict_files(some.filter(image_id=row["image_id"])), KEYS)
    mine, theirs = read_maps(out, row), there.tokens["attention", "density-score"]
    share = follower_maps(there.shown.pixels, there.shown.mask, theirs.shape)["breast"]
    plain = rank_correlation(mine.tokens["attention", "density-score"], theirs, share >= 0.5)
    assert told["value"].item() == pytest.approx(plain, abs=0.01)
    assert {row["kind"] for row in written["consistency"]} == {"modality", "side", "view", "member"}


def test_every_method_is_judged_on_every_claim_and_the_folder_says_what_it_is(atlas):
    out, written = atlas
    assert {row["map"] for row in written["verdicts"]} == set(KEYS)
    assert len(written["verdicts"]) == 2 * 7
    assert read_json(out / "explain.json", "densityclip explain") == written
    known = {(row["map"], row["figure"]) for row in written["figures"]}
    for method in KEYS:
        assert {(method, figure) for figure in ("gland_auc", "pointing", "deletion", "insertion", "noise")} <= known
    assert {
        ("brightness", "gland_auc"),
        ("breast", "pointing"),
        ("centre", "deletion"),
        ("flat", "energy_breast"),
    } <= known


def test_what_lies_between_the_mean_curves_is_the_mean_figure(atlas):
    _, written = atlas
    curves = {(row["map"], row["curve"]): np.array(row["mean"]) for row in written["curves"]}
    assert {name for name, _ in curves} == {*KEYS, "brightness", "centre", "random"}
    whole = [row for row in written["figures"] if row["modality"] == row["density"] == "all"]
    means = {(row["map"], row["figure"]): row["mean"] for row in whole}
    for name in (*KEYS, "brightness", "centre"):
        above = curves["random", "deletion"] - curves[name, "deletion"]
        assert np.trapezoid(above, dx=0.1) == pytest.approx(means[name, "deletion"], abs=1e-4)
        assert curves[name, "insertion"][-1] == pytest.approx(means[name, "score_range"], abs=1e-4)


def test_without_figures_there_are_maps_alone(predictor, some, tmp_path):
    written = steps.explain({"": some.head(2)}, predictor, tmp_path, methods=("attention",), measured=False)[""]
    assert written["figures"] == written["verdicts"] == written["consistency"] == written["curves"] == []
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_what_was_asked_for_wrongly_is_named():
    with pytest.raises(UserError, match="there is no method gradcm"):
        steps.chosen_maps(["gradcm"], [])
    with pytest.raises(UserError, match="there is no target E"):
        steps.chosen_maps([], ["A", "E"])
    assert steps.chosen_maps([], []) == (("gradcam", "attention"), ("density-score",))
    assert steps.chosen_maps(["occlusion", "occlusion"], ["all"])[1][-4:] == ("A", "B", "C", "D")


def test_patients_are_taken_from_each_category_in_turn_and_never_from_training():
    index = pl.DataFrame(
        [
            {"image_id": f"{p}-{view}", "patient_id": f"p{p:02}", "modality": "DM", "density": "AABBBBBBBBCD"[p]}
            for p in range(12)
            for view in ("CC", "MLO")
        ]
    )
    rows = index.select(
        "image_id",
        pl.lit("image").alias("level"),
        pl.lit("ok").alias("status"),
        pl.col("density").alias("label"),
        pl.when(pl.col("patient_id") == "p03").then(pl.lit("train")).otherwise(pl.lit("test")).alias("part"),
    )
    chosen = steps.choose_patients(index, rows, 5)
    assert chosen.group_by("patient_id").len()["len"].to_list() == [2] * 5
    assert sorted(chosen["density"].unique()) == ["A", "B", "C", "D"]
    assert "p03" not in chosen["patient_id"]
    assert steps.choose_patients(index.reverse(), rows, 5).equals(chosen)
    assert steps.choose_patients(index, rows, 0).is_empty()
    assert steps.choose_patients(index, rows, 99)["patient_id"].n_unique() == 11
    both = choose(index, rows, per_cell=1, patients=5)
    assert both.drawn <= set(both.mapped["image_id"])
    assert both.mapped["image_id"].is_unique().all()
    assert set(chosen["image_id"]) <= set(both.mapped["image_id"])
    assert len(both.drawn) == 4
