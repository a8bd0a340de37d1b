"""What ONNX Runtime says of a bundle's graph is what torch says of the bundle."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from densityclip.errors import UserError
from densityclip.imaging.recipe import Recipe
from densityclip.model import onnx_export
from densityclip.model.biomedclip import load_foundation
from densityclip.model.bundle import Bundle, load_bundle, save_bundle
from densityclip.model.classifier import class_embeddings
from densityclip.model.onnx_export import compare, export_onnx, run
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.model.towers import set_image_size
from densityclip.probability.calibrate import Calibration

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# Taller than wide, as a breast is, and the two modalities that this model learned.
SIZE = (192, 112)
MODALITIES = ("DM", "s2D")


@pytest.fixture(scope="module")
def bundle(small_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    foundation = load_foundation(small_foundation)
    set_image_size(foundation.clip.visual, *SIZE)
    foundation.config["model_cfg"]["vision_cfg"]["image_size"] = list(SIZE)
    folder = tmp_path_factory.mktemp("tall") / "bundle"
    save_bundle(
        folder,
        foundation,
        recipe=Recipe(height=SIZE[0], width=SIZE[1], depth="uint16"),
        prompts=DEFAULT_PROMPTS,
        embeddings=class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, MODALITIES),
        calibration=Calibration(temperature=2.0, prior_shift=(0.5, 0.0, -0.25, -0.25)).to_dict(),
        provenance={"data": {"redistribute": False, "generated": True, "images": 9, "images_generated": 4}},
    )
    return load_bundle(folder)


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("onnx")
    return folder, export_onnx(bundle, folder, notice="Research use only.")


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported[0] / "density.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("number", [1, 5])
def test_logits_and_features_are_torchs_for_every_row_of_prompts(bundle, exported, session, number):
    classifier = bundle.classifier()
    rows = exported[1]["inputs"]["prompts"]["rows"]
    assert set(rows) == {"plain", *MODALITIES}
    pixels = np.random.default_rng(number).integers(0, 65536, (number, *SIZE), dtype=np.uint16)
    grey = (pixels / exported[1]["inputs"]["pixels"]["white"]).astype(np.float32)
    for name, row in rows.items():
        with torch.no_grad():
            expected = classifier(torch.from_numpy(pixels), [name] * number).numpy()
            images = torch.stack([torch.from_numpy(grey)] * 3, dim=1)
            mean, std = (torch.tensor(classifier.preprocess[key])[None, :, None, None] for key in ("mean", "std"))
            features = functional.normalize(classifier.visual((images - mean) / std), dim=-1).numpy()
        found = run(session, grey, np.full(number, row))
        assert found["logits"].shape == (number, 4)
        np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["features"], features, rtol=0, atol=1e-4)


def test_each_image_of_a_batch_is_compared_with_its_own_prompts(exported, session):
    rows = exported[1]["inputs"]["prompts"]["rows"]
    one = np.random.default_rng(0).random((1, *SIZE), dtype=np.float32)
    mixed = run(session, np.repeat(one, 3, axis=0), np.arange(3))["logits"]
    alone = [run(session, one, np.array([row]))["logits"][0] for row in rows.values()]
    np.testing.assert_allclose(mixed, np.stack([alone[list(rows.values()).index(row)] for row in range(3)]), atol=1e-5)
    assert np.abs(mixed[0] - mixed[1]).max() > 1e-3


def test_a_modality_that_was_not_learned_is_sent_to_the_plain_prompts(bundle, exported):
    asked = exported[1]["inputs"]["prompts"]["row_of_modality"]
    assert list(asked) == ["DM", "s2D", "DBT", "unknown"]
    assert [asked[name] for name in asked] == bundle.classifier().rows(list(asked)).tolist()


def test_the_description_says_what_was_measured_and_what_a_caller_must_know(bundle, exported):
    about = exported[1]
    assert about["inputs"]["pixels"]["shape"] == ["batch", *SIZE]
    assert about["inputs"]["pixels"]["white"] == 65535
    assert about["calibration"]["temperature"] == 2.0
    assert Recipe.from_dict(about["recipe"]) == bundle.recipe
    assert about["weights_sha256"] == bundle.model_hash
    assert about["redistribute"] is False
    assert about["generated_note"] == "Of 9 images that this model learned from, 4 were generated."
    assert 0 <= about["checked"]["largest_difference"]["logits"] <= 1e-4
    assert about["checked"]["batches"] == [1, 5]


def test_the_graph_carries_its_notice_and_no_path_of_this_machine(exported):
    content = (exported[0] / "density.onnx").read_bytes()
    facts = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert facts["notice"].startswith("Research use only.")
    assert "4 were generated" in facts["notice"]
    assert re.findall(rb"[\w/.-]*(?:site-packages|\.py\b)[\w/.-]*", content) == []
    assert onnx.load_from_string(content).opset_import[0].version == exported[1]["opset"]


def test_the_same_bundle_gives_the_same_file(bundle, exported, tmp_path):
    assert export_onnx(bundle, tmp_path, notice="Research use only.")["sha256"] == exported[1]["sha256"]


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_graph_that_says_something_else_is_an_error(bundle, exported, tmp_path, value):
    graph = onnx.load(exported[0] / "density.onnx")
    changed = max(graph.graph.initializer, key=lambda item: len(item.raw_data))
    weights = onnx.numpy_helper.to_array(changed).copy()
    weights.flat[0] += value
    changed.CopyFrom(onnx.numpy_helper.from_array(weights, changed.name))
    onnx.save(graph, tmp_path / "changed.onnx")
    with pytest.raises(UserError, match="differs from torch: features by"):
        compare(bundle.classifier(), tmp_path / "changed.onnx", SIZE)


def test_a_missing_exporter_is_named_with_its_remedy(bundle, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"needs onnxscript, .* pip install 'densityclip\[onnx\]'"):
        export_onnx(bundle, tmp_path, notice="")


def test_without_onnx_runtime_the_description_says_that_nothing_was_compared(bundle, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert export_onnx(bundle, tmp_path, notice="")["checked"] is None


def test_weights_that_one_file_cannot_hold_are_refused_before_the_export(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match="at most 2 GiB"):
        export_onnx(bundle, tmp_path, notice="")
    assert list(tmp_path.iterdir()) == []
