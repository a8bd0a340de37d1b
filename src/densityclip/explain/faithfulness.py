"""Whether a map names what the model's answer rests on: insertion and deletion curves (Petsiuk et al., BMVC 2018).

Tokens of the breast are taken away, or given back, in the order of a map. A deleted one becomes fat, not air. The
curves are held against those of random orders on the same image, because every order moves the score in the end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEPS = 10
_RANDOM_ORDERS = 3
# A token belongs to the breast if half of it does; the others hold next to nothing that could be taken away.
INSIDE = 0.5
RANDOM = "random"


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the curves of one order, in the units of the score.

    Attributes:
        deletion: By how much the mean of its deletion curve lies below that of random orders; above 0 is better.
        insertion: By how much the mean of its insertion curve lies above that of random orders; above 0 is better.
        score_range: By how much the score falls when the whole breast turns to fat, the same for every map: what the
            other two are to be held against.
        curves: The deletion and the insertion curve themselves, at every tenth of the tokens from none to all: the
            score above that of the breast turned to fat. Empty where no token lies in the breast.
    """

    deletion: float
    insertion: float
    score_range: float
    curves: tuple[tuple[float, ...], ...] = ()


def faithfulness(
    score: Callable[[Tensor], Tensor],
    image: Tensor,
    fat: Tensor,
    breast: NDArray[np.floating],
    maps: Mapping[str, NDArray[np.floating]],
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Faithfulness]:
    """Insertion and deletion of one image, for several maps, against the same random orders.

    Args:
        score: `[n, 3, h, w]` to `[n]`: what the maps explain.
        image: `[3, h, w]`, normalised.
        fat: The same with its breast turned to fat.
        breast: `[grid rows, grid columns]`, share of the breast in each token.
        maps: Name to a map on the same grid; equal values are ordered by chance.
        seed: Of the random orders and of ties.
        batch_size: Pictures scored at once.

    Returns:
        Name to its figures, all NaN where no token lies in the breast; and `RANDOM`, whose curves are the mean of those
        of the random orders.
    """
    inside = np.flatnonzero(np.asarray(breast).ravel() >= INSIDE)
    if not len(inside):
        return {name: Faithfulness(np.nan, np.nan, np.nan) for name in (*maps, RANDOM)}
    random = np.random.default_rng(seed)
    orders = {name: _order(np.asarray(values).ravel()[inside], random) for name, values in maps.items()}
    chance = {f"_random {number}": random.permutation(len(inside)) for number in range(_RANDOM_ORDERS)}
    whole = np.ones((2, np.size(breast)), dtype=bool)
    whole[1, inside] = False
    ends = _scores(score, image, fat, whole.reshape(-1, *np.shape(breast)), batch_size)
    curves = {}
    for name, order in (orders | chance).items():
        kept = _kept(inside[order], int(np.size(breast)))
        pictures = _scores(score, image, fat, kept.reshape(-1, *np.shape(breast)), batch_size)
        deletion, insertion = np.split(pictures, 2)
        curves[name] = np.array([[ends[0], *deletion, ends[1]], [ends[1], *insertion, ends[0]]]) - ends[1]
    curves[RANDOM] = np.mean([curves.pop(name) for name in chance], axis=0)
    areas = {name: np.trapezoid(one, dx=1 / _STEPS) for name, one in curves.items()}
    return {
        name: Faithfulness(
            float(areas[RANDOM][0] - areas[name][0]),
            float(areas[name][1] - areas[RANDOM][1]),
            float(ends[0] - ends[1]),
            tuple(tuple(map(float, side)) for side in one),
        )
        for name, one in curves.items()
    }


def pictures_scored(maps: int) -> int:
    """How many pictures `faithfulness` scores for an image and so many maps: what its time goes into."""
    return 2 + (maps + _RANDOM_ORDERS) * 2 * (_STEPS - 1)


def _order(values: NDArray[np.floating], random: np.random.Generator) -> NDArray[np.intp]:
    """Hottest first; an index order of equal values would be an order in space."""
    return np.lexsort((random.random(len(values)), -values))


def _kept(order: NDArray[np.intp], tokens: int) -> NDArray[np.bool_]:
    """`[2 (steps - 1), tokens]`: which tokens show the image, first while they are deleted, then while inserted."""
    counts = np.round(np.linspace(0, len(order), _STEPS + 1)[1:-1]).astype(int)
    kept = np.ones((2 * len(counts), tokens), dtype=bool)
    kept[len(counts) :, order] = False
    for step, count in enumerate(counts):
        kept[step, order[:count]] = False
        kept[len(counts) + step, order[:count]] = True
    return kept


def _scores(
    score: Callable[[Tensor], Tensor], image: Tensor, fat: Tensor, kept: NDArray[np.bool_], batch_size: int
) -> NDArray[np.float64]:
    height, width = image.shape[1] // kept.shape[1], image.shape[2] // kept.shape[2]
    found = []
    for start in range(0, len(kept), batch_size):
        shown = torch.from_numpy(kept[start : start + batch_size]).to(image.device)
        shown = shown.repeat_interleave(height, dim=1).repeat_interleave(width, dim=2)
        # What no token covers at the lower and right edge never changes.
        edge = (0, image.shape[2] - shown.shape[2], 0, image.shape[1] - shown.shape[1])
        shown = torch.nn.functional.pad(shown, edge, value=True)
        found.append(score(torch.where(shown[:, None], image, fat)).double().cpu().numpy())
    return np.concatenate(found)
