"""Generated mammograms beside real ones: spectra, grey levels, area, skin line, texture, and sheets to look at.

    python benchmarks/phantom_realism.py --out DIR [--exams N] [--size PX] [--sites NAME ...] [--workers N]

Real images are every picture file below the folder that DENSITYCLIP_REAL_IMAGES names; without it only the generated
ones are measured. What the folder says of their density, in names or tables, is not used: the images are told apart and
ordered by their content alone. Whether one is DM or synthesized is told by its grey levels: synthesized ones spread
little about their mean (SD/mean 0.13-0.20 in the breast, against 0.36-0.74 in DM).

Both kinds go through the same functions: the breast is the one that `find_breast` finds. Writes `realism.json`,
`realism.md` and the sheets `prepared.png`, `whole.png` (real and generated mixed, captions below), `prepared_blind.png`
and `whole_blind.png` (the same in random order without captions) with `blind_key.csv`.
"""

import argparse
import csv
import datetime
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from densityclip.artifacts import git_revision, write_json, write_text
from densityclip.dicom.image_file import IMAGE_EXTENSIONS, read_image_file
from densityclip.imaging.prepare import prepare_pixels
from densityclip.imaging.recipe import Recipe
from densityclip.phantom.sites import SITES
from densityclip.reasons import Refused
from phantom_measures import (
    TEXTURE_SCALES,
    at_depth,
    breast_spectrum,
    eroded,
    exponent,
    grey_levels,
    halves_distance,
    skin_line,
    standing,
    summary,
    texture_distance,
    texture_samples,
)
from phantom_sets import in_order, shown_exam

REAL = "real"
MODALITIES = ("DM", "s2D")
WHOLE_SIDE = 300
# Cycles per depth of the breast; at a depth of 100 mm 0.08-0.24, 0.24-0.72 and 0.72-1.6 per mm. Below 8 the window of a
# patch that fits in the breast blurs a steep spectrum.
BANDS = {"low": (8, 24), "mid": (24, 72), "high": (72, 160)}
# Cycles per pixel: what detector, processing and compression leave at the image's own grid, whatever its pitch.
PIXEL_BAND = (0.15, 0.4)
# Between the 0.20 of the most varied synthesized image and the 0.36 of the least varied DM.
SYNTHESIZED_BELOW = 0.28


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One image.

    Attributes:
        source: `real` or the site.
        modality: `DM` or `s2D`.
        caption: For the sheets.
        measures: By name; None where the image does not allow one.
        texture: Quantiles of the local spread at each scale, after the recipe.
        prepared: `[height, width]` uint8, as the model sees it.
        whole: uint8, the whole image, small.
    """

    source: str
    modality: str
    caption: str
    measures: dict[str, float | None]
    texture: dict[int, NDArray[np.floating]]
    prepared: NDArray[np.uint8]
    whole: NDArray[np.uint8]


def measure(display: NDArray[np.float32], recipe: Recipe, source: str, modality: str | None, caption: str) -> Measured:
    """Everything about one image; a modality of None is told by its grey levels.

    Raises:
        Refused: It cannot be prepared.
    """
    prepared = prepare_pixels(display, recipe)
    breast = standing(display)
    # Without the skin line, whose place a mask knows to about a pixel of the reduced grid it was found on.
    inside = grey_levels(breast.image[eroded(breast.mask, 0.03 * breast.depth)])
    measures: dict[str, float | None] = dict(inside)
    measures |= {f"recipe {k}": v for k, v in grey_levels(prepared.pixels[prepared.mask].astype(float)).items()}
    measures["area share"] = float(breast.mask.mean())
    spectrum = breast_spectrum(breast)
    for name, (low, high) in BANDS.items():
        wanted = (low / breast.depth, high / breast.depth)
        measures[f"slope {name}"] = exponent(*spectrum, *wanted) if spectrum else None
    measures["slope pixel"] = exponent(*spectrum, *PIXEL_BAND) if spectrum else None
    rise, overshoot = skin_line(at_depth(breast)) or (None, None)
    measures |= {"skin rise": rise, "skin overshoot": overshoot}
    texture = texture_samples(prepared.pixels, prepared.mask)
    measures |= {f"local SD {scale} px": float(np.median(texture[scale])) for scale in TEXTURE_SCALES}
    if modality is None:
        modality = "s2D" if inside["grey SD/mean"] < SYNTHESIZED_BELOW else "DM"
    return Measured(source, modality, caption, measures, texture, prepared.pixels, small(display))


def small(display: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The whole image, its longer side `WHOLE_SIDE`."""
    picture = Image.fromarray(np.rint(255 * display).astype(np.uint8))
    scale = WHOLE_SIDE / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return np.asarray(picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))


def content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def real_images(folder: Path) -> list[Path]:
    """Picture files in an order that their content decides, because their names may tell the answer."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS]
    return sorted(found, key=content_hash)


def measure_real(path: Path, recipe: Recipe) -> Measured | str:
    try:
        return measure(read_image_file(path), recipe, REAL, None, REAL)
    except Refused as refused:
        return f"real image {content_hash(path)[:8]}: {refused}"


def measure_exam(
    job: tuple[str, int], seed: int, size: int, slice_mm: float | None, recipe: Recipe
) -> list[Measured | str]:
    site, number = job
    found: list[Measured | str] = []
    for shown in shown_exam(site, seed, number, size, MODALITIES, slice_mm=slice_mm):
        image = shown.image
        caption = f"{site} {shown.woman.categories[shown.side]} {100 * image.truth.without_skin:.0f}%"
        try:
            found.append(measure(shown.display, recipe, site, image.modality, caption))
        except Refused as refused:
            found.append(f"{site} {number} {image.modality} {image.side}{image.view}: {refused}")
    return found


def sheet(images: Sequence[NDArray[np.uint8]], captions: Sequence[str] | None, cell: int, columns: int) -> Image.Image:
    """Images in rows; captions below each, or the numbers of rows and columns at the border."""
    rows, foot, border = -(-len(images) // columns), 14 if captions else 2, 0 if captions else 16
    canvas = Image.new("L", (border + columns * (cell + 4), border + rows * (cell + foot)), 70)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(10)
    for place, pixels in enumerate(images):
        row, column = divmod(place, columns)
        left, top = border + column * (cell + 4), border + row * (cell + foot)
        canvas.paste(0, (left, top, left + cell, top + cell))
        canvas.paste(Image.fromarray(pixels), (left, top + (cell - pixels.shape[0]) // 2))
        if captions:
            draw.text((left + 2, top + cell), captions[place], fill=255, font=font)
    if not captions:
        for column in range(columns):
            draw.text((border + column * (cell + 4) + cell // 2, 1), str(column + 1), fill=255, font=font)
        for row in range(rows):
            draw.text((2, border + row * (cell + foot) + cell // 2), str(row + 1), fill=255, font=font)
    return canvas


def chosen(found: Sequence[Measured], each: int) -> list[Measured]:
    """All real images, and some of each site and modality that differ in woman, side and view."""
    picked = []
    for modality in MODALITIES:
        mine = [image for image in found if image.modality == modality]
        picked += [image for image in mine if image.source == REAL]
        for site in dict.fromkeys(image.source for image in mine if image.source != REAL):
            of_site = [image for image in mine if image.source == site]
            # Exams of four views follow one another; every fifth image walks through women and views at once.
            order = np.arange(len(of_site)) * 5 % len(of_site) if len(of_site) % 5 else np.arange(len(of_site))
            picked += [of_site[place] for place in dict.fromkeys(order.tolist())][:each]
    return picked


def write_sheets(found: Sequence[Measured], out: Path, each: int, columns: int) -> None:
    picked = chosen(found, each)
    mixed: list[Measured] = []
    for modality in MODALITIES:
        mine = [image for image in picked if image.modality == modality]
        # Real ones at even distances among the generated.
        real, rest = ([i for i in mine if (i.source == REAL) == wanted] for wanted in (True, False))
        keys = [(k + 0.5) / len(group) for group in (real, rest) for k in range(len(group))]
        mixed += [image for _, image in sorted(zip(keys, real + rest, strict=True), key=lambda pair: pair[0])]
    blind = [mixed[place] for place in np.random.default_rng(0).permutation(len(mixed))]
    captions = [f"{image.modality} {image.caption}" for image in mixed]
    cell = mixed[0].prepared.shape[0]
    for name, images, texts in (("", mixed, captions), ("_blind", blind, None)):
        sheet([image.prepared for image in images], texts, cell, columns).save(out / f"prepared{name}.png")
        sheet([image.whole for image in images], texts, WHOLE_SIDE, columns).save(out / f"whole{name}.png")
    with (out / "blind_key.csv").open("w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["row", "column", "source", "modality"])
        for place, image in enumerate(blind):
            writer.writerow([place // columns + 1, place % columns + 1, image.source, image.modality])


FORMS = {"grey": "{:.0f}", "grey SD/mean": "{:.2f}", "grey skewness": "{:.1f}", "local": "{:.1f}", "slope": "{:.2f}"}


def form(name: str, value: float) -> str:
    plain = name.removeprefix("recipe ")
    return FORMS.get(plain, FORMS.get(plain.split()[0], "{:.3f}")).format(value)


def tables(found: Sequence[Measured]) -> Iterable[str]:
    for modality in MODALITIES:
        groups = by_source(found, modality)
        if not groups:
            continue
        yield f"\n### {modality}: median (range)\n"
        yield "| measure | " + " | ".join(f"{source} (n={len(group)})" for source, group in groups.items()) + " |"
        yield "|---" * (len(groups) + 1) + "|"
        for name in next(iter(groups.values()))[0].measures:
            cells = [summary([i.measures[name] for i in group], partial(form, name)) for group in groups.values()]
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield from _distance_table(groups)


def _distance_table(groups: dict[str, list[Measured]]) -> Iterable[str]:
    if REAL not in groups or len(groups) < 2:
        return
    real = [image.texture for image in groups[REAL]]
    yield "\nTexture: Wasserstein distance of the local SD after the recipe, in grey levels of 255:\n"
    yield "| against the real images | " + " | ".join(f"{scale} px" for scale in TEXTURE_SCALES) + " |"
    yield "|---" * (len(TEXTURE_SCALES) + 1) + "|"
    halves = halves_distance(real, np.random.default_rng(0))
    rows = {"real, halves of them": halves} if halves else {}
    rows |= {s: texture_distance(real, [i.texture for i in group]) for s, group in groups.items() if s != REAL}
    for name, distances in rows.items():
        yield f"| {name} | " + " | ".join(f"{distances[scale]:.2f}" for scale in TEXTURE_SCALES) + " |"


def by_source(found: Sequence[Measured], modality: str) -> dict[str, list[Measured]]:
    mine = [image for image in found if image.modality == modality]
    return {source: [i for i in mine if i.source == source] for source in dict.fromkeys(i.source for i in mine)}


def telling(found: Sequence[Measured]) -> str:
    """How clearly the grey levels of the real images tell DM from synthesized ones."""
    spread = sorted(image.measures["grey SD/mean"] or 0.0 for image in found if image.source == REAL)
    below, above = ([s for s in spread if (s < SYNTHESIZED_BELOW) == side] for side in (True, False))
    if not below or not above:
        return f"All {len(spread)} real images lie on one side of SD/mean {SYNTHESIZED_BELOW}."
    return (
        f"Real images told by SD/mean of the grey levels in the breast, below or above {SYNTHESIZED_BELOW}: "
        f"{len(below)} synthesized (up to {below[-1]:.2f}), {len(above)} DM (from {above[0]:.2f})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and sheets")
    parser.add_argument("--exams", type=int, default=6, help="generated exams of each site")
    parser.add_argument("--size", type=int, default=512, help="rows of a generated DM; the high band needs 1024")
    parser.add_argument("--sites", nargs="+", default=list(SITES), choices=list(SITES))
    parser.add_argument("--slice-mm", type=float, help="distance of the slices that s2D is made of")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shown", type=int, default=6, help="images on the sheets of each site and modality")
    parser.add_argument("--columns", type=int, default=8, help="of the sheets")
    options = parser.parse_args()
    recipe = Recipe()
    folder = os.environ.get("DENSITYCLIP_REAL_IMAGES")
    real = real_images(Path(folder)) if folder else []
    answers: list[Measured | str] = list(in_order(partial(measure_real, recipe=recipe), real, options.workers))
    make = partial(measure_exam, seed=options.seed, size=options.size, slice_mm=options.slice_mm, recipe=recipe)
    # A sheet shows other women at each site.
    jobs = [(site, 100 * k + n) for k, site in enumerate(options.sites) for n in range(options.exams)]
    for exam in in_order(make, jobs, options.workers):
        answers += exam
    refused = [answer for answer in answers if isinstance(answer, str)]
    found = [answer for answer in answers if not isinstance(answer, str)]
    options.out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{datetime.date.today()}, revision {git_revision()}, {len(real)} real images, {options.exams} generated exams "
        f"a site at {options.size} px, seed {options.seed}, recipe at {recipe.height} px. Slopes: power ~ 1/f^slope, "
        + ", ".join(f"{name} {low}-{high}" for name, (low, high) in BANDS.items())
        + " cycles per depth of the breast, pixel 0.15-0.4 cycles per pixel of the file. Grey levels of 255; "
        "lengths as shares of the depth.",
        *([telling(found)] if real else []),
        *(f"Refused: {sentence}" for sentence in refused),
        *tables(found),
    ]
    write_text(options.out / "realism.md", "\n".join(lines) + "\n")
    rows: list[dict[str, Any]] = [
        {"source": i.source, "modality": i.modality, "caption": i.caption} | i.measures for i in found
    ]
    write_json(options.out / "realism.json", {"images": rows, "refused": refused, "revision": git_revision()})
    write_sheets(found, options.out, options.shown, options.columns)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
