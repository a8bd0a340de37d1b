"""What the heat maps are worth: which method passed what, and the figures that this rests on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densityclip.explain.figures import FLAT, POINTING, RANDOMISED, SHUFFLES, TISSUE_AUC
from densityclip.explain.followers import FOLLOWER_WORDS
from densityclip.explain.methods import METHOD_WORDS
from densityclip.explain.summary import ALL, FAILED, PASSED, interval_words
from densityclip.records import number_of
from densityclip.report.tables import Grid

_REGIONS = ("breast", "pectoral", "markers", "border", "air")
_KINDS = {
    "modality": "the same breast and view as another kind of image",
    "side": "left against right",
    "view": "CC against MLO, by depth from the chest wall",
    "member": "the same image in models of other folds",
}


@dataclass(frozen=True)
class Maps:
    """The maps of one arm on one cohort.

    Attributes:
        arm: The arm.
        cohort: The cohort, as it is headed.
        content: Of `explain.json`.
    """

    arm: str
    cohort: str
    content: Mapping[str, Any]

    @property
    def title(self) -> str:
        """What stands above their rows."""
        return f"{self.arm} on {self.cohort}: {number_of(self.content['images'], 'image')}"


def map_words(name: str) -> str:
    """A method or follower in words."""
    return METHOD_WORDS.get(name) or FOLLOWER_WORDS.get(name) or "a flat map"


def map_sentences(maps: Sequence[Maps]) -> list[str]:
    """In words: what each method passed everywhere, and a warning for each claim that one failed somewhere."""
    told = []
    for method in dict.fromkeys(row["map"] for one in maps for row in one.content["verdicts"]):
        judged: dict[str, list[tuple[str, str]]] = {}
        for one in maps:
            for row in one.content["verdicts"]:
                if row["map"] == method:
                    judged.setdefault(row["claim"], []).append((row["verdict"], f"{one.arm} on {one.cohort}"))
        places = max(len(found) for found in judged.values())
        passed = [
            claim + ("" if len(found) == places else f" (measured on {len(found)} of {places} cohorts)")
            for claim, found in judged.items()
            if all(verdict == PASSED for verdict, _ in found)
        ]
        words = map_words(method)
        words = words[:1].upper() + words[1:]
        told.append(f"{words} passed {len(passed)} of {len(judged)} claims wherever measured{_listed(passed)}.")
        for claim, found in judged.items():
            where = [place for verdict, place in found if verdict == FAILED]
            if where:
                told.append(f"Warning: {words} failed the claim that {claim} ({'; '.join(where)}).")
    return told


def _listed(claims: Sequence[str]) -> str:
    return f": {'; '.join(claims)}" if claims else ""


def map_grids(maps: Sequence[Maps]) -> list[Grid]:
    """Verdicts, tissue, energy, randomisation and consistency; tables without a row are left out."""
    grids = [_verdicts(maps), _tissue(maps), _energy(maps), _randomised(maps), _consistency(maps)]
    return [grid for grid in grids if grid.rows]


def map_rows(maps: Sequence[Maps]) -> Iterator[dict[str, Any]]:
    """Every mean of a figure, for CSV: one row a figure."""
    for one in maps:
        for row in one.content["figures"]:
            yield {"arm": one.arm, "cohort": one.cohort, **row}


def _verdicts(maps: Sequence[Maps]) -> Grid:
    rows: list[tuple[str, ...]] = []
    for one in maps:
        if one.content["verdicts"]:
            rows.append((one.title,))
        for row in one.content["verdicts"]:
            rows.append(
                (map_words(row["map"]), row["claim"], row["verdict"], row["figures"].replace("; ", "\n") or "–")
            )
    return Grid(
        ("Map", "Claim", "Verdict", "Mean (95% interval over patients)"),
        tuple(rows),
        title="What the maps passed",
        note=(
            "Passed: the whole interval lies beyond the bound. Failed: that of one figure lies on the other side. Not "
            "shown: neither. Insertion and deletion are in units of the density score, and better above 0."
        ),
        figures_from=4,
    )


def _tissue(maps: Sequence[Maps]) -> Grid:
    names = _maps_with(maps, TISSUE_AUC)
    rows: list[tuple[str, ...]] = []
    for one in maps:
        found = _cells(one, (TISSUE_AUC, POINTING))
        places = sorted({(modality, density) for modality, density, _, _ in found}, key=_all_first)
        if places:
            rows.append((one.title,))
        for modality, density in places:
            cells = [found.get((modality, density, name, TISSUE_AUC)) for name in names]
            hits = [found.get((modality, density, name, POINTING)) for name in names]
            number = next((str(cell["images"]) for cell in cells if cell), "")
            rows.append((modality, density, number, *(_pair(a, h) for a, h in zip(cells, hits, strict=True))))
    return Grid(
        ("Modality", "Category", "Images", *(map_words(name) for name in names)),
        tuple(rows),
        title="The known fibroglandular tissue (generated exams)",
        note=(
            "AUC of the map for places with more gland than the median of the breast, and below it the pointing game: "
            "how often the hottest place has more. A flat map scores what chance would. Brightness, breast and a flat "
            "map know no model."
        ),
        figures_from=2,
    )


def _pair(auc: Mapping[str, Any] | None, hit: Mapping[str, Any] | None) -> str:
    if auc is None:
        return "–"
    return interval_words(auc) + (f"\npoints {interval_words(hit)}" if hit is not None else "")


def _all_first(place: tuple[str, str]) -> tuple[bool, str, bool, str]:
    return place[0] != ALL, place[0], place[1] != ALL, place[1]


def _energy(maps: Sequence[Maps]) -> Grid:
    figures = tuple(f"energy_{region}" for region in _REGIONS)
    rows: list[tuple[str, ...]] = []
    for one in maps:
        found = _cells(one, figures)
        names = [*one.content["methods"], FLAT]
        modalities = sorted({modality for modality, _, _, _ in found}, key=lambda name: (name != ALL, name))
        if modalities:
            rows.append((one.title,))
        for modality in modalities:
            for name in names:
                cells = {figure: found.get((modality, ALL, name, figure)) for figure in figures}
                rows.append((modality, map_words(name), *(_share(cell, figure) for figure, cell in cells.items())))
    return Grid(
        ("Modality", "Map", *_REGIONS),
        tuple(rows),
        title="Where the heat lies",
        note=(
            "Share of the heat in each region; a flat map's is the region's share of the area. The pectoral muscle is "
            "a part of the breast here, and heat on it is no evidence of tissue; it is the mean over MLO images in "
            "which it was found. Markers are what is bright outside the breast on the original."
        ),
        figures_from=2,
    )


def _share(cell: Mapping[str, Any] | None, figure: str) -> str:
    if cell is None:
        return "–"
    text = f"{100 * cell['mean']:.0f}%"
    if cell["low"] is not None:
        text += f"\n{100 * cell['low']:.0f} to {100 * cell['high']:.0f}"
    # The muscle is found in some images only, and those are a selection.
    return f"{text}\n{number_of(cell['images'], 'image')}" if figure == "energy_pectoral" else text


def _randomised(maps: Sequence[Maps]) -> Grid:
    rows: list[tuple[str, ...]] = []
    methods = list(dict.fromkeys(method for one in maps for method in one.content["methods"]))
    for one in maps:
        known = {
            (row["figure"], row["map"]): row
            for row in one.content["figures"]
            if row["figure"].startswith(f"{RANDOMISED}.") and row["density"] == ALL and row["modality"] == _widest(one)
        }
        parts = list(dict.fromkeys(figure for figure, _ in known))
        if parts:
            rows.append((one.title,))
        for part in sorted(parts, key=_depth):
            cells = (known.get((part, method)) for method in methods)
            words = part.removeprefix(f"{RANDOMISED}.")
            rows.append((words, *(interval_words(cell) if cell else "–" for cell in cells)))
    return Grid(
        ("Randomised from the output down to", *(map_words(method) for method in methods)),
        tuple(rows),
        title="Randomised block by block",
        note=(
            "Strength of the rank correlation, over the breast, of the map with that of the trained model: what is "
            f"left of it. One shuffle of the weights; with everything randomised, {SHUFFLES}."
        ),
    )


def _depth(part: str) -> tuple[int, int]:
    name = part.removeprefix(f"{RANDOMISED}.")
    if name.startswith("blocks."):
        return 1, -int(name.removeprefix("blocks."))
    return (0, 0) if name == "norm" else (2, 0)


def _consistency(maps: Sequence[Maps]) -> Grid:
    rows: list[tuple[str, ...]] = []
    for one in maps:
        if one.content["consistency"]:
            rows.append((one.title,))
        for row in one.content["consistency"]:
            what = _KINDS[row["kind"]] + (f" ({row['modalities']})" if row["modalities"] else "")
            numbers = (f"{row['pairs']:,}", f"{row['patients']:,}")
            rows.append((map_words(row["map"]), what, *numbers, *(_words(row[name]) for name in _ESTIMATES)))
    return Grid(
        ("Map", "Pairs", "Pairs", "Patients", "Same woman", "Other women", "Difference"),
        tuple(rows),
        title="Whether maps of the same breast agree",
        note=(
            "Rank correlation of two maps on the breast's own frame. Maps of any two breasts agree somewhat, so the "
            "same pairing with other women's images stands beside it."
        ),
        figures_from=2,
    )


_ESTIMATES = ("same", "other", "difference")


def _words(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    return interval_words({"mean": estimate["value"], "low": estimate["low"], "high": estimate["high"]})


def _cells(one: Maps, figures: Sequence[str]) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    return {
        (row["modality"], row["density"], row["map"], row["figure"]): row
        for row in one.content["figures"]
        if row["figure"] in figures
    }


def _maps_with(maps: Sequence[Maps], figure: str) -> list[str]:
    return list(
        dict.fromkeys(
            row["map"]
            for one in maps
            for row in sorted(one.content["figures"], key=_methods_first)
            if row["figure"] == figure
        )
    )


def _methods_first(row: Mapping[str, Any]) -> bool:
    return row["map"] not in METHOD_WORDS


def _widest(one: Maps) -> str:
    modalities = {row["modality"] for row in one.content["figures"]}
    return ALL if ALL in modalities or not modalities else next(iter(modalities))
