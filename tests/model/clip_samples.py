"""Tiny models of each kind that open_clip's format can hold, with random weights, in the layout of the hub."""

import json
import shutil
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn

from densityclip.model.classifier import normalise

TIMM_VIT = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
OWN_VIT = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 160}
# Two layers of CLIP's own text transformer, with CLIP's own vocabulary.
OWN_TEXT = {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
GREY_SCALE = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def hf_text(folder: Path) -> dict:
    return {
        "hf_model_name": str(folder / "text"),
        "hf_tokenizer_name": "text",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 64,
    }


def write_model(folder: Path, model: dict, *, preprocess: dict = GREY_SCALE, tokenizer: Path | None = None) -> Path:
    """Write a model through open_clip's own factory; `tokenizer` is a folder to copy BERT's files from."""
    folder.mkdir(parents=True)
    if tokenizer:
        shutil.copytree(tokenizer / "text", folder / "text")
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.copyfile(tokenizer / name, folder / name)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        clip = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    save_file(
        {name: value.contiguous() for name, value in clip.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def open_plainly(folder: Path, **options) -> nn.Module:
    """The model as open_clip loads it; it must be told where the text tower's config lies, and to fetch nothing."""
    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    if "hf_model_name" in text:
        options["text_cfg"] = text | {"hf_model_name": str(folder / "text"), "hf_model_pretrained": False}
    return open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=False, **options).eval()


def prepared(height: int = 160, width: int = 160, number: int = 2) -> torch.Tensor:
    """Prepared images as the image tower takes them."""
    pixels = torch.randint(0, 256, (number, height, width), generator=torch.Generator().manual_seed(0))
    return normalise(pixels.to(torch.uint8), GREY_SCALE)
