"""A bundle fitted to a site: labelled exams in, a new bundle and an account of what changed out."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from densityclip import __version__
from densityclip.artifacts import git_revision, hash_file, hash_table, read_json, read_table
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.records import Part
from densityclip.steps.answers import refuse_training_cache
from densityclip.steps.archive import INDEX, index, read_splits
from densityclip.steps.export import new_folder
from densityclip.steps.models import cached_images, with_parts
from densityclip.steps.progress import Report
from densityclip.steps.sources import is_cache

if TYPE_CHECKING:
    from densityclip.evaluation.bootstrap import Estimate
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import Bundle
    from densityclip.probability.calibrate import Calibration
    from densityclip.probability.site import SiteFit

RESAMPLES, SEED = 1000, 0
_FITTED_WITH = (Part.CALIBRATION.value, Part.EXTERNAL.value)


def calibrate(
    bundle: "Bundle",
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    splits: Path | None = None,
    workers: int = 1,
    progress: Report = None,
    announce: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fit a bundle's calibration to a site and write it as a new bundle.

    Args:
        bundle: The model; it stays as it is.
        source: Labelled exams: a folder or zip archive of DICOM files, an index (`index.parquet` or its folder), or a
            cache.
        out: The new bundle.
        labels: Label table of DICOM files, as for `densityclip index --table`; reports in the archive give labels too.
        splits: Split file; patients of its calibration and external part are used, those of others left out.
        workers: Processes that read headers.
        progress: Told (done, total) images.
        announce: Told in sentences what changed.

    Returns:
        What the new bundle's provenance says under `site`.

    Raises:
        UserError: Too few patients, a category without a labelled image, the training's own cache without its splits,
            labels for a source that has its own, or an `out` that is not empty.
    """
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import save_recalibrated
    from densityclip.probability.site import fit_site, labelled_images

    if is_cache(source) and splits is None:
        refuse_training_cache(source, bundle)
    predictor = Predictor(bundle)
    with _labelled_source(source, bundle, labels, workers) as (found, licensed_by):
        images = _predicted(found, predictor, progress)
        used, licence = hash_table(images), _licence(licensed_by)
    if splits is not None:
        images = with_parts(images, read_splits(splits), fold=bundle.provenance["training"]["config"]["fold"])
        images = images.filter(pl.col("part").is_in(_FITTED_WITH))
    rows = labelled_images(images)
    fitted = fit_site(rows, predictor.calibration)
    told = _account(rows, predictor.calibration, fitted) | {"images_hash": used, "parent": _parent(bundle)}
    provenance = {**bundle.provenance, "data": _data(bundle, licence), "site": told}
    with new_folder(out) as folder:
        save_recalibrated(bundle, folder, fitted.calibration.to_dict(), provenance)
    if announce is not None:
        for sentence in site_sentences(told):
            announce(sentence)
    return told


@contextmanager
def _labelled_source(
    source: Path, bundle: "Bundle", labels: Path | None, workers: int
) -> Iterator[tuple[pl.DataFrame | Path, Path | None]]:
    """An index, or a cache by its path; and the file that says what its licence is."""
    from densityclip.datasets.licence import LICENCE
    from densityclip.inference.zip_source import unpacked

    table = source / INDEX if (source / INDEX).is_file() else source
    if labels is not None and (is_cache(source) or table.suffix == ".parquet"):
        raise UserError(f"{source} has its own labels", "leave --labels out; `densityclip index --table` joins labels")
    if is_cache(source):
        yield source, source / LICENCE
    elif table.suffix == ".parquet":
        yield read_table(table, "index"), table.with_suffix(".manifest.json")
    else:
        with unpacked(source) as folder, tempfile.TemporaryDirectory() as indexed:
            raw = bundle.recipe.for_processing
            index(folder, Path(indexed), dataset="dicom", table=labels, for_processing=raw, workers=workers)
            yield read_table(Path(indexed) / INDEX, "index"), Path(indexed) / "index.manifest.json"


def _predicted(found: pl.DataFrame | Path, predictor: "Predictor", progress: Report) -> pl.DataFrame:
    """Image-level predictions with labels; images unlike the training images are held back."""
    from densityclip.inference.predictor import image_table

    if isinstance(found, Path):
        return cached_images(found, predictor, progress, guarded=True)
    wanted = found.filter(pl.col("density").is_not_null()).sort("exam_id", "path", nulls_last=True)

    def counted() -> Iterator[Any]:
        for done, image in enumerate(predictor.predict_files(wanted), start=1):
            yield image
            if progress is not None:
                progress(done, len(wanted))

    return image_table(counted(), predictor.calibration)


def _licence(path: Path | None) -> dict[str, Any]:
    """`dataset` and `redistribute` as an index's manifest or a cache's licence states them; empty where none does."""
    content = read_json(path, "densityclip index") if path is not None and path.is_file() else {}
    return dict(content.get("config", content))


def _data(bundle: "Bundle", licence: dict[str, Any]) -> dict[str, Any]:
    """What the new bundle says of its data: a licence that forbids passing on forbids it of what was fitted, too."""
    data = dict(bundle.provenance["data"])
    if licence.get("redistribute") is False:
        names = {*data.get("restricted_by", []), licence["dataset"]}
        return data | {"redistribute": False, "restricted_by": sorted(names)}
    if data.get("redistribute") is True and licence.get("redistribute") is not True:
        del data["redistribute"]
    return data


def _parent(bundle: "Bundle") -> dict[str, Any]:
    from densityclip.model.bundle import CALIBRATION, PROVENANCE

    return {
        "provenance_sha256": hash_file(bundle.folder / PROVENANCE),
        "calibration_sha256": bundle.provenance["hashes"][CALIBRATION],
        "calibration": bundle.calibration,
        "site": bundle.provenance.get("site"),
    }


def _account(rows: pl.DataFrame, parent: "Calibration", fitted: "SiteFit") -> dict[str, Any]:
    """Counts, what was fitted, and figures of exams before and after; those after by calibrations that know none."""
    from densityclip.probability.site import exams_under, held_out_exams

    before, after = exams_under(rows, parent), held_out_exams(rows, parent, seed=SEED)
    final = exams_under(rows, fitted.calibration)
    counts = rows.group_by("label").agg(pl.col("patient_id").n_unique())
    return {
        "densityclip": __version__,
        "git_revision": git_revision(),
        "patients": rows["patient_id"].n_unique(),
        "exams": rows["exam_id"].n_unique(),
        "images": len(rows),
        "patients_by_category": {name: dict(counts.iter_rows()).get(name, 0) for name in CATEGORIES},
        "fitted": {
            "temperature": fitted.change.temperature,
            "biases": dict(zip(CATEGORIES, fitted.change.biases, strict=True)) if fitted.with_biases else None,
        },
        "exams_scored": len(before),
        "exams_of_another_category": int((final["predicted"] != before["predicted"]).sum()),
        "figures": _figures(before, after),
    }


def _figures(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Log loss and expected calibration error of exams, and what changed, each with a 95% interval over patients."""
    from densityclip.evaluation.bootstrap import interval, replicates
    from densityclip.evaluation.places import sample_of

    patients = before["patient_id"].to_list()
    found: dict[str, dict[str, Any]] = {"log_loss": _log_losses(before, after)}
    both = [sample_of(rows) for rows in (before, after)]
    values = [float(sample.score(names=("ece",))["ece"][0]) for sample in both]
    drawn = [replicates(sample, patients, resamples=RESAMPLES, seed=SEED, names=("ece",))["ece"] for sample in both]
    values.append(values[1] - values[0])
    drawn.append(drawn[1] - drawn[0])
    each = [interval(value, drawn[k], len(set(patients))) for k, value in enumerate(values)]
    found["ece"] = _described(each[0], each[1], each[2])
    return found


def _log_losses(before: pl.DataFrame, after: pl.DataFrame) -> dict[str, Any]:
    from densityclip.artifacts import PROBABILITIES
    from densityclip.evaluation.bootstrap import interval, patient_weights
    from densityclip.probability.aggregate import label_numbers
    from densityclip.probability.calibrate import true_log_likelihood

    position, counts = patient_weights(before["patient_id"].to_list(), RESAMPLES, SEED)
    labels = label_numbers(before["label"])
    losses = [-true_log_likelihood(rows.select(PROBABILITIES).to_numpy(), labels) for rows in (before, after)]
    weights = counts[position]

    def estimate(each: np.ndarray) -> "Estimate":
        return interval(float(each.mean()), (each @ weights) / weights.sum(axis=0), len(counts))

    return _described(estimate(losses[0]), estimate(losses[1]), estimate(losses[1] - losses[0]))


def _described(before: "Estimate", after: "Estimate", change: "Estimate") -> dict[str, Any]:
    return {"before": before.as_json(), "after": after.as_json(), "change": change.as_json()}


def site_sentences(told: dict[str, Any]) -> Sequence[str]:
    """What a fit to a site came to, in sentences.

    Args:
        told: Of `calibrate`.
    """
    each = ", ".join(f"{name} {number}" for name, number in told["patients_by_category"].items())
    said = [
        f"Fitted to {told['patients']} patients ({told['exams']} exams, {told['images']} images; patients with images "
        f"of {each}).",
        f"Temperature times {told['fitted']['temperature']:.3g}; {_biases(told['fitted']['biases'])}.",
        f"{told['exams_of_another_category']} of {told['exams_scored']} exams are given another category than before.",
    ]
    names = {"log_loss": "Log loss", "ece": "Expected calibration error"}
    for key, name in names.items():
        figure = told["figures"][key]
        said.append(
            f"{name} of exams: {_estimate(figure['before'])} before, {_estimate(figure['after'])} after on patients "
            f"that it was not fitted on; change {_estimate(figure['change'], signed=True)}."
        )
    high = told["figures"]["log_loss"]["change"]["high"]
    if high is None or high >= 0:
        said.append("No gain in log loss is shown: the interval of its change does not lie below zero.")
    return said


def _biases(biases: dict[str, float] | None) -> str:
    if biases is None:
        from densityclip.probability.site import BIASES_FROM

        return f"no biases, as there are fewer than {BIASES_FROM} patients"
    return "biases " + ", ".join(f"{name} {value:+.2f}" for name, value in biases.items())


def _estimate(figure: dict[str, Any], *, signed: bool = False) -> str:
    if figure["low"] is None:
        return "not known"
    sign = "+" if signed else ""
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"
