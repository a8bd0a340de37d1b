"""Figures about the maps of one image: where the heat lies, what it finds, and whether the answer rests on it.

Every figure of a method stands beside the same figure of maps that know nothing of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from densityclip.explain.agreement import gland_auc, pointing_hit, rank_correlation
from densityclip.explain.faithfulness import INSIDE, RANDOM, Faithfulness, faithfulness
from densityclip.explain.figures import (
    AGAINST,
    DELETION,
    EMPTY,
    EVERYTHING,
    FLAT,
    INSERTION,
    NOISE,
    POINTING,
    RANDOMISED,
    SCORE_RANGE,
    SHUFFLES,
    TISSUE_AUC,
    beyond,
)
from densityclip.explain.followers import BREAST, BRIGHTNESS, CENTRE, as_fat, follower_maps, patch_means
from densityclip.explain.geometry import to_canvas, to_original
from densityclip.explain.maps import ImageMap, pixel_maps, score_of, to_tower, trunk_of
from densityclip.explain.methods import SLOW
from densityclip.explain.regions import energy_shares, regions_of
from densityclip.explain.sanity import randomised
from densityclip.explain.targets import DENSITY_SCORE
from densityclip.imaging.prepare import display_image

if TYPE_CHECKING:
    from densityclip.model.classifier import DensityClassifier

# Standard deviation of the noise, of the whole grey range: two to three grey levels of 256, which no reader sees.
NOISE_SD = 0.01
_BATCH = 16

Figure = tuple[str, str, float]
Gland = Callable[[str], NDArray[np.floating] | None]


@dataclass(frozen=True)
class Measured:
    """What is known of one image's maps.

    Attributes:
        figures: (map, figure, value) of each method and each follower; figures that cannot be computed are not there.
        curves: Map to `[2, points]`, its deletion and insertion curve (`curves.mean_curves`).
    """

    figures: list[Figure]
    curves: dict[str, NDArray[np.float32]]


def image_figures(item: ImageMap, classifier: "DensityClassifier", gland: Gland | None = None) -> Measured:
    """All figures about an image's maps of the density score.

    Args:
        item: Its maps.
        classifier: The model that they explain.
        gland: SOP Instance UID to fibroglandular thickness on the image's grid, mm; None where it is not known.
    """
    grid = next(iter(item.slices.values())).shape[1:]
    methods = {method: tokens for (method, target), tokens in item.tokens.items() if target == DENSITY_SCORE}
    shown = {method: values[item.middle] for (method, target), values in item.slices.items() if target == DENSITY_SCORE}
    followers = follower_maps(item.shown.pixels, item.shown.mask, (grid[0], grid[1]))
    flat = {FLAT: np.ones(grid, dtype=np.float32)}
    faithful = _faithful(item, classifier, shown | {name: followers[name] for name in (BRIGHTNESS, CENTRE)})
    found = [
        *_energy(item, methods | flat),
        *_tissue(item, methods | flat | {name: followers[name] for name in (BRIGHTNESS, BREAST)}, gland),
        *_against_random(faithful),
        *_noise(item, classifier, shown),
        *((method, EMPTY, float(not (tokens > 0).any())) for method, tokens in methods.items()),
    ]
    found += _differences(found, list(methods))
    curves = {name: np.array(one.curves, dtype=np.float32) for name, one in faithful.items()}
    return Measured(
        [one for one in found if np.isfinite(one[2])],
        {name: curve for name, curve in curves.items() if curve.size and np.isfinite(curve).all()},
    )


def _energy(item: ImageMap, maps: dict[str, NDArray[np.float32]]) -> Iterator[Figure]:
    shown = item.shown
    display = display_image(Path(item.row["path"]), shown.slab)
    rows, columns = next(iter(maps.values())).shape
    regions = regions_of(
        display,
        item.geometry,
        shown.mask,
        item.row.get("view"),
        shown.pixels,
        token_px=(shown.mask.shape[0] // rows, shown.mask.shape[1] // columns),
    )
    for name, tokens in maps.items():
        shares = energy_shares(to_canvas(tokens, *shown.mask.shape), regions)
        yield from ((name, figure, share) for figure, share in shares.items() if figure.startswith("energy_"))


def _tissue(item: ImageMap, maps: dict[str, NDArray[np.float32]], gland: Gland | None) -> Iterator[Figure]:
    truth = gland(str(item.row["sop_uid"])) if gland is not None else None
    if truth is None:
        return
    outline = item.geometry.to_original(item.shown.mask.astype(np.float32)) >= 0.5
    for name, tokens in maps.items():
        heat = to_original(tokens, item.geometry)
        yield name, TISSUE_AUC, gland_auc(heat, truth, outline)
        yield name, POINTING, pointing_hit(heat, truth, outline)


def _faithful(
    item: ImageMap, classifier: "DensityClassifier", maps: dict[str, NDArray[np.float32]]
) -> dict[str, Faithfulness]:
    shown = item.shown
    image, fat = to_tower(classifier, np.stack([shown.pixels, as_fat(shown.pixels, shown.mask)]))
    some = next(iter(maps.values())).shape
    breast = patch_means(shown.mask, (some[0], some[1]))
    return faithfulness(score_of(classifier, item.row["modality"]), image, fat, breast, maps)


def _against_random(faithful: Mapping[str, Faithfulness]) -> Iterator[Figure]:
    for name, one in faithful.items():
        if name != RANDOM:
            yield name, DELETION, one.deletion
            yield name, INSERTION, one.insertion
            yield name, SCORE_RANGE, one.score_range


def _noise(item: ImageMap, classifier: "DensityClassifier", maps: dict[str, NDArray[np.float32]]) -> Iterator[Figure]:
    """Rank correlation, over the breast, of the map with that of the image with a little noise."""
    shown = item.shown
    top = float(np.iinfo(shown.pixels.dtype).max)
    noise = np.random.default_rng(0).normal(scale=NOISE_SD * top, size=shown.pixels.shape)
    noisy = np.where(shown.mask, np.clip(np.round(shown.pixels + noise), 0, top), shown.pixels)
    again = pixel_maps(
        classifier,
        noisy.astype(shown.pixels.dtype)[None],
        shown.mask[None],
        [item.row["modality"]],
        list(maps),
        [DENSITY_SCORE],
    )
    for name, tokens in maps.items():
        yield name, NOISE, sameness(tokens, again[name, DENSITY_SCORE][0], shown.mask)


def sameness(before: NDArray[np.floating], after: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Rank correlation of two maps over the tokens of the breast; 0 where the second has become the same everywhere.

    Args:
        before: `[grid rows, grid columns]`.
        after: Of the same shape.
        mask: `[h, w]` of the canvas, the breast.

    Returns:
        NaN where there was nothing to change: the first map was the same everywhere.
    """
    inside = patch_means(mask, (before.shape[0], before.shape[1])) >= INSIDE
    first, second = before[inside], after[inside]
    if not len(first) or np.ptp(first) == 0:
        return float("nan")
    return 0.0 if np.ptp(second) == 0 else rank_correlation(before, after, inside)


def randomised_figures(
    items: Sequence[ImageMap], classifier: "DensityClassifier"
) -> Iterator[tuple[int, str, str, int, float]]:
    """How much of each map is left when the tower is randomised from its output down, block by block.

    Block by block once, and not by a slow method; with everything randomised `SHUFFLES` times: the verdict rests
    on it.

    Args:
        items: A sample of images: the cost is that of mapping each of them once a block and shuffle.
        classifier: The model; it is not changed.

    Yields:
        (place in `items`, method, `randomised.PART`, number of the shuffle, strength of the rank correlation over the
        breast with the model's own map, 0 to 1). A map turned upside down is as much the same map as before.
    """
    methods = [method for method, target in items[0].slices if target == DENSITY_SCORE]
    for shuffle in range(SHUFFLES):
        for part, changed in randomised(classifier, trunk_of, shuffle, whole_only=shuffle > 0):
            some = [method for method in methods if part == EVERYTHING or method not in SLOW]
            for place, item, maps in _mapped_again(changed, items, some):
                for method in some:
                    before = item.slices[method, DENSITY_SCORE][item.middle]
                    value = abs(sameness(before, maps[method], item.shown.mask))
                    if np.isfinite(value):
                        yield place, method, f"{RANDOMISED}.{part}", shuffle, value


def _mapped_again(
    classifier: "DensityClassifier", items: Sequence[ImageMap], methods: Sequence[str]
) -> Iterator[tuple[int, ImageMap, dict[str, NDArray[np.float32]]]]:
    """Each image with its maps by another model, a batch at a time."""
    for start in range(0, len(items), _BATCH):
        some = items[start : start + _BATCH]
        maps = pixel_maps(
            classifier,
            np.stack([item.shown.pixels for item in some]),
            np.stack([item.shown.mask for item in some]),
            [item.row["modality"] for item in some],
            methods,
            [DENSITY_SCORE],
        )
        for number, item in enumerate(some):
            yield start + number, item, {method: maps[method, DENSITY_SCORE][number] for method in methods}


def _differences(found: Sequence[Figure], methods: Sequence[str]) -> list[Figure]:
    known = {(name, figure): value for name, figure, value in found}
    return [
        (method, beyond(figure), known[method, figure] - known[other, figure])
        for method in methods
        for figure, other in AGAINST.items()
        if (method, figure) in known and (other, figure) in known
    ]
