"""What is seen of all images, to an index and its exclusions: labels joined, duplicates marked, sorted, and counted."""

import polars as pl

from densityclip.datasets.exclusion import leave_out
from densityclip.datasets.headers import index_columns
from densityclip.datasets.labels import LabelTable
from densityclip.errors import UserError
from densityclip.reasons import Reason

_INDEX_ORDER = ("patient_id", "exam_id", "modality", "laterality", "view", "image_id")
# More exams than this under one patient id: more likely a word that an anonymiser wrote for everyone than a woman.
_MANY_EXAMS = 50


def settle(seen: pl.DataFrame, labels: LabelTable | None) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Sort every row into one of two tables.

    Args:
        seen: Schema `headers.SEEN`, in the order of the candidates.
        labels: The site's labels, which go before those of the rows and of reports.

    Returns:
        The index, the exclusions, and sentences on what was counted on the way.

    Raises:
        UserError: Labels were given and none is about any image.
    """
    notes: list[str] = []
    if labels is not None:
        seen = _label(seen, labels, notes)
    seen = _label_by_reports(seen, notes)
    seen = _leave_out_full_views_of_implants(seen)
    repeated = pl.col("image_id").is_duplicated() & ~pl.col("image_id").is_first_distinct()
    kept = seen.filter(pl.col("reason").is_null())
    again = kept.filter(repeated).select("_row")
    if again.height:
        seen = leave_out(seen, pl.col("_row").is_in(again["_row"].implode()), Reason.DUPLICATE)
        kept = seen.filter(pl.col("reason").is_null())
    notes.extend(_count(seen, kept))
    index = index_columns(kept).sort(_INDEX_ORDER)
    excluded = seen.filter(pl.col("reason").is_not_null())
    return index, index_columns_and_reason(excluded).sort("path", "image_id", "reason"), notes


def index_columns_and_reason(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of an exclusion, of rows that have more."""
    return rows.select(*index_columns(rows).columns, "reason", "detail")


def _label(seen: pl.DataFrame, labels: LabelTable, notes: list[str]) -> pl.DataFrame:
    joined = labels.join(seen)
    kept = joined.filter(pl.col("reason").is_null())
    if kept.height and not kept["_label"].any():
        raise UserError(
            f"no row of {labels.name} matches an image by {labels.key}{' and study_date' if labels.dated else ''}",
            f"check the column {labels.key} against the files",
        )
    without = kept.height - int(kept["_label"].sum())
    if without:
        notes.append(f"{without} of {kept.height} images are not in the label table.")
    return joined.drop("_label")


def _label_by_reports(seen: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    reports = seen.filter(pl.col("_report_by").is_not_null())
    by_algorithm = reports.filter(pl.col("_report_by") == "algorithm").height
    if by_algorithm:
        notes.append(f"{by_algorithm} reports were written by an algorithm: their densities are no labels.")
    stated = reports.filter(pl.col("_report_by") == "reader").unpivot(
        on=["_report_left", "_report_right"],
        index=["_report_study", "_report_date"],
        variable_name="side",
        value_name="stated",
    )
    side = pl.col("side").replace_strict({"_report_left": "L", "_report_right": "R"})
    stated = stated.drop_nulls(["_report_study", "stated"]).with_columns(side)
    if not stated.height:
        return seen
    latest = stated.sort("_report_date", "stated").group_by("_report_study", "side").agg(
        pl.col("stated").last(), pl.col("stated").n_unique().alias("different")
    )  # fmt: skip
    disagreeing = latest.filter(pl.col("different") > 1).height
    if disagreeing:
        notes.append(f"{disagreeing} breasts have reports that disagree; the latest was taken.")
    joined = seen.join(
        latest.drop("different"), left_on=["_study_uid", "laterality"], right_on=["_report_study", "side"],
        how="left", maintain_order="left",
    )  # fmt: skip
    images = joined.filter(pl.col("stated").is_not_null() & pl.col("reason").is_null())
    otherwise = images.filter(pl.col("density") != pl.col("stated")).height
    if otherwise:
        notes.append(f"{otherwise} images have another density in the table than in a report; the table was taken.")
    from_report = pl.col("density").is_null() & pl.col("stated").is_not_null() & pl.col("reason").is_null()
    return joined.with_columns(
        pl.when(from_report).then("stated").otherwise("density").alias("density"),
        pl.when(from_report).then(pl.lit("sr")).otherwise("density_source").alias("density_source"),
    ).drop("stated")


def _leave_out_full_views_of_implants(seen: pl.DataFrame) -> pl.DataFrame:
    """A view with the implant displaced tells that the breast's other views show the implant, said or not."""
    displaced = seen.filter(pl.col("_implant_displaced").fill_null(value=False)).select("exam_id", "laterality")
    if not displaced.height:
        return seen
    breasts = displaced.drop_nulls().unique().with_columns(pl.lit(True).alias("_has_implant"))
    joined = seen.join(breasts, on=["exam_id", "laterality"], how="left", maintain_order="left")
    full = pl.col("_has_implant") & pl.col("_implant_displaced").is_null()
    fact = "another view of this breast displaces an implant"
    return leave_out(joined, full, Reason.IMPLANT, fact).drop("_has_implant")


def _count(seen: pl.DataFrame, kept: pl.DataFrame) -> list[str]:
    differing = kept["_differs"].drop_nulls().str.split(",").explode().value_counts(sort=True)
    many = kept.group_by("patient_id").agg(pl.col("exam_id").n_unique().alias("exams"))
    shared = kept.group_by("exam_id").agg(pl.col("patient_id").n_unique().alias("patients"))
    counted = [
        *(
            (number, f"images whose header states another {name} than the table; the table was taken")
            for name, number in differing.iter_rows()
        ),
        (int(kept["_slab"].sum() or 0), "DBT volumes are made of slabs (several slices joined), not of slices"),
        (int(kept["_lossy"].sum() or 0), "images went through a lossy compression"),
        (
            kept.filter(pl.col("patient_id") == pl.col("_study_uid")).height,
            "images have no Patient ID: each of their studies counts as a patient of its own",
        ),
        (
            many.filter(pl.col("exams") > _MANY_EXAMS).height,
            f"patient ids stand in more than {_MANY_EXAMS} exams: an anonymiser may have written one id for everybody",
        ),
        (shared.filter(pl.col("patients") > 1).height, "exams hold images of more than one patient id"),
        (
            seen.filter(pl.col("reason") == Reason.UNREADABLE_FOLDER.value).height,
            "folders could not be opened; what they hold is not counted here (their paths are in excluded.parquet)",
        ),
    ]
    return [f"{number} {said}." for number, said in counted if number]
