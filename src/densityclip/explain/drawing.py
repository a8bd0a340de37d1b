"""Stored maps as pictures: an overlay of one image, and sheets by category and modality."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.density import CATEGORIES, predicted_category
from densityclip.explain.geometry import to_original, token_size_px
from densityclip.explain.maps import Key
from densityclip.explain.methods import METHOD_UNITS, METHOD_WORDS
from densityclip.explain.overlay import Panel, contact_sheet, draw_overlay
from densityclip.explain.paint import fit_size, shrink
from densityclip.explain.stored import StoredMap
from densityclip.explain.targets import DENSITY_SCORE, EXPECTED_DENSITY
from densityclip.imaging.prepare import display_image
from densityclip.model.bundle import Bundle
from densityclip.records import MODALITIES

_PER_CELL, _UNLABELLED = 4, 16
RESEARCH_USE = "Research use only."
_DISAGREE = "images of one breast disagree"
_TARGET_WORDS = {DENSITY_SCORE: "the density score", EXPECTED_DENSITY: "the expected density"}


def picture_note(bundle: Bundle) -> str:
    """What a model's pictures say of themselves: research use, and what generated exams taught it."""
    return f"{RESEARCH_USE} {bundle.generated_note}".rstrip()


def map_title(key: Key) -> str:
    """What a map is of, such as `GradCAM of the density score`."""
    method, target = key
    return f"{METHOD_WORDS[method]} of {_TARGET_WORDS.get(target, f'category {target}')}"


@dataclass(frozen=True, eq=False)
class Original:
    """An image as its maps are drawn over it: decoded once for all pictures of it.

    Attributes:
        maps: The image's maps.
        image: `[rows, columns]` in `[0, 1]`, ready for display, in the original orientation.
        outline: `[rows, columns]` bool, the breast.
    """

    maps: StoredMap
    image: NDArray[np.float32]
    outline: NDArray[np.bool_]

    @classmethod
    def of(cls, maps: StoredMap) -> "Original":
        """Decode the image of some maps."""
        return cls(maps, display_image(Path(maps.row["path"]), maps.slab), maps.outline)

    def shrunk(self, longest_px: int = 640) -> "Original":
        """The same with at most `longest_px` pixels a side: what to keep while the images of a sheet are gathered."""
        rows, columns = self.image.shape
        if max(rows, columns) <= longest_px:
            return self
        size = fit_size(rows, columns, (longest_px, longest_px))
        return Original(self.maps, shrink(self.image, size), shrink(self.outline, size) >= 0.5)

    def heat(self, key: Key) -> NDArray[np.float32]:
        """One map at the size of `image`, `[rows, columns]`, raw scale."""
        heat = to_original(self.maps.tokens[key], self.maps.geometry)
        rows, columns = self.image.shape
        return heat if heat.shape == (rows, columns) else shrink(heat, (columns, rows))

    def token_px(self, key: Key) -> tuple[float, float]:
        """Height and width of one token of a map in pixels of `image`."""
        rows, columns = self.maps.tokens[key].shape
        high, wide = token_size_px((rows, columns), self.maps.geometry)
        return (
            high * self.image.shape[0] / self.maps.geometry.rows,
            wide * self.image.shape[1] / self.maps.geometry.columns,
        )


def overlay_pngs(
    original: Original, scales: Iterable[tuple[Key, float]], *, note: str = RESEARCH_USE, withheld: bool = False
) -> Iterator[bytes]:
    """Draw maps of one image over it.

    Args:
        original: The image, whole.
        scales: Of each picture: method and target of its map, and the heat at the top of its colour scale.
        note: A picture travels alone, so it says by itself what it is not.
        withheld: Whether the exam has no answer, as the images of a breast disagree; no category is named then.

    Yields:
        A PNG for each of `scales`.
    """
    row = original.maps.row
    modality = row["modality"] if row["modality"] != "unknown" else "modality not stated"
    for key, scale_max in scales:
        empty = not (original.maps.tokens[key] > 0).any()
        yield draw_overlay(
            original.image,
            original.heat(key),
            scale_max,
            title=(str(row["image_id"]), map_title(key)),
            note=f"The map is empty: nothing raised the score. {note}" if empty else note,
            label=f"{view_of(row) or 'view not stated'}, {modality}",
            outline=original.outline,
            probabilities=original.maps.probabilities.tolist(),
            withheld=_DISAGREE if withheld else "",
            token_px=original.token_px(key),
            unit=METHOD_UNITS[key[0]],
        )


def view_of(row: Any) -> str:
    """Side and view as far as they are stated, such as `L MLO`."""
    return " ".join(str(row[name]) for name in ("laterality", "view") if row.get(name))


def draw_sheet(
    originals: Sequence[Original],
    key: Key,
    scale_max: float,
    title: str,
    *,
    note: str = RESEARCH_USE,
    withheld: Collection[str] = (),
) -> bytes:
    """A contact sheet, rows by labelled category, columns by modality, as PNG.

    Args:
        originals: The images; shrunk ones will do.
        key: Method and target of the map that is shown.
        scale_max: Heat at the top of the colour scale.
        title: What the sheet shows.
        note: What it says of itself.
        withheld: Ids of exams that have no answer, so that no category is named.
    """
    present = {str(one.maps.row["modality"]) for one in originals}
    columns = [name for name in (*MODALITIES, "unknown") if name in present]
    panels = [_panel(one, key, one.maps.row.get("exam_id") in withheld) for one in originals]
    return contact_sheet(
        panels, columns=columns, title=title, note=note, scale_max=scale_max, unit=METHOD_UNITS[key[0]]
    )


def for_sheet(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first images of each category and modality: a sheet of thousands could not be looked at."""
    counts: dict[tuple[Any, Any], int] = {}
    chosen = []
    for row in rows:
        category = row["density"] if row["density"] in CATEGORIES else None
        cell = (category, row["modality"])
        counts[cell] = counts.get(cell, 0) + 1
        if counts[cell] <= (_UNLABELLED if category is None else _PER_CELL):
            chosen.append(row)
    return chosen


def _panel(original: Original, key: Key, withheld: bool) -> Panel:
    row, probabilities = original.maps.row, original.maps.probabilities
    says = f"model: {predicted_category(probabilities[None])[0]} ({100 * probabilities.max():.0f}%)"
    return Panel(
        image=original.image,
        heat=original.heat(key),
        category=row["density"],
        modality=str(row["modality"]),
        caption=(view_of(row) or Path(row["path"]).name, "model: no answer" if withheld else says),
        outline=original.outline,
        token_px=original.token_px(key),
    )
