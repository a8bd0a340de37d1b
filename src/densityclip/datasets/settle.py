"""What is seen of all images, to an index and its exclusions: labels joined, duplicates marked, sorted, and counted.

Everything is a query over the rows, run piece by piece: a million rows need 0.6 GB beside the table they came from,
where the same steps on whole tables needed 1.5 GB.
"""

from typing import Any

import polars as pl

from densityclip.artifacts import EXCLUDED, INDEX
from densityclip.datasets.exclusion import leave_out
from densityclip.datasets.labels import LabelTable
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import GENERATED_LABEL

_INDEX_ORDER = ("patient_id", "exam_id", "modality", "laterality", "view", "image_id")
_KEPT = pl.col("reason").is_null()
# More exams than this under one patient id: more likely a word that an anonymiser wrote for everyone than a woman.
_MANY_EXAMS = 50


def settle(seen: pl.LazyFrame, labels: LabelTable | None) -> tuple[pl.LazyFrame, pl.LazyFrame, list[str]]:
    """Sort every row into one of two tables.

    Args:
        seen: Schema `headers.SEEN`, in the order of the candidates.
        labels: The site's labels, which go before those of the rows and of reports.

    Returns:
        Queries for the index and the exclusions, each in its order, and sentences on what was counted on the way.

    Raises:
        UserError: Labels were given and none is about any image.
    """
    notes: list[str] = []
    if labels is not None:
        seen = _label(seen, labels, notes)
    seen = _label_by_reports(seen, notes)
    seen = _name_generated(seen)
    seen = _leave_out_full_views_of_implants(seen)
    seen = _leave_out_duplicates(seen)
    notes.extend(_count(seen))
    index = seen.filter(_KEPT).select(INDEX.keys()).sort(_INDEX_ORDER)
    excluded = seen.filter(~_KEPT).sort("path", "image_id", "_row").select(EXCLUDED.keys())
    return index, excluded, notes


def _run(query: pl.LazyFrame) -> pl.DataFrame:
    return query.collect(engine="streaming")


def _label(seen: pl.LazyFrame, labels: LabelTable, notes: list[str]) -> pl.LazyFrame:
    joined = labels.join(seen)
    kept, found = _run(joined.filter(_KEPT).select(pl.len(), found=pl.col("_label").sum())).row(0)
    if kept and not found:
        raise UserError(
            f"no row of {labels.name} matches an image by {labels.key}{' and study_date' if labels.dated else ''}",
            f"check the column {labels.key} against the files",
        )
    if found < kept:
        notes.append(f"{kept - found} of {kept} images are not in the label table.")
    return joined.drop("_label")


def _label_by_reports(seen: pl.LazyFrame, notes: list[str]) -> pl.LazyFrame:
    """Labels of the reports of a study, for images that have none; of several reports the latest."""
    reports = _run(seen.filter(pl.col("_report_by").is_not_null()))
    by_algorithm = reports.filter(pl.col("_report_by") == "algorithm").height
    if by_algorithm:
        notes.append(f"{by_algorithm} reports were written by an algorithm: their densities are no labels.")
    latest = _latest(reports.filter(pl.col("_report_by") == "reader"))
    if not latest.height:
        return seen
    disagreeing = latest.filter(pl.col("different") > 1).height
    if disagreeing:
        notes.append(f"{disagreeing} breasts have reports that disagree; the latest was taken.")
    joined = seen.join(
        latest.lazy().drop("different"),
        left_on=["_study_uid", "laterality"],
        right_on=["study", "side"],
        how="left",
        maintain_order="left",
    )
    otherwise = _run(joined.filter(_KEPT & (pl.col("density") != pl.col("stated"))).select(pl.len())).item()
    if otherwise:
        notes.append(f"{otherwise} images have another density in the table than in a report; the table was taken.")
    from_report = pl.col("density").is_null() & pl.col("stated").is_not_null() & _KEPT
    return joined.with_columns(
        pl.when(from_report).then("stated").otherwise("density").alias("density"),
        pl.when(from_report).then(pl.lit("sr")).otherwise("density_source").alias("density_source"),
    ).drop("stated")


def _name_generated(seen: pl.LazyFrame) -> pl.LazyFrame:
    """Of an image that says itself that it is generated, no table can make a patient's, nor can the lack of one."""
    generated = pl.col("_generated").fill_null(value=False)
    source = pl.when(generated).then(pl.lit(GENERATED_LABEL)).otherwise("density_source")
    return seen.with_columns(source.alias("density_source"))


def _latest(reports: pl.DataFrame) -> pl.DataFrame:
    """By study and side: the category of the latest report, and how many different ones there are."""
    # A time without a day says nothing of what came later.
    reports = reports.with_columns(
        pl.when(pl.col("_report_date").str.contains(r"^\d{8}")).then("_report_date").otherwise(pl.lit(""))
    )
    sides = pl.concat(
        reports.select(
            pl.col("_report_study").alias("study"),
            pl.lit(side).alias("side"),
            pl.col(column).alias("stated"),
            pl.col("_report_date").alias("date"),
        )
        for side, column in (("L", "_report_left"), ("R", "_report_right"))
    )
    # Of two reports of one moment the denser stands, whatever the files are called.
    in_time = sides.drop_nulls(["study", "stated"]).sort("date", "stated")
    return in_time.group_by("study", "side", maintain_order=True).agg(
        pl.col("stated").last(), pl.col("stated").n_unique().alias("different")
    )


def _leave_out_full_views_of_implants(seen: pl.LazyFrame) -> pl.LazyFrame:
    """A view with the implant displaced tells that the breast's other views show the implant, said or not."""
    displaced = pl.col("_implant_displaced").fill_null(value=False)
    # With the patient: some tables count exams anew for each.
    keys = ["patient_id", "exam_id", "laterality"]
    breasts = _run(seen.filter(displaced).select(keys).drop_nulls().unique())
    if not breasts.height:
        return seen
    marked = breasts.lazy().with_columns(pl.lit(value=True).alias("_has_implant"))
    joined = seen.join(marked, on=keys, how="left", maintain_order="left")
    full = pl.col("_has_implant") & ~displaced
    left_out = leave_out(joined, full, Reason.IMPLANT, "another view of this breast displaces an implant")
    return left_out.drop("_has_implant")


def _leave_out_duplicates(seen: pl.LazyFrame) -> pl.LazyFrame:
    """Of several images with one id, the first in the order of the candidates stays."""
    groups = seen.filter(_KEPT).group_by("image_id").agg(pl.len().alias("copies"), pl.col("_row").min().alias("first"))
    repeated = _run(groups.filter(pl.col("copies") > 1)).select("image_id", pl.col("first").alias("_first"))
    if not repeated.height:
        return seen
    joined = seen.join(repeated.lazy(), on="image_id", how="left", maintain_order="left")
    return leave_out(joined, pl.col("_row") > pl.col("_first"), Reason.DUPLICATE).drop("_first")


def _count(seen: pl.LazyFrame) -> list[str]:
    kept = seen.filter(_KEPT)
    totals: dict[str, Any] = _run(
        kept.select(
            **{name: pl.col("_differs").str.contains(name, literal=True).sum() for name in _COMPARED},
            slabs=pl.col("_slab").sum(),
            lossy=pl.col("_lossy").sum(),
            turned=pl.col("_turned").sum(),
            generated=(pl.col("density_source") == GENERATED_LABEL).sum(),
            nobody=(pl.col("patient_id") == pl.col("_study_uid")).sum(),
        )
    ).row(0, named=True)
    exams = pl.col("exam_id").hash().n_unique()
    many = kept.group_by("patient_id").agg(exams.alias("exams")).filter(pl.col("exams") > _MANY_EXAMS)
    patients = pl.col("patient_id").hash().n_unique()
    shared = kept.group_by("exam_id").agg(patients.alias("patients")).filter(pl.col("patients") > 1)
    closed = seen.filter(pl.col("reason") == Reason.UNREADABLE_FOLDER.value)
    counted = [
        *(
            (totals[name], f"images have another {name} in the header than in the table; the table was taken")
            for name in _COMPARED
        ),
        (totals["slabs"], "DBT volumes are made of slabs (several slices joined), not of slices"),
        (totals["lossy"], "images went through a lossy compression"),
        (totals["turned"], "images have a Patient Orientation of the other side; the stated side was taken"),
        (totals["generated"], "images were generated: no patient was imaged"),
        (totals["nobody"], "images have no Patient ID: each of their studies counts as a patient of its own"),
        (
            _run(many.select(pl.len())).item(),
            f"patient ids stand in more than {_MANY_EXAMS} exams: an anonymiser may have written one id for everybody",
        ),
        (_run(shared.select(pl.len())).item(), "exams hold images of more than one patient id"),
        (
            _run(closed.select(pl.len())).item(),
            "folders could not be opened; what they hold is not counted here (their paths are in excluded.parquet)",
        ),
    ]
    return [f"{number:,} {said}." for number, said in counted if number]


_COMPARED = ("laterality", "view", "modality")
