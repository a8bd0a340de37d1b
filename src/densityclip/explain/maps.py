"""Maps of files: the model's token maps, one colour scale for all, overlays on the original grid, and figures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.artifacts import atomic_path, file_stem
from densityclip.density import predicted_category
from densityclip.explain.agreement import energy_inside, gland_auc
from densityclip.explain.geometry import to_canvas, to_original, token_size_px
from densityclip.explain.gradcam import DENSITY_SCORE, EXPECTED_DENSITY, token_maps
from densityclip.explain.overlay import Panel, contact_sheet, draw_overlay
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.prepare import Prepared, display_image
from densityclip.inference.predictor import PredictedImage, Predictor
from densityclip.probability.aggregate import softmax
from densityclip.records import MODALITIES

RESEARCH_USE = "Research use only."
TARGET_WORDS = {DENSITY_SCORE: "density score", EXPECTED_DENSITY: "expected density"}


@dataclass(frozen=True, eq=False)
class ImageMap:
    """One image's map; of a volume, the mean over the slices that the answer rests on, shown on the middle one.

    Attributes:
        row: The image's row of the index.
        shown: The prepared slice that stands for the image.
        tokens: `[grid rows, grid columns]`, raw scale.
        probabilities: `[4]`, as predicted.
    """

    row: Mapping[str, Any]
    shown: Prepared
    tokens: NDArray[np.float32]
    probabilities: NDArray[np.float64]

    @property
    def geometry(self) -> Geometry:
        """Where the prepared image lies on the original."""
        return self.shown.geometry


def map_images(
    predictor: Predictor, images: Iterable[PredictedImage], target: str = DENSITY_SCORE
) -> Iterator[ImageMap]:
    """Token maps of predicted images; refused ones are passed over.

    Args:
        predictor: The model that predicted them.
        images: Of `Predictor.predict_files`.
        target: One of `density-score expected-density A B C D`.

    Yields:
        One map an image.
    """
    import torch

    from densityclip.model.classifier import normalise

    classifier = predictor.classifier
    for image in images:
        if not image.prepared:
            continue
        names = [image.row["modality"]] * len(image.prepared)
        pixels = torch.from_numpy(np.stack([prepared.pixels for prepared in image.prepared])).to(predictor.device)
        tokens = token_maps(
            partial(classifier.from_normalised, modalities=names),
            classifier.visual.get_submodule("trunk"),
            normalise(pixels, classifier.preprocess),
            target,
        )
        middle = image.prepared[len(image.prepared) // 2]
        joined = np.log(softmax(image.logits).mean(axis=0, keepdims=True))
        yield ImageMap(image.row, middle, tokens.mean(axis=0), predictor.calibration.apply(joined)[0])


def write_overlay(
    item: ImageMap, folder: Path, scale_max: float, target: str = DENSITY_SCORE, *, note: str = RESEARCH_USE
) -> Path:
    """Draw one overlay and keep the raw map beside it.

    Args:
        item: The map.
        folder: Where to write.
        scale_max: Heat at the top of the colour scale.
        target: What the map explains.
        note: A picture travels alone, so it says by itself what it is not.

    Returns:
        Path of the PNG; the `.npz` of the same name holds `tokens` and the geometry that carries them back.
    """
    row, geometry = item.row, item.geometry
    stem = file_stem(str(row["image_id"]))
    with atomic_path(folder / f"{stem}.npz") as temporary, temporary.open("wb") as handle:
        place = {f"geometry_{name}": np.asarray(value) for name, value in geometry.as_row().items()}
        np.savez_compressed(handle, allow_pickle=False, tokens=item.tokens, **place)
    if not (item.tokens > 0).any():
        note = f"The map is empty: nothing raised the score. {note}"
    label = _view_of(row) or "view not stated"
    modality = row["modality"] if row["modality"] != "unknown" else "modality not stated"
    picture = draw_overlay(
        display_image(Path(row["path"]), item.shown.slab),
        to_original(item.tokens, geometry),
        scale_max,
        title=(str(row["image_id"]), f"GradCAM of the {TARGET_WORDS.get(target, f'category {target}')}", note),
        label=f"{label}, {modality}",
        outline=breast_outline(item),
        probabilities=item.probabilities.tolist(),
        token_px=token_size_px(item.tokens.shape, geometry),
    )
    with atomic_path(folder / f"{stem}.png") as temporary:
        temporary.write_bytes(picture)
    return folder / f"{stem}.png"


def _view_of(row: Mapping[str, Any]) -> str:
    """Side and view as far as they are stated, such as `L MLO`."""
    return " ".join(str(row[name]) for name in ("laterality", "view") if row.get(name))


def breast_outline(item: ImageMap) -> NDArray[np.bool_]:
    """The breast on the original grid, `[rows, columns]` bool."""
    return item.geometry.to_original(item.shown.mask.astype(np.float32)) >= 0.5


def draw_sheet(maps: Sequence[ImageMap], scale_max: float, title: str) -> bytes:
    """A contact sheet of maps, rows by labelled category, columns by modality, as PNG."""
    present = {str(item.row["modality"]) for item in maps}
    columns = [name for name in (*MODALITIES, "unknown") if name in present]
    return contact_sheet([_panel(item) for item in maps], columns=columns, title=title, scale_max=scale_max)


def _panel(item: ImageMap) -> Panel:
    row = item.row
    says = str(predicted_category(item.probabilities[None])[0])
    return Panel(
        image=display_image(Path(row["path"]), item.shown.slab),
        heat=to_original(item.tokens, item.geometry),
        category=row["density"],
        modality=str(row["modality"]),
        caption=(_view_of(row), f"model: {says} ({100 * item.probabilities.max():.0f}%)"),
        outline=breast_outline(item),
        token_px=token_size_px(item.tokens.shape, item.geometry),
    ).shrunk()


def map_figures(item: ImageMap, gland: Callable[[str], NDArray[np.floating] | None] | None = None) -> dict[str, Any]:
    """Figures about one map.

    Args:
        item: The map.
        gland: SOP Instance UID to fibroglandular thickness on the image's grid, mm; None where it is not known.

    Returns:
        `energy_inside` (share of heat within the breast), `breast_share` (what a flat map would score), and, where the
        truth is known, `gland_auc` of the map and `brightness_auc` of the image's own grey levels, which any map must
        beat to mean something. What cannot be computed is None.
    """
    shown = item.shown
    canvas = to_canvas(item.tokens, *shown.mask.shape)
    figures: dict[str, Any] = {
        "energy_inside": energy_inside(canvas, shown.mask),
        "breast_share": float(shown.mask.mean()),
        "gland_auc": None,
        "brightness_auc": None,
    }
    truth = gland(str(item.row["sop_uid"])) if gland is not None else None
    if truth is not None:
        outline = breast_outline(item)
        grey = item.geometry.to_original(shown.pixels.astype(np.float32))
        figures["gland_auc"] = gland_auc(to_original(item.tokens, item.geometry), truth, outline)
        figures["brightness_auc"] = gland_auc(grey, truth, outline)
    return {name: None if value is None or np.isnan(value) else float(value) for name, value in figures.items()}
