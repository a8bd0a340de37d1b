"""Stored maps as pictures: an overlay of one image, and sheets by category and modality."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densityclip.density import CATEGORIES, predicted_category
from densityclip.explain.geometry import to_original, token_size_px
from densityclip.explain.maps import Key
from densityclip.explain.methods import METHOD_UNITS, METHOD_WORDS
from densityclip.explain.overlay import Panel, contact_sheet, draw_overlay
from densityclip.explain.stored import StoredMap
from densityclip.explain.targets import DENSITY_SCORE, EXPECTED_DENSITY
from densityclip.imaging.prepare import display_image
from densityclip.model.bundle import Bundle
from densityclip.records import MODALITIES

_PER_CELL, _UNLABELLED = 4, 16
RESEARCH_USE = "Research use only."
_TARGET_WORDS = {DENSITY_SCORE: "the density score", EXPECTED_DENSITY: "the expected density"}


def picture_note(bundle: Bundle) -> str:
    """What a model's pictures say of themselves: research use, and what generated exams taught it."""
    return f"{RESEARCH_USE} {bundle.generated_note}".rstrip()


def map_title(key: Key) -> str:
    """What a map is of, such as `GradCAM of the density score`."""
    method, target = key
    return f"{METHOD_WORDS[method]} of {_TARGET_WORDS.get(target, f'category {target}')}"


def picture_name(stem: str, key: Key, first: Key) -> str:
    """File of a picture: the first method and target have the plain name, others say which they are."""
    return f"{stem}.png" if key == first else f"{stem}-{key[0]}-{key[1]}.png"


def overlay_pngs(item: StoredMap, scales: Iterable[tuple[Key, float]], *, note: str = RESEARCH_USE) -> Iterator[bytes]:
    """Draw maps of one image over the original, which is decoded once.

    Args:
        item: The image's maps.
        scales: Of each picture: method and target of its map, and the heat at the top of its colour scale.
        note: A picture travels alone, so it says by itself what it is not.

    Yields:
        A PNG for each of `scales`.
    """
    image = display_image(Path(item.row["path"]), item.slab)
    for key, scale_max in scales:
        yield _overlay_png(item, image, key, scale_max, note)


def _overlay_png(item: StoredMap, image: NDArray[np.float32], key: Key, scale_max: float, note: str) -> bytes:
    row, tokens = item.row, item.tokens[key]
    if not (tokens > 0).any():
        note = f"The map is empty: nothing raised the score. {note}"
    modality = row["modality"] if row["modality"] != "unknown" else "modality not stated"
    return draw_overlay(
        image,
        to_original(tokens, item.geometry),
        scale_max,
        title=(str(row["image_id"]), map_title(key), note),
        label=f"{view_of(row) or 'view not stated'}, {modality}",
        outline=item.outline,
        probabilities=item.probabilities.tolist(),
        token_px=token_size_px((tokens.shape[0], tokens.shape[1]), item.geometry),
        unit=METHOD_UNITS[key[0]],
    )


def view_of(row: Any) -> str:
    """Side and view as far as they are stated, such as `L MLO`."""
    return " ".join(str(row[name]) for name in ("laterality", "view") if row.get(name))


def draw_sheet(maps: Sequence[StoredMap], key: Key, scale_max: float, title: str) -> bytes:
    """A contact sheet of maps, rows by labelled category, columns by modality, as PNG."""
    present = {str(item.row["modality"]) for item in maps}
    columns = [name for name in (*MODALITIES, "unknown") if name in present]
    panels = [_panel(item, key) for item in maps]
    return contact_sheet(panels, columns=columns, title=title, scale_max=scale_max, unit=METHOD_UNITS[key[0]])


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


def _panel(item: StoredMap, key: Key) -> Panel:
    row, tokens = item.row, item.tokens[key]
    says = str(predicted_category(item.probabilities[None])[0])
    return Panel(
        image=display_image(Path(row["path"]), item.slab),
        heat=to_original(tokens, item.geometry),
        category=row["density"],
        modality=str(row["modality"]),
        caption=(view_of(row), f"model: {says} ({100 * item.probabilities.max():.0f}%)"),
        outline=item.outline,
        token_px=token_size_px((tokens.shape[0], tokens.shape[1]), item.geometry),
    ).shrunk()
