"""What every reader of a dataset hands over: candidates; and what becomes of them: an index, and what it left out.

An adapter reads tables, never files: it says for each image what the dataset states, and leaves out what the dataset
itself rules out. `headers` then looks into the files, and `collect` or `write_index` sorts every row into one of two
tables, so that rows in are rows indexed plus rows excluded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import EXCLUDED, INDEX, hash_table, write_json, write_manifest, write_table
from densityclip.datasets.audit import audit
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.labels import LabelTable
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import Exclusion, ImageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asks `index` for.

    Attributes:
        source: Folder of the archive; paths of tables start from it.
        table: The dataset's table, where it does not lie where the dataset puts it.
        columns: Our name of a column to the table's.
        label_map: The table's words for densities to `A B C D`.
        no_files: Look at no file: plan from the table alone.
        site: Name of the site, for all images.
        institution: Name of the institution, for all images.
    """

    source: Path
    table: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)
    no_files: bool = False
    site: str | None = None
    institution: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Candidates:
    """What a dataset names before its files are looked at: one row an image, in a stable order.

    Attributes:
        rows: Columns of the schema `excluded`, as many as are known. `path` is absolute and never null; `reason` and
            `detail` are set on rows that are left out already; views keep their own words (`ML`).
        rules: How the files' headers are used.
        labels: Labels that are found by what the header says; None if the rows have theirs.
        notes: Sentences for the audit, such as that patients are studies because there is no patient id.
        tables: Files that were read, by name, for the manifest.
    """

    rows: pl.DataFrame
    rules: HeaderRules
    labels: LabelTable | None = None
    notes: tuple[str, ...] = ()
    tables: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.rows.columns) - set(EXCLUDED)
        if unknown or "path" not in self.rows.columns or self.rows["path"].null_count():
            raise ValueError(f"candidates need a path each and only columns of an index, not {sorted(unknown)}")


@dataclass(frozen=True, slots=True, eq=False)
class IndexResult:
    """An index and its exclusions; every image that was looked at is in exactly one of the two.

    Attributes:
        index: Schema `index`, sorted by patient, exam, modality, laterality, view and image.
        excluded: Schema `excluded`, sorted by path and image.
        notes: Sentences for the audit.
    """

    index: pl.DataFrame
    excluded: pl.DataFrame
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.index["image_id"].is_duplicated().any():
            raise ValueError("an image_id stands in the index twice")


def leave_out(rows: pl.DataFrame, condition: pl.Expr, reason: Reason, detail: pl.Expr | str = "") -> pl.DataFrame:
    """Mark candidates as left out, unless an earlier rule did so already.

    Args:
        rows: Candidates.
        condition: True where the rule applies; null counts as false.
        reason: The rule's reason.
        detail: The fact about each row; the reason's sentence if empty.
    """
    for name in ("reason", "detail"):
        if name not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name))
    said = detail if isinstance(detail, pl.Expr) else pl.lit(detail or reason.sentence)
    applies = condition.fill_null(value=False) & pl.col("reason").is_null()
    return rows.with_columns(
        pl.when(applies).then(pl.lit(reason.value)).otherwise(pl.col("reason")).alias("reason"),
        pl.when(applies).then(said.fill_null(reason.sentence)).otherwise(pl.col("detail")).alias("detail"),
    )


def make_result(records: Iterable[ImageRecord], exclusions: Iterable[Exclusion]) -> IndexResult:
    """Collect records and exclusions into sorted tables.

    A second record with the id of an earlier one (in the order of their paths) becomes an exclusion: `duplicate`.
    """
    kept: dict[str, ImageRecord] = {}
    left_out = list(exclusions)
    for record in sorted(records, key=lambda record: (record.image_id, record.path)):
        if record.image_id in kept:
            left_out.append(Exclusion(known=record.as_row(), reason=Reason.DUPLICATE))
        else:
            kept[record.image_id] = record
    index = pl.DataFrame([record.as_row() for record in kept.values()], schema=INDEX)
    excluded = pl.DataFrame([item.as_row() for item in left_out], schema=EXCLUDED)
    return IndexResult(
        index=index.sort("patient_id", "exam_id", "modality", "laterality", "view", "image_id"),
        excluded=excluded.sort("path", "image_id", "reason"),
    )


def refuse_if_empty(result: IndexResult, source: Path) -> IndexResult:
    """Hand the result on if anything was indexed.

    Raises:
        UserError: Everything was excluded; the message counts the reasons.
    """
    if result.index.height:
        return result
    counts = result.excluded.group_by("reason").len().sort("len", "reason", descending=[True, False])
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.iter_rows())
    detail = result.excluded["detail"][0]
    raise UserError(
        f"none of the {result.excluded.height} images in {source} can be used ({reasons}; the first: {detail})",
        "give a folder with screening mammograms For Presentation, or see `densityclip index --help`",
    )


def write_index(
    result: IndexResult, out: Path, *, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Write `index.parquet`, `excluded.parquet`, `audit.json` and `index.manifest.json`.

    Args:
        result: What to write.
        out: The folder.
        config: The resolved configuration.
        inputs: Name of each input and its SHA-256.

    Returns:
        The audit, as `audit.json` holds it.

    Raises:
        UserError: Nothing was found at all, or the disk is full.
    """
    if not result.index.height and not result.excluded.height:
        raise UserError("no image was found", "give a folder that holds mammograms")
    counts = {
        "images": result.index.height + result.excluded.height,
        "indexed": result.index.height,
        "excluded": result.excluded.height,
    }
    content = audit(result.index, result.excluded)
    write_table(result.index, out / "index.parquet", "index")
    write_table(result.excluded, out / "excluded.parquet", "excluded")
    write_json(out / "audit.json", content)
    write_manifest(
        out / "index.manifest.json",
        step="index",
        config=config,
        inputs=dict(inputs) | {"index": hash_table(result.index), "excluded": hash_table(result.excluded)},
        counts=counts,
    )
    return content
