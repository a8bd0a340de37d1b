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
    from densityclip.explain.methods import METHODS
    from densityclip.explain.paint import shared_scale
    from densityclip.explain.stored import StoredMap
    from densityclip.explain.targets import DENSITY_SCORE

    key = METHODS[0], DENSITY_SCORE
    maps = [StoredMap.of(item) for item in map_images(predictor, images)]
    scale_max = shared_scale([item.tokens[key] for item in maps])
    note = f"{RESEARCH_USE} {predictor.bundle.generated_note}".rstrip()
    return {str(item.row["image_id"]): overlay_png(item, key, scale_max, note=note) for item in maps}
