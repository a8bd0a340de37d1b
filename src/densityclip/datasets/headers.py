"""What the files say: headers read in worker processes, merged with what the table says, and judged row by row."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import polars as pl

from densityclip.artifacts import EXCLUDED
from densityclip.datasets.exclusion import leave_out
from densityclip.datasets.looking import STATED, WORKER_IMPORTS, Known, judged, look_at_files
from densityclip.datasets.looking import HeaderRules as HeaderRules
from densityclip.reasons import Reason
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
# One task of a worker: 0.2 to 0.3 s of reading, beside which its journey and merging (5 ms) are little.
_FILES_A_TASK = 256
_ROWS_WITHOUT_FILES = 50_000
_TASKS_AHEAD = 4


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
    slices = (_completed(rows.slice(start, size), start) for start in starts)
    done = first
    for part, found in _looked_at(slices, rules, min(workers, len(starts))):
        yield _merged(part, found, rules)
        done += part.height
        if progress is not None:
            progress(done, rows.height)


_Rows = list[dict[str, Any]]


def _looked_at(
    slices: Iterator[pl.DataFrame], rules: HeaderRules, workers: int
) -> Iterator[tuple[pl.DataFrame, list[Known] | None]]:
    """Slices, and what their files add to each row; None where no file is looked at."""
    if not rules.read_files:
        return ((part, None) for part in slices)
    if workers <= 1:
        return ((part, look_at_files(_asked(part), rules)) for part in slices)
    return _spread(slices, rules, workers)


def _asked(part: pl.DataFrame) -> _Rows:
    return part.select("path", "reason", *STATED).to_dicts()


def _spread(
    slices: Iterator[pl.DataFrame], rules: HeaderRules, workers: int
) -> Iterator[tuple[pl.DataFrame, list[Known]]]:
    # A million futures at once would hold a million rows twice; a few tasks ahead keep the workers busy.
    waiting: deque[tuple[pl.DataFrame, _Rows, Future[list[Known]]]] = deque()
    pool = worker_pool(workers, imports=WORKER_IMPORTS)
    try:
        for part in slices:
            rows = _asked(part)
            try:
                future = pool.submit(look_at_files, rows, rules)
            except BrokenProcessPool:
                pool.shutdown(wait=False)
                pool = worker_pool(workers, imports=WORKER_IMPORTS)
                future = pool.submit(look_at_files, rows, rules)
            waiting.append((part, rows, future))
            if len(waiting) >= workers * _TASKS_AHEAD:
                yield _outcome(*waiting.popleft(), rules)
        while waiting:
            yield _outcome(*waiting.popleft(), rules)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(
    part: pl.DataFrame, rows: _Rows, future: Future[list[Known]], rules: HeaderRules
) -> tuple[pl.DataFrame, list[Known]]:
    try:
        return part, future.result()
    except BrokenProcessPool:
        # A worker that dies takes with it what all of them were at.
        return part, _carefully(rows, rules)


def _carefully(rows: _Rows, rules: HeaderRules) -> list[Known]:
    """Rows by themselves in a process of their own, and if that dies, each half: one file must not end a job."""
    try:
        with worker_pool(1, imports=WORKER_IMPORTS) as alone:
            return alone.submit(look_at_files, rows, rules).result()
    except BrokenProcessPool:
        if len(rows) == 1:
            fact = "the process that read its header was killed, perhaps for want of memory"
            return [{"reason": Reason.CRASHED.value, "detail": fact}]
        half = len(rows) // 2
        return _carefully(rows[:half], rules) + _carefully(rows[half:], rules)


def _merged(rows: pl.DataFrame, found: list[Known] | None, rules: HeaderRules) -> pl.DataFrame:
    if found is None:
        said = _judge_without_files(rows, rules)
    else:
        columns = {name: [item.get(name) for item in found] for name in SEEN if name not in ("_row", "path")}
        said = pl.DataFrame(columns, schema={name: SEEN[name] for name in columns})
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
    kinds = rows.select(STATED).unique(maintain_order=True)
    found = [judged(None, row, rules) for row in kinds.iter_rows(named=True)]
    verdicts = kinds.with_columns(
        pl.Series("reason", [item.get("reason") for item in found], dtype=pl.String()),
        pl.Series("detail", [item.get("detail") for item in found], dtype=pl.String()),
    )
    return rows.select(STATED).join(verdicts, on=STATED, how="left", nulls_equal=True, maintain_order="left")


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
