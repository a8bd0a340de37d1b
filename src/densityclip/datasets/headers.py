"""What the files say: headers read in worker processes, merged with what the table says, and judged row by row."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from densityclip.artifacts import EXCLUDED
from densityclip.datasets.exclusion import leave_out
from densityclip.dicom.density_report import REPORT_CLASSES, read_composition
from densityclip.dicom.eligibility import check_modality, check_object, check_screening_view
from densityclip.dicom.header import HeaderFacts, read_header
from densityclip.dicom.modality import is_slab, modality_of
from densityclip.dicom.picture import is_picture
from densityclip.reasons import Reason, Refused
from densityclip.records import Modality
from densityclip.worker_pool import worker_pool

# What is seen of an image beside the columns of an index; `settle` needs it and drops it.
SEEN: dict[str, pl.DataType] = EXCLUDED | {
    "_row": pl.UInt32(),
    "_study_uid": pl.String(),
    "_accession_number": pl.String(),
    "_implant_displaced": pl.Boolean(),
    "_slab": pl.Boolean(),
    "_lossy": pl.Boolean(),
    "_turned": pl.Boolean(),
    "_generated": pl.Boolean(),
    "_differs": pl.String(),
    "_report_study": pl.String(),
    "_report_left": pl.String(),
    "_report_right": pl.String(),
    "_report_date": pl.String(),
    "_report_by": pl.String(),
}
_STATED = ("laterality", "view", "modality", "implant")
# One task of a worker: 0.2 to 0.3 s of reading, beside which its polars steps and its journey (5 ms) are little.
_FILES_A_TASK = 256
_ROWS_WITHOUT_FILES = 50_000
_TASKS_AHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRules:
    """How the headers of files are used beside what a table says; where both speak, the table goes first.

    Attributes:
        read_files: Whether files are looked at at all.
        pictures: Whether a file that is no DICOM (JPEG, PNG, ...) is taken as an image.
        require_view: Whether an image without a stated view, side or modality is left out; else these stay null or
            `unknown`. An image that belongs to no exam (no Study Instance UID, no date) is left out likewise.
        for_processing: Whether raw images (For Processing) are taken, and no others; else they are left out.
    """

    read_files: bool = True
    pictures: bool = True
    require_view: bool = False
    for_processing: bool = False


def look_at(
    rows: pl.DataFrame,
    rules: HeaderRules,
    *,
    first: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Judge candidates by their files, slice by slice, in order.

    Args:
        rows: Columns of the schema `excluded`, as many as are known.
        rules: How files are used.
        first: Row to begin with; earlier ones are done.
        workers: Processes that read headers; 1 reads in this one.
        progress: Called with the number of rows done and of all.

    Yields:
        Schema `SEEN`, as many rows as went in; `reason` null means that the image is indexed. A file that kills the
        process that reads it is left out: `crashed`.
    """
    size = _FILES_A_TASK if rules.read_files else _ROWS_WITHOUT_FILES
    starts = range(first, rows.height, size)
    slices = ((start, rows.slice(start, size), rules) for start in starts)
    alone = workers <= 1 or not rules.read_files or len(starts) <= 1
    done = first
    for seen in (_judge_slice(*task) for task in slices) if alone else _spread(slices, min(workers, len(starts))):
        yield seen
        done += seen.height
        if progress is not None:
            progress(done, rows.height)


_Task = tuple[int, pl.DataFrame, HeaderRules]


def _spread(slices: Iterator[_Task], workers: int) -> Iterator[pl.DataFrame]:
    # A million futures at once would hold a million rows twice; a few tasks ahead keep the workers busy.
    waiting: deque[tuple[_Task, Future[pl.DataFrame]]] = deque()
    pool = worker_pool(workers)
    try:
        for task in slices:
            try:
                future = pool.submit(_judge_slice, *task)
            except BrokenProcessPool:
                pool.shutdown(wait=False)
                pool = worker_pool(workers)
                future = pool.submit(_judge_slice, *task)
            waiting.append((task, future))
            if len(waiting) >= workers * _TASKS_AHEAD:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(task: _Task, future: Future[pl.DataFrame]) -> pl.DataFrame:
    try:
        return future.result()
    except BrokenProcessPool:
        # A worker that dies takes with it what all of them were at.
        return _carefully(*task)


def _carefully(start: int, rows: pl.DataFrame, rules: HeaderRules) -> pl.DataFrame:
    """A slice by itself in a process of its own, and if that dies, each half of it: one file must not end a job."""
    try:
        with worker_pool(1) as alone:
            return alone.submit(_judge_slice, start, rows, rules).result()
    except BrokenProcessPool:
        if rows.height == 1:
            fact = "the process that read its header was killed, perhaps for want of memory"
            return _judge_slice(start, leave_out(rows, pl.lit(value=True), Reason.CRASHED, fact), rules)
        half = rows.height // 2
        first, second = rows.slice(0, half), rows.slice(half)
        return pl.concat([_carefully(start, first, rules), _carefully(start + half, second, rules)])


def _judge_slice(start: int, rows: pl.DataFrame, rules: HeaderRules) -> pl.DataFrame:
    rows = _completed(rows, start)
    if rules.read_files:
        found = [_look(row, rules) for row in rows.select("path", "reason", *_STATED).iter_rows(named=True)]
        columns = {name: [item.get(name) for item in found] for name in SEEN if name not in ("_row", "path")}
        said = pl.DataFrame(columns, schema={name: SEEN[name] for name in columns})
    else:
        said = _judge_without_files(rows, rules)
    merged = rows.with_columns(pl.coalesce(pl.col(name), said[name]).alias(name) for name in said.columns)
    return _identified(merged, rules)


def _completed(rows: pl.DataFrame, start: int) -> pl.DataFrame:
    columns = [
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in SEEN.items()
        if name != "_row"
    ]
    numbered = rows.select(columns).with_row_index("_row", offset=start).cast({"_row": pl.UInt32})
    # A table that knows no modality says nothing: the header may know it.
    stated = pl.when(pl.col("modality") != Modality.UNKNOWN.value).then(pl.col("modality"))
    return numbered.select(SEEN.keys()).with_columns(stated.alias("modality"))


def _judge_without_files(rows: pl.DataFrame, rules: HeaderRules) -> pl.DataFrame:
    # The rules look at a few words only: each combination of them is judged once, whatever the number of rows.
    kinds = rows.select(_STATED).unique(maintain_order=True)
    judged = [_judged(None, row, rules) for row in kinds.iter_rows(named=True)]
    verdicts = kinds.with_columns(
        pl.Series("reason", [item.get("reason") for item in judged], dtype=pl.String()),
        pl.Series("detail", [item.get("detail") for item in judged], dtype=pl.String()),
    )
    return rows.select(_STATED).join(verdicts, on=_STATED, how="left", nulls_equal=True, maintain_order="left")


def _look(row: Mapping[str, Any], rules: HeaderRules) -> dict[str, Any]:
    """What the file of one row adds to it: values under the names of `SEEN`."""
    if row["reason"] is not None:
        return {}
    path = Path(row["path"])
    try:
        facts = read_header(path)
    except Refused as refused:
        if refused.reason is Reason.UNREADABLE and rules.pictures and is_picture(path):
            return {"frames": 1} | _judged(None, row, rules)
        return {"reason": refused.reason.value, "detail": refused.detail or refused.reason.sentence}
    if facts.sop_class in REPORT_CLASSES:
        return known_of(facts) | _report(path)
    return known_of(facts) | _judged(facts, row, rules)


def _judged(facts: HeaderFacts | None, row: Mapping[str, Any], rules: HeaderRules) -> dict[str, Any]:
    """Reason and detail if an image is left out, and in what the header contradicts the table."""
    stated = {name: row[name] for name in _STATED if row[name] is not None}
    modality = stated.pop("modality", None)
    merged = replace(facts or HeaderFacts(sop_class=""), **stated)
    if "laterality" in stated:
        merged = replace(merged, laterality_conflict=None)
    differs = {} if facts is None else _differing(facts, row)
    try:
        if facts is not None:
            check_object(facts, modality_stated=modality is not None, for_processing=rules.for_processing)
        check_screening_view(merged, unstated_passes=not rules.require_view)
        if rules.require_view and modality is None:
            check_modality(facts)
    except Refused as refused:
        return differs | {"reason": refused.reason.value, "detail": refused.detail or refused.reason.sentence}
    return differs


def _differing(facts: HeaderFacts, row: Mapping[str, Any]) -> dict[str, Any]:
    modality = modality_of(facts)
    header = {
        "laterality": facts.laterality,
        "view": facts.view,
        "modality": None if modality is Modality.UNKNOWN else modality.value,
    }
    names = [name for name, said in header.items() if None not in (said, row[name]) and said != row[name]]
    return {"_differs": ",".join(names)} if names else {}


def _report(path: Path) -> dict[str, Any]:
    left_out = {"reason": Reason.STRUCTURED_REPORT.value, "detail": Reason.STRUCTURED_REPORT.sentence}
    try:
        composition = read_composition(path)
    except Refused as refused:
        return left_out | {"detail": refused.detail or refused.reason.sentence}
    return left_out | {
        "_report_study": composition.study_uid,
        "_report_left": composition.left,
        "_report_right": composition.right,
        "_report_date": composition.content_date,
        "_report_by": "algorithm" if composition.by_algorithm else "reader",
    }


def known_of(facts: HeaderFacts) -> dict[str, Any]:
    """What a header says, under the names of `SEEN`."""
    modality = modality_of(facts)
    return {
        "series_uid": facts.series_uid,
        "sop_uid": facts.sop_uid,
        "patient_id": facts.patient_id,
        "study_date": facts.study_date,
        "laterality": facts.laterality,
        "view": facts.view,
        "modality": None if modality is Modality.UNKNOWN else modality.value,
        "institution": facts.institution,
        "vendor": facts.vendor,
        "machine": facts.machine,
        "age": facts.age,
        "implant": facts.implant,
        "frames": facts.frames,
        "spacing_mm": facts.spacing_mm,
        "_study_uid": facts.study_uid,
        "_accession_number": facts.accession_number,
        "_implant_displaced": facts.implant_displaced or None,
        "_slab": is_slab(facts) or None,
        "_lossy": facts.lossy or None,
        "_generated": facts.generated or None,
        "_turned": (facts.laterality is not None and facts.laterality_conflict is not None) or None,
    }


def _identified(rows: pl.DataFrame, rules: HeaderRules) -> pl.DataFrame:
    """Rows with their ids made whole.

    An object without Patient ID is a patient of its own study: nobody else's images can be told to be hers. An exam
    without id is what was made of a patient on one day.
    """
    study = pl.col("_study_uid")
    rows = rows.with_columns(
        pl.coalesce("image_id", "sop_uid").alias("image_id"),
        pl.coalesce("patient_id", study).alias("patient_id"),
        pl.col("modality").fill_null(Modality.UNKNOWN.value),
    )
    day = pl.format("{} on {}", pl.col("patient_id"), pl.col("study_date").dt.to_string("%Y-%m-%d"))
    patient = pl.lit(None, pl.String) if rules.require_view else pl.col("patient_id")
    rows = rows.with_columns(pl.coalesce("exam_id", study, day, patient).alias("exam_id"))
    rows = leave_out(rows, pl.col("image_id").is_null(), Reason.BAD_HEADER, "no SOP Instance UID")
    rows = leave_out(rows, pl.col("patient_id").is_null(), Reason.BAD_HEADER, "no Patient ID, no Study Instance UID")
    rows = leave_out(rows, pl.col("exam_id").is_null(), Reason.BAD_HEADER, "no Study Instance UID, and no study date")
    labelled = pl.col("density").is_not_null()
    source = pl.when(labelled).then(pl.col("density_source").fill_null("table"))
    return rows.with_columns(source.alias("density_source")).select(SEEN.keys())
