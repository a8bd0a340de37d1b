import json
import pickle
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from densityclip.errors import UserError
from densityclip.model.biomedclip import load_foundation, load_image_tower, read_config, save_foundation
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.model.small import make_small_foundation, small_config, wordpiece_vocabulary

# The keys of BiomedCLIP's own open_clip_config.json, as its publishers wrote it.
BIOMEDCLIP_VISION = {"timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "image_size"}
BIOMEDCLIP_TEXT = {"hf_model_name", "hf_tokenizer_name", "hf_proj_type", "hf_pooler_type", "context_length"}


@pytest.fixture
def copy(small_foundation: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_foundation, tmp_path / "copy")


def images() -> torch.Tensor:
    return torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def test_the_small_model_has_biomedclips_keys_poolers_and_projections():
    model = small_config()["model_cfg"]
    assert set(model["vision_cfg"]) == BIOMEDCLIP_VISION
    assert set(model["text_cfg"]) >= BIOMEDCLIP_TEXT
    assert (model["vision_cfg"]["timm_pool"], model["vision_cfg"]["timm_proj"]) == ("", "linear")
    assert model["text_cfg"]["hf_proj_type"] == "mlp"
    assert model["text_cfg"]["hf_pooler_type"] == "cls_last_hidden_state_pooler"


def test_our_loading_gives_the_features_of_open_clips_own(small_foundation: Path):
    text_cfg = read_config(small_foundation)["model_cfg"]["text_cfg"] | {
        "hf_model_name": str(small_foundation / "text")
    }
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{small_foundation}", text_cfg=text_cfg)
    tokens = open_clip.get_tokenizer(f"local-dir:{small_foundation}")(["extremely dense", "almost entirely fatty"])
    ours = load_foundation(small_foundation)
    assert torch.equal(ours.tokenizer(["extremely dense", "almost entirely fatty"]), tokens)
    with torch.no_grad():
        assert torch.equal(ours.clip.encode_image(images()), theirs.encode_image(images()))
        assert torch.equal(ours.clip.encode_text(tokens), theirs.eval().encode_text(tokens))


def test_the_image_tower_alone_gives_the_features_of_the_whole(small_foundation: Path):
    with torch.no_grad():
        alone = load_image_tower(small_foundation)(images())
        assert torch.equal(alone, load_foundation(small_foundation).clip.encode_image(images()))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(tmp_path: Path):
    before = torch.random.get_rng_state()
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make_small_foundation(tmp_path / name, seed=seed)
    files = [(tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_pickle_in_the_hubs_layout_loads_as_the_safetensors_do(copy: Path, small_foundation: Path):
    weights = load_file(copy / "open_clip_model.safetensors")
    # As published: with the buffer that transformers dropped after 4.31.
    weights["text.transformer.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(weights, copy / "open_clip_pytorch_model.bin")
    (copy / "open_clip_model.safetensors").unlink()
    ours, original = load_foundation(copy), load_foundation(small_foundation)
    with torch.no_grad():
        assert torch.equal(ours.clip.encode_image(images()), original.clip.encode_image(images()))


def test_saving_and_loading_again_changes_nothing(small_foundation: Path, tmp_path: Path):
    save_foundation(load_foundation(small_foundation), tmp_path / "again")
    for name in ("open_clip_model.safetensors", "open_clip_config.json", "tokenizer.json", "text/config.json"):
        first, second = (small_foundation / name).read_bytes(), (tmp_path / "again" / name).read_bytes()
        assert first == second or json.loads(first) == json.loads(second), name


class _Harmful:
    def __reduce__(self):
        return (print, ("code from a weights file ran",))


def test_a_pickle_with_code_is_refused_and_does_not_run(copy: Path, capsys: pytest.CaptureFixture[str]):
    (copy / "open_clip_model.safetensors").unlink()
    (copy / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"visual": _Harmful()}))
    with pytest.raises(UserError, match=r"damaged or (holds more than weights|is no file of weights)"):
        load_foundation(copy)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "open_clip_model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "open_clip_config.json").unlink(), "is not a model folder"),
        (lambda folder: (folder / "text" / "config.json").unlink(), "cannot be built offline"),
        (lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "vocab.txt")], "has no tokenizer"),
        (
            lambda folder: (folder / "open_clip_model.safetensors").write_bytes(
                (folder / "open_clip_model.safetensors").read_bytes()[:10_000]
            ),
            "damaged",
        ),
    ],
)
def test_a_folder_that_lacks_something_says_what(copy: Path, damage, says: str):
    damage(copy)
    with pytest.raises(UserError, match=says):
        load_foundation(copy)


def test_partial_weights_never_become_random_ones(copy: Path):
    path = copy / "open_clip_model.safetensors"
    weights = load_file(path)
    weights.pop("visual.head.proj.weight")
    save_file(weights, path)
    with pytest.raises(UserError, match=r"1 of \d+ are missing"):
        load_foundation(copy)
    with pytest.raises(UserError, match=r"1 of \d+ are missing"):
        load_image_tower(copy)


def test_the_vocabulary_knows_every_word_of_the_prompts_whole(small_foundation: Path):
    vocabulary = wordpiece_vocabulary(DEFAULT_PROMPTS)
    assert len(vocabulary) == len(set(vocabulary))
    tokenizer = load_foundation(small_foundation).tokenizer.tokenizer
    for category in "ABCD":
        for modality in ("plain", "DM", "s2D", "DBT"):
            for caption in DEFAULT_PROMPTS.captions(category, modality):
                pieces = tokenizer.tokenize(caption)
                assert "[UNK]" not in pieces
                assert not any(piece.startswith("##") for piece in pieces)
