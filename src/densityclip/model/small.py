"""BiomedCLIP's own shape made small, with random weights: what the demo and the tests adapt.

Same config keys, poolers and projections, the same files in the same places, so that the code which loads it is the
code that loads the real one. It knows nothing until it is trained.
"""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densityclip.artifacts import write_text
from densityclip.model.biomedclip import TEXT_FOLDER, Foundation, build_clip, save_foundation
from densityclip.model.prompts import DEFAULT_PROMPTS, PLAIN, Prompts
from densityclip.model.weights_check import write_made
from densityclip.records import MODALITIES

IMAGE_SIZE = 160
_EMBED_DIM = 64
_TEXT_WIDTH = 64
_CONTEXT_LENGTH = 64


def small_config() -> dict[str, Any]:
    """The `open_clip_config.json` of the small model; keys and choices as in BiomedCLIP's, sizes smaller.

    `test_vit` is timm's own small ViT with a CLS token: 160 px, 16 px patches, width 64, 6 blocks.
    """
    return {
        "model_cfg": {
            "embed_dim": _EMBED_DIM,
            "vision_cfg": {
                "timm_model_name": "test_vit",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": IMAGE_SIZE,
            },
            "text_cfg": {
                "hf_model_name": TEXT_FOLDER,
                "hf_tokenizer_name": TEXT_FOLDER,
                "hf_model_pretrained": False,
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


def wordpiece_vocabulary(prompts: Prompts, texts: Sequence[str] = ()) -> list[str]:
    """A WordPiece vocabulary: BERT's special tokens, single characters, and the words of some prompts and texts."""
    captions = [
        *texts,
        *(
            caption
            for category in prompts.densities
            for modality in (PLAIN, *MODALITIES)
            for caption in prompts.captions(category, modality)
        ),
    ]
    spaced = " ".join(captions).lower().translate({ord(mark): f" {mark} " for mark in string.punctuation})
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*characters, *(f"##{character}" for character in string.ascii_lowercase + string.digits)]
    words = sorted(set(spaced.split()) - set(pieces))
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *words]


def make_small_foundation(
    folder: Path, *, seed: int, prompts: Prompts = DEFAULT_PROMPTS, texts: Sequence[str] = ()
) -> None:
    """Write the small model as a model folder.

    Args:
        folder: Where to write it.
        seed: Seeds the random weights; the global generator is left as it was.
        prompts: The words that its vocabulary must know whole.
        texts: More of them.
    """
    import torch
    from open_clip.tokenizer import HFTokenizer
    from transformers import BertConfig

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = wordpiece_vocabulary(prompts, texts)
    write_tokenizer(folder, vocabulary, _CONTEXT_LENGTH)
    text = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=_TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * _TEXT_WIDTH,
        max_position_embeddings=_CONTEXT_LENGTH,
    )
    write_text(folder / TEXT_FOLDER / "config.json", text.to_json_string())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = build_clip(small_config(), folder / TEXT_FOLDER)
    tokenizer = HFTokenizer(str(folder), context_length=_CONTEXT_LENGTH)
    save_foundation(Foundation(folder, small_config(), clip.eval(), tokenizer), folder)
    write_made(folder, {"name": "small stand-in of BiomedCLIP's shape", "weights": "random", "seed": seed})


def write_tokenizer(folder: Path, vocabulary: list[str], context_length: int) -> None:
    """Write the files of BERT's tokenizer for a WordPiece vocabulary."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    write_text(folder / "vocab.txt", "\n".join(vocabulary) + "\n")
    pieces = BertWordPieceTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, lowercase=True)
    PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=context_length,
    ).save_pretrained(folder)
