"""Pictures of where the model looked in one exam."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from densityclip.explain.stored import StoredMap
    from densityclip.inference.predictor import PredictedImage, Predictor
    from densityclip.model.bundle import Bundle

_LAYER_BOX_PX = (1000, 1400)


@dataclass(frozen=True, eq=False)
class Layers:
    """An image and its heat as two PNGs of one size, so that a screen can lay one over the other and fade it.

    Attributes:
        image_id: As in the predictions.
        view: Grey, as a screen shows the image.
        heat: Colours with transparency; laid over `view` it is what `exam_pictures` paints.
    """

    image_id: str
    view: bytes
    heat: bytes


def exam_pictures(predictor: "Predictor", images: Iterable["PredictedImage"]) -> dict[str, bytes]:
    """Draw the maps of one exam's images.

    The colour scale is that of this exam alone: the pictures are the same whatever else is predicted beside it.

    Args:
        predictor: The model.
        images: Of `Predictor.predict_files`, one exam's; refused ones are passed over.

    Returns:
        By image id, a PNG.
    """
    return draw_pictures(predictor, exam_maps(predictor, images))


def exam_maps(predictor: "Predictor", images: Iterable["PredictedImage"]) -> list["StoredMap"]:
    """The maps of one exam's images; refused ones have none."""
    from densityclip.explain.maps import map_images
    from densityclip.explain.stored import StoredMap

    return [StoredMap.of(item) for item in map_images(predictor, images)]


def draw_pictures(predictor: "Predictor", maps: Sequence["StoredMap"]) -> dict[str, bytes]:
    """Draw maps of one exam; see `exam_pictures`."""
    return {image_id: own for image_id, own, _ in draw_twice(predictor.bundle, maps)}


def draw_twice(
    bundle: "Bundle", maps: Sequence["StoredMap"], scale_max: float | None = None
) -> Iterator[tuple[str, bytes, bytes]]:
    """Draw maps of one exam on the exam's own colour scale and on one that others share; an image is decoded once.

    Args:
        bundle: The model.
        maps: Of all the exam's answered images.
        scale_max: Upper end of the shared scale; without it the second picture is the first.

    Yields:
        Image id and both PNGs, image by image.
    """
    from densityclip.explain.drawing import Original, overlay_pngs, picture_note
    from densityclip.explain.stored import exams_apart

    own, apart = _scale(maps), exams_apart(maps)
    for item in maps:
        ends = [(_key(item), top) for top in ((own,) if scale_max is None else (own, scale_max))]
        withheld = item.row.get("exam_id") in apart
        pictures = list(overlay_pngs(Original.of(item), ends, note=picture_note(bundle), withheld=withheld))
        yield str(item.row["image_id"]), pictures[0], pictures[-1]


def draw_layers(maps: Sequence["StoredMap"]) -> Iterable[Layers]:
    """The same maps as layers, on the same colour scale; of at most 1000 x 1400 px."""
    scale_max = _scale(maps)
    for item in maps:
        yield _layers(item, scale_max)


def _layers(item: "StoredMap", scale_max: float) -> Layers:
    from PIL import Image

    from densityclip.explain.geometry import to_original
    from densityclip.explain.paint import blend, fit_size, heat_colours, heat_opacity, png_bytes, shrink
    from densityclip.imaging.prepare import display_image

    image = display_image(Path(item.row["path"]), item.slab)
    rows, columns = image.shape
    width, height = fit_size(rows, columns, _LAYER_BOX_PX)
    size = (min(width, columns), min(height, rows))
    heat = shrink(to_original(item.tokens[_key(item)], item.geometry), size)
    level = np.clip(heat / np.float32(scale_max), 0.0, 1.0)
    alpha = np.round(heat_opacity(level) * 255)[..., None]
    colours = heat_colours()[np.round(level * 255).astype(np.intp)]
    painted = np.concatenate([np.round(colours), alpha], axis=-1).astype(np.uint8)
    grey = blend(shrink(image, size), np.zeros_like(heat), scale_max)[..., 0]
    return Layers(
        str(item.row["image_id"]), png_bytes(Image.fromarray(grey)), png_bytes(Image.fromarray(painted, "RGBA"))
    )


def _key(item: "StoredMap") -> tuple[str, str]:
    """The one method and target of the pictures."""
    return next(iter(item.tokens))


def _scale(maps: Sequence["StoredMap"]) -> float:
    from densityclip.explain.paint import shared_scale

    return shared_scale([item.tokens[_key(item)] for item in maps])
