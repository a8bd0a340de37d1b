"""Whether maps of images that show the same breast, or the two breasts of a woman, lie alike.

Every figure stands beside the same figure of other patients' images, for maps of any two breasts are alike to a degree:
gland lies in the middle, and the frame is cold. Only the difference says that a map follows the woman.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from densityclip.evaluation.bootstrap import mean_of_rows, row_weights
from densityclip.explain.agreement import rank_correlation
from densityclip.explain.figures import FEWEST_PATIENTS
from densityclip.explain.geometry import to_canvas
from densityclip.records import MODALITIES

KINDS = ("modality", "side", "view", "member")
SHAPE = (16, 12)
# Other patients' images that each pair is compared with; each image takes that part equally often.
OTHERS = 4
_COLUMNS = {
    "kind": pl.String,
    "patient_id": pl.String,
    "image_a": pl.String,
    "image_b": pl.String,
    "modality_a": pl.String,
    "modality_b": pl.String,
    "value": pl.Float64,
    "chance": pl.Float64,
}


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """A map in the frame that all breasts share: the box of the breast, chest wall at the left.

    Attributes:
        heat: `[rows, columns]`, mean of the map over what of the breast a cell covers; 0 where it covers none.
        inside: `[rows, columns]` bool, cells of which the breast covers half or more.
    """

    heat: NDArray[np.float64]
    inside: NDArray[np.bool_]

    def profile(self) -> NDArray[np.float64]:
        """`[columns]`, mean heat by depth from the chest wall to the nipple; NaN where no cell is inside."""
        counts = self.inside.sum(axis=0)
        sums = (self.heat * self.inside).sum(axis=0)
        return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Mapped:
    """One image's map and what the pairs are made by.

    Attributes:
        image_id: Of the image.
        patient_id: Of the woman; the image's own id where a file states none.
        exam_id: Of the exam: images of two exams make no pair.
        laterality: `L`, `R` or None.
        view: `CC`, `MLO` or None.
        modality: `DM`, `s2D`, `DBT` or `unknown`.
        aligned: The map in the shared frame.
    """

    image_id: str
    patient_id: str
    exam_id: str
    laterality: str | None
    view: str | None
    modality: str
    aligned: Aligned


Pair = tuple[Mapped, Mapped]


def aligned(heat: NDArray[np.floating], mask: NDArray[np.bool_], shape: tuple[int, int] = SHAPE) -> Aligned:
    """Bring a map to the frame that all breasts share.

    The canvas has the chest wall at the left already, so a left and a right breast lie alike; rows run from the top of
    the breast to its bottom, columns from the chest wall to the nipple, whatever the breast's size and proportions.

    Args:
        heat: Token map, or `[height, width]` of the canvas; raw.
        mask: `[height, width]` of the canvas, the breast.
        shape: Rows and columns of the frame.

    Raises:
        ValueError: The mask is empty, or the map is finer than the canvas.
    """
    inside = np.asarray(mask, dtype=bool)
    if not inside.any():
        raise ValueError("the mask of the breast is empty")
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    weight = inside.astype(np.float32)
    canvas = to_canvas(heat, *inside.shape)

    def framed(values: NDArray[np.float32]) -> NDArray[np.float64]:
        size = (shape[1], shape[0])
        resized = Image.fromarray(values).resize(size, Image.Resampling.BOX, box=box)
        return np.asarray(resized, dtype=np.float64)

    # Heat beside the breast shall not run into its rim.
    covered = framed(weight)
    sums = framed(canvas * weight)
    return Aligned(np.divide(sums, covered, out=np.zeros(shape), where=covered > 0), covered >= 0.5)


def pairs(items: Sequence[Mapped], *, seed: int = 0) -> pl.DataFrame:
    """Compare images of one exam with each other, and with other patients'.

    - `modality`: one breast and view in two modalities; Spearman over the places that are inside both breasts.
    - `side`: left and right breast, view and modality the same; likewise.
    - `view`: CC and MLO of one breast and modality. Their pixels do not correspond: Spearman of the mean heat in each
      depth bin from the chest wall to the nipple. An MLO shows muscle at the chest wall and is turned by some 45
      degrees, so depth is only roughly the same.

    Args:
        items: Maps of one method by one model.
        seed: Of the draw of other patients.

    Returns:
        One row a pair: `kind, patient_id, image_a, image_b, modality_a, modality_b`, `value`, and `chance`: the mean
        over the second images of up to `OTHERS` pairs of other patients in the place of this pair's (same side, view
        and modality as it). Null where a map is constant, or there is no other patient.
    """
    return _table(
        row
        for kind in KINDS[:3]
        for group in _groups(kind, items)
        for row in _compared(kind, group, _rng(seed, kind, group))
    )


def across_members(maps: Mapping[str, Sequence[Mapped]], *, seed: int = 0) -> pl.DataFrame:
    """Compare the maps that several models give of the same images.

    Args:
        maps: Member (a model of another fold or seed) to its maps; an image that only one member has is left out.
        seed: Of the draw of other patients.

    Returns:
        As `pairs`, of kind `member`: one row an image, which is both `image_a` and `image_b`. `value` is the mean over
        all pairs of members of Spearman inside the breast, `chance` the same with the second member's map of other
        patients' images of the same side, view and modality.
    """
    rows: list[dict[str, Any]] = []
    for first, second in combinations(sorted(maps), 2):
        others = {item.image_id: item for item in maps[second]}
        shared = [(item, others[item.image_id]) for item in maps[first] if item.image_id in others]
        for group in _by_key(shared):
            rows += _compared("member", group, _rng(seed, f"member {first} {second}", group))
    table = _table(rows)
    ids = [name for name in _COLUMNS if name not in ("value", "chance")]
    means = [pl.col(name).drop_nulls().mean() for name in ("value", "chance")]
    return table.group_by(ids, maintain_order=True).agg(means).sort("image_a")


def summary(table: pl.DataFrame, *, resamples: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Means over the pairs of a kind, with 95% intervals from resampling patients.

    The intervals hold the images that a patient is compared with fixed, so those of `other` and `difference` are a
    little too narrow where patients are few.

    Args:
        table: Of `pairs` or `across_members`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        For each kind and modalities: `kind, modalities, pairs, patients`, and `same, other, difference`, each `value,
        low, high`. All three are over the pairs that have both; where none has a comparison, `same` alone is given.
        `low` and `high` are None under `FEWEST_PATIENTS`.
    """
    found = []
    known = table.filter(pl.col("value").is_not_null())
    for (kind, first, second), mine in sorted(known.group_by("kind", "modality_a", "modality_b"), key=_order):
        both = mine.filter(pl.col("chance").is_not_null())
        rows = both if len(both) else mine
        patients = rows["patient_id"].to_list()
        same, other = (rows[name].to_numpy().astype(np.float64) for name in ("value", "chance"))
        weights = row_weights(patients, resamples, seed)
        estimates = {
            name: _estimate(values, weights, len(set(patients)))
            for name, values in (("same", same), ("other", other), ("difference", same - other))
        }
        found.append(
            {
                "kind": kind,
                "modalities": str(first) if first == second else f"{first} - {second}",
                "pairs": len(rows),
                "patients": len(set(patients)),
            }
            | estimates
        )
    return found


def _order(group: tuple[Any, ...]) -> tuple[int, ...]:
    kind, *modalities = group[0]
    return KINDS.index(kind), *(_rank(modality) for modality in modalities)


def _rank(modality: str) -> int:
    return MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES)


def _estimate(values: NDArray[np.float64], weights: NDArray[np.float64], n_patients: int) -> dict[str, float | None]:
    if not np.isfinite(values).all():
        return {"value": None, "low": None, "high": None}
    estimate = mean_of_rows(values, weights, n_patients).as_json()
    if n_patients < FEWEST_PATIENTS:
        return {"value": estimate["value"], "low": None, "high": None}
    return {name: estimate[name] for name in ("value", "low", "high")}


def _groups(kind: str, items: Sequence[Mapped]) -> Iterator[list[Pair]]:
    """Pairs of a kind; within a group all first images are of one side, view and modality, and so all second ones."""
    exams: dict[tuple[str, str], list[Mapped]] = {}
    for item in sorted(items, key=lambda item: item.image_id):
        if item.laterality and item.view:
            exams.setdefault((item.patient_id, item.exam_id), []).append(item)
    matched = [
        pair
        for exam in exams.values()
        for pair in combinations(sorted(exam, key=_place), 2)
        if _differs_in(*pair) == kind
    ]
    return _by_key(matched)


def _place(item: Mapped) -> tuple[int, str, str]:
    return _rank(item.modality), str(item.laterality), str(item.view)


def _differs_in(first: Mapped, second: Mapped) -> str | None:
    """The one thing that two images of an exam differ in; None where it is none, or more than one."""
    differing = [
        kind
        for kind, name in (("modality", "modality"), ("side", "laterality"), ("view", "view"))
        if getattr(first, name) != getattr(second, name)
    ]
    return differing[0] if len(differing) == 1 else None


def _by_key(matched: Sequence[Pair]) -> Iterator[list[Pair]]:
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in matched:
        groups.setdefault((*_place(pair[0]), *_place(pair[1])), []).append(pair)
    for key in sorted(groups):
        yield groups[key]


def _rng(seed: int, purpose: str, group: Sequence[Pair]) -> np.random.Generator:
    words = [purpose, *map(str, _place(group[0][0]) + _place(group[0][1]))]
    return np.random.default_rng(np.random.SeedSequence([seed, *"|".join(words).encode()]))


def _compared(kind: str, group: Sequence[Pair], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Rows of a group of pairs, each beside other patients' second images."""
    names = sorted({first.patient_id for first, _ in group})
    order = dict(zip(rng.permutation(names).tolist(), range(len(names)), strict=True))
    ring = sorted(group, key=lambda pair: (order[pair[0].patient_id], pair[0].image_id, pair[1].image_id))
    shifts = _shifts([first.patient_id for first, _ in ring])
    for place, (first, second) in enumerate(ring):
        others = [_alike(kind, first, ring[(place + shift) % len(ring)][1]) for shift in shifts]
        finite = [value for value in others if np.isfinite(value)]
        yield {
            "kind": kind,
            "patient_id": first.patient_id,
            "image_a": first.image_id,
            "image_b": second.image_id,
            "modality_a": first.modality,
            "modality_b": second.modality,
            "value": _alike(kind, first, second),
            "chance": float(np.mean(finite)) if finite else None,
        }


def _shifts(patients: Sequence[str]) -> range:
    """Steps along a ring of pairs, sorted by patient, that lead from every pair to another patient's.

    By as many as the most pairs of a patient, and no more than all others: each image is met once a step.
    """
    most = max(patients.count(name) for name in set(patients))
    return range(most, min(len(patients) - most, most + OTHERS - 1) + 1)


def _alike(kind: str, first: Mapped, second: Mapped) -> float:
    if kind != "view":
        return rank_correlation(first.aligned.heat, second.aligned.heat, first.aligned.inside & second.aligned.inside)
    profiles = np.stack([first.aligned.profile(), second.aligned.profile()])
    seen = np.asarray(np.isfinite(profiles).all(axis=0))
    one, other = np.where(seen, profiles, 0.0)
    return rank_correlation(one, other, seen)


def _table(rows: Any) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=_COLUMNS).with_columns(pl.col("value", "chance").fill_nan(None))
