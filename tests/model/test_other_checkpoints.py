"""Models of open_clip's format other than BiomedCLIP: every kind of tower, against open_clip's own loading."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from clip_samples import GREY_SCALE, OWN_TEXT, OWN_VIT, TIMM_VIT, hf_text, open_plainly, prepared, write_model
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import load_file, save_file

from densityclip.errors import UserError
from densityclip.model.biomedclip import load_foundation, load_image_tower, read_config, save_foundation
from densityclip.model.classifier import class_embeddings, pad_token, tokenise
from densityclip.model.prompts import DEFAULT_PROMPTS

TEXTS = ["extremely dense", "a mammogram of breast density category A: almost entirely fatty"]
# Image tower, text tower, class of the model; a text tower of Hugging Face's always makes the second class.
KINDS = {
    "timm and own text": (TIMM_VIT, OWN_TEXT, CLIP),
    "timm and own text apart": (TIMM_VIT, OWN_TEXT, CustomTextCLIP),
    "own ViT and own text": (OWN_VIT, OWN_TEXT, CLIP),
    "own ViT and own text apart": (OWN_VIT, OWN_TEXT, CustomTextCLIP),
    "own ViT and BERT": (OWN_VIT, "BERT", CustomTextCLIP),
    "timm and BERT": (TIMM_VIT, "BERT", CustomTextCLIP),
    "own text that reads BERT's words": (OWN_VIT, OWN_TEXT | {"hf_tokenizer_name": "text"}, CLIP),
    "text without a causal mask": (TIMM_VIT, OWN_TEXT | {"no_causal_mask": True, "pool_type": "last"}, CustomTextCLIP),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_foundation: Path
) -> tuple[Path, type]:
    vision, text, made = KINDS[request.param]
    folder = tmp_path_factory.mktemp("kinds") / "model"
    model = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": hf_text(folder) if text == "BERT" else text}
    if made is CustomTextCLIP and text != "BERT":
        model["custom_text"] = True
    reads_words = text == "BERT" or "hf_tokenizer_name" in text
    return write_model(folder, model, tokenizer=small_foundation if reads_words else None), made


def test_features_and_tokens_are_those_of_open_clips_own_loading(kind: tuple[Path, type]):
    folder, made = kind
    theirs, ours = open_plainly(folder), load_foundation(folder)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert type(ours.clip) is type(theirs) is made
    assert torch.equal(ours.tokenizer(TEXTS), tokens)
    with torch.no_grad():
        assert torch.equal(ours.clip.encode_image(prepared()), theirs.encode_image(prepared()))
        assert torch.equal(load_image_tower(folder)(prepared()), theirs.encode_image(prepared()))
        assert torch.equal(ours.clip.encode_text(tokens), theirs.encode_text(tokens))


def test_saved_again_it_opens_here_and_with_plain_open_clip(kind: tuple[Path, type], tmp_path: Path):
    before = load_foundation(kind[0])
    save_foundation(before, tmp_path / "again")
    ours, theirs = load_foundation(tmp_path / "again"), open_plainly(tmp_path / "again")
    tokens = before.tokenizer(TEXTS)
    assert torch.equal(ours.tokenizer(TEXTS), tokens)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{tmp_path / 'again'}")(TEXTS), tokens)
    with torch.no_grad():
        for again in (ours.clip, theirs):
            assert torch.equal(again.encode_image(prepared()), before.clip.encode_image(prepared()))
            assert torch.equal(again.encode_text(tokens), before.clip.encode_text(tokens))


def test_columns_are_cut_only_where_the_text_tower_masks_them(kind: tuple[Path, type]):
    foundation = load_foundation(kind[0])
    masked = pad_token(foundation.clip)
    assert (masked is not None) == ("hf_model_name" in foundation.config["model_cfg"]["text_cfg"])
    whole, cut = foundation.tokenizer(TEXTS), tokenise(foundation.tokenizer, TEXTS, masked)
    assert cut.shape[1] < whole.shape[1] if masked is not None else torch.equal(cut, whole)
    with torch.no_grad():
        assert torch.allclose(foundation.clip.encode_text(cut), foundation.clip.encode_text(whole), atol=1e-6)


def test_class_embeddings_are_made_with_every_text_tower(kind: tuple[Path, type]):
    foundation, theirs = load_foundation(kind[0]), open_plainly(kind[0])
    found = class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ["DBT"])["DBT"]
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(f"local-dir:{kind[0]}")(DEFAULT_PROMPTS.captions("B", "DBT"))
        mean = theirs.encode_text(tokens, normalize=True).mean(dim=0)
    assert torch.allclose(found[1], mean / mean.norm(), atol=1e-6)


def test_padding_before_the_words_is_not_cut():
    def from_the_left(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[0, 0, 0, 5, 6], [0, 0, 7, 8, 9]])

    assert torch.equal(tokenise(from_the_left, ["", ""], 0), from_the_left([]))


def test_a_model_in_half_precision_and_an_older_layout_loads_as_open_clip_loads_it(tmp_path: Path):
    model = {"embed_dim": 32, "custom_text": True, "vision_cfg": TIMM_VIT, "text_cfg": OWN_TEXT}
    folder = write_model(tmp_path / "model", model)
    path = folder / "open_clip_model.safetensors"
    # Before the text tower had a name of its own its weights had no prefix; logit_scale has had both shapes.
    older = {name.removeprefix("text."): value.half().contiguous() for name, value in load_file(path).items()}
    save_file(older | {"logit_scale": older["logit_scale"].reshape(1)}, path)
    theirs, ours = open_plainly(folder), load_foundation(folder).clip
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.no_grad():
        assert torch.equal(ours.encode_text(tokens), theirs.encode_text(tokens))
        assert torch.equal(load_image_tower(folder)(prepared()), theirs.encode_image(prepared()))
        assert torch.equal(ours.logit_scale, theirs.logit_scale)


def test_a_grey_scale_that_the_publisher_left_out_is_open_clips_default(tmp_path: Path):
    folder = write_model(tmp_path / "m", {"embed_dim": 32, "vision_cfg": OWN_VIT, "text_cfg": OWN_TEXT}, preprocess={})
    theirs = open_plainly(folder).visual.preprocess_cfg
    ours = read_config(folder)["preprocess_cfg"]
    assert [tuple(ours[name]) for name in ("mean", "std")] == [tuple(theirs[name]) for name in ("mean", "std")]
    assert ours == GREY_SCALE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"init_logit_bias": -10}, "SigLIP"),
        ({"multimodal_cfg": {}}, "CoCa"),
        ({"vision_cfg": OWN_VIT | {"layers": [1, 1, 1, 1]}}, "neither timm's nor open_clip's own ViT"),
        ({"vision_cfg": TIMM_VIT | {"timm_model_name": "hf-hub:someone/something"}}, "of a hub"),
        ({"vision_cfg": TIMM_VIT | {"timm_model_name": "vit_of_tomorrow"}}, "cannot build .*vit_of_tomorrow"),
        ({"text_cfg": OWN_TEXT | {"gates": 3}}, "cannot build .*gates"),
        ({"text_cfg": OWN_TEXT | {"tokenizer_kwargs": {"trust_remote_code": True}}}, "trust_remote_code"),
        ({"text_cfg": None}, "no image tower with a text tower"),
    ],
)
def test_a_model_that_cannot_be_adapted_says_why(tmp_path: Path, change: dict, says: str):
    model = {"embed_dim": 32, "vision_cfg": OWN_VIT, "text_cfg": OWN_TEXT}
    folder = write_model(tmp_path / "model", model)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model | change}))
    with pytest.raises(UserError, match=says):
        load_foundation(folder)
