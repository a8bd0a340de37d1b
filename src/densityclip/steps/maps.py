"""Images to maps of where the model looked: explain."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.errors import UserError
from densityclip.records import Part, Status
from densityclip.steps.progress import Report
from densityclip.steps.sources import found_images

DEFAULT_METHODS = ("gradcam", "attention")
DEFAULT_TARGETS = ("density-score",)

if TYPE_CHECKING:
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import Bundle


def explain(
    groups: Mapping[str, pl.DataFrame],
    predictor: "Predictor",
    out: Path,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    targets: Sequence[str] = DEFAULT_TARGETS,
    measured: bool = True,
    others: Sequence["Predictor"] = (),
    shuffled: "Predictor | None" = None,
    drawn: Collection[str] | None = None,
    truth: Mapping[str, Path] | None = None,
    title: str = "",
    sheets: bool = True,
    progress: Report = None,
) -> dict[str, dict[str, Any]]:
    """Map images: raw maps, overlays, sheets, figures about them; one colour scale for all of them.

    Args:
        groups: Tables of schema `index`; each is written to the subfolder of its name (the empty name: to `out`).
        predictor: The model.
        out: Where to write.
        methods: Some of `densityclip.explain.methods.METHODS`; the first one's pictures have the plain names.
        targets: Some of `densityclip.explain.targets.TARGETS`; figures are about the density score.
        measured: Whether figures are computed.
        others: Models of the same recipe, trained on other folds, whose maps of the same images are compared.
        shuffled: A model trained likewise on shuffled labels: maps that it draws too show nothing of density.
        drawn: Ids of the images to draw; all if not given.
        truth: By group, the folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        title: Added to the titles of the sheets.
        sheets: Whether contact sheets are drawn.
        progress: Told (done, total): each image is mapped, and then drawn.

    Returns:
        The content of each group's `explain.json`; groups of which no image could be mapped are not there.

    Raises:
        UserError: No image could be mapped, or the model has no tower that a method can read.
    """
    from densityclip.explain.atlas import gather, scales, write_atlas
    from densityclip.explain.drawing import picture_note
    from densityclip.explain.maps import map_images

    again = [*others, *([shuffled] if shuffled is not None else [])]
    told = _Told(progress, (2 + len(again)) * sum(len(found) for found in groups.values()))
    kept = {}
    for name, found in groups.items():
        maps = map_images(predictor, predictor.predict_files(found), methods, targets)
        kept[name] = gather(
            maps,
            out / name,
            predictor.classifier,
            truth=(truth or {}).get(name),
            measured=measured,
            progress=told.add,
        )
        for other in others:
            kept[name].add_member(map_images(other, other.predict_files(found), methods), told.add)
        if shuffled is not None:
            kept[name].add_shuffled(map_images(shuffled, shuffled.predict_files(found), methods), told.add)
    kept = {name: one for name, one in kept.items() if one.rows}
    if not kept:
        raise UserError("no image could be mapped", "look at the reasons in predictions.csv of `densityclip predict`")
    scale = scales(kept.values())
    return {
        name: write_atlas(
            one,
            out / name,
            scale,
            note=picture_note(predictor.bundle),
            drawn=drawn,
            sheets=sheets,
            title=", ".join(part for part in (title, name) if part),
            progress=told.add,
        )
        for name, one in kept.items()
    }


class _Told:
    """Progress over several groups, each of which counts by itself."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, _: int) -> None:
        self._done += 1
        if self._report is not None:
            self._report(self._done, self._total)


def chosen_maps(methods: Sequence[str], targets: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods and targets that were asked for, each once; the defaults where none was.

    Raises:
        UserError: A name that does not exist.
    """
    from densityclip.explain.methods import METHODS
    from densityclip.explain.targets import TARGETS

    targets = TARGETS if "all" in targets else targets or DEFAULT_TARGETS
    for wanted, known, what in ((methods, METHODS, "method"), (targets, TARGETS, "target")):
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise UserError(f"there is no {what} {', '.join(unknown)}", f"choose from {', '.join(known)}")
    return tuple(dict.fromkeys(methods or DEFAULT_METHODS)), tuple(dict.fromkeys(targets))


def choose_images(index_table: pl.DataFrame, predictions: pl.DataFrame, per_cell: int) -> pl.DataFrame:
    """Scored images to draw: a fixed number per modality and category, in an order that no result decides.

    Args:
        index_table: Schema `index`.
        predictions: Of one arm; only images of the test or external part with an answer are eligible.
        per_cell: Images per modality and category, each of another patient where there are enough.

    Returns:
        The chosen rows of the index.
    """
    rows = _in_random_order(_scored(index_table, predictions), "image_id")
    return (
        rows.unique(["modality", "density", "patient_id"], keep="first", maintain_order=True)
        .group_by("modality", "density", maintain_order=True)
        .head(per_cell)
        .sort("modality", "density", "_order")
        .select(index_table.columns)
    )


def choose_patients(index_table: pl.DataFrame, predictions: pl.DataFrame, patients: int) -> pl.DataFrame:
    """Scored images of whole patients to measure maps on: from each category in turn, in an order no result decides.

    Args:
        index_table: Schema `index`.
        predictions: Of one arm; only images of the test or external part with an answer are eligible.
        patients: How many.

    Returns:
        The rows of the index.
    """
    rows = _scored(index_table, predictions)
    chosen = (
        _in_random_order(rows.group_by("patient_id").agg(pl.col("density").max()), "patient_id")
        .sort("_order")
        .with_columns(pl.int_range(pl.len()).over("density").alias("_turn"))
        .sort("_turn", "density")
        .head(patients)
    )
    whole = rows.join(chosen.select("patient_id"), on="patient_id", how="semi")
    return whole.sort("patient_id", "image_id").select(index_table.columns)


def _scored(index_table: pl.DataFrame, predictions: pl.DataFrame) -> pl.DataFrame:
    scored = predictions.filter(
        (pl.col("level") == "image")
        & pl.col("part").is_in([Part.TEST.value, Part.EXTERNAL.value])
        & (pl.col("status") == Status.OK.value)
        & pl.col("label").is_not_null()
    )
    return index_table.join(scored.select("image_id"), on="image_id", how="semi")


def _in_random_order(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    order = [hashlib.sha256(str(one).encode()).hexdigest() for one in rows[name]]
    return rows.with_columns(pl.Series("_order", order, dtype=pl.String())).sort("_order")


def explain_source(
    source: Path,
    bundle: "Bundle",
    out: Path,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    targets: Sequence[str] = DEFAULT_TARGETS,
    measured: bool = True,
    progress: Report = None,
) -> tuple[dict[str, Any], int]:
    """Map the images of files or of a folder of them.

    Returns:
        The content of `explain.json`, and how many files were refused.
    """
    from densityclip.inference.predictor import Predictor

    predictor = Predictor(bundle)
    found, excluded = found_images(source, bundle.recipe)
    written = explain(
        {"": found}, predictor, out, methods=methods, targets=targets, measured=measured, progress=progress
    )[""]
    return written, len(excluded) + len(found) - written["images"]
