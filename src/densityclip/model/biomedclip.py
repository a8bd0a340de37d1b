"""Loading a model of BiomedCLIP's format from a local folder: all of its weights, or a message; never random ones.

The folder is laid out as the hub publishes it: `open_clip_config.json`, the weights (safetensors, or a pickle that is
read with `weights_only`), the tokenizer's files, and beside them `text/config.json`, the text tower's own config,
without which open_clip would ask the network for it.
"""

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import atomic_path, read_json, write_json
from densityclip.errors import UserError

if TYPE_CHECKING:
    import torch
    from open_clip.model import CustomTextCLIP
    from open_clip.timm_model import TimmModel
    from open_clip.tokenizer import HFTokenizer

CONFIG = "open_clip_config.json"
SAFETENSORS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"
TEXT_FOLDER = "text"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"

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
    clip: "CustomTextCLIP"
    tokenizer: "HFTokenizer"


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `open_clip_config.json` of a model folder.

    Raises:
        UserError: The folder is not one of a model whose image tower is built by timm and whose text tower is BERT.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is not a model folder: it has no {CONFIG}",
            f"give the folder that holds the files of {BIOMEDCLIP}, or a bundle that `densityclip train` wrote",
        )
    config = read_json(folder / CONFIG, "the model's publisher")
    model = config.get("model_cfg", {}) if isinstance(config, dict) else {}
    if "timm_model_name" not in model.get("vision_cfg", {}) or "hf_model_name" not in model.get("text_cfg", {}):
        raise UserError(
            f"{folder / CONFIG} describes no timm image tower with a Hugging Face text tower",
            "use BiomedCLIP or another open_clip model of that shape",
        )
    return config


def weights_path(folder: Path) -> Path:
    """The file of weights in a model folder, safetensors first.

    Raises:
        UserError: There is none.
    """
    for name in (SAFETENSORS, "open_clip_pytorch_model.safetensors", PICKLE):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{folder} has no weights ({SAFETENSORS} or {PICKLE})",
        f"copy the weights of {BIOMEDCLIP} there; random weights are never used in their place",
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
            tensors = {name.removeprefix("module."): value for name, value in loaded.items()}
            tensors = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged or holds more than weights", "use a safetensors file") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged or is no file of weights", "copy it again from its source") from error
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name not in _STALE_KEYS}


def build_clip(config: dict[str, Any], text_folder: Path) -> "CustomTextCLIP":
    """Build the model that a config describes, through open_clip, with fresh weights.

    Args:
        config: Content of `open_clip_config.json`.
        text_folder: Folder with the text tower's `config.json`; the config's own hub name would ask the network.

    Raises:
        UserError: The text tower's config is missing.
    """
    from open_clip.model import CustomTextCLIP

    if not (text_folder / "config.json").is_file():
        raise UserError(
            f"{text_folder} has no config.json, so the text tower cannot be built offline",
            "copy the config.json of the text model that open_clip_config.json names into that folder",
        )
    model = config["model_cfg"]
    text = model["text_cfg"] | {"hf_model_name": str(text_folder), "hf_model_pretrained": False}
    vision = model["vision_cfg"] | {"timm_model_pretrained": False}
    rest = {key: value for key, value in model.items() if key not in ("vision_cfg", "text_cfg", "custom_text")}
    return CustomTextCLIP(vision_cfg=vision, text_cfg=text, **rest)


def load_foundation(folder: Path) -> Foundation:
    """Load a whole model, both towers, with every weight accounted for.

    Raises:
        UserError: A file is missing or damaged, or names or shapes of the weights differ from the config's.
    """
    from open_clip.tokenizer import HFTokenizer

    config = read_config(folder)
    weights = read_weights(weights_path(folder))
    clip = build_clip(config, folder / TEXT_FOLDER)
    _load_strictly(clip, weights, folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        raise UserError(f"{folder} has no tokenizer", "copy tokenizer.json, tokenizer_config.json and vocab.txt there")
    text = config["model_cfg"]["text_cfg"]
    tokenizer = HFTokenizer(str(folder), context_length=text.get("context_length", clip.context_length))
    return Foundation(folder=folder, config=config, clip=clip.eval(), tokenizer=tokenizer)


def load_image_tower(folder: Path) -> "TimmModel":
    """Load the image tower alone; the text tower's weights are not read.

    Raises:
        UserError: As `load_foundation`.
    """
    from open_clip.timm_model import TimmModel

    config = read_config(folder)
    vision = config["model_cfg"]["vision_cfg"]
    tower = TimmModel(
        vision["timm_model_name"],
        embed_dim=config["model_cfg"]["embed_dim"],
        image_size=vision["image_size"],
        pool=vision.get("timm_pool", "avg"),
        proj=vision.get("timm_proj", "linear"),
        proj_bias=vision.get("timm_proj_bias", False),
        pretrained=False,
    )
    _load_strictly(tower, read_weights(weights_path(folder), prefix="visual."), folder)
    return tower.eval()


def _load_strictly(module: "torch.nn.Module", weights: dict[str, "torch.Tensor"], folder: Path) -> None:
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        have, want = set(weights), set(module.state_dict())
        raise UserError(
            f"the weights in {folder} do not fit their config: {len(want - have)} of {len(want)} are missing, "
            f"{len(have - want)} are unknown, or shapes differ",
            "copy the folder again from its source; random weights are never used in their place",
        ) from error


def save_foundation(foundation: Foundation, folder: Path) -> None:
    """Write a model in the layout of the hub, safetensors instead of a pickle, able to load offline.

    The folder opens with plain open_clip where its text config is given as `<folder>/text`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(foundation.config))
    # With a tokenizer's name in the config, open_clip takes the tokenizer from the folder itself.
    names = {"hf_model_name": TEXT_FOLDER, "hf_tokenizer_name": TEXT_FOLDER, "hf_model_pretrained": False}
    config["model_cfg"]["text_cfg"] |= names
    write_json(folder / CONFIG, config)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in foundation.clip.state_dict().items()}
    with atomic_path(folder / SAFETENSORS) as temporary:
        save_file(state, temporary)
    with atomic_path(folder / TEXT_FOLDER / "config.json") as temporary:
        temporary.write_text(foundation.clip.text.config.to_json_string(), encoding="utf-8")
    for name in TOKENIZER_FILES:
        if (foundation.folder / name).is_file() and foundation.folder.resolve() != folder.resolve():
            shutil.copyfile(foundation.folder / name, folder / name)
