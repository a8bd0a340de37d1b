"""Pictures of where the model looked in one exam."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densityclip.inference.predictor import PredictedImage, Predictor


def exam_pictures(predictor: "Predictor", images: Iterable["PredictedImage"]) -> dict[str, bytes]:
    """Draw the maps of one exam's images.

    The colour scale is that of this exam alone: the pictures are the same whatever else is predicted beside it.

    Args:
        predictor: The model.
        images: Of `Predictor.predict_files`, one exam's; refused ones are passed over.

    Returns:
        By image id, a PNG.
    """
    from densityclip.explain.drawing import RESEARCH_USE, overlay_png
    from densityclip.explain.maps import map_images
    from densityclip.explain.paint import shared_scale
    from densityclip.explain.stored import StoredMap

    maps = [StoredMap.of(item) for item in map_images(predictor, images)]
    note = f"{RESEARCH_USE} {predictor.bundle.generated_note}".rstrip()
    keys = next((list(item.tokens) for item in maps), [])
    scale = {key: shared_scale([item.tokens[key] for item in maps]) for key in keys}
    return {
        str(item.row["image_id"]): overlay_png(item, key, scale[key], note=note) for item in maps for key in keys[:1]
    }
