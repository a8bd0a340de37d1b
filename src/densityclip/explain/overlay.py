"""Overlays of heat on the original image, one at a time or on a contact sheet, on one fixed colour scale."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from densityclip.density import CATEGORIES, WORDING, predicted_category
from densityclip.explain.methods import METHOD_UNITS
from densityclip.explain.paint import (
    BACKGROUND,
    FAINT,
    OUTLINE,
    TEXT,
    blend,
    cut_middle,
    draw_colour_scale,
    draw_outline,
    draw_token_square,
    fit_size,
    font,
    line_height,
    png_bytes,
    shrink,
    wrap,
    write_lines,
)

_SIZE = (880, 760)  # a fixed layout: text is equally readable on a 266-pixel image and on a 4096-pixel one
_MARGIN = 18
_SIDE = 250
_NOTE = 28
_BAR = (TEXT, (116, 124, 136))  # most probable category, the others
_CELL = (170, 216)
_GAP = 6
_PAIR = 2 * _CELL[0] + _GAP + 16
_LINE = _CELL[1] + 56
_BETWEEN = 20
_ROW_LABEL = 158
_BAR_ROOM = 150
_NARROWEST = 960
_NOTES_BELOW = 420  # the colour scale of a sheet with its words
_TITLE, _FINE = 20, 15  # of a sheet's head, pixels


def draw_overlay(
    image: NDArray[np.floating],
    heat: NDArray[np.floating],
    scale_max: float,
    *,
    title: Sequence[str] = (),
    note: str = "",
    label: str = "",
    outline: NDArray[np.bool_] | None = None,
    probabilities: Sequence[float] | None = None,
    withheld: str = "",
    token_px: tuple[float, float] | None = None,
    unit: str = METHOD_UNITS["gradcam"],
) -> bytes:
    """Paint one image with its heat, its category and its colour scale.

    Args:
        image: `[rows, columns]` in `[0, 1]`, ready for display, in the original orientation.
        heat: `[rows, columns]`, raw; what is not positive stays grey.
        scale_max: Heat at the top of the colour scale; use one for all images that are compared.
        title: Up to two lines above the picture, the first one bold; what is too long loses its middle.
        note: What the picture says of itself, in up to three lines below the title.
        label: Side, view and modality.
        outline: `[rows, columns]`, the breast.
        probabilities: Of A, B, C, D.
        withheld: Why there is no answer: stands in the place of the most probable category.
        token_px: Height and width of one token in pixels of the original.
        unit: What the colour scale counts.

    Returns:
        A PNG of fixed size, whatever the size of the image.

    Raises:
        ValueError: Shapes differ, the scale is not positive, or the probabilities are not four that sum to 1.
    """
    _check(image, heat, outline, scale_max)
    sheet = Image.new("RGB", _SIZE, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    top, width = _MARGIN, _SIZE[0] - 2 * _MARGIN
    for number, line in enumerate(title[:2]):
        size, bold, fill = (22, True, TEXT) if number == 0 else (17, False, FAINT)
        # The end of an id is what tells two of them apart.
        kept = [cut_middle(line, font(size, bold), width)]
        top = write_lines(pen, (_MARGIN, top), kept, size=size, width=width, bold=bold, fill=fill)
    top = write_lines(pen, (_MARGIN, top), [note], size=16, width=width, fill=FAINT, lines=3)
    top += 8 if title else 0
    box = (_SIZE[0] - _SIDE - 3 * _MARGIN, _SIZE[1] - top - _MARGIN)
    picture = _overlay_picture(image, heat, scale_max, box, outline, token_px)
    sheet.paste(picture, (_MARGIN + (box[0] - picture.width) // 2, top + (box[1] - picture.height) // 2))
    left = _SIZE[0] - _SIDE - _MARGIN
    y = write_lines(pen, (left, top), [label] if label else [], size=20, width=_SIDE, bold=True)
    if probabilities is not None:
        y = _draw_probabilities(pen, (left, y + 8), _four(probabilities), withheld)
    beyond = bool(np.max(heat, initial=0.0) > scale_max)
    _draw_legend(sheet, (left, y + 18), scale_max, unit, beyond, outline is not None, token_px)
    return png_bytes(sheet)


def _check(
    image: NDArray[np.floating], heat: NDArray[np.floating], outline: NDArray[np.bool_] | None, scale_max: float
) -> None:
    shapes = {np.shape(image), np.shape(heat)} | (set() if outline is None else {np.shape(outline)})
    if len(shapes) != 1 or np.ndim(image) != 2:
        raise ValueError(f"image, heat and outline must share one [rows, columns], got {sorted(shapes)}")
    if not (math.isfinite(scale_max) and scale_max > 0):
        raise ValueError(f"the colour scale must end above 0, got {scale_max}")


def _four(probabilities: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(probabilities, dtype=float)
    if values.shape != (len(CATEGORIES),) or not (values >= 0).all() or abs(values.sum() - 1) > 1e-3:
        raise ValueError(f"expected four probabilities that sum to 1, got {values.tolist()}")
    return values


def _overlay_picture(
    image: NDArray[np.floating],
    heat: NDArray[np.floating],
    scale_max: float,
    box: tuple[int, int],
    outline: NDArray[np.bool_] | None,
    token_px: tuple[float, float] | None,
) -> Image.Image:
    rows, columns = np.shape(image)
    size = fit_size(rows, columns, box)
    picture = Image.fromarray(blend(shrink(image, size), shrink(heat, size), scale_max))
    if outline is not None:
        draw_outline(picture, outline)
    if token_px is not None:
        draw_token_square(picture, (token_px[0] * size[1] / rows, token_px[1] * size[0] / columns))
    return picture


def _draw_probabilities(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], values: NDArray[np.float64], withheld: str
) -> int:
    """The most probable category in words, or why there is no answer, and the four probabilities; the y below them."""
    left, y = at
    best = "" if withheld else str(predicted_category(values[None])[0])
    pen.text((left, y), best or "–", fill=TEXT, font=font(46, bold=True))
    pen.text((left + 50, y + 4), "most probable" if best else "no answer", fill=FAINT, font=font(14))
    words = WORDING[best] if best else withheld
    below = write_lines(pen, (left + 50, y + 22), [words], size=17, width=_SIDE - 50)
    y = max(y + 62, below + 10)
    for category, value in zip(CATEGORIES, values, strict=True):
        fill, right = _BAR[category != best], left + _SIDE - 52
        pen.text((left, y + 10), category, fill=TEXT, font=font(17, bold=category == best), anchor="lm")
        pen.rectangle((left + 24, y + 3, right, y + 17), outline=(58, 63, 71))
        pen.rectangle((left + 24, y + 3, left + 24 + round(float(value) * (right - left - 24)), y + 17), fill=fill)
        pen.text((left + _SIDE, y + 10), f"{value:.2f}", fill=TEXT, font=font(17), anchor="rm")
        y += 27
    return y


def _draw_legend(
    sheet: Image.Image,
    at: tuple[int, int],
    scale_max: float,
    unit: str,
    beyond: bool,
    outlined: bool,
    token_px: tuple[float, float] | None,
) -> None:
    """Colour scale with its unit, and what the thin lines mean."""
    notes = [("breast outline", OUTLINE)] if outlined else []
    notes += [(f"one token, {token_px[0]:.0f} x {token_px[1]:.0f} px", TEXT)] if token_px else []
    # The bar takes the height that is left between the words above it and the notes below it.
    bottom = _SIZE[1] - _MARGIN - _NOTE * len(notes)
    height = min(240, bottom - 90 - at[1])
    draw_colour_scale(sheet, at, unit=unit, scale_max=scale_max, beyond=beyond, width=_SIDE, height=height)
    _draw_notes(ImageDraw.Draw(sheet), (at[0], bottom), notes)


def _draw_notes(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], notes: Sequence[tuple[str, tuple[int, int, int]]]
) -> None:
    for number, (words, colour) in enumerate(notes):
        y = at[1] + _NOTE * number + 4
        pen.rectangle((at[0], y, at[0] + 18, y + 18), outline=colour, width=2)
        pen.text((at[0] + 28, y + 9), words, fill=FAINT, font=font(16), anchor="lm")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One image of a contact sheet.

    Attributes:
        image: `[rows, columns]` in `[0, 1]`, original orientation.
        heat: `[rows, columns]`, raw.
        category: The row it stands in: its label, or None where there is none.
        modality: The column it stands in.
        caption: Up to two lines below it; what is too long loses its middle.
        outline: `[rows, columns]`, the breast; where given, the sheet shows its bounding box only.
        token_px: Height and width of one token in pixels of `image`.
    """

    image: NDArray[np.floating]
    heat: NDArray[np.floating]
    category: str | None
    modality: str
    caption: tuple[str, ...] = ()
    outline: NDArray[np.bool_] | None = None
    token_px: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check(self.image, self.heat, self.outline, 1.0)
        if self.category is not None and self.category not in CATEGORIES:
            raise ValueError(f"category {self.category!r} is not one of {', '.join(CATEGORIES)}")

    def cropped(self) -> "Panel":
        """The same panel cut to the bounding box of its outline, with a little air around it."""
        if self.outline is None or not self.outline.any():
            return self
        air = max(2, round(0.02 * max(self.image.shape)))
        spans = []
        for axis in (1, 0):
            found = np.flatnonzero(self.outline.any(axis=axis))
            spans.append(slice(max(0, int(found[0]) - air), int(found[-1]) + 1 + air))
        cut = (spans[0], spans[1])
        return replace(self, image=self.image[cut], heat=self.heat[cut], outline=self.outline[cut])


def contact_sheet(
    panels: Sequence[Panel],
    *,
    columns: Sequence[str],
    title: str,
    scale_max: float,
    note: str = "",
    unit: str = METHOD_UNITS["gradcam"],
) -> bytes:
    """Paint many images, each plain and beside it with its heat: rows by category, columns by modality, one scale.

    Args:
        panels: In the order in which they shall stand.
        columns: The modalities, left to right; each gets a column even where it has no image.
        title: Above all, in up to two lines.
        scale_max: Heat at the top of the one colour scale.
        note: What the sheet says of itself, below the title.
        unit: What the colour scale counts.

    Returns:
        A PNG as wide and high as its content.

    Raises:
        ValueError: No column, a panel of a modality that has none, or a scale that is not positive.
    """
    strangers = {panel.modality for panel in panels} - set(columns)
    if not columns or strangers:
        raise ValueError(f"no column for {sorted(strangers)} among {list(columns)}")
    if not (math.isfinite(scale_max) and scale_max > 0):
        raise ValueError(f"the colour scale must end above 0, got {scale_max}")
    layout = _Layout.of(panels, columns, title, note)
    sheet = Image.new("RGB", layout.size, BACKGROUND)
    pen, width = ImageDraw.Draw(sheet), layout.size[0] - 2 * _MARGIN
    top = write_lines(pen, (_MARGIN, _MARGIN - 4), [title], size=_TITLE, width=width, bold=True)
    write_lines(pen, (_MARGIN, top), [note], size=_FINE, width=width, fill=FAINT)
    for column, left in zip(columns, layout.lefts, strict=True):
        pen.text((left, layout.top - 32), column, fill=TEXT, font=font(20, bold=True))
    for category, top in zip(layout.rows, layout.tops, strict=True):
        _draw_row_label(pen, top, category, layout.size[0])
        for column, left in zip(columns, layout.lefts, strict=True):
            group = [panel for panel in panels if panel.category == category and panel.modality == column]
            _draw_group(sheet, (left, top), group, layout.per_line, scale_max)
    beyond = any(float(np.max(panel.heat, initial=0.0)) > scale_max for panel in panels)
    left = layout.size[0] - _MARGIN - _BAR_ROOM
    draw_colour_scale(
        sheet, (left, layout.top), unit=unit, scale_max=scale_max, beyond=beyond, width=_BAR_ROOM, height=300
    )
    notes = [("breast outline", OUTLINE)] if any(panel.outline is not None for panel in panels) else []
    notes += [("one token", TEXT)] if any(panel.token_px for panel in panels) else []
    _draw_notes(pen, (left, layout.top + _NOTES_BELOW), notes)
    return png_bytes(sheet)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the groups of a contact sheet stand, pixels."""

    rows: tuple[str | None, ...]
    per_line: int
    top: int
    lefts: tuple[int, ...]
    tops: tuple[int, ...]
    size: tuple[int, int]

    @classmethod
    def of(cls, panels: Sequence[Panel], columns: Sequence[str], title: str, note: str) -> "_Layout":
        labelled = {panel.category is not None for panel in panels}
        # A category without an image is told, unless nothing has a label.
        rows: tuple[str | None, ...] = CATEGORIES if True in labelled or not panels else ()
        if False in labelled:
            rows = (*rows, None)
        per_line = max(1, 4 // len(columns))
        counts = Counter((panel.category, panel.modality) for panel in panels)
        lefts, x = [], _MARGIN + _ROW_LABEL
        for column in columns:
            lefts.append(x)
            x += max(1, min(per_line, max(counts[row, column] for row in rows))) * _PAIR + _BETWEEN
        # A sheet of one column has a title and a page's width too.
        width = max(x + _BAR_ROOM + _MARGIN, _NARROWEST)
        words = [(title, font(_TITLE, bold=True)), (note, font(_FINE))]
        head = sum(line_height(face) * len(wrap(text, face, width - 2 * _MARGIN, 2)) for text, face in words)
        top = y = max(_MARGIN + 84, _MARGIN + head + 42)
        tops = []
        for row in rows:
            tops.append(y)
            y += max(1, max(math.ceil(counts[row, column] / per_line) for column in columns)) * _LINE + _BETWEEN
        height = max(y - _BETWEEN, top + _NOTES_BELOW + 2 * _NOTE) + _MARGIN
        return cls(rows, per_line, top, tuple(lefts), tuple(tops), (width, height))


def _draw_row_label(pen: ImageDraw.ImageDraw, top: int, category: str | None, width: int) -> None:
    pen.line((_MARGIN, top - 8, width - 2 * _MARGIN - _BAR_ROOM, top - 8), fill=(58, 63, 71))
    pen.text((_MARGIN, top), category or "?", fill=TEXT, font=font(36, bold=True))
    words = WORDING[category] if category else "no label"
    write_lines(pen, (_MARGIN, top + 48), [words], size=16, width=_ROW_LABEL - 12, fill=FAINT, lines=4)


def _draw_group(
    sheet: Image.Image, at: tuple[int, int], group: Sequence[Panel], per_line: int, scale_max: float
) -> None:
    """The panels of one category and modality, plain beside overlay."""
    pen = ImageDraw.Draw(sheet)
    if not group:
        pen.text(at, "no image", fill=FAINT, font=font(15))
    for number, panel in enumerate(group):
        left, top = at[0] + number % per_line * _PAIR, at[1] + number // per_line * _LINE
        shown = panel.cropped()
        size = fit_size(shown.image.shape[0], shown.image.shape[1], _CELL)
        plain = Image.fromarray(blend(shrink(shown.image, size), np.zeros(size[::-1]), scale_max))
        heated = _overlay_picture(shown.image, shown.heat, scale_max, _CELL, shown.outline, shown.token_px)
        # Both halves lean on the gap between them, so that narrow breasts stay side by side.
        sheet.paste(plain, (left + _CELL[0] - size[0], top))
        sheet.paste(heated, (left + _CELL[0] + _GAP, top))
        middle = left + _CELL[0] + _GAP // 2
        for line, words in enumerate(panel.caption[:2]):
            kept = cut_middle(words, font(16), _PAIR - 16)
            pen.text((middle, top + _CELL[1] + 4 + 21 * line), kept, fill=FAINT, font=font(16), anchor="ma")
