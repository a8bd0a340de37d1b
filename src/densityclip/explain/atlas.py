"""A folder of maps: raw maps and overlays of each image, sheets, figures about them, and verdicts in words."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from densityclip.artifacts import SCHEMA_VERSION, atomic_path, file_stem, hash_json, write_json, write_manifest
from densityclip.explain.consistency import Mapped, across_members, aligned, pairs, summary
from densityclip.explain.curves import mean_curves
from densityclip.explain.drawing import Original, draw_sheet, for_sheet, map_title, overlay_pngs
from densityclip.explain.figures import SHUFFLED
from densityclip.explain.folder import CONTENT, FIGURES, MANIFEST, PAIRS, SHEET, picture_name
from densityclip.explain.maps import ImageMap, Key
from densityclip.explain.measure import image_figures, randomised_figures, sameness
from densityclip.explain.paint import shared_scale
from densityclip.explain.stored import read_maps, store_maps
from densityclip.explain.summary import summarise, verdicts
from densityclip.explain.targets import DENSITY_SCORE
from densityclip.reasons import Reason

if TYPE_CHECKING:
    from densityclip.model.classifier import DensityClassifier

_FACTS = ("image_id", "patient_id", "modality", "density", "laterality", "view")
# Images whose maps are looked at again with each block of the tower randomised: drawn by the hash of their ids, so that
# they are of many women and of every modality, in whatever order the images come.
_SAMPLE = 24
_FIGURE_TYPES = dict.fromkeys((*_FACTS, "map", "figure"), pl.String()) | {"draw": pl.Int64(), "value": pl.Float64()}


@dataclass
class Gathered:
    """What is kept of a stream of maps: nothing that grows with the size of the images.

    Attributes:
        rows: Each image's row of the index.
        heats: (method, target) to the token maps, in the order of `rows`.
        figures: One entry an image, map and figure.
        curves: Map to the place of each image in `rows` to its deletion and insertion curve.
        aligned: Method to the maps of the density score in the frame that all breasts share.
        members: Method to those of models of other folds, a list a model.
        sample: A few images, for what is done again and again.
        left_out: `image_id`, `reason` and `detail` of each image that has no map.
        withheld: Ids of exams without an answer, as the images of a breast disagree; their pictures name no category.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    heats: dict[Key, list[NDArray[np.float32]]] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, dict[int, NDArray[np.float32]]] = field(default_factory=dict)
    aligned: dict[str, list[Mapped]] = field(default_factory=dict)
    members: dict[str, list[list[Mapped]]] = field(default_factory=dict)
    sample: list[ImageMap] = field(default_factory=list)
    left_out: list[dict[str, str | None]] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)

    def add_member(self, items: Iterable[ImageMap], progress: Callable[[int], None] | None = None) -> None:
        """Keep what another model's maps of the density score say of the same images."""
        mine: dict[str, list[Mapped]] = {}
        for done, item in enumerate(items, start=1):
            for method, tokens in _of_density_score(item):
                mine.setdefault(method, []).append(_mapped(item, tokens))
            if progress is not None:
                progress(done)
        for method, maps in mine.items():
            self.members.setdefault(method, []).append(maps)

    def add_shuffled(self, items: Iterable[ImageMap], progress: Callable[[int], None] | None = None) -> None:
        """Measure what is left of each map in the model that was trained on shuffled labels."""
        places = {row["image_id"]: place for place, row in enumerate(self.rows)}
        for done, item in enumerate(items, start=1):
            place = places[item.row["image_id"]]
            for method, tokens in _of_density_score(item):
                value = abs(sameness(self.heats[method, DENSITY_SCORE][place], tokens, item.shown.mask))
                self.figures += [_figure(item.row, method, SHUFFLED, value)] if np.isfinite(value) else []
            if progress is not None:
                progress(done)


def gather(
    items: Iterable[ImageMap],
    folder: Path,
    classifier: "DensityClassifier",
    *,
    truth: Path | None = None,
    measured: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Gathered:
    """Store the raw maps of a stream and measure them as they come by.

    Args:
        items: The maps.
        folder: Where the raw maps go.
        classifier: The model that they explain.
        truth: Folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        measured: Whether figures are computed.
        progress: Told how many are done.
    """
    kept, gland = Gathered(), _gland_reader(truth)
    for item in items:
        store_maps(item, folder)
        row = dict(item.row)
        kept.rows.append(row)
        for key, tokens in item.tokens.items():
            kept.heats.setdefault(key, []).append(tokens)
        if measured:
            found = image_figures(item, classifier, gland)
            kept.figures += [_figure(row, *one) for one in found.figures]
            for name, curve in found.curves.items():
                kept.curves.setdefault(name, {})[len(kept.rows) - 1] = curve
            for method, tokens in _of_density_score(item):
                kept.aligned.setdefault(method, []).append(_mapped(item, tokens))
            kept.sample = sorted([*kept.sample, item], key=_by_chance)[:_SAMPLE]
        if progress is not None:
            progress(len(kept.rows))
    if kept.sample:
        kept.figures += [
            _figure(kept.sample[place].row, method, figure, value, draw)
            for place, method, figure, draw, value in randomised_figures(kept.sample, classifier)
        ]
    return kept


def scales(groups: Iterable[Gathered]) -> dict[Key, float]:
    """The upper end of the colour scale of each method and target, one for all groups."""
    heats: dict[Key, list[NDArray[np.float32]]] = {}
    for group in groups:
        for key, maps in group.heats.items():
            heats.setdefault(key, []).extend(maps)
    return {key: shared_scale(maps) for key, maps in heats.items()}


def write_atlas(
    kept: Gathered,
    folder: Path,
    scale: Mapping[Key, float],
    *,
    note: str,
    drawn: Collection[str] | None = None,
    title: str = "",
    sheets: bool = True,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Draw what was gathered, and write its figures; `explain.json` comes last, so a folder that has it is whole.

    Args:
        kept: Of `gather`.
        folder: Where the raw maps lie.
        scale: Upper end of the colour scale of each method and target.
        note: What every overlay says of itself.
        drawn: Ids of the images to draw; all if not given.
        title: Added to the titles of the sheets.
        sheets: Whether contact sheets are drawn.
        progress: Told how many images are drawn.

    Returns:
        The content of `explain.json`.
    """
    rows = [row for row in kept.rows if drawn is None or row["image_id"] in drawn]
    chosen = {row["image_id"] for row in for_sheet(rows)} if sheets else set()
    shown, first = [], next(iter(scale), ("", ""))
    for done, row in enumerate(rows, start=1):
        original = Original.of(read_maps(folder, row))
        pictures = overlay_pngs(original, scale.items(), note=note, withheld=row["exam_id"] in kept.withheld)
        for key, picture in zip(scale, pictures, strict=True):
            _write(folder / picture_name(file_stem(str(row["image_id"])), key, first), picture)
        shown += [original.shrunk()] if row["image_id"] in chosen else []
        if progress is not None:
            progress(done)
    for key, top in scale.items() if shown else ():
        words = f"{map_title(key)}{f': {title}' if title else ''}"
        sheet = draw_sheet(shown, key, top, words, note=note, withheld=kept.withheld)
        _write(folder / picture_name(SHEET, key, first), sheet)
    return _write_figures(kept, folder, scale)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _write_figures(kept: Gathered, folder: Path, scale: Mapping[Key, float]) -> dict[str, Any]:
    methods = list(dict.fromkeys(method for method, _ in scale))
    figures = pl.DataFrame(kept.figures, schema=_FIGURE_TYPES)
    alike = {method: _alike(maps, kept.members.get(method, [])) for method, maps in kept.aligned.items()}
    with atomic_path(folder / FIGURES) as temporary:
        figures.write_csv(temporary)
    if alike:
        tables = [table.select(pl.lit(method).alias("map"), pl.all()) for method, table in alike.items()]
        with atomic_path(folder / PAIRS) as temporary:
            pl.concat(tables).write_csv(temporary)
    means = summarise(figures)
    content = {
        "schema_version": SCHEMA_VERSION,
        "methods": methods,
        "targets": list(dict.fromkeys(target for _, target in scale)),
        "scale_max": {".".join(key): top for key, top in scale.items()},
        "images": len(kept.rows),
        "refused": kept.left_out,
        "abstained": [{"exam_id": exam, "reason": Reason.VIEWS_DISAGREE.value} for exam in kept.withheld],
        "figures": means,
        "curves": mean_curves([_patient_of(row) for row in kept.rows], kept.curves),
        "consistency": [{"map": method} | row for method, table in alike.items() for row in summary(table)],
        "verdicts": verdicts(means, methods),
    }
    write_manifest(
        folder / MANIFEST,
        step="explain",
        config={"methods": content["methods"], "targets": content["targets"], "scale_max": content["scale_max"]},
        inputs={"images": hash_json([row["image_id"] for row in kept.rows])},
        counts={"images": len(kept.rows), "refused": len(kept.left_out)},
    )
    write_json(folder / CONTENT, content)
    return content


def _by_chance(item: ImageMap) -> str:
    return hashlib.sha256(str(item.row["image_id"]).encode()).hexdigest()


def _figure(row: Mapping[str, Any], name: str, figure: str, value: float, draw: int = 0) -> dict[str, Any]:
    return {fact: row.get(fact) for fact in _FACTS} | {"map": name, "figure": figure, "draw": draw, "value": value}


def _of_density_score(item: ImageMap) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Method and map, of those that explain the density score."""
    return ((method, tokens) for (method, target), tokens in item.tokens.items() if target == DENSITY_SCORE)


def _patient_of(row: Mapping[str, Any]) -> str:
    """Whose image it is; plain image files state no patient and no exam: each is one by itself."""
    return str(row.get("patient_id") or row["image_id"])


def _mapped(item: ImageMap, tokens: NDArray[np.float32]) -> Mapped:
    row = item.row
    return Mapped(
        image_id=str(row["image_id"]),
        patient_id=_patient_of(row),
        exam_id=str(row.get("exam_id") or row["image_id"]),
        laterality=row.get("laterality"),
        view=row.get("view"),
        modality=str(row["modality"]),
        aligned=aligned(tokens, item.shown.mask),
    )


def _alike(maps: list[Mapped], members: list[list[Mapped]]) -> pl.DataFrame:
    """Pairs of one woman's images, and of one image in several models."""
    found = pairs(maps)
    if not members:
        return found
    models = {f"{number:02}": one for number, one in enumerate([maps, *members])}
    return pl.concat([found, across_members(models)])


def _gland_reader(truth: Path | None) -> Callable[[str], NDArray[np.floating] | None]:
    def read(sop_uid: str) -> NDArray[np.floating] | None:
        path = truth / f"{file_stem(sop_uid)}.npz" if truth is not None else None
        if path is None or not path.is_file():
            return None
        with np.load(path) as content:
            return np.asarray(content["gland_mm"], dtype=np.float32)

    return read
