"""Images to maps of where the model looked: explain."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import polars as pl

from densityclip.errors import UserError
from densityclip.records import Part, Status
from densityclip.steps.progress import Report
from densityclip.steps.sources import found_images

DEFAULT_METHODS = ("gradcam", "attention")
DEFAULT_TARGETS = ("density-score",)

if TYPE_CHECKING:
    from densityclip.explain.atlas import Gathered
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
    guarded: bool = False,
    others: Sequence["Predictor"] = (),
    shuffled: "Predictor | None" = None,
    drawn: Collection[str] | None = None,
    truth: Mapping[str, Path] | None = None,
    excluded: Mapping[str, pl.DataFrame] = MappingProxyType({}),
    title: str = "",
    progress: Report = None,
) -> dict[str, dict[str, Any]]:
    """Map images: raw maps, overlays, sheets, figures about them; one colour scale for all of them.

    What an earlier run left in the folders is removed first.

    Args:
        groups: Tables of schema `index`; each is written to the subfolder of its name (the empty name: to `out`).
        predictor: The model.
        out: Where to write.
        methods: Some of `densityclip.explain.methods.METHODS`; the first one's pictures have the plain names.
        targets: Some of `densityclip.explain.targets.TARGETS`.
        measured: Whether figures are computed; they are of the density score, so there are none without that target.
        guarded: Whether images and exams that `predict` holds back are held back here too; a study scores them all.
        others: Models of the same recipe, trained on other folds, whose maps of the same images are compared.
        shuffled: A model trained likewise on shuffled labels: maps that it draws too show nothing of density.
        drawn: Ids of the images to draw; all if not given.
        truth: By group, the folder of fibroglandular thickness by SOP Instance UID, for generated exams.
        excluded: By group, the files that cannot be tried (schema `excluded`): named beside the refused images.
        title: Added to the titles of the sheets.
        progress: Told (done, total): each image is mapped, by each model, and then drawn.

    Returns:
        The content of each group's `explain.json`.

    Raises:
        UserError: No image could be mapped (`explain.json` then names each with its reason), or the model has no tower
            that a method can read.
    """
    from densityclip.explain.atlas import gather, scales, write_atlas
    from densityclip.explain.drawing import picture_note
    from densityclip.explain.folder import CONTENT, remove_earlier
    from densityclip.explain.maps import map_images
    from densityclip.explain.targets import DENSITY_SCORE
    from densityclip.inference.predictor import ImageRows, refused_images

    measured = measured and DENSITY_SCORE in targets
    models = 1 + (len(others) + (shuffled is not None)) * measured
    told = _Told(progress, groups.values(), models, drawn)
    for name in groups:
        remove_earlier(out / name)
    kept = {}
    for name, found in groups.items():
        rows = ImageRows(predictor.calibration)
        images = rows.passing(predictor.predict_files(found))
        kept[name] = one = gather(
            map_images(predictor, (image for image in images if not (guarded and image.unlike)), methods, targets),
            out / name,
            predictor.classifier,
            truth=(truth or {}).get(name),
            measured=measured,
            progress=told.add,
        )
        left_out, one.withheld = _held_back(rows.table(), guarded)
        one.left_out = left_out.to_dicts()
        if name in excluded:
            one.left_out += refused_images(excluded[name]).select(left_out.columns).to_dicts()
        told.skip(found.join(left_out, on="image_id", how="semi"))
        mapped = found.join(left_out, on="image_id", how="anti", maintain_order="left")
        for other in others if measured else ():
            one.add_member(map_images(other, other.predict_files(mapped), methods), told.add)
        if shuffled is not None and measured:
            one.add_shuffled(map_images(shuffled, shuffled.predict_files(mapped), methods), told.add)
    scale = scales(kept.values())
    written = {
        name: write_atlas(
            one,
            out / name,
            scale,
            note=picture_note(predictor.bundle),
            drawn=drawn,
            title=", ".join(part for part in (title, name) if part),
            progress=told.add,
        )
        for name, one in kept.items()
    }
    if not scale:
        raise UserError(*_nothing_mapped(kept.values(), [out / name / CONTENT for name in kept]))
    return written


def _nothing_mapped(groups: Iterable["Gathered"], contents: Sequence[Path]) -> tuple[str, str]:
    """What is said where every image was left out."""
    found = [row for one in groups for row in one.left_out]
    some = ", ".join(f"{row['image_id']} ({row['reason']})" for row in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"no image could be mapped: {some}{more}", f"every reason is in {' and '.join(map(str, contents))}"


def _held_back(answers: pl.DataFrame, guarded: bool) -> tuple[pl.DataFrame, list[str]]:
    """`image_id`, `reason` and `detail` of images without a map, and the exams for which `predict` has no answer."""
    from densityclip.inference.guard import breasts_apart

    without = [Status.REFUSED.value, *([Status.ABSTAINED.value] if guarded else [])]
    left_out = answers.filter(pl.col("status").is_in(without)).select("image_id", "reason", "detail")
    return left_out, breasts_apart(answers)["exam_id"].unique(maintain_order=True).to_list() if guarded else []


class _Told:
    """Progress over several groups, each of which counts by itself."""

    def __init__(
        self, report: Report, groups: Iterable[pl.DataFrame], models: int, drawn: Collection[str] | None
    ) -> None:
        """Count what there is to do: each image is mapped by each model, and some are drawn."""
        self._report, self._models, self._drawn = report, models, drawn
        self._total, self._done = sum(self._work(found) for found in groups), 0

    def add(self, _: int) -> None:
        """One more piece is done."""
        self._tell(1)

    def skip(self, found: pl.DataFrame) -> None:
        """Images turn out to have no map: neither will they be mapped by others, nor drawn."""
        self._tell(self._work(found))

    def _work(self, found: pl.DataFrame) -> int:
        drawn = sum(self._drawn is None or name in self._drawn for name in found["image_id"])
        return self._models * len(found) + drawn

    def _tell(self, pieces: int) -> None:
        self._done += pieces
        if self._report is not None and pieces:
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
) -> dict[str, Any]:
    """Map the images of files or of a folder of them.

    Returns:
        The content of `explain.json`, every file that was left out with its reason.

    Raises:
        UserError: As `explain`; or there is nothing to read, or pictures would be written among the images themselves.
    """
    from densityclip.inference.predictor import Predictor

    found, excluded = found_images(source, bundle.recipe)
    here = out.resolve()
    if any(Path(path).parent == here for path in (*found["path"], *excluded["path"])):
        raise UserError(f"{out} holds images that are to be mapped", "choose another --out, outside their folder")
    predictor = Predictor(bundle)
    return explain(
        {"": found},
        predictor,
        out,
        methods=methods,
        targets=targets,
        measured=measured,
        guarded=True,
        excluded={"": excluded},
        progress=progress,
    )[""]
