"""Images to maps of where the model looked: explain."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.errors import UserError
from densityclip.records import Part, Status
from densityclip.steps.progress import Report
from densityclip.steps.sources import found_images

if TYPE_CHECKING:
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import Bundle


def explain(
    groups: Mapping[str, pl.DataFrame],
    predictor: "Predictor",
    out: Path,
    *,
    truth: Mapping[str, Path] | None = None,
    title: str | None = None,
    progress: Report = None,
) -> dict[str, dict[str, Any]]:
    """Map images: raw maps and overlays, `figures.csv`, `explain.json`; one colour scale for all of them.

    Args:
        groups: Tables of schema `index`; each is written to the subfolder of its name (the empty name: to `out`).
        predictor: The model.
        out: Where to write.
        truth: By group, the folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        title: Title of a contact sheet of each group, `sheet.png`; none without.
        progress: Told (done, total) images.

    Returns:
        The content of each group's `explain.json`; groups of which no image could be mapped are not there.
    """
    from densityclip.explain.atlas import write_atlas
    from densityclip.explain.maps import RESEARCH_USE, map_images
    from densityclip.explain.paint import shared_scale

    maps = {name: list(map_images(predictor, predictor.predict_files(found))) for name, found in groups.items()}
    everything = [item for group in maps.values() for item in group]
    if not everything:
        raise UserError("no image could be mapped", "look at the reasons in predictions.csv of `densityclip predict`")
    scale_max = shared_scale([item.tokens for item in everything])
    note = f"{RESEARCH_USE} {predictor.bundle.generated_note}".rstrip()
    written, done = {}, 0
    for name, group in maps.items():
        if not group:
            continue
        written[name] = write_atlas(
            group,
            out / name,
            scale_max,
            note=note,
            truth=(truth or {}).get(name),
            title=f"{title}{f', {name}' if name else ''}" if title is not None else None,
            progress=None if progress is None else _shifted(progress, done, len(everything)),
        )
        done += len(group)
    return written


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: progress(before + done, total)


def choose_images(index_table: pl.DataFrame, predictions: pl.DataFrame, per_cell: int) -> pl.DataFrame:
    """Scored images to show: a fixed number per modality and category, in an order that no result decides.

    Args:
        index_table: Schema `index`.
        predictions: Of one arm; only images of the test or external part with an answer are eligible.
        per_cell: Images per modality and category, each of another patient where there are enough.

    Returns:
        The chosen rows of the index.
    """
    scored = predictions.filter(
        (pl.col("level") == "image")
        & pl.col("part").is_in([Part.TEST.value, Part.EXTERNAL.value])
        & (pl.col("status") == Status.OK.value)
        & pl.col("label").is_not_null()
    )
    rows = index_table.join(scored.select("image_id"), on="image_id", how="semi")
    order = [hashlib.sha256(name.encode()).hexdigest() for name in rows["image_id"]]
    return (
        rows.with_columns(pl.Series("_order", order, dtype=pl.String()))
        .sort("_order")
        .unique(["modality", "density", "patient_id"], keep="first", maintain_order=True)
        .group_by("modality", "density", maintain_order=True)
        .head(per_cell)
        .sort("modality", "density", "_order")
        .drop("_order")
    )


def explain_source(source: Path, bundle: "Bundle", out: Path, *, progress: Report = None) -> tuple[dict[str, Any], int]:
    """Map the images of files or of a cache.

    Returns:
        The content of `explain.json`, and how many files were refused.
    """
    from densityclip.inference.predictor import Predictor

    predictor = Predictor(bundle)
    found, excluded = found_images(source, bundle.recipe)
    summary = explain({"": found}, predictor, out, title="GradCAM of the density score", progress=progress)[""]
    return summary, len(excluded) + len(found) - summary["images"]
