"""Training, evaluation and serving see the same pixels, and say the same of them."""

import re
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from densityclip.artifacts import LOGITS, PROBABILITIES, read_json, read_table
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.inference import predictor as predictor_module
from densityclip.inference.predictor import Predictor, all_levels, image_table, refused_row
from densityclip.inference.sources import gather
from densityclip.model.bundle import load_bundle
from densityclip.probability.aggregate import log_probabilities, members_to_level
from densityclip.probability.calibrate import Calibration
from densityclip.probability.exam_rule import fit_joining
from densityclip.probability.joining import read_joinings
from densityclip.reasons import Reason
from densityclip.steps import read_splits
from densityclip.training.batches import ImageStore
from densityclip.training.fit import predicted_rows
from densityclip.training.scoring import mean_probabilities, scorer_of


@pytest.fixture(scope="module")
def predictor(road: Path) -> Predictor:
    return Predictor(load_bundle(road / "arms" / "multi"), device="cpu")


@pytest.fixture(scope="module")
def cache(road: Path) -> Cache:
    return Cache.open(road / "cohorts" / "embed-like" / "cache")


@pytest.fixture(scope="module")
def some(road: Path) -> pl.DataFrame:
    """Two patients of the external site: DM, s2D and DBT of four views."""
    index = read_table(road / "cohorts" / "embed-like" / "index.parquet", "index")
    return index.filter(pl.col("patient_id").is_in(index["patient_id"].unique().sort().head(2).implode()))


def test_what_the_predictor_prepares_is_what_lies_in_the_cache_bit_for_bit(predictor, cache, some):
    compared = 0
    for image in predictor.predict_files(some):
        rows = cache.rows.filter(pl.col("image_id") == image.row["image_id"]).sort("row")
        assert [one.slice_index for one in image.prepared] == rows["slice_index"].to_list()
        for one, row in zip(image.prepared, rows["row"], strict=True):
            assert np.array_equal(one.pixels, cache.images[row])
            compared += 1
    assert compared == 2 * 4 * (1 + 1 + 3)


def test_files_and_cache_give_the_same_predictions(predictor, cache, some):
    of_files = image_table(predictor.predict_files(some), predictor.calibration).sort("image_id")
    of_cache = predictor.predict_cache(cache).join(some.select("image_id"), on="image_id", how="semi").sort("image_id")
    same = [name for name in of_files.columns if name not in (*LOGITS, *PROBABILITIES, "prob_dense")]
    assert of_files.select(same).equals(of_cache.select(same), null_equal=True)
    for names in (LOGITS, PROBABILITIES):
        np.testing.assert_allclose(of_files.select(names).to_numpy(), of_cache.select(names).to_numpy(), atol=1e-5)


def test_the_order_and_the_company_of_files_do_not_change_an_answer(predictor, some):
    forward = image_table(predictor.predict_files(some), predictor.calibration)
    backward = image_table(predictor.predict_files(some.reverse().head(7)), predictor.calibration)
    assert backward["image_id"].to_list() == some.reverse().head(7)["image_id"].to_list()
    joined = forward.join(backward, on="image_id", suffix="_again")
    assert len(joined) == 7
    assert (joined["prob_c"] - joined["prob_c_again"]).abs().max() < 1e-5


def test_a_bad_file_among_good_ones_is_a_refused_row_and_the_rest_is_answered(predictor, some, tmp_path: Path):
    broken = tmp_path / "broken.dcm"
    whole = Path(some["path"][0]).read_bytes()
    broken.write_bytes(whole[: 4 * len(whole) // 5])
    mixed = pl.concat(
        [some.head(3), some.head(1).with_columns(pl.lit(str(broken)).alias("path"), pl.lit("x").alias("image_id"))]
    )
    table = image_table(predictor.predict_files(mixed), predictor.calibration)
    assert table["status"].to_list() == ["ok", "ok", "ok", "refused"]
    assert table.filter(pl.col("status") == "refused")["reason"].to_list() == ["truncated"]
    assert re.fullmatch(r"the file ends .*|\d+ bytes of \d+", table["detail"][3])
    assert table["detail"][:3].null_count() == 3
    levels = all_levels(table, predictor.calibration.joining)
    assert set(levels["level"]) == {"image", "breast", "exam"}
    assert (levels.filter(pl.col("level") == "exam")["status"] == "ok").all()


def test_a_detail_that_repeats_its_reason_is_none():
    said = [Reason.BAD_HEADER.sentence, "", None, "BitsStored is 20 of 16 allocated"]
    found = [refused_row({"image_id": "x"}, "bad_header", detail)["detail"] for detail in said]
    assert found == [None, None, None, "BitsStored is 20 of 16 allocated"]


def test_a_cache_of_another_recipe_is_refused_naming_both(predictor, cache):
    other = Cache(cache.path, cache.images, cache.rows, Recipe(height=160, width=160, dbt_slices="central"))
    with pytest.raises(UserError, match=f"{other.recipe.recipe_hash}, the model was trained with"):
        predictor.predict_cache(other)


def test_probabilities_are_the_calibrated_softmax_of_the_logits(predictor, some):
    table = image_table(predictor.predict_files(some), predictor.calibration)
    shift = np.array(predictor.calibration.prior_shift)
    odds = np.exp(table.select(LOGITS).to_numpy() / predictor.calibration.temperature + shift)
    np.testing.assert_allclose(table.select(PROBABILITIES).to_numpy(), odds / odds.sum(1, keepdims=True), atol=1e-9)
    assert Calibration.from_dict(predictor.bundle.calibration) == predictor.calibration


def test_the_study_joins_every_member_as_its_bundle_says_and_its_manifest_tells(road: Path):
    joinings = read_joinings(read_json(road / "predictions.manifest.json", ""))
    assert {arm for arm, _, _ in joinings} == {path.parent.name for path in (road / "arms").glob("*/bundle")}
    for (arm, _, _), joining in joinings.items():
        assert Calibration.from_dict(load_bundle(road / "arms" / arm / "bundle").calibration).joining == joining
    table = read_table(road / "predictions.parquet", "predictions")
    keys = ["arm", "cohort", "part", "patient_id", "exam_id"]
    again = members_to_level(table.filter(pl.col("level") == "image"), "exam", joinings).sort(keys)
    exams = table.filter(pl.col("level") == "exam").sort(keys)
    assert again.equals(exams, null_equal=True)


def test_training_joins_the_rows_that_prediction_will_give(road: Path, predictor):
    # The train part stands for the others, which are too small in the miniature for anything to be fitted on them.
    cache, splits = Cache.open(road / "cohorts" / "internal" / "cache"), read_splits(road / "splits.parquet")
    names = predictor.bundle.provenance["modalities"]
    store = ImageStore([cache], splits, part="train", fold=0, modalities=names)
    logits = log_probabilities(mean_probabilities(scorer_of(predictor.classifier), store, names))
    of_training = predicted_rows(store, logits, predictor.calibration).sort("image_id")
    study = read_table(road / "predictions.parquet", "predictions").filter(
        (pl.col("arm") == "multi") & (pl.col("level") == "image") & (pl.col("part") == "train")
    )
    of_prediction = study.filter(pl.col("label").is_not_null()).sort("image_id")
    same = ["image_id", "exam_id", "patient_id", "laterality", "view", "modality", "label", "status"]
    assert of_training.select(same).equals(of_prediction.select(same))
    for columns in (LOGITS, PROBABILITIES):
        one, other = (rows.select(columns).to_numpy() for rows in (of_training, of_prediction))
        np.testing.assert_allclose(one, other, atol=1e-5)
    one, other = (fit_joining(rows, rows) for rows in (of_training, of_prediction))
    assert (one.rule, one.denser_weight, one.fitted_on) == (other.rule, other.denser_weight, other.fitted_on)
    assert one.fitted_on > 10
    assert dict(one.temperatures) == pytest.approx(dict(other.temperatures), rel=1e-3)


def test_gathering_a_folder_of_everything_counts_every_file_once(some, tmp_path: Path):
    from PIL import Image

    (tmp_path / "a.dcm").write_bytes(Path(some["path"][0]).read_bytes())
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "page.dcm").write_text("<html>not found</html>")
    (tmp_path / "notes.txt").write_text("a side-car")
    Image.fromarray(np.zeros((50, 40), np.uint8)).save(tmp_path / "picture.png")
    Image.fromarray(np.zeros((50, 40), np.uint8)).save(tmp_path / "picture.jpg")
    found, excluded = gather(tmp_path)
    assert sorted(found["image_id"].to_list(), key=len)[:2] == ["picture.jpg", "picture.png"]
    assert len(found) == 3
    assert sorted(excluded["reason"].to_list()) == ["empty_file", "unreadable"]
    pictures = found.filter(pl.col("path").str.ends_with("g"))
    assert pictures["exam_id"].null_count() == 2
    assert pictures["modality"].to_list() == ["unknown"] * 2


def test_a_cache_gives_a_row_per_image_its_exams_and_the_parts_of_its_patients(road: Path, tmp_path: Path, densityclip):
    cache, out = road / "cohorts" / "internal" / "cache", tmp_path / "out"
    model = ["--model", road / "arms" / "multi" / "bundle"]
    done = densityclip("predict", cache, *model, "--splits", road / "splits.parquet", "--out", out)
    assert done.returncode == 0, done.stderr
    table = read_table(out / "predictions.parquet", "predictions")
    study = read_table(road / "predictions.parquet", "predictions")
    study = study.filter((pl.col("arm") == "multi") & (pl.col("cohort") == "internal"))
    keys = ["level", "patient_id", "exam_id", "laterality", "image_id"]
    joined = table.join(study, on=keys, how="full", nulls_equal=True, suffix="_study")
    assert len(joined) == len(table) == len(study)
    assert joined["part"].equals(joined["part_study"])
    assert (joined["prob_c"] - joined["prob_c_study"]).abs().max() < 1e-9
    # The same probabilities in every file, joined as the bundle says and the manifest tells.
    joinings = read_joinings(read_json(out / "predictions.manifest.json", ""))
    joining = Calibration.from_dict(load_bundle(road / "arms" / "multi" / "bundle").calibration).joining
    assert joinings
    assert all(one == joining for one in joinings.values())
    exams = table.filter(pl.col("level") == "exam")
    for exam in exams.filter(pl.col("status") == "ok").iter_rows(named=True):
        told = read_json(out / "exams" / f"{exam['exam_id']}.json", "")
        assert list(told["exam"]["probabilities"].values()) == [exam[name] for name in PROBABILITIES]
        assert told["joining"] == joining.to_dict()
    # What was trained on is not scored.
    scored = densityclip("evaluate", out, "--out", tmp_path / "evaluation", "--resamples", "100")
    assert scored.returncode == 0, scored.stderr
    cells = read_json(tmp_path / "evaluation" / "metrics.json", "")["cells"]
    assert {cell["part"] for cell in cells} == {"test"}


def test_files_are_decoded_while_those_before_them_go_through_the_tower(predictor, some, monkeypatch):
    prepared = predictor_module.prepare_file
    chosen = some.head(12)
    begun = [threading.Event() for _ in range(len(chosen))]
    places = {path: place for place, path in enumerate(chosen["path"])}

    def prepare(path: Path, recipe: Recipe):
        begun[places[str(path)]].set()
        return prepared(path, recipe)

    answers, scored = predictor.answers, []

    def answer(pixels, modalities):
        # The first file behind this batch is being decoded before the batch is answered.
        scored.extend(modalities)
        behind = next((event for event in begun if not event.is_set()), begun[-1])
        assert behind.wait(timeout=60)
        return answers(pixels, modalities)

    monkeypatch.setattr(predictor_module, "prepare_file", prepare)
    monkeypatch.setattr(predictor, "answers", answer)
    images = list(predictor.predict_files(chosen))
    assert len(images) == 12
    assert len(scored) == sum(len(image.prepared) for image in images)


def test_an_answer_is_the_same_to_the_bit_whatever_is_predicted_beside_its_exam(predictor, some):
    exams = some.sort("exam_id", "path").partition_by("exam_id", maintain_order=True)
    assert len(exams) == 2
    together = list(predictor.predict_files(pl.concat(exams)))
    alone = [image for exam in exams for image in predictor.predict_files(exam)]
    for one, other in zip(together, alone, strict=True):
        assert one.row == other.row
        assert np.array_equal(one.logits, other.logits)
