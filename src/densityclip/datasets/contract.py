"""What every reader of a dataset hands over: candidates; and what becomes of them: an index, and what it left out.

An adapter reads tables, never files: it says for each image what the dataset states, and leaves out what the dataset
itself rules out. `headers` then looks into the files, and `collect` or `write_index` sorts every row into one of two
tables, so that rows in are rows indexed plus rows excluded.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from densityclip.artifacts import EXCLUDED, hash_file, hash_table, read_table, write_json, write_manifest, write_table
from densityclip.datasets.audit import audit
from densityclip.datasets.headers import SEEN, HeaderRules, look_at
from densityclip.datasets.labels import LabelTable
from densityclip.datasets.parts import Parts
from densityclip.datasets.settle import settle
from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.reasons import Reason
from densityclip.records import Laterality, Modality

_WORDS = {
    "laterality": frozenset(Laterality),
    "modality": frozenset(Modality),
    "density": frozenset(CATEGORIES),
    "reason": frozenset(Reason),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asks `index` for.

    Attributes:
        source: Folder of the archive; paths of tables start from it.
        table: The dataset's table, where it does not lie where the dataset puts it.
        columns: Our name of a column to the table's.
        label_map: The table's words for densities to `A B C D`.
        no_files: Look at no file: plan from the table alone.
        for_processing: Take raw images (For Processing), and no others.
        site: Name of the site, for all images.
        institution: Name of the institution, for all images.
    """

    source: Path
    table: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str] = field(default_factory=dict)
    no_files: bool = False
    for_processing: bool = False
    site: str | None = None
    institution: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Candidates:
    """What a dataset names before its files are looked at: one row an image, in a stable order.

    Attributes:
        rows: Columns of the schema `excluded`, as many as are known. `path` is absolute and never null; `reason` and
            `detail` are set on rows that are left out already; views keep their own words (`ML`), sides, modalities
            and densities are those of an index.
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
        for name in set(_WORDS) & set(self.rows.columns):
            strange = set(self.rows[name].drop_nulls().unique()) - _WORDS[name]
            if strange:
                raise ValueError(f"candidates have {name} {', '.join(sorted(strange))}")


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


def collect(
    candidates: Candidates, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> IndexResult:
    """Index candidates in memory; an index of which nothing can be used is no error here.

    Args:
        candidates: What a dataset names.
        workers: Processes that read headers.
        progress: Called with the number of rows done and of all.

    Raises:
        UserError: A worker died, or none of the given labels is about any image.
    """
    slices = list(look_at(candidates.rows, candidates.rules, workers=workers, progress=progress))
    seen = pl.concat(slices) if slices else pl.DataFrame(schema=SEEN)
    index, excluded, counted = settle(seen.lazy(), candidates.labels)
    return IndexResult(index=index.collect(), excluded=excluded.collect(), notes=(*candidates.notes, *counted))


def write_index(
    candidates: Candidates,
    out: Path,
    *,
    config: Mapping[str, Any],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int, dict[str, Any]]:
    """Index candidates: `index.parquet`, `excluded.parquet`, `audit.json` and `index.manifest.json`.

    What is seen of the files is kept in `.work` until all is written: a command that was killed goes on where it
    stopped, and ends with the same tables.

    Args:
        candidates: What a dataset names.
        out: The folder.
        config: The resolved configuration.
        workers: Processes that read headers.
        progress: Called with the number of rows done and of all.

    Returns:
        Images indexed, images excluded, and the audit, as `audit.json` holds it.

    Raises:
        UserError: There are no candidates at all, nothing can be used (the tables are written all the same: they say
            why), a worker died, or the disk is full.
    """
    if not candidates.rows.height:
        raise UserError("no image was found", "give a folder that holds mammograms")
    parts = Parts(out / ".work", candidates.rows, candidates.rules)
    parts.look_again(candidates.rows, lambda rows: look_at(rows, candidates.rules, workers=workers))
    parts.keep(look_at(candidates.rows, candidates.rules, first=parts.done, workers=workers, progress=progress))
    index, excluded, counted = settle(parts.read(), candidates.labels)
    notes = (*candidates.notes, *counted)
    paths = {name: out / f"{name}.parquet" for name in ("index", "excluded")}
    write_table(index, paths["index"], "index")
    write_table(excluded, paths["excluded"], "excluded")
    content = audit(paths["index"], paths["excluded"], notes=notes, for_processing=candidates.rules.for_processing)
    write_json(out / "audit.json", content)
    inputs = {name: hash_file(path) for name, path in candidates.tables.items()}
    (rows, index_hash), (rows_out, excluded_hash) = (_content(path, name) for name, path in paths.items())
    write_manifest(
        out / "index.manifest.json",
        step="index",
        config=config,
        inputs=inputs | {"index": index_hash, "excluded": excluded_hash},
        counts={"images": rows + rows_out, "indexed": rows, "excluded": rows_out},
        notes=notes,
    )
    parts.remove()
    if not rows:
        refuse_empty(read_table(paths["excluded"], "excluded"), candidates.tables)
    return rows, rows_out, content


def _content(path: Path, kind: str) -> tuple[int, str]:
    """Number of rows of a table, and the hash of its content."""
    table = read_table(path, kind)
    return table.height, hash_table(table)


def refuse_empty(excluded: pl.DataFrame, tables: Mapping[str, Path]) -> NoReturn:
    """Say why nothing was indexed.

    Args:
        excluded: Schema `excluded`.
        tables: The dataset's tables; without any, a folder of files was read.

    Raises:
        UserError: Always; the message counts the reasons.
    """
    counts = excluded.group_by("reason").len().sort("len", "reason", descending=[True, False])
    if not tables and set(counts["reason"]) <= {Reason.UNREADABLE.value, Reason.EMPTY_FILE.value}:
        kinds = Counter(Path(path).suffix.lower() or "without extension" for path in excluded["path"]).most_common(5)
        held = ", ".join(f"{number} {extension}" for extension, number in kinds)
        raise UserError(f"none of the files is DICOM: {held}", "give a folder with DICOM files")
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.iter_rows())
    raise UserError(
        f"none of the {excluded.height} images can be used ({reasons}; the first: {excluded['detail'][0]})",
        "excluded.parquet says why for each; give screening mammograms For Presentation, or see "
        "`densityclip index --help`",
    )
