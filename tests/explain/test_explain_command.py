"""What `explain` makes of bad input, of a folder that was used before, and of what `predict` would hold back."""

import functools
import shutil
from pathlib import Path

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from densityclip import steps
from densityclip.artifacts import read_json, read_table, write_json
from densityclip.errors import UserError
from densityclip.explain import atlas, drawing
from densityclip.imaging.recipe import Recipe
from densityclip.inference import guard
from densityclip.inference.predictor import Predictor
from densityclip.model.biomedclip import load_foundation
from densityclip.model.bundle import Bundle, load_bundle, save_bundle
from densityclip.model.classifier import class_embeddings
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.probability.calibrate import Calibration
from densityclip.reasons import reason_of


@pytest.fixture(scope="module")
def model(road: Path) -> Path:
    return road / "arms" / "multi" / "bundle"


@pytest.fixture(scope="module")
def bundle(model: Path) -> Bundle:
    return load_bundle(model)


@pytest.fixture(scope="module")
def exam(road: Path) -> pl.DataFrame:
    """The index of one generated exam."""
    index = read_table(road / "cohorts" / "internal" / "index.parquet", "index").filter(modality="DM")
    return index.filter(exam_id=index["exam_id"].sort()[0])


@pytest.fixture
def mixed(exam: pl.DataFrame, tmp_path: Path) -> Path:
    """Two good images, one without anything in it, and one that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in exam["path"].head(2):
        shutil.copyfile(path, folder / Path(path).name)
    Image.fromarray(np.full((400, 300), 90, dtype=np.uint8)).save(folder / "blank.png")
    (folder / "broken.dcm").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def without_vit(small_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose image tower is a network of convolutions, with random weights."""
    folder = shutil.copytree(small_foundation, tmp_path_factory.mktemp("cnn") / "model")
    config = read_json(folder / "open_clip_config.json", "")
    config["model_cfg"]["vision_cfg"] |= {"timm_model_name": "test_resnet", "timm_pool": "avg"}
    write_json(folder / "open_clip_config.json", config)
    text = config["model_cfg"]["text_cfg"] | {"hf_model_name": str(folder / "text")}
    clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, text_cfg=text)
    save_file(
        {name: value.contiguous() for name, value in clip.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    foundation = load_foundation(folder)
    with torch.no_grad():
        embeddings = class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ("DM",))
    save_bundle(
        folder.parent / "bundle",
        foundation,
        recipe=Recipe().sized(160),
        prompts=DEFAULT_PROMPTS,
        embeddings=embeddings,
        calibration=Calibration().to_dict(),
        provenance={"data": {"redistribute": False, "generated": True, "images": 9, "images_generated": 9}},
    )
    return folder.parent / "bundle"


def test_refused_images_are_named_and_the_rest_goes_on(mixed: Path, model: Path, tmp_path: Path, densityclip):
    done = densityclip("explain", mixed, "--model", model, "--out", tmp_path / "maps", "--no-figures")
    assert done.returncode == 1, done.stderr
    for code, said in (("constant", "  blank\n"), ("unreadable", "  broken.dcm: the file ")):
        words = f"{reason_of(code).sentence} {reason_of(code).remedy}"
        assert f"Refused, 1 image ({code}): {words}\n{said}" in done.stdout
    assert "2 images mapped, 2 refused" in done.stdout
    # Three files could be tried: each is mapped, and then drawn.
    assert done.stderr.splitlines()[-1].startswith("explain: 6 of 6")
    written = read_json(tmp_path / "maps" / "explain.json", "")
    assert [(row["image_id"], row["reason"]) for row in written["refused"]] == [
        ("blank", "constant"),
        ("broken.dcm", "unreadable"),
    ]
    assert len(list((tmp_path / "maps").glob("*.npz"))) == 2


def test_where_nothing_can_be_mapped_the_reasons_are_said_and_written(mixed: Path, model: Path, tmp_path, densityclip):
    for path in mixed.glob("2.25.*"):
        path.unlink()
    done = densityclip("explain", mixed, "--model", model, "--out", tmp_path / "maps")
    assert done.returncode == 2
    assert "no image could be mapped: blank (constant), broken.dcm (unreadable)" in done.stderr
    assert str(tmp_path / "maps" / "explain.json") in done.stderr
    written = read_json(tmp_path / "maps" / "explain.json", "")
    assert (written["images"], len(written["refused"])) == (0, 2)


def test_an_unknown_category_ends_before_anything_is_touched(mixed: Path, model: Path, tmp_path: Path, densityclip):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "explain.json").write_text("{}")
    done = densityclip("explain", mixed, "--model", model, "--out", tmp_path / "maps", "--target", "E")
    assert done.returncode == 2
    assert "there is no target E" in done.stderr
    assert (tmp_path / "maps" / "explain.json").read_text() == "{}"


def test_a_tower_that_is_no_vit_is_said_and_no_older_answer_stays(
    mixed: Path, without_vit: Path, tmp_path, densityclip
):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "explain.json").write_text("{}")
    done = densityclip("explain", mixed, "--model", without_vit, "--out", tmp_path / "maps", "--no-figures")
    assert done.returncode == 2, done.stderr
    assert "needs a timm ViT image tower" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "maps" / "explain.json").exists()


def test_a_second_run_leaves_nothing_of_the_first_and_all_that_is_not_ours(exam, bundle, mixed, tmp_path):
    out = tmp_path / "maps"
    steps.explain_source(mixed, bundle, out, methods=("gradcam", "attention"), measured=False)
    assert len(list(out.glob("*.png"))) == 3 * 2
    strangers = {"notes.txt": b"mine", "holiday.png": b"mine", "data.npz": b"mine", "sheets.png": b"mine"}
    for name, content in strangers.items():
        (out / name).write_bytes(content)
    (mixed / Path(exam["path"][1]).name).unlink()
    steps.explain_source(mixed, bundle, out, methods=("attention",), targets=("D",), measured=False)
    image = exam["image_id"][0]
    ours = {f"{image}.npz", f"{image}.png", "sheet.png", "figures.csv", "explain.json", "explain.manifest.json"}
    assert {path.name for path in out.iterdir()} == ours | set(strangers)
    assert all((out / name).read_bytes() == content for name, content in strangers.items())


def test_pictures_are_not_written_among_the_images(bundle: Bundle, mixed: Path):
    before = {path: path.read_bytes() for path in mixed.iterdir()}
    with pytest.raises(UserError, match="holds images that are to be mapped"):
        steps.explain_source(mixed, bundle, mixed)
    assert {path: path.read_bytes() for path in mixed.iterdir()} == before


def test_without_the_density_score_nothing_is_measured_and_that_is_said(
    mixed: Path, bundle: Bundle, model: Path, tmp_path: Path, densityclip, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(atlas, "image_figures", lambda *_: pytest.fail("a curve that ends in no figure"))
    steps.explain_source(mixed, bundle, tmp_path / "here", methods=("attention",), targets=("A",))
    said = densityclip("explain", mixed, "--model", model, "--out", tmp_path / "maps", "--target", "A").stdout
    assert "Nothing was measured: figures are of the density score" in said


def test_an_exam_that_predict_does_not_answer_has_no_category_on_its_pictures(
    exam: pl.DataFrame, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls, sheets = [], []
    overlay, sheet = drawing.draw_overlay, drawing.contact_sheet
    monkeypatch.setattr(drawing, "draw_overlay", lambda *a, **k: calls.append(k["withheld"]) or overlay(*a, **k))
    monkeypatch.setattr(drawing, "contact_sheet", lambda p, **k: sheets.extend(p) or sheet(p, **k))
    # The least difference counts: this model's views never differ by two categories.
    monkeypatch.setattr(guard, "breasts_apart", functools.partial(guard.breasts_apart, most_spread=-1.0))
    both = {}
    for guarded in (True, False):
        both[guarded] = steps.explain(
            {"": exam}, Predictor(bundle), tmp_path / str(guarded), methods=("attention",), measured=False,
            guarded=guarded,
        )[""]  # fmt: skip
    number = len(exam)
    assert both[True]["abstained"] == [{"exam_id": exam["exam_id"][0], "reason": "views_disagree"}]
    assert both[False]["abstained"] == []
    assert all(calls[:number])
    assert not any(calls[number:])
    assert {panel.caption[1] for panel in sheets[:number]} == {"model: no answer"}
    assert "model: no answer" not in {panel.caption[1] for panel in sheets[number:]}


def test_an_image_is_decoded_once_for_all_its_pictures_and_sheets(
    exam: pl.DataFrame, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decoded = []
    plain = drawing.display_image
    monkeypatch.setattr(drawing, "display_image", lambda path, slab: decoded.append(path) or plain(path, slab))
    steps.explain({"": exam}, Predictor(bundle), tmp_path, targets=("density-score", "A"), measured=False)
    assert len(list(tmp_path.glob("*.png"))) == (len(exam) + 1) * 4
    assert sorted(decoded) == sorted(map(Path, exam["path"]))
