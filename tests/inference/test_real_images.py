"""Real mammograms as plain image files: every one is answered, and the answer says what it is worth."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from densityclip.artifacts import read_table
from densityclip.imaging.geometry import Geometry


@pytest.fixture(scope="module")
def answers(road: Path, real_images: Path, tmp_path_factory: pytest.TempPathFactory, densityclip) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("real") / "out"
    model = road / "arms" / "multi" / "bundle"
    done = densityclip("predict", real_images / "density_samples", "--model", model, "--out", out, "--overlay")
    assert done.returncode == 0, done.stderr[-1000:]
    return out, done.stdout


def test_sixteen_images_give_sixteen_rows_a_csv_and_sixteen_overlays(answers: tuple[Path, str]):
    out, _ = answers
    table = read_table(out / "predictions.parquet", "predictions")
    assert table["image_id"].to_list() == [f"{c}/sample_{c}{n}" for c in "ABCD" for n in range(1, 5)]
    assert table["status"].unique().to_list() == ["ok"]
    assert len(pl.read_csv(out / "predictions.csv")) == 16
    assert len(list((out / "overlays").glob("*.png"))) == 16


def test_it_says_that_the_model_knows_generated_exams_only(answers: tuple[Path, str]):
    assert "trained on generated exams only" in answers[1]
    assert "Research use only" in answers[1]


def test_what_an_image_file_does_not_state_stays_null(answers: tuple[Path, str]):
    table = read_table(answers[0] / "predictions.parquet", "predictions")
    assert set(table["modality"]) == {"unknown"}
    for name in ("exam_id", "patient_id", "view", "laterality", "label"):
        assert table[name].null_count() == 16


def test_a_map_lies_on_the_grid_of_its_own_image_with_the_heat_in_the_crop(
    answers: tuple[Path, str], real_images: Path
):
    for path in sorted((answers[0] / "overlays").glob("*.npz")):
        with np.load(path) as content:
            stated = [key for key in content if key.startswith("geometry_")]
            place = {key.removeprefix("geometry_"): content[key].item() for key in stated}
        category, name = path.stem.split("_", 1)
        image = real_images / "density_samples" / category / f"{name.rsplit('-', 1)[0]}.jpg"
        with Image.open(image) as opened:
            assert (place["columns"], place["rows"]) == opened.size
        geometry = Geometry(**place)
        # The chest wall was put left: where the original had it right, the crop touches the right border.
        left = geometry.columns - geometry.crop_left - geometry.crop_columns if geometry.flipped else geometry.crop_left
        border = geometry.columns - (left + geometry.crop_columns) if geometry.flipped else left
        assert border <= 0.02 * geometry.columns
