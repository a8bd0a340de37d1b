"""BiomedCLIP's own shape at its full size, with random weights: what is loaded where the real ones are not at hand.

Its config is the published one, key for key; the files are those of the hub, the weights' pickle included. Tests and
benchmarks load it. It knows nothing, and no command makes it.
"""

from pathlib import Path
from typing import Any

from densityclip.artifacts import write_json, write_text
from densityclip.model.biomedclip import CONFIG, PICKLE, TEXT_FOLDER, build_clip
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.model.small import wordpiece_vocabulary, write_tokenizer

_CONTEXT_LENGTH = 256
_TEXT_MODEL = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


def full_size_config() -> dict[str, Any]:
    """The `open_clip_config.json` that BiomedCLIP's publishers wrote."""
    return {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 224,
            },
            "text_cfg": {
                "hf_model_name": _TEXT_MODEL,
                "hf_tokenizer_name": _TEXT_MODEL,
                "hf_proj_type": "mlp",
                "hf_pooler_type": "cls_last_hidden_state_pooler",
                "context_length": _CONTEXT_LENGTH,
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }


def make_full_size(folder: Path, *, seed: int) -> None:
    """Write the model in the hub's layout: 784 MB.

    Args:
        folder: Where to write it.
        seed: Seeds the random weights; the global generator is left as it was.
    """
    import torch
    from transformers import BertConfig

    # BERT base's defaults are the published text tower's; its 30,522 tokens are more than the vocabulary here has.
    write_text(folder / TEXT_FOLDER / "config.json", BertConfig(vocab_size=30_522).to_json_string())
    write_json(folder / CONFIG, full_size_config())
    write_tokenizer(folder, wordpiece_vocabulary(DEFAULT_PROMPTS), _CONTEXT_LENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = dict(build_clip(full_size_config(), folder / TEXT_FOLDER).state_dict())
    # The published file still has this buffer, which transformers dropped after 4.31.
    weights["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(weights, folder / PICKLE)
