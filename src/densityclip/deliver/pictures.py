"""Pictures of where the model looked in one exam."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
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
    from densityclip.explain.maps import RESEARCH_USE, map_images, write_overlay
    from densityclip.explain.paint import shared_scale

    maps = list(map_images(predictor, images))
    scale_max = shared_scale([item.tokens for item in maps])
    note = f"{RESEARCH_USE} {predictor.bundle.generated_note}".rstrip()
    with tempfile.TemporaryDirectory() as folder:
        return {
            str(item.row["image_id"]): write_overlay(item, Path(folder), scale_max, note=note).read_bytes()
            for item in maps
        }
