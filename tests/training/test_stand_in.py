"""The generated stand-in: what it is told of an image, and that it learns it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from densityclip.errors import UserError
from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import load_foundation
from densityclip.model.classifier import grey_levels, normalise
from densityclip.model.weights_check import check, origin
from densityclip.study_file import parse_study, shipped_study
from densityclip.training.stand_in import Pretraining, captions_of, pretrain

SIZE = 160


@pytest.fixture(scope="module")
def cache() -> Cache:
    """Images whose view and modality can be seen: stripes across or a plain field, bright or dark."""
    rng = np.random.default_rng(0)
    rows, images = [], []
    for number in range(64):
        view, modality = ("CC", "MLO")[number % 2], ("DM", "s2D")[number // 2 % 2]
        stripes = np.where(np.arange(SIZE) % 16 < 8, 1.0, 0.2 if view == "CC" else 1.0)
        picture = (200 if modality == "DM" else 90) * np.tile(stripes, (SIZE, 1))
        images.append((picture + rng.normal(0, 5, (SIZE, SIZE))).clip(1, 255).astype(np.uint8))
        rows.append({"row": number, "slice_index": 0, "image_id": f"{number}", "patient_id": f"{number % 16}"})
        rows[-1] |= {"laterality": "L", "view": view, "modality": modality, "density": "ABCD"[number % 4]}
    return Cache(Path("nowhere"), np.stack(images), pl.DataFrame(rows), Recipe(height=SIZE, width=SIZE))


def test_captions_name_view_side_modality_and_thickness_and_never_density():
    for text in captions_of("R", "MLO", "s2D", 57.0):
        assert all(word in text for word in ("right", "mediolateral oblique", "synthesized 2D", "60 mm"))
        assert not any(word in text for word in ("dense", "density", "fat", "fibroglandular", "BI-RADS", "scattered"))


@pytest.mark.slow
def test_it_learns_what_it_was_told_and_loads_as_a_foundation_model(cache: Cache, tmp_path: Path):
    how = Pretraining(steps=300, batch_size=16, seed=3, threads=1)
    pretrain(cache, dict.fromkeys(map(str, range(64)), 50.0), tmp_path / "a", how)
    foundation = load_foundation(tmp_path / "a")
    pixels = grey_levels(torch.from_numpy(np.asarray(cache.images)))
    kinds = [(view, modality) for view in ("CC", "MLO") for modality in ("DM", "s2D")]
    tokens = foundation.tokenizer([captions_of("L", *kind, 50.0)[0] for kind in kinds])
    with torch.no_grad():
        images = foundation.clip.encode_image(normalise(pixels, foundation.config["preprocess_cfg"]), normalize=True)
        texts = foundation.clip.encode_text(tokens, normalize=True)
    truth = [kinds.index(kind) for kind in cache.rows.select("view", "modality").iter_rows()]
    assert float((images @ texts.T).argmax(dim=1).eq(torch.tensor(truth)).float().mean()) > 0.9


def test_the_same_seed_gives_the_same_weights_and_densities_play_no_part(cache: Cache, tmp_path: Path):
    other = Cache(Path("nowhere"), cache.images, cache.rows.with_columns(density=pl.lit("D")), cache.recipe)
    for name, images in (("a", cache), ("b", other)):
        thickness = dict.fromkeys(map(str, range(64)), 50.0)
        pretrain(images, thickness, tmp_path / name, Pretraining(steps=4, batch_size=16, seed=3, threads=1))
    files = [(tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_the_ablation_that_ships_changes_one_thing_at_a_time_in_at_most_twenty_trainings():
    study = shipped_study("ablation")
    assert len(study.arms) <= 20
    trained = {name: study.train_config(*study.members_of(name)).model_dump() for name in study.arms}
    default = trained["default"]
    for name, config in trained.items():
        changed = {key for key, value in config.items() if value != default[key]}
        # A balanced sampler goes without class weights.
        assert len(changed - {"class_weights"} if "sampler" in changed else changed) <= 1, name


def test_a_cohort_of_the_stand_ins_own_patients_is_refused():
    content = shipped_study("ablation").model_dump(mode="json")
    content["cohorts"]["internal"]["generate"] |= {"site": "varied", "seed": 700_000}
    with pytest.raises(Exception, match="the same patients") as caught:
        parse_study(content, "study.yaml")
    assert not isinstance(caught.value, ValidationError)


def test_a_stand_in_that_was_stopped_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from densityclip import steps
    from densityclip.training import stand_in

    def stop(*_, **__):
        raise KeyboardInterrupt

    how = {"site": "varied", "exams": 8, "steps": 2, "seed": 5, "workers": 1}
    monkeypatch.setattr(stand_in, "tokenise", stop)  # right after the random model was written
    with pytest.raises(KeyboardInterrupt):
        steps.make_stand_in(tmp_path / "model", **how)
    assert not list((tmp_path / "model").glob("*.safetensors"))
    monkeypatch.undo()
    steps.make_stand_in(tmp_path / "model", **how)
    assert origin(tmp_path / "model")["exams"] == 8
    check(tmp_path / "model")
    assert not (tmp_path / "model/exams").exists()
    steps.make_stand_in(tmp_path / "model", **how)
    with pytest.raises(UserError, match="different: seed"):
        steps.make_stand_in(tmp_path / "model", **how | {"seed": 6})
