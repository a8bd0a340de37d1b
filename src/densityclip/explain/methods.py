"""The methods of explanation by name, behind one call."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

METHODS: tuple[str, ...] = ("gradcam", "attention", "occlusion")
# It runs the tower once a window: what is done again and again is not done with it.
SLOW = ("occlusion",)
METHOD_WORDS = {"gradcam": "GradCAM", "attention": "Attention with gradient", "occlusion": "Occlusion by fat"}
METHOD_UNITS = {
    "gradcam": "activation x gradient",
    "attention": "relevance",
    "occlusion": "loss of score",
}


def picture_method(trunk: "nn.Module") -> str:
    """The one method of pictures beside a prediction: attention with gradient where the tower allows it, else GradCAM.

    On generated exams attention showed what the answer rests on and GradCAM did not (docs/explain.md).
    """
    from densityclip.explain.attention import reads_attention

    return "attention" if reads_attention(trunk) else "gradcam"


def method_maps(
    method: str,
    classify: "Callable[[Tensor], Tensor]",
    trunk: "nn.Module",
    images: "Tensor",
    targets: Sequence[str],
    *,
    fat: "Callable[[], Tensor]",
    signed: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Maps of a batch of images by one method, each on its own raw scale: no two methods share a unit.

    Args:
        method: One of `gradcam attention occlusion`; see `explain/gradcam.py`, `attention.py`, `occlusion.py`.
        classify: `[b, 3, h, w]` to logits `[b, 4]`, through `trunk`; it is only ever given all b images, in order.
        trunk: The image tower's timm VisionTransformer (`model.visual.trunk` in open_clip).
        images: `[b, 3, h, w]`, normalised as the tower expects.
        targets: Of `density-score expected-density A B C D`.
        fat: Makes `[b, 3, h, w]`, the images with the breast replaced by its fat, normalised, for occlusion alone.
        signed: Keep what lowers a target as negative values, where the method knows of it (attention does not).

    Returns:
        One `[b, grid rows, grid columns]` per target.

    Raises:
        UserError: The method does not serve this tower.
        ValueError: Unknown method or target, or shapes that do not fit.
    """
    from densityclip.explain.attention import attention_maps
    from densityclip.explain.gradcam import token_maps_for
    from densityclip.explain.occlusion import occlusion_maps

    if method == "gradcam":
        return token_maps_for(classify, trunk, images, targets, signed=signed)
    if method == "attention":
        return attention_maps(classify, trunk, images, targets)
    if method == "occlusion":
        return occlusion_maps(classify, trunk, images, fat(), targets, signed=signed)
    raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
