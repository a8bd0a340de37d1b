"""A bundle for others: what `export` leaves answers as `predict` does, says what it is, and never breaks a licence."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
import yaml

from densityclip.artifacts import LOGITS, PROBABILITIES, hash_file, read_json, write_json
from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.model import onnx_export
from densityclip.model.bundle import load_bundle
from densityclip.probability.aggregate import softmax
from densityclip.steps.export import to_hub, to_onnx, without_paths

ROOT = Path(__file__).parents[2]
CACHE = Path("cohorts/embed-like/cache")


@pytest.fixture(scope="module")
def bundle(road: Path) -> Path:
    return road / "arms" / "multi" / "bundle"


@pytest.fixture(scope="module")
def hub(bundle: Path, densityclip, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "density"
    done = densityclip("export", bundle, "--to", "hub", "--licence", "mit", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "hf upload OWNER/NAME" in done.stdout
    assert "Nothing was uploaded" in done.stdout
    return out


def altered(bundle: Path, folder: Path, **changes) -> Path:
    """A copy of a bundle with other words in its provenance."""
    shutil.copytree(bundle, folder)
    provenance = read_json(folder / "provenance.json", "")
    for key, value in changes.items():
        provenance[key] = provenance[key] | value
    write_json(folder / "provenance.json", provenance)
    return folder


@pytest.mark.slow
def test_onnx_and_its_description_are_enough_to_answer_as_predict_does(road, bundle, densityclip, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = densityclip("export", bundle, "--to", "onnx", "--out", tmp_path / "onnx")
    assert done.returncode == 0, done.stderr
    assert "answers as torch does" in done.stdout
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"density.onnx", "density.json", "recipe.json"}
    said = densityclip("predict", road / CACHE, "--model", bundle, "--out", tmp_path / "answers")
    assert said.returncode in (0, 1), said.stderr

    about = json.loads((tmp_path / "onnx/density.json").read_text())
    assert "Research use only" in about["notice"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx/density.onnx", providers=["CPUExecutionProvider"])
    cache = Cache.open(road / CACHE)
    pixels = np.asarray(cache.images[cache.rows["row"].to_numpy()])
    rows = [about["inputs"]["prompts"]["row_of_modality"][name] for name in cache.rows["modality"]]
    inputs = {"pixels": (pixels / about["inputs"]["pixels"]["white"]).astype(np.float32), "prompts": np.array(rows)}
    slices = softmax(session.run(["logits"], inputs)[0])
    calibration = about["calibration"]
    shift = np.array([calibration["prior_shift"][name] for name in about["categories"]])
    expected = pl.read_parquet(tmp_path / "answers/predictions.parquet").filter(pl.col("level") == "image")
    compared = 0
    for row in expected.filter(pl.col("status") == "ok").iter_rows(named=True):
        mean = np.log(slices[(cache.rows["image_id"] == row["image_id"]).to_numpy()].mean(axis=0))
        np.testing.assert_allclose(mean, [row[name] for name in LOGITS], atol=1e-4)
        probabilities = softmax(mean / calibration["temperature"] + shift)
        np.testing.assert_allclose(probabilities, [row[name] for name in PROBABILITIES], atol=1e-5)
        compared += 1
    assert compared > 50


@pytest.mark.slow
def test_the_lines_of_the_docs_give_the_probabilities_of_predict(
    road, bundle, densityclip, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    index = pl.read_parquet(road / "cohorts/embed-like/index.parquet").filter(pl.col("modality") == "DBT")
    (tmp_path / "image.dcm").symlink_to(Path(index["path"][0]).absolute())
    to_onnx(load_bundle(bundle), tmp_path / "density-onnx")
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/export.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"DM"', '"DBT"'), {})
    said = [float(number) for number in re.findall(r"[\d.e+-]+", capsys.readouterr().out)]
    done = densityclip("predict", tmp_path / "image.dcm", "--model", bundle, "--out", tmp_path / "answers")
    assert done.returncode == 0, done.stderr
    row = pl.read_parquet(tmp_path / "answers/predictions.parquet").row(0, named=True)
    assert row["modality"] == "DBT"
    np.testing.assert_allclose(said, [row[name] for name in PROBABILITIES], atol=1e-5)


def test_a_failed_export_leaves_nothing_behind(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 1000)
    pytest.importorskip("onnxscript")
    with pytest.raises(UserError, match="2 GiB"):
        to_onnx(load_bundle(bundle), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_hub_folder_is_a_bundle_that_answers_the_same(bundle, hub):
    ours, theirs = load_bundle(bundle), load_bundle(hub)
    assert theirs.model_hash == ours.model_hash
    pixels = torch.rand(2, ours.recipe.height, ours.recipe.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours.classifier()(pixels, ["DM", None]), theirs.classifier()(pixels, ["DM", None]))
    files = {path.relative_to(hub).as_posix() for path in hub.rglob("*") if path.is_file()}
    assert files == {*ours.provenance["hashes"], "provenance.json", "README.md"}


def test_the_cards_own_lines_open_the_folder_with_open_clip(hub, bundle):
    (code,) = re.findall(r"^```python\n(.*?)^```", (hub / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(code.replace("FOLDER", str(hub)), names)
    assert isinstance(names["model"], open_clip.CustomTextCLIP)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = names["model"].eval().encode_image(images)
        assert torch.equal(found, load_bundle(bundle).classifier().visual(images))
    assert names["tokenizer"](["breasts that are extremely dense"]).shape[0] == 1


def test_the_card_says_what_the_provenance_says(hub):
    card = (hub / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "mit"
    assert front["library_name"] == "open_clip"
    assert front["pipeline_tag"] == "zero-shot-image-classification"
    first = body.strip().splitlines()
    assert first[2].startswith("> **This model was trained on generated exams only.**")
    assert "made by this software: small stand-in of BiomedCLIP's shape; its weights were random." in body
    provenance = load_bundle(hub).provenance
    for name, number in provenance["data"]["images_by_category"].items():
        assert re.search(rf"^\| {name} \| {number:,} \| [\d.]+% \|$", body, flags=re.MULTILINE), name
    for name, number in provenance["data"]["images_by_modality"].items():
        assert re.search(rf"^\| {name} \| {number:,} \| [\d.]+% \|$", body, flags=re.MULTILINE), name
    assert "Research use only" in body
    assert "No evaluation is part of this model's provenance" in body
    for digest in provenance["hashes"].values():
        assert digest in body


def test_figures_are_those_of_the_metrics_file_with_their_intervals(road, bundle, tmp_path):
    metrics = read_json(road / "metrics.json", "")
    metrics["cells"] = [cell for cell in metrics["cells"] if cell["arm"] == "multi"]
    write_json(tmp_path / "metrics.json", metrics)
    to_hub(load_bundle(bundle), tmp_path / "hub", metrics=tmp_path / "metrics.json")
    card = (tmp_path / "hub/README.md").read_text()
    cell = next(cell for cell in metrics["cells"] if cell["level"] == "image")
    value = cell["metrics"]["macro_auc"]
    assert f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})" in card
    assert "No evaluation is part" not in card
    # No licence was stated, and none is made up.
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"


def test_figures_of_several_models_or_of_none_are_refused(road, bundle, tmp_path):
    with pytest.raises(UserError, match="several models"):
        to_hub(load_bundle(bundle), tmp_path / "hub", metrics=road / "metrics.json")
    with pytest.raises(UserError, match="no figures of an evaluation"):
        to_hub(load_bundle(bundle), tmp_path / "hub", metrics=bundle / "calibration.json")
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"redistribute": False, "restricted_by": ["embed"]}, "licence of embed forbids"),
        ({"redistribute": False}, "may not be passed on"),
        ({"cohorts": {"house": {"redistribute": False}}}, "licence of house forbids"),
        ({"redistribute": None}, "does not say that it may be passed on"),
    ],
)
def test_a_licence_that_forbids_it_stops_the_hub_folder(bundle, densityclip, tmp_path, data, said):
    copy = altered(bundle, tmp_path / "copy", data=data)
    done = densityclip("export", copy, "--to", "hub", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_path_of_the_training_machine_is_published(bundle, tmp_path):
    training = read_json(bundle / "provenance.json", "")["training"]
    config = training["config"] | {"prompts": "/data/St Mary/jane.doe/words.yaml"}
    more = {"notes": ["~/secret", "C:\\exams\\doe", "validation/worst"], "source": "file:///mnt/pacs"}
    copy = altered(bundle, tmp_path / "copy", training={"config": config, **more})
    # As transformers signs files that it saved from a local folder.
    signed = read_json(copy / "tokenizer_config.json", "") | {"name_or_path": "/data/jane.doe/biomedclip"}
    write_json(copy / "tokenizer_config.json", signed)
    provenance = read_json(copy / "provenance.json", "")
    provenance["hashes"]["tokenizer_config.json"] = hash_file(copy / "tokenizer_config.json")
    write_json(copy / "provenance.json", provenance)

    to_hub(load_bundle(copy), tmp_path / "hub")
    told = "".join(
        path.read_text() for path in (tmp_path / "hub").rglob("*") if path.suffix in {".json", ".md", ".txt"}
    )
    for leak in ("jane", "\\doe", "Mary", "/data", "~/", "/mnt", str(tmp_path), str(Path.home()), sys.prefix):
        assert leak not in told, leak
    published = load_bundle(tmp_path / "hub").provenance["training"]
    assert published["config"]["prompts"] == "prompts.json"
    assert published["notes"] == [None, None, "validation/worst"]
    open_clip.get_tokenizer(f"local-dir:{tmp_path / 'hub'}")


@pytest.mark.parametrize("kept", ["/", "//", "validation/worst_macro_auc", "text/config.json", "A", "##/", "9/10 of"])
def test_tokens_and_roles_are_no_paths(kept):
    assert without_paths({"a": [kept]}) == {"a": [kept]}


def test_names_from_outside_cannot_break_out_of_the_card(bundle, tmp_path):
    name = "St. *Mary* | <img src=x>\n# [Best](http://x)"
    copy = altered(bundle, tmp_path / "copy", data={"cohorts": {name: {"redistribute": True}}})
    to_hub(load_bundle(copy), tmp_path / "hub")
    card = (tmp_path / "hub/README.md").read_text()
    assert "\\*Mary\\* \\| \\<img src=x\\> \\# \\[Best\\](http://x)" in card


def test_a_folder_that_holds_something_is_left_alone(bundle, densityclip, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    for target in ("hub", "onnx"):
        done = densityclip("export", bundle, "--to", target, "--out", tmp_path)
        assert done.returncode == 2
        assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    empty = tmp_path.parent / f"{tmp_path.name}-empty"
    empty.mkdir()
    to_hub(load_bundle(bundle), empty)
    assert (empty / "README.md").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--to", "tensorrt"), "Choose one of onnx, hub"),
        (("--to", "onnx", "--licence", "mit"), "for the model card"),
        (("--to", "hub", "--licence", "my own: [x]"), "no name of a licence"),
    ],
)
def test_wrong_usage_is_told_in_a_line(bundle, densityclip, tmp_path, more, said):
    done = densityclip("export", bundle, *more, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
