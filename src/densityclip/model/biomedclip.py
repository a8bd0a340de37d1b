"""Loading a CLIP model of open_clip's format from a local folder: all of its weights, or a message; never random ones.

The folder is laid out as the hub publishes BiomedCLIP: `open_clip_config.json`, the weights (safetensors, or a pickle
that is read with `weights_only`), the tokenizer's files, and beside them `text/config.json`, the own config of a text
tower of Hugging Face's, without which open_clip would ask the network for it. Models whose towers are open_clip's own
have no such file, and may have no tokenizer's files.
"""

import json
import pickle
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import atomic_path, read_json, write_json
from densityclip.errors import UserError
from densityclip.model.towers import (
    build_clip,
    build_image_tower,
    check_towers,
    configured_size,
    has_unsaved_buffers,
    image_size,
    set_image_size,
)

if TYPE_CHECKING:
    import torch
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

CONFIG = "open_clip_config.json"
SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"
# What publishers call their weights, the preferred first.
WEIGHTS = (SAFETENSORS, "open_clip_pytorch_model.safetensors", PICKLE)
TEXT_FOLDER = "text"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
# Others would fetch something, run code of the folder, or drop words at random.
_TOKENIZER_OPTIONS = {"clean", "strip_sep_token", "additional_special_tokens"}
# open_clip's default for a config without them (arXiv:2103.00020).
_CLIP_GREY_SCALE = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}

# transformers dropped this buffer after 4.31; BiomedCLIP's published file still has it.
_STALE_KEYS = ("text.transformer.embeddings.position_ids",)


@dataclass(frozen=True)
class Foundation:
    """A loaded vision-language model and what is needed to write it again.

    Attributes:
        folder: Where it came from.
        config: Content of `open_clip_config.json`.
        clip: The model, on the CPU, in eval mode.
        tokenizer: Texts to `[n, context_length]` token ids.
    """

    folder: Path
    config: dict[str, Any]
    clip: "CLIP | CustomTextCLIP"
    tokenizer: "HFTokenizer | SimpleTokenizer"


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `open_clip_config.json` of a model folder; a grey scale that it leaves out is CLIP's own.

    Raises:
        UserError: The folder is no model folder, or of a model that cannot be adapted here.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is not a model folder: it has no {CONFIG}",
            f"give the folder that holds the files of {BIOMEDCLIP}, as `densityclip weights fetch --out FOLDER` makes "
            "it, or a bundle that `densityclip train` wrote",
        )
    config = read_json(folder / CONFIG, "the model's publisher")
    model = config.get("model_cfg") if isinstance(config, dict) else None
    check_towers(model if isinstance(model, dict) else {}, folder / CONFIG)
    return config | {"preprocess_cfg": _CLIP_GREY_SCALE | (config.get("preprocess_cfg") or {})}


def weights_path(folder: Path) -> Path:
    """The file of weights in a model folder, safetensors first.

    Raises:
        UserError: There is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} has no weights ({SAFETENSORS} or {PICKLE})",
        f"fetch them with `densityclip weights fetch --out {folder}`, or copy the weights of {BIOMEDCLIP} there; "
        "random weights are never used in their place",
    )


def model_files(folder: Path) -> list[str]:
    """Names of the files that make a model: config, weights, tokenizer, the text tower's config.

    Raises:
        UserError: The folder has no config or no weights.
    """
    read_config(folder)
    optional = [name for name in (*TOKENIZER_FILES, f"{TEXT_FOLDER}/config.json") if (folder / name).is_file()]
    return [CONFIG, weights_path(folder).name, *optional]


def read_weights(path: Path, prefix: str = "") -> dict[str, "torch.Tensor"]:
    """Read tensors by name.

    Args:
        path: Safetensors, or a pickle (read with `weights_only`, which runs no code).
        prefix: Read only names that start with it, and drop it.

    Raises:
        UserError: The file is damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as handle:
                # A tensor mapped from the file may be misaligned, and that changes the last bits of products: clone.
                tensors = {name: handle.get_tensor(name).clone() for name in handle.keys() if name.startswith(prefix)}  # noqa: SIM118
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            loaded = loaded.get("state_dict", loaded)
            if not all(isinstance(value, torch.Tensor) for value in loaded.values()):
                raise ValueError("more than tensors")
            tensors = {name.removeprefix("module."): value for name, value in loaded.items()}
            tensors = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged or holds more than weights", "use a safetensors file") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged or is no file of weights", "copy it again from its source") from error
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name not in _STALE_KEYS}


def read_shapes(path: Path) -> dict[str, "torch.Size"]:
    """Read the shapes of tensors by name; of safetensors the header tells them, and nothing else is read.

    Raises:
        UserError: The file is damaged, or shorter than its header says.
    """
    from safetensors import SafetensorError, safe_open
    from torch import Size

    if path.suffix != ".safetensors":
        return {name: value.shape for name, value in read_weights(path).items()}
    try:
        with safe_open(path, framework="pt") as handle:
            shapes = {name: Size(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or is no file of weights", "copy it again from its source") from error
    return {name: shape for name, shape in shapes.items() if name not in _STALE_KEYS}


def check_model(folder: Path) -> tuple[dict[str, "torch.Size"], tuple[int, int]]:
    """Check that a folder's files make a model, without its weights in memory where they are safetensors.

    Returns:
        The shapes of the weights by name, and the height and width of the images that the model takes.

    Raises:
        UserError: As `load_foundation`.
    """
    import torch

    config, shapes = read_config(folder), read_shapes(weights_path(folder))
    with torch.device("meta"):
        clip = build_clip(config, folder / TEXT_FOLDER)
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
        _load_strictly(clip, _in_todays_layout(weights, clip), folder)
    _tokenizer(folder, config, clip)
    return shapes, image_size(clip)


def load_foundation(folder: Path) -> Foundation:
    """Load a whole model, both towers, with every weight accounted for, at the image size that its config names.

    Raises:
        UserError: A file is missing or damaged, or names or shapes of the weights differ from the config's.
    """
    config = read_config(folder)
    weights = read_weights(weights_path(folder))
    clip = build_clip(config, folder / TEXT_FOLDER)
    _load_strictly(clip, _in_todays_layout(weights, clip), folder)
    return Foundation(folder=folder, config=config, clip=clip.eval(), tokenizer=_tokenizer(folder, config, clip))


def load_image_tower(folder: Path) -> "torch.nn.Module":
    """Load the image tower alone; the text tower's weights are not read.

    Raises:
        UserError: As `load_foundation`.
    """
    import torch

    config = read_config(folder)
    # Without storage: drawing random numbers for 86 M parameters costs more than reading the real ones.
    with torch.device("meta"):
        tower = build_image_tower(config)
    if has_unsaved_buffers(tower):
        tower = build_image_tower(config)
    _load_strictly(tower, read_weights(weights_path(folder), prefix="visual."), folder)
    return tower.eval()


def resized(foundation: Foundation, height: int, width: int) -> Foundation:
    """The model for images of another size: the position embeddings of its image tower are interpolated.

    Args:
        foundation: The model. Its image tower is changed in place, as a second copy would cost its size in memory.
        height: In pixels, a multiple of the patch.
        width: In pixels, a multiple of the patch; it may differ from the height.

    Returns:
        The model with a config that names the size, so that it is saved and loaded with it.

    Raises:
        UserError: A side is no multiple of the patch, or the image tower has no position embeddings to interpolate.
    """
    if (height, width) == image_size(foundation.clip):
        return foundation
    vision = foundation.config["model_cfg"]["vision_cfg"]
    if height != width and vision.get("pos_embed_type") == "sin_cos_2d":
        raise UserError("this model's sine position embeddings are made for squares alone", "choose equal sides")
    set_image_size(foundation.clip.visual, height, width)
    config = json.loads(json.dumps(foundation.config))
    config["model_cfg"]["vision_cfg"]["image_size"] = height if height == width else [height, width]
    # Where the publisher wrote it, open_clip's own preprocessing reads the size from there.
    if "size" in config["preprocess_cfg"]:
        config["preprocess_cfg"]["size"] = [height, width]
    return replace(foundation, config=config)


def _in_todays_layout(weights: dict[str, "torch.Tensor"], clip: Any) -> dict[str, "torch.Tensor"]:
    """Names and shapes of older checkpoints brought to today's, as open_clip's own loading does."""
    from open_clip.model import convert_to_custom_text_state_dict

    if "positional_embedding" in weights and not hasattr(clip, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    scale = weights.get("logit_scale")
    if scale is not None and scale.numel() == 1:
        weights["logit_scale"] = scale.reshape(clip.logit_scale.shape)
    return weights


def _load_strictly(module: "torch.nn.Module", weights: dict[str, "torch.Tensor"], folder: Path) -> None:
    """Put weights in their places; they become the module's own, so it may have been built without storage."""
    wanted = module.state_dict()
    same_type = {name: value.to(wanted[name].dtype) if name in wanted else value for name, value in weights.items()}
    try:
        module.load_state_dict(same_type, strict=True, assign=True)
    except RuntimeError as error:
        missing, unknown = (
            [name for name in some if name not in others] for some, others in ((wanted, weights), (weights, wanted))
        )
        other = [name for name, value in weights.items() if name in wanted and value.shape != wanted[name].shape]
        said = ((missing, f"of {len(wanted)} are missing"), (unknown, "are unknown"), (other, "have another shape"))
        found = "; ".join(
            f"{len(names)} {what} ({names[0]}{', ...' * (len(names) > 1)})" for names, what in said if names
        )
        raise UserError(
            f"the weights in {folder} do not fit their config: {found}",
            "copy the folder again from its source; random weights are never used in their place",
        ) from error


def _tokenizer(folder: Path, config: dict[str, Any], clip: Any) -> "HFTokenizer | SimpleTokenizer":
    """The tokenizer that open_clip would choose: Hugging Face's where the config names one, else CLIP's own."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = config["model_cfg"]["text_cfg"]
    options = text.get("tokenizer_kwargs") or {}
    unknown = sorted(set(options) - _TOKENIZER_OPTIONS)
    if unknown:
        raise UserError(
            f"{folder / CONFIG} sets options of the tokenizer that are not taken from a file: {', '.join(unknown)}",
            "remove them from tokenizer_kwargs, if the model does not depend on them",
        )
    length = text.get("context_length", clip.context_length)
    if not text.get("hf_tokenizer_name") and not text.get("hf_model_name"):
        return SimpleTokenizer(context_length=length, **options)
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(f"{folder} has no tokenizer", "copy tokenizer.json, tokenizer_config.json and vocab.txt there")
    try:
        return HFTokenizer(str(folder), context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options)
    except Exception as error:  # whatever two libraries raise on files that are cut short or do not belong together
        raise UserError(
            f"the tokenizer's files in {folder} cannot be read: {' '.join(str(error).split())[:200]}",
            f"copy {', '.join(TOKENIZER_FILES)} again from their source",
        ) from error


def save_foundation(foundation: Foundation, folder: Path) -> None:
    """Write a model in the layout of the hub, safetensors instead of a pickle, able to load offline.

    The folder opens with plain open_clip, where a Hugging Face text tower's config is given as `<folder>/text`; the
    exception is timm's image tower at another size than its own, which open_clip builds at its own all the same.
    """
    from safetensors.torch import save_file

    size = configured_size(foundation.config)
    assert size in (None, image_size(foundation.clip)), "a model of another size than its config's would not load again"
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(foundation.config))
    text = config["model_cfg"]["text_cfg"]
    if text.get("hf_model_name"):
        # With a tokenizer's name in the config, open_clip takes the tokenizer from the folder itself.
        text |= {"hf_model_name": TEXT_FOLDER, "hf_tokenizer_name": TEXT_FOLDER, "hf_model_pretrained": False}
        with atomic_path(folder / TEXT_FOLDER / "config.json") as temporary:
            temporary.write_text(foundation.clip.text.config.to_json_string(), encoding="utf-8")
    write_json(folder / CONFIG, config)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in foundation.clip.state_dict().items()}
    with atomic_path(folder / SAFETENSORS) as temporary:
        save_file(state, temporary)
    for name in TOKENIZER_FILES:
        if (foundation.folder / name).is_file() and foundation.folder.resolve() != folder.resolve():
            shutil.copyfile(foundation.folder / name, folder / name)
