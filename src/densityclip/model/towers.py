"""The towers that a model's config describes, built by open_clip's own classes, and the image size that they take."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.errors import UserError

if TYPE_CHECKING:
    from open_clip.model import CLIP, CustomTextCLIP
    from torch import nn

# What building raises on a config that does not fit the installed open_clip, timm or transformers.
_BUILD_ERRORS = (TypeError, ValueError, KeyError, RuntimeError, AssertionError, AttributeError, OSError, ImportError)


def check_towers(model: dict[str, Any], source: Path) -> None:
    """Check that a config's `model_cfg` describes a model that can be adapted here and built without a network.

    Args:
        model: The `model_cfg`.
        source: The file that it stands in, for the message.

    Raises:
        UserError: It has other towers than timm's or open_clip's own ViT and a text encoder, or a bias on its logits.
    """
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    remedy = "use BiomedCLIP, or another CLIP model in open_clip's format"
    if not isinstance(vision, dict) or not isinstance(text, dict) or "embed_dim" not in model:
        raise UserError(f"{source} describes no image tower with a text tower", remedy)
    if "multimodal_cfg" in model:
        raise UserError(f"{source} describes a CoCa model, which also writes captions", remedy)
    if model.get("init_logit_bias") is not None:
        raise UserError(
            f"{source} describes a SigLIP model (init_logit_bias): its pairs are scored one by one by a sigmoid, "
            "and the loss and the probabilities here are softmax's",
            remedy,
        )
    timm_name = vision.get("timm_model_name")
    if not timm_name and (isinstance(vision.get("layers", 12), Sequence) or vision.get("attentional_pool")):
        raise UserError(f"{source} describes an image tower that is neither timm's nor open_clip's own ViT", remedy)
    if timm_name and ":" in timm_name:
        # timm would ask the hub for hf-hub:NAME, whatever `timm_model_pretrained` says.
        raise UserError(
            f"{source} names an image tower of a hub ({timm_name})", "name the architecture that timm knows"
        )


def build_clip(config: dict[str, Any], text_folder: Path) -> "CLIP | CustomTextCLIP":
    """Build the model that a config describes, through open_clip, with fresh weights.

    Args:
        config: Content of `open_clip_config.json`.
        text_folder: Folder with the `config.json` of a Hugging Face text tower; the config's own hub name would ask
            the network. A text tower of open_clip's own does not need it.

    Raises:
        UserError: The text tower's config is missing, or the installed libraries know no such model.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    model = config["model_cfg"]
    text = dict(model["text_cfg"])
    if text.get("hf_model_name"):
        if not (text_folder / "config.json").is_file():
            raise UserError(
                f"{text_folder} has no config.json, so the text tower cannot be built offline",
                "copy the config.json of the text model that open_clip_config.json names into that folder",
            )
        text |= {"hf_model_name": str(text_folder), "hf_model_pretrained": False}
    vision = model["vision_cfg"] | {"timm_model_pretrained": False}
    rest = {key: value for key, value in model.items() if key not in ("vision_cfg", "text_cfg", "custom_text")}
    # As open_clip chooses the class: the mere key of a Hugging Face tower is enough.
    own_text = not model.get("custom_text") and "hf_model_name" not in text
    try:
        clip = (CLIP if own_text else CustomTextCLIP)(vision_cfg=vision, text_cfg=text, **rest)
    except _BUILD_ERRORS as error:
        raise _unbuildable(error) from error
    _set_configured_size(clip.visual, config)
    return clip


def build_image_tower(config: dict[str, Any]) -> "nn.Module":
    """Build the image tower alone, at the size that the config names, with fresh weights.

    Raises:
        UserError: The installed libraries know no such tower.
    """
    tower = _as_open_clip_builds(config)
    _set_configured_size(tower, config)
    return tower


def configured_size(config: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width that a config names, or None where it leaves them to the tower."""
    size = config["model_cfg"]["vision_cfg"].get("image_size")
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def built_size(config: dict[str, Any]) -> tuple[int, int]:
    """Height and width at which plain open_clip builds the image tower of a config.

    It hands the config's size on to its own ViT, and builds timm's at the architecture's default.
    """
    import torch

    with torch.device("meta"):
        return image_size(_as_open_clip_builds(config))


def image_size(model: "nn.Module") -> tuple[int, int]:
    """Height and width in pixels of the images that a model takes.

    Args:
        model: A whole CLIP model, or its image tower.
    """
    tower: Any = getattr(model, "visual", model)
    size = getattr(_patches(tower), "img_size", None) or tower.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def set_image_size(tower: "nn.Module", height: int, width: int) -> None:
    """Make an image tower take another size, in place: its position embeddings are interpolated.

    Bicubic with antialiasing, as open_clip and timm do it; the embedding of the class token stays as it is.

    Raises:
        UserError: A side is no multiple of the patch, or the tower has no position embeddings.
    """
    size = (height, width)
    if size == image_size(tower):
        return
    patch_height, patch_width = _patch_size(tower)
    if min(size) < 1 or height % patch_height or width % patch_width:
        steps = f"{patch_height}" if patch_height == patch_width else f"{patch_height} and {patch_width}"
        down, across = (
            max(side // patch, 1) * patch for side, patch in zip(size, (patch_height, patch_width), strict=True)
        )
        raise UserError(
            f"the image tower takes sides that are multiples of its patch of {steps} px, not {height} x {width}",
            f"choose a size such as {down} x {across}",
        )
    if hasattr(tower, "trunk"):
        tower.set_input_size(size)  # type: ignore[operator]
    else:
        _resize_own_vit(tower, size)


def has_unsaved_buffers(module: "nn.Module") -> bool:
    """Whether a module keeps tensors that no file of weights holds, such as tables computed when it is built."""
    saved = module.state_dict()
    return any(name not in saved for name, _ in module.named_buffers())


def _as_open_clip_builds(config: dict[str, Any]) -> "nn.Module":
    from open_clip.model import _build_vision_tower

    model = config["model_cfg"]
    vision = model["vision_cfg"] | {"timm_model_pretrained": False}
    try:
        tower: nn.Module = _build_vision_tower(model["embed_dim"], vision, model.get("quick_gelu", False))
    except _BUILD_ERRORS as error:
        raise _unbuildable(error) from error
    return tower


def _unbuildable(error: BaseException) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"the installed open_clip cannot build the model that open_clip_config.json describes: {reason}",
        "update open_clip_torch, timm and transformers, or use another model",
    )


def _set_configured_size(tower: "nn.Module", config: dict[str, Any]) -> None:
    """A trunk of timm comes at its own default size, whatever the config says."""
    size = configured_size(config)
    if size is not None and size != image_size(tower):
        set_image_size(tower, *size)


def _patches(tower: Any) -> Any:
    """The patch embedding of timm's trunk, or None where the tower has none of a fixed size."""
    return getattr(getattr(tower, "trunk", None), "patch_embed", None)


def _patch_size(tower: Any) -> tuple[int, int]:
    if not hasattr(tower, "trunk"):
        height, width = tower.patch_size
        return int(height), int(width)
    patches = _patches(tower)
    if getattr(tower.trunk, "pos_embed", None) is None or not hasattr(tower.trunk, "set_input_size"):
        raise UserError(
            f"the image tower ({type(tower.trunk).__name__}) has no position embeddings to interpolate",
            "prepare the images at {} x {} px".format(*image_size(tower)),
        )
    height, width = patches.feat_ratio(as_scalar=False)
    return int(height), int(width)


def _resize_own_vit(tower: Any, size: tuple[int, int]) -> None:
    import torch
    from timm.layers import resample_abs_pos_embed

    old: nn.Parameter = tower.positional_embedding
    grid = (size[0] // tower.patch_size[0], size[1] // tower.patch_size[1])
    # open_clip's own function takes every old grid for a square.
    moved = resample_abs_pos_embed(old.detach()[None], grid, tuple(tower.grid_size), num_prefix_tokens=1)[0]
    tower.positional_embedding = torch.nn.Parameter(moved, requires_grad=old.requires_grad)
    tower.image_size, tower.grid_size = size, grid
