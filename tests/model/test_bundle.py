import json
import re
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from clip_samples import OWN_TEXT, OWN_VIT, open_plainly, prepared, write_model

from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import load_foundation, resized
from densityclip.model.bundle import Bundle, load_bundle, save_bundle
from densityclip.model.classifier import class_embeddings
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.probability.calibrate import Calibration

# The road's own bundle: what a training really leaves.


@pytest.fixture(scope="module")
def bundle(road: Path) -> Path:
    return road / "arms" / "multi" / "bundle"


def test_the_bundle_holds_no_pickle_and_all_that_the_contract_names(bundle: Path):
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "text/config.json",
        "recipe.json",
        "prompts.json",
        "class_embeddings.safetensors",
        "calibration.json",
        "provenance.json",
    } <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]


def test_the_bundle_opens_with_plain_open_clip_and_gives_the_same_features(bundle: Path):
    config = json.loads((bundle / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    theirs, _ = open_clip.create_model_from_pretrained(
        f"local-dir:{bundle}", text_cfg=config | {"hf_model_name": str(bundle / "text")}
    )
    classifier = load_bundle(bundle).classifier()
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    tokens = open_clip.get_tokenizer(f"local-dir:{bundle}")(["breasts that are extremely dense"])
    with torch.no_grad():
        assert torch.equal(classifier.visual(images), theirs.encode_image(images))
        assert torch.equal(load_foundation(bundle).clip.encode_text(tokens), theirs.eval().encode_text(tokens))


def test_training_moved_the_weights(bundle: Path, road: Path):
    before, after = load_foundation(road / "foundation").clip, load_foundation(bundle).clip
    for tower in ("visual", "text"):
        first, second = getattr(before, tower).state_dict(), getattr(after, tower).state_dict()
        assert any(not torch.equal(first[name], second[name]) for name in first), tower


def test_the_provenance_says_what_the_model_knows(bundle: Path):
    loaded = load_bundle(bundle)
    data = loaded.provenance["data"]
    assert loaded.generated_only
    assert loaded.provenance["modalities"] == ["DM", "s2D", "DBT"]
    assert sum(data["images_by_category"].values()) == data["images"] == sum(data["images_by_modality"].values())
    # Frequencies cancel in the contrastive softmax: the logits carry the inverse-frequency weights as their prior.
    counts = {name: count for name, count in data["images_by_category"].items() if count}
    products = [data["training_prior"][name] * count for name, count in counts.items()]
    assert products == pytest.approx([products[0]] * len(products), rel=1e-3)
    assert sum(data["training_prior"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("data", "share", "said"),
    [
        (
            {"generated": True, "images_generated": 4999, "images": 5000},
            0.9998,
            "^Of 5,000 .* 4,999 were generated",
        ),
        ({"generated": True, "images_generated": 5000, "images": 5000}, 1.0, "generated exams only"),
        ({"generated": True, "images": 5000}, 1.0, "generated exams only"),
        ({"generated": False, "images_generated": 0, "images": 5000}, 0.0, "^$"),
        ({}, 0.0, "^$"),
    ],
)
def test_one_real_image_among_generated_ones_does_not_silence_the_bundle(data, share, said):
    bundle = Bundle(Path("nowhere"), Recipe(height=32, width=32), DEFAULT_PROMPTS, {}, {"data": data})
    assert bundle.generated_share == share
    assert re.search(said, bundle.generated_note)
    assert bundle.generated_only == (share == 1)


@pytest.mark.parametrize("name", ["recipe.json", "class_embeddings.safetensors", "open_clip_model.safetensors"])
def test_a_file_that_was_changed_or_lost_is_named(bundle: Path, tmp_path: Path, name: str):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} was changed"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        load_bundle(copy)


def test_a_model_folder_leads_to_its_bundle_and_another_folder_to_a_message(bundle: Path, tmp_path: Path):
    assert load_bundle(bundle.parent).folder == bundle
    with pytest.raises(UserError, match="is not a bundle"):
        load_bundle(tmp_path)


def untrained(folder: Path, foundation: Path, height: int, width: int) -> Bundle:
    """The bundle of a model that learned nothing, at a size."""
    model = resized(load_foundation(foundation), height, width)
    save_bundle(
        folder,
        model,
        recipe=Recipe(height=height, width=width),
        prompts=DEFAULT_PROMPTS,
        embeddings=class_embeddings(model.clip, model.tokenizer, DEFAULT_PROMPTS, []),
        calibration=Calibration().to_dict(),
        provenance={"data": {}},
    )
    return load_bundle(folder)


def test_a_bundle_that_says_that_plain_open_clip_opens_it_gives_the_same_features_there(
    small_foundation: Path, tmp_path: Path
):
    bundle = untrained(tmp_path / "bundle", small_foundation, 160, 160)
    assert bundle.provenance["opens_with"]["open_clip"] is True
    assert "text_cfg" in bundle.provenance["opens_with"]["why"]
    with torch.no_grad():
        ours = bundle.classifier().visual(prepared())
        assert torch.equal(open_plainly(bundle.folder).encode_image(prepared()), ours)


def test_a_bundle_of_another_size_says_that_plain_open_clip_does_not_open_it(small_foundation: Path, tmp_path: Path):
    bundle = untrained(tmp_path / "bundle", small_foundation, 192, 112)
    said = bundle.provenance["opens_with"]
    assert said["open_clip"] is False
    assert "160 x 160" in said["why"]
    assert "192 x 112" in said["why"]
    with pytest.raises(RuntimeError, match="size mismatch"):
        open_plainly(bundle.folder)
    with torch.no_grad():
        expected = open_plainly(small_foundation, force_image_size=(192, 112)).encode_image(prepared(192, 112))
        assert torch.equal(bundle.classifier().visual(prepared(192, 112)), expected)


def test_a_tower_that_open_clip_builds_at_any_size_opens_there_at_any(tmp_path: Path):
    model = {"embed_dim": 32, "vision_cfg": OWN_VIT, "text_cfg": OWN_TEXT}
    bundle = untrained(tmp_path / "bundle", write_model(tmp_path / "model", model), 192, 112)
    said = bundle.provenance["opens_with"]
    assert said["open_clip"] is True
    assert "text_cfg" not in said["why"]
    images = prepared(192, 112)
    with torch.no_grad():
        assert torch.equal(open_plainly(bundle.folder).encode_image(images), bundle.classifier().visual(images))
