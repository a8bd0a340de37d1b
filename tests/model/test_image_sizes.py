"""Image sizes other than a model's own, by interpolated position embeddings."""

import json
from pathlib import Path

import pytest
import torch
from clip_samples import GREY_SCALE, OWN_TEXT, OWN_VIT, TIMM_VIT, open_plainly, prepared, write_model
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed

from densityclip.errors import UserError
from densityclip.model.biomedclip import load_foundation, load_image_tower, resized, save_foundation
from densityclip.model.towers import built_size, image_size

KINDS = {"timm": TIMM_VIT, "open_clip's own": OWN_VIT}
SIZES = [(224, 224), (288, 176), (96, 160)]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = {"embed_dim": 32, "vision_cfg": KINDS[request.param], "text_cfg": OWN_TEXT}
    return write_model(tmp_path_factory.mktemp("sizes") / "model", model)


def features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return getattr(model, "visual", model)(images)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_features_at_another_size_are_those_of_open_clips_own_interpolation(folder: Path, height: int, width: int):
    # open_clip interpolates timm's towers after loading, and its own while loading.
    theirs = open_plainly(folder, force_image_size=(height, width))
    ours = resized(load_foundation(folder), height, width)
    images = prepared(height, width)
    assert torch.equal(features(ours.clip, images), features(theirs, images))


def test_the_models_own_size_changes_nothing(folder: Path):
    before = features(load_foundation(folder).clip, prepared())
    foundation = load_foundation(folder)
    assert resized(foundation, 160, 160) is foundation
    assert torch.equal(features(foundation.clip, prepared()), before)
    assert torch.equal(features(open_plainly(folder), prepared()), before)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_resized_model_is_saved_and_loaded_with_its_size(folder: Path, tmp_path: Path, height: int, width: int):
    ours = resized(load_foundation(folder), height, width)
    save_foundation(ours, tmp_path / "saved")
    images = prepared(height, width)
    for again in (load_foundation(tmp_path / "saved").clip, load_image_tower(tmp_path / "saved")):
        assert image_size(again) == (height, width)
        assert torch.equal(features(again, images), features(ours.clip, images))
    written = json.loads((tmp_path / "saved" / "open_clip_config.json").read_text())
    assert written["model_cfg"]["vision_cfg"]["image_size"] == (height if height == width else [height, width])


def test_a_second_interpolation_starts_from_the_grid_as_it_is(folder: Path):
    weights = load_file(folder / "open_clip_model.safetensors")
    name = "visual.trunk.pos_embed" if "visual.trunk.pos_embed" in weights else "visual.positional_embedding"
    once = resized(load_foundation(folder), 288, 176)
    twice = resized(once, 96, 160)
    expected = weights[name].reshape(1, 101, -1)
    for grid, before in (((18, 11), (10, 10)), ((6, 10), (18, 11))):
        expected = resample_abs_pos_embed(expected, grid, before, num_prefix_tokens=1)
    assert torch.equal(twice.clip.state_dict()[name].reshape(1, 61, -1), expected)


def test_a_side_that_patches_do_not_fill_is_refused_with_one_that_they_do(folder: Path):
    foundation = load_foundation(folder)
    with pytest.raises(
        UserError, match=r"multiples of its patch of 16 px, not 230 x 160\. Choose a size such as 224 x"
    ):
        resized(foundation, 230, 160)
    with pytest.raises(UserError, match="multiples"):
        resized(foundation, 0, 160)
    assert image_size(foundation.clip) == (160, 160)


def test_what_plain_open_clip_builds_is_told_apart_from_what_the_config_says(folder: Path):
    config = resized(load_foundation(folder), 288, 176).config
    timm = "timm_model_name" in config["model_cfg"]["vision_cfg"]
    assert built_size(config) == ((160, 160) if timm else (288, 176))


def test_the_size_of_a_publishers_preprocessing_follows(tmp_path: Path):
    model = {"embed_dim": 32, "vision_cfg": OWN_VIT, "text_cfg": OWN_TEXT}
    folder = write_model(tmp_path / "model", model, preprocess=GREY_SCALE | {"size": [160, 160]})
    assert resized(load_foundation(folder), 96, 160).config["preprocess_cfg"]["size"] == [96, 160]


def test_towers_without_position_embeddings_and_with_fixed_ones_say_so(tmp_path: Path):
    without = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
    folder = write_model(tmp_path / "a", {"embed_dim": 32, "vision_cfg": without, "text_cfg": OWN_TEXT})
    with pytest.raises(UserError, match="no position embeddings"):
        resized(load_foundation(folder), 96, 160)
    sines = OWN_VIT | {"pos_embed_type": "sin_cos_2d"}
    folder = write_model(tmp_path / "b", {"embed_dim": 32, "vision_cfg": sines, "text_cfg": OWN_TEXT})
    with pytest.raises(UserError, match="squares"):
        resized(load_foundation(folder), 96, 160)


def test_tables_that_no_file_holds_are_right_in_a_tower_loaded_alone(tmp_path: Path):
    # Rotary position embeddings are computed when the tower is built, for the grid that it has then.
    vision = {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    folder = write_model(tmp_path / "rotary", {"embed_dim": 32, "vision_cfg": vision, "text_cfg": OWN_TEXT})
    images = prepared(224, 224, 1)
    assert torch.equal(features(load_image_tower(folder), images), features(open_plainly(folder), images))
    ours, images = resized(load_foundation(folder), 280, 168), prepared(280, 168, 1)
    assert torch.equal(features(ours.clip, images), features(open_plainly(folder, force_image_size=(280, 168)), images))
    save_foundation(ours, tmp_path / "saved")
    assert torch.equal(features(load_image_tower(tmp_path / "saved"), images), features(ours.clip, images))
