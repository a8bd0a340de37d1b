"""Maps of images: what a model's token maps are computed from, by which methods, and for which targets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from densityclip.explain.followers import as_fat
from densityclip.explain.methods import method_maps, picture_method
from densityclip.explain.targets import DENSITY_SCORE
from densityclip.imaging.geometry import Geometry
from densityclip.imaging.prepare import Prepared
from densityclip.inference.predictor import PredictedImage, Predictor, in_batches
from densityclip.probability.aggregate import softmax

if TYPE_CHECKING:
    from torch import Tensor, nn

    from densityclip.model.classifier import DensityClassifier

Key = tuple[str, str]
# Slices: attention keeps those of all blocks for its gradients, about 0.14 GB a slice in ViT-B at 224.
_BATCH = 16


@dataclass(frozen=True, eq=False)
class ImageMap:
    """One image's maps; of a volume, of the slices that the answer rests on.

    Attributes:
        row: The image's row of the index.
        shown: The prepared slice that stands for the image: the middle one of a volume.
        slices: (method, target) to `[slices, grid rows, grid columns]`, raw scale.
        slice_indices: Number of each slice in the file.
        middle: Which of the slices `shown` is.
        probabilities: `[4]`, as predicted.
    """

    row: Mapping[str, Any]
    shown: Prepared
    slices: Mapping[Key, NDArray[np.float32]]
    slice_indices: tuple[int, ...]
    middle: int
    probabilities: NDArray[np.float64]

    @property
    def geometry(self) -> Geometry:
        """Where the prepared image lies on the original."""
        return self.shown.geometry

    @property
    def tokens(self) -> dict[Key, NDArray[np.float32]]:
        """(method, target) to `[grid rows, grid columns]`: the mean over its slices, as its answer is."""
        return {key: values.mean(axis=0) for key, values in self.slices.items()}


def trunk_of(classifier: "DensityClassifier") -> "nn.Module":
    """The image tower that the maps are read from; GradCAM and attention want timm's ViT and say so."""
    trunk = getattr(classifier.visual, "trunk", None)
    return classifier.visual if trunk is None else trunk


def pixel_maps(
    classifier: "DensityClassifier",
    pixels: NDArray[Any],
    masks: NDArray[np.bool_],
    modalities: Sequence[str | None],
    methods: Sequence[str],
    targets: Sequence[str],
) -> dict[Key, NDArray[np.float32]]:
    """Token maps of prepared pictures, a batch at once.

    Args:
        classifier: The model, on its device.
        pixels: `[n, h, w]`, prepared with its recipe.
        masks: `[n, h, w]`, the breast in each.
        modalities: Modality of each.
        methods: Some of `METHODS`.
        targets: Some of `TARGETS`.

    Returns:
        (method, target) to `[n, grid rows, grid columns]`.

    Raises:
        UserError: The model has no image tower that a method can read.
    """
    images = to_tower(classifier, pixels)

    def fat() -> "Tensor":
        return to_tower(classifier, np.stack([as_fat(one, mask) for one, mask in zip(pixels, masks, strict=True)]))

    classify = partial(classifier.from_normalised, modalities=list(modalities))
    return {
        (method, target): values
        for method in methods
        for target, values in method_maps(method, classify, trunk_of(classifier), images, targets, fat=fat).items()
    }


def to_tower(classifier: "DensityClassifier", pixels: NDArray[Any]) -> "Tensor":
    """Prepared pixels `[n, h, w]` as the tower takes them, `[n, 3, h, w]`, on its device."""
    import torch

    from densityclip.model.classifier import normalise

    batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(classifier.prompts.device)
    return normalise(batch, classifier.preprocess)


def score_of(classifier: "DensityClassifier", modality: str | None) -> "Callable[[Tensor], Tensor]":
    """The density score of normalised pictures `[n, 3, h, w]` of one modality, `[n]`."""
    import torch

    from densityclip.explain.targets import score

    def scored(images: "Tensor") -> "Tensor":
        with torch.inference_mode():
            return score(classifier.from_normalised(images, [modality] * len(images)), DENSITY_SCORE)

    return scored


def map_images(
    predictor: Predictor,
    images: Iterable[PredictedImage],
    methods: Sequence[str] | None = None,
    targets: Sequence[str] = (DENSITY_SCORE,),
) -> Iterator[ImageMap]:
    """Maps of predicted images, a batch at a time as `Predictor.predict_files`; refused ones are passed over.

    Args:
        predictor: The model that predicted them.
        images: Of `Predictor.predict_files`.
        methods: Some of `METHODS`; that of `picture_method` if not given.
        targets: Some of `TARGETS`.

    Yields:
        One an image, in their order; memory does not grow with their number.
    """
    methods = methods or (picture_method(trunk_of(predictor.classifier)),)
    for batch in in_batches((image for image in images if image.prepared), _BATCH):
        yield from _mapped(predictor, batch, methods, targets)


def _mapped(
    predictor: Predictor, images: Sequence[PredictedImage], methods: Sequence[str], targets: Sequence[str]
) -> Iterator[ImageMap]:
    prepared = [one for image in images for one in image.prepared]
    found = pixel_maps(
        predictor.classifier,
        np.stack([one.pixels for one in prepared]),
        np.stack([one.mask for one in prepared]),
        [image.row["modality"] for image in images for _ in image.prepared],
        methods,
        targets,
    )
    done = 0
    for image in images:
        number, middle = len(image.prepared), len(image.prepared) // 2
        joined = np.log(softmax(image.logits).mean(axis=0, keepdims=True))
        yield ImageMap(
            row=image.row,
            shown=image.prepared[middle],
            slices={key: values[done : done + number] for key, values in found.items()},
            slice_indices=tuple(one.slice_index for one in image.prepared),
            middle=middle,
            probabilities=predictor.calibration.apply(joined)[0],
        )
        done += number
