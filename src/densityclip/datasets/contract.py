"""What every reader of a dataset hands over: an index, and what it left out with the reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import EXCLUDED, INDEX, hash_table, write_json, write_manifest, write_table
from densityclip.datasets.audit import audit
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import Exclusion, ImageRecord


@dataclass(frozen=True, slots=True, eq=False)
class IndexResult:
    """An index and its exclusions; every image that was looked at is in exactly one of the two.

    Attributes:
        index: Schema `index`, sorted by patient, exam, modality, laterality, view and image.
        excluded: Schema `excluded`, sorted by path and image.
    """

    index: pl.DataFrame
    excluded: pl.DataFrame

    def __post_init__(self) -> None:
        if self.index["image_id"].is_duplicated().any():
            raise ValueError("an image_id stands in the index twice")


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
