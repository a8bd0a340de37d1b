"""The pieces that an overlay is painted from: heat over grey, outline, token square, colour bar, text that fits."""

import io
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

BACKGROUND = (17, 19, 22)
TEXT = (236, 238, 241)
FAINT = (165, 171, 180)
OUTLINE = (84, 214, 255)  # a hue that the heat colours never take
_OPACITY = 0.72  # tissue stays visible under the strongest heat
_BAR_WIDTH = 38
_FIRST_COLOUR = 0.22  # the colour map's black start would look like air


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at a pixel size, from the files that matplotlib brings along: the same on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@lru_cache(maxsize=1)
def heat_colours() -> NDArray[np.float32]:
    """The perceptually uniform colours of heat, `[256, 3]` in `[0, 255]`, weakest first."""
    import matplotlib

    table = matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255
    levels = np.linspace(_FIRST_COLOUR * 255, 255, 256)
    return np.stack([np.interp(levels, np.arange(256), table[:, k]) for k in range(3)], axis=1).astype(np.float32)


def heat_opacity(level: NDArray[np.floating]) -> NDArray[np.float32]:
    """Opacity of heat at a level in `[0, 1]` of the scale: 0 where there is nothing, growing with the heat."""
    return (_OPACITY * np.asarray(level, dtype=np.float32) ** 0.75).astype(np.float32)


def shared_scale(heats: Iterable[NDArray[np.floating]], percentile: float = 99.5) -> float:
    """One upper end of the colour scale for many maps, so that equal colours mean equal heat.

    Args:
        heats: Raw maps; token grids will do.
        percentile: Of all their positive values together, so that one odd token does not dim the rest.

    Returns:
        A positive number; 1.0 where no map has any heat.
    """
    pieces = [np.asarray(heat, dtype=np.float64).ravel() for heat in heats]
    values = np.concatenate(pieces) if pieces else np.empty(0)
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.percentile(positive, percentile)) if len(positive) else 1.0


def fit_size(rows: int, columns: int, box: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture of `rows x columns` scaled, up or down, to fit a `(width, height)` box."""
    scale = min(box[0] / columns, box[1] / rows)
    return max(1, round(columns * scale)), max(1, round(rows * scale))


def shrink(values: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a real or boolean map to `(width, height)`, averaging where it shrinks; what is not finite counts as 0."""
    source = np.asarray(values)
    # Whole blocks first, down to about twice the size: a quarter of the time of one resize on 13 megapixels.
    step = max(1, min(source.shape[0] // (2 * size[1]), source.shape[1] // (2 * size[0])))
    small = _block_means(source, step)
    small = np.where(np.isfinite(small), small, np.float32(0))
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR))


def _block_means(values: NDArray[np.generic], step: int) -> NDArray[np.float32]:
    """Mean of each `step x step` block; of a mask, the block's middle pixel. An incomplete last block is left out."""
    rows, columns = (length // step * step for length in values.shape)
    whole = values[:rows, :columns]
    if step == 1 or whole.dtype == np.bool_:
        return np.ascontiguousarray(whole[step // 2 :: step, step // 2 :: step], dtype=np.float32)
    total = np.zeros((rows // step, columns // step), dtype=np.float32)
    for row in range(step):
        for column in range(step):
            total += whole[row::step, column::step]
    total /= np.float32(step * step)
    return total


def blend(grey: NDArray[np.floating], heat: NDArray[np.floating], scale_max: float) -> NDArray[np.uint8]:
    """Colour heat laid over a grey image.

    Args:
        grey: `[rows, columns]` in `[0, 1]`.
        heat: `[rows, columns]`, raw; what is not positive shows the grey image unchanged.
        scale_max: Heat at the top of the colour scale; more is shown like this.

    Returns:
        `[rows, columns, 3]`.
    """
    level = np.clip(np.asarray(heat, dtype=np.float32) / np.float32(scale_max), 0.0, 1.0)
    alpha = heat_opacity(level)[..., None]
    colour = heat_colours()[np.round(level * 255).astype(np.intp)]
    base = np.clip(np.asarray(grey, dtype=np.float32), 0.0, 1.0)[..., None] * 255
    return np.round(base * (1 - alpha) + colour * alpha).astype(np.uint8)


def draw_outline(picture: Image.Image, mask: NDArray[np.bool_], width: int = 1) -> None:
    """Draw the inner border of a mask onto a picture; the mask may have any size of the same aspect.

    The picture's own edge is no border: a breast that runs out of the image has no outline there.
    """
    inside = Image.fromarray(np.where(shrink(mask, picture.size) >= 0.5, 255, 0).astype(np.uint8))
    border = np.asarray(inside) > np.asarray(inside.filter(ImageFilter.MinFilter(2 * width + 1)))
    picture.paste(OUTLINE, mask=Image.fromarray(np.where(border, 255, 0).astype(np.uint8)))


def draw_token_square(picture: Image.Image, size: tuple[float, float]) -> None:
    """Draw a square of one token's `(height, width)` in the darkest corner of a picture."""
    high, wide = (max(3, round(length)) for length in size)
    gap = max(3, round(0.012 * max(picture.size)))
    if high + 2 * gap > picture.height or wide + 2 * gap > picture.width:
        return
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    tops, lefts = (gap, picture.height - gap - high), (gap, picture.width - gap - wide)
    corners = [(top, left) for top in reversed(tops) for left in reversed(lefts)]
    top, left = min(corners, key=lambda corner: float(grey[corner[0] :, corner[1] :][:high, :wide].mean()))
    ImageDraw.Draw(picture).rectangle((left, top, left + wide - 1, top + high - 1), outline=TEXT, width=2)


def scale_number(value: float) -> str:
    """A tick of the colour bar with three significant digits, never longer than eight characters."""
    return "0" if value == 0 else f"{value:.3g}"


def draw_colour_scale(
    sheet: Image.Image, at: tuple[int, int], *, unit: str, scale_max: float, beyond: bool, width: int, height: int
) -> None:
    """Draw the unit, and below it the colours of heat from 0 to the top with three ticks.

    The bar's left half shows the colours over air, its right half over bright tissue, as the picture mixes them.

    Args:
        sheet: Where to draw.
        at: Left and top.
        unit: What the scale counts.
        scale_max: Heat at the top.
        beyond: Whether some heat exceeds the top, which the tick then says.
        width: Room for words, pixels.
        height: Of the bar, pixels.
    """
    pen, left = ImageDraw.Draw(sheet), at[0] + 1
    top = write_lines(pen, at, [unit], size=16, width=width, fill=FAINT, lines=3)
    top = write_lines(pen, (at[0], top), ["left: over air, right: over tissue"], size=13, width=width, fill=FAINT) + 12
    level = np.repeat(np.linspace(scale_max, 0.0, height)[:, None], _BAR_WIDTH, axis=1)
    grey = np.where(np.arange(_BAR_WIDTH) < _BAR_WIDTH / 2, 0.05, 0.65)
    sheet.paste(Image.fromarray(blend(np.broadcast_to(grey, level.shape), level, scale_max)), (left, top))
    right, bottom = left + _BAR_WIDTH, top + height
    pen.rectangle((left - 1, top - 1, right, bottom), outline=FAINT)
    for part, y in ((1.0, top), (0.5, (top + bottom) // 2), (0.0, bottom)):
        pen.line((right, y, right + 6, y), fill=FAINT)
        words = ("≥ " if beyond and part == 1.0 else "") + scale_number(part * scale_max)
        pen.text((right + 11, y), words, fill=TEXT, font=font(16), anchor="lm")


def line_height(face: ImageFont.FreeTypeFont) -> int:
    """From one line of text to the next, pixels."""
    return math.ceil(face.size * 1.32)


def wrap(text: str, face: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Break a text into at most `lines` lines of `width` pixels; what does not fit ends in an ellipsis."""
    made: list[str] = []
    words = text.split()
    while words and len(made) < lines:
        taken = len(words) if len(made) == lines - 1 else 1
        while taken < len(words) and face.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        made.append(_cut(" ".join(words[:taken]), face, width))
        words = words[taken:]
    return made


def _cut(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    if face.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 1 and face.getlength(text[:kept].rstrip() + "…") > width:
        kept -= 1
    return text[:kept].rstrip() + "…"


def cut_middle(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    """A text on one line of `width` pixels; one that does not fit keeps both of its ends, and an ellipsis between."""
    if face.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 0 and face.getlength(_ends(text, kept)) > width:
        kept -= 1
    return _ends(text, kept)


def _ends(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def write_lines(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    texts: Sequence[str],
    *,
    size: int,
    width: int,
    fill: tuple[int, int, int] = TEXT,
    bold: bool = False,
    lines: int = 2,
) -> int:
    """Write texts below each other, each wrapped to `width` in at most `lines` lines; the y below the last one."""
    face, y = font(size, bold), at[1]
    for text in texts:
        for line in wrap(text, face, width, lines):
            pen.text((at[0], y), line, fill=fill, font=face)
            y += line_height(face)
    return y


def png_bytes(sheet: Image.Image) -> bytes:
    """A picture as PNG; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()
