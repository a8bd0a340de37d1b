"""Generated exams against published figures: spectra, sizes, volumes, density, thickness, sides, muscle, readers.

    python benchmarks/phantom_checks.py --out DIR [--exams N] [--size PX] [--textured N] [--site NAME] [--workers N]

Sizes, volumes and sides come from `--exams` exams at a coarse `--small` grid, spectra from `--textured` exams at
`--size`, agreement of readers and the distribution of density from the women alone, of whom thousands are drawn. Writes
`checks.json` and `checks.md`.

Figures without a published spread are inside if they differ by no more than one standard deviation of the generated
women of that category; a row says how it was judged.
"""

import argparse
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import spearmanr

from densityclip.artifacts import git_revision, write_json, write_text
from densityclip.density import CATEGORIES, DENSE
from densityclip.phantom import exam
from densityclip.phantom.population import draw_woman
from densityclip.phantom.readers import READERS
from densityclip.phantom.sites import SITES
from phantom_measures import eroded, exponent, patch_corners, patch_spectrum
from phantom_sets import in_order, shown_exam

# Patches and frequencies of Burgess and Chen: 25.6 mm, 0.15 to 0.7 per mm.
PATCH_MM, BAND_PER_MM = 25.6, (0.15, 0.7)
HIGH_BAND_PER_MM = (0.4, 0.75)
_SKIN_SIDE_MM = 12.0
_SEEN_MUSCLE = 0.02
# Share of the local thickness from which a pixel counts as dense for area %; the figures for other shares stand beside.
DENSE_SHARES = (0.15, 0.2, 0.3)
AREA_CM2 = (239.0, 156.0, 119.0, 96.0)
VOLUME_CM3 = (1149.0, 690.0, 485.0, 364.0)
GLAND_CM3 = (203.0, 186.0, 201.0, 241.0)
FRACTION_MEDIANS = (0.057, 0.117, 0.23, 0.48)
AREA_PERCENT, AREA_PERCENT_SD = (4.0, 19.0, 40.0, 62.0), (4.0, 11.0, 15.0, 12.0)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: What is compared.
        published: The figure, with its source's spread.
        generated: Ours.
        inside: Whether ours is inside; None where there is nothing to compare.
        judged: By what.
    """

    check: str
    published: str
    generated: str
    inside: bool | None
    judged: str


def within(check: str, value: float | None, low: float, high: float, form: str = "{:.2f}", published: str = "") -> Row:
    """A figure that shall lie between two others."""
    aim = f"{form.format(low)} to {form.format(high)}"
    if value is None or not np.isfinite(value):
        return Row(check, published or aim, "-", None, "not measured")
    return Row(check, published or aim, form.format(value), bool(low <= value <= high), aim)


def per_category(
    check: str,
    published: Sequence[float],
    labels: Sequence[str],
    values: Sequence[float],
    form: str,
    spread: Sequence[float] | None = None,
    middle: Callable[[Any], Any] = np.mean,
) -> Iterator[Row]:
    """A mean of each category against a published one, by one published or else one generated standard deviation."""
    known, numbers = np.asarray(labels), np.asarray(values, dtype=float)
    for place, letter in enumerate(CATEGORIES):
        mine = numbers[known == letter]
        if len(mine) < 3:
            yield Row(f"{check}, {letter}", form.format(published[place]), f"- (n={len(mine)})", None, "too few")
            continue
        value, sd = float(middle(mine)), float(mine.std(ddof=1))
        allowed = spread[place] if spread else sd
        said = form.format(published[place]) + (f" (SD {form.format(allowed)})" if spread else "")
        ours = f"{form.format(value)} (SD {form.format(sd)}, n={len(mine)})"
        inside = abs(value - published[place]) <= allowed
        yield Row(f"{check}, {letter}", said, ours, inside, f"one {'published' if spread else 'generated'} SD")


def spectrum_exam(number: int, site: str, seed: int, size: int) -> list[dict[str, Any]]:
    """Exponents of every image of an exam."""
    rows = []
    for shown in shown_exam(site, seed, number, size):
        image = shown.image
        inner = eroded(image.breast, _SKIN_SIDE_MM / image.pitch_mm)
        side = 2 * round(PATCH_MM / image.pitch_mm / 2)
        corners = patch_corners(inner, side)
        if not corners:
            continue
        frames = [shown.display]
        if shown.display.ndim == 3:
            last = len(shown.display) - 1
            frames = [shown.display[round(share * last)] for share in (0.3, 0.5, 0.7)]
        spectra = [patch_spectrum(255 * frame, corners, side) for frame in frames]
        frequency, power = spectra[0][0] / image.pitch_mm, np.mean([power for _, power in spectra], axis=0)

        def slope(low: float, high: float, frequency=frequency, power=power, pitch=image.pitch_mm) -> float | None:
            return exponent(frequency * pitch, power, low * pitch, high * pitch)

        gland = patch_spectrum(image.gland_mm.astype(np.float64), corners, side)[1]
        rows.append(
            {
                "exam": number,
                "modality": image.modality,
                "view": image.view,
                "side": image.side,
                "slope": slope(*BAND_PER_MM),
                "high": slope(*HIGH_BAND_PER_MM),
                "pixel": exponent(frequency * image.pitch_mm, power, 0.15, 0.4),
                "gland": slope(*BAND_PER_MM, power=gland) if gland.any() else None,
            }
        )
    return rows


def breast_exam(number: int, site: str, seed: int, size: int) -> list[dict[str, Any]]:
    """Sizes and volumes of each view of an exam; what the truth leaves out is seen where the anatomy is built."""
    rows: list[dict[str, Any]] = []
    built: list[Any] = []
    make = exam.build_anatomy

    def build(*arguments: Any, **options: Any) -> Any:
        built.append(make(*arguments, **options))
        return built[-1]

    seen = set()
    with mock.patch.object(exam, "build_anatomy", build):
        for shown in shown_exam(site, seed, number, size):
            image, woman = shown.image, shown.woman
            if (image.side, image.view) in seen or image.modality != "DM":
                continue
            seen.add((image.side, image.view))
            rows.append(
                {
                    "exam": number,
                    "side": image.side,
                    "view": image.view,
                    "label": woman.labels[shown.side],
                    "category": woman.categories[shown.side],
                    "fraction": woman.fractions[shown.side],
                    "area_cm2": float(image.breast.sum()) * image.pitch_mm**2 / 100,
                    "volume_cm3": image.truth.whole_cm3,
                    "gland_cm3": image.truth.gland_cm3,
                    "with_skin": image.truth.with_skin,
                    "without_skin": image.truth.without_skin,
                    "thickness_mm": image.thickness_mm,
                    "dense_area": dense_areas(image, built[-1]),
                    "muscle": muscle_reaches(built[-1], image.pitch_mm) if image.view == "MLO" else None,
                }
            )
    return rows


def dense_areas(image: Any, anatomy: Any) -> list[float]:
    """Area %: pixels where gland fills more than a share of the local thickness, by share; muscle does not count."""
    gland = image.gland_mm.astype(np.float32)
    gland, seen = (array[:, ::-1] if image.side == "R" else array for array in (gland, image.breast))
    # The image is the whole detector; the anatomy begins where the breast does.
    rows, columns = anatomy.breast.shape
    part = np.s_[anatomy.top : anatomy.top + rows, :columns]
    if not np.array_equal(seen[part], anatomy.breast):
        raise AssertionError(f"the breast of {image.side} {image.view} does not lie where its anatomy says")
    counted = anatomy.breast & (anatomy.muscle < _SEEN_MUSCLE)
    ratio = gland[part] / np.maximum(anatomy.thickness, 1.0)
    return [100 * float((ratio > share)[counted].mean()) for share in DENSE_SHARES]


def muscle_reaches(anatomy: Any, pitch_mm: float) -> bool:
    """Whether the pectoral muscle of an MLO comes down to the row of the nipple."""
    # Its edge is soft; below this share nobody would see it. The muscle is thinner at its lower end than at its top.
    rows = np.flatnonzero((anatomy.muscle > _SEEN_MUSCLE).any(axis=1))
    return bool(len(rows) and anatomy.y_mm(pitch_mm)[rows[-1]] + pitch_mm / 2 >= anatomy.nipple_mm)


def spectra_rows(found: list[dict[str, Any]]) -> Iterator[Row]:
    def mean(modality: str, key: str, view: str | None = None) -> float | None:
        values = [r[key] for r in found if r["modality"] == modality and view in (None, r["view"])]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    yield within("exponent of DM, 0.15-0.7 per mm", mean("DM", "slope"), 2.8, 3.4, published="2.8 to 3.4 (aim)")
    for view, said in (("CC", 3.17), ("MLO", 3.30)):
        yield within(f"exponent of DM, {view}", mean("DM", "slope", view), said - 0.4, said + 0.4, published=f"{said}")
    for view, said in (("CC", 3.06), ("MLO", 3.10)):
        value = mean("DBT", "slope", view)
        yield within(f"exponent of DBT slices, {view}", value, said - 0.4, said + 0.4, published=f"{said}")
    pairs = paired(found, "DM", "DBT", "slope")
    fall = float(np.mean(pairs)) if pairs else None
    yield within("fall of the exponent from DM to DBT", fall, 0.02, 0.6, published="0.11 CC, 0.20 MLO")
    for key, words in (("high", "0.4-0.75 per mm"), ("pixel", "0.15-0.4 per pixel")):
        pairs = paired(found, "s2D", "DM", key)
        rise = float(np.mean(pairs)) if pairs else None
        yield within(f"slope of s2D above DM's, {words}", rise, 0.3, 4.0, published="3.8-4.2 against 1.1-2.9")
    yield Row(
        "exponent of the gland map on DM's grid",
        "3.1-3.3 without noise",
        _form(mean("DM", "gland")),
        None,
        "for information",
    )


def _form(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def paired(found: list[dict[str, Any]], one: str, other: str, key: str) -> list[float]:
    """Differences of two modalities in the same view of the same breast."""
    values = {(r["modality"], r["exam"], r["side"], r["view"]): r[key] for r in found}
    pairs = [(values[m, *rest], values.get((other, *rest))) for m, *rest in values if m == one]
    return [a - b for a, b in pairs if a is not None and b is not None]


def breast_rows(found: list[dict[str, Any]]) -> Iterator[Row]:
    cc, mlo = ([r for r in found if r["view"] == view] for view in ("CC", "MLO"))
    labels = [r["label"] for r in cc]
    yield from per_category("projected area CC, cm2", AREA_CM2, labels, [r["area_cm2"] for r in cc], "{:.0f}")
    yield from per_category("breast volume, cm3", VOLUME_CM3, labels, [r["volume_cm3"] for r in cc], "{:.0f}")
    gland = [r["gland_cm3"] for r in cc]
    for row in per_category("gland volume, cm3 (source reads high)", GLAND_CM3, labels, gland, "{:.0f}"):
        yield Row(row.check, row.published, row.generated, None, "contradicts the fractions below")
    of_fractions = [v * f for v, f in zip(VOLUME_CM3, FRACTION_MEDIANS, strict=True)]
    with_skin = [r["with_skin"] * r["volume_cm3"] for r in cc]
    yield from per_category("gland and skin volume, cm3 (volume x fraction)", of_fractions, labels, with_skin, "{:.0f}")
    fractions = [r["with_skin"] for r in cc]
    yield from per_category(
        "median fraction incl. skin", FRACTION_MEDIANS, labels, fractions, "{:.3f}", middle=np.median
    )
    at = DENSE_SHARES.index(0.2)
    for place, share in enumerate(DENSE_SHARES):
        areas = [r["dense_area"][place] for r in cc]
        for row in per_category(
            f"area % (gland over {share} of the thickness)", AREA_PERCENT, labels, areas, "{:.0f}", AREA_PERCENT_SD
        ):
            yield row if place == at else Row(row.check, row.published, row.generated, None, "for information")
    yield from _thickness_rows(cc, mlo)
    yield from _side_rows(cc)
    reaching = [r["muscle"] for r in mlo if r["muscle"] is not None]
    share = float(np.mean(reaching)) if reaching else None
    yield within("MLO whose pectoral muscle reaches the nipple line", share, 0.8, 1.0, published="over 0.80")


def _thickness_rows(cc: list[dict[str, Any]], mlo: list[dict[str, Any]]) -> Iterator[Row]:
    every = np.array([r["thickness_mm"] for r in cc + mlo])
    yield within("compressed thickness, mean mm", float(every.mean()), 54, 64, "{:.1f}", "59")
    yield within("compressed thickness, SD mm", float(every.std()), 12, 20, "{:.1f}", "16")
    less = float(np.mean([r["thickness_mm"] for r in mlo]) - np.mean([r["thickness_mm"] for r in cc]))
    yield within("MLO thicker than CC, mm", less, 3, 7, "{:.1f}", "about 5")
    for view, rows, said in (("CC", cc, -0.56), ("MLO", mlo, -0.62)):
        rho = float(spearmanr([r["thickness_mm"] for r in rows], [r["with_skin"] for r in rows]).statistic)
        yield within(
            f"thickness against density, rank correlation {view}", rho, said - 0.1, said + 0.1, published=f"{said}"
        )


def _side_rows(cc: list[dict[str, Any]]) -> Iterator[Row]:
    left, right = ({r["exam"]: r for r in cc if r["side"] == side} for side in "LR")
    both = [(left[n], right[n]) for n in left if n in right]
    at = DENSE_SHARES.index(0.2)
    measures: list[tuple[str, Callable[[dict[str, Any]], float], float, str]] = [
        ("volume, cm3", lambda r: r["volume_cm3"], (138 + 186) / 2, "-138/+186"),
        ("volume %", lambda r: 100 * r["with_skin"], (6.5 + 9.1) / 2, "-6.5/+9.1"),
        ("area %", lambda r: r["dense_area"][at], (7.6 + 11.1) / 2, "-7.6/+11.1"),
    ]
    for name, value, half, said in measures:
        difference = np.array([value(b) - value(a) for a, b in both])
        middle, width = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
        ours = f"{middle - width:.1f}/{middle + width:+.1f}"
        inside = 0.6 * half <= width <= 1.4 * half
        yield Row(f"limits of agreement left-right, {name}", said, ours, inside, "half width within 40%")
    logs = [np.log(b["with_skin"] / a["with_skin"]) for a, b in both]
    yield within("SD of ln density left-right", float(np.std(logs, ddof=1)), 0.11, 0.16, "{:.3f}", "0.12 to 0.15")


def women_rows(site: str, seed: int, women: int) -> Iterator[Row]:
    """What needs no image: the distribution of density and of its labels."""
    drawn = [draw_woman(site, seed, number) for number in range(women)]
    fraction = np.array([f for woman in drawn for f in woman.fractions])
    yield within("fraction incl. skin, mean", float(fraction.mean()), 0.18, 0.206, "{:.3f}", "0.193")
    yield within("share of breasts below 27%", float((fraction < 0.27).mean()), 0.77, 0.83, published="0.80")
    yield within("share of breasts below 45%", float((fraction < 0.45).mean()), 0.93, 0.97, published="0.95")
    labels = np.array([woman.labels[0] for woman in drawn])
    for letter, share in zip(CATEGORIES, SITES[site].shares, strict=True):
        tolerance = 3 * np.sqrt(share * (1 - share) / women) + 0.01
        value = float((labels == letter).mean())
        yield within(f"share of label {letter}", value, share - tolerance, share + tolerance, published=f"{share:.3f}")


def reader_rows(readings: int) -> Iterator[Row]:
    """Agreement of simulated readers, over many women of the reference population."""
    rng = np.random.default_rng(7)
    z = rng.standard_normal(readings)

    def of_reader() -> np.ndarray:
        leaning = rng.normal(0, READERS.reader_sd, readings)
        return z + leaning + rng.normal(0, READERS.reader_case_sd, readings)

    def read(seen: np.ndarray) -> np.ndarray:
        return np.searchsorted(READERS.cuts, seen + rng.normal(0, READERS.reading_sd, readings))

    mine, other = of_reader(), of_reader()
    first, second, third = read(mine), read(mine), read(other)
    truth = np.searchsorted(READERS.cuts / np.sqrt(1 + _noise()), z)
    dense = CATEGORIES.index(DENSE[0])
    yield within("agreement within a reader", float((first == second).mean()), 0.74, 0.80, "{:.3f}", "0.772")
    yield within("linear kappa within a reader", kappa(first, second), 0.67, 0.75, published="0.70-0.71")
    yield within("agreement between readers", float((first == third).mean()), 0.66, 0.72, published="0.69")
    yield within("linear kappa between readers", kappa(first, third), 0.48, 0.79, published="0.48-0.79 (0.62)")
    discordance = float(((first >= dense) != (third >= dense)).mean())
    yield within("dense discordance between readers", discordance, 0.155, 0.19, "{:.3f}", "0.172")
    yield within("one reading against the truth", float((first == truth).mean()), 0.74, 0.80, published="0.77")


def _noise() -> float:
    return READERS.reader_sd**2 + READERS.reader_case_sd**2 + READERS.reading_sd**2


def kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of category indices with linear weights."""
    counts = np.zeros((4, 4))
    np.add.at(counts, (one, other), 1)
    share = counts / counts.sum()
    weight = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    expected = np.outer(share.sum(axis=1), share.sum(axis=0))
    return float(1 - (weight * share).sum() / (weight * expected).sum())


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| check | published | generated | inside | judged by |"
    yield "|---|---|---|---|---|"
    words = {True: "yes", False: "NO", None: ""}
    for row in rows:
        yield f"| {row.check} | {row.published} | {row.generated} | {words[row.inside]} | {row.judged} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--site", default="internal", choices=list(SITES))
    parser.add_argument("--exams", type=int, default=160, help="for sizes, volumes and sides")
    parser.add_argument("--small", type=int, default=160, help="rows of their DM images")
    parser.add_argument("--textured", type=int, default=10, help="exams for the spectra")
    parser.add_argument("--size", type=int, default=640, help="rows of their DM images, at least 592")
    parser.add_argument("--women", type=int, default=4000, help="drawn without images")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    breasts = partial(breast_exam, site=options.site, seed=options.seed, size=options.small)
    spectra = partial(spectrum_exam, site=options.site, seed=options.seed, size=options.size)
    measured = [row for rows in in_order(breasts, range(options.exams), options.workers) for row in rows]
    slopes = [row for rows in in_order(spectra, range(options.textured), options.workers) for row in rows]
    parts = {
        "Spectra": list(spectra_rows(slopes)),
        "Sizes and density, by the label": list(breast_rows(measured)),
        "The women": list(women_rows(options.site, options.seed, options.women)),
        "Readers": list(reader_rows(200_000)),
    }
    judged = [row.inside for rows in parts.values() for row in rows if row.inside is not None]
    lines = [
        f"{datetime.date.today()}, revision {git_revision()}, site {options.site}, seed {options.seed}: "
        f"{options.exams} generated exams at {options.small} px, {options.textured} at {options.size} px, "
        f"{options.women} women. {sum(judged)} of {len(judged)} checks are inside."
    ]
    for title, rows in parts.items():
        lines += [f"\n### {title}\n", *table(rows)]
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "checks.md", "\n".join(lines) + "\n")
    content = {title: [asdict(row) for row in rows] for title, rows in parts.items()}
    write_json(options.out / "checks.json", {"checks": content, "breasts": measured, "spectra": slopes})
    print("\n".join(lines))


if __name__ == "__main__":
    main()
