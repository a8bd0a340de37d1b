"""A folder of DICOM files, and a site's label table, to an index."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from densityclip.datasets.contract import IndexResult, make_result, refuse_if_empty
from densityclip.datasets.labels import LabelTable, read_label_table
from densityclip.dicom.eligibility import check_eligible
from densityclip.dicom.header import HeaderFacts, read_header
from densityclip.dicom.modality import modality_of
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused
from densityclip.records import Exclusion, ImageRecord

# What lies beside the images of an archive and is none: passed over without a word.
SIDE_CARS = frozenset({".csv", ".json", ".jsonl", ".npz", ".npy", ".parquet", ".txt", ".md", ".yaml", ".yml", ".html"})
SIDE_CAR_NAMES = frozenset({"license", "copying", "notice", "readme", "authors", "changelog", "version", "checksums"})
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_CHUNK = 64

logger = logging.getLogger(__name__)


def index_dicom(
    source: Path,
    *,
    table: Path | None = None,
    label_map: Mapping[str, str] | None = None,
    site: str | None = None,
    institution: str | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> IndexResult:
    """Index the standard screening views among the DICOM files of a folder.

    What the table says of site, institution, machine and age goes before the arguments, and these before the header.

    Args:
        source: A folder, walked in the order of names, whatever the files are called; or one file.
        table: The label table, see `labels.read_label_table`; without it no image has a density.
        label_map: What the table's own words for a density mean.
        site: Name of the site, for all images.
        institution: Name of the institution, for all images.
        workers: Processes that read headers.
        progress: Called with the number of files done and of all.

    Raises:
        UserError: The folder is missing or empty, holds no DICOM or nothing that can be used, or the table is wrong.
    """
    files = _list_files(source, table)
    labels = read_label_table(table, label_map) if table is not None else None
    result = index_files(
        files, labels=labels, defaults={"site": site, "institution": institution}, workers=workers, progress=progress
    )
    unread = (Reason.UNREADABLE.value, Reason.EMPTY_FILE.value)
    if not result.index.height and result.excluded["reason"].is_in(unread).all():
        raise UserError(f"{source} holds no DICOM file: {_extensions(files)}", "give a folder with DICOM files")
    if labels is not None and result.index["density"].is_null().all() and result.index.height:
        raise UserError(
            f"no row of {table} matches an image by {labels.key}", f"check the column {labels.key} against the files"
        )
    return refuse_if_empty(result, source)


def index_files(
    files: Sequence[Path],
    *,
    labels: LabelTable | None = None,
    defaults: Mapping[str, str | None] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> IndexResult:
    """Index DICOM files by their headers; nothing is an error here, every file is a row of one of the two tables.

    Args:
        files: What to read; media directories are passed over.
        labels: The site's labels.
        defaults: Values of index columns for all images.
        workers: Processes that read headers.
        progress: Called with the number of files done and of all.
    """
    records: list[ImageRecord] = []
    exclusions: list[Exclusion] = []
    for done, (path, facts) in enumerate(_read_headers(files, workers), start=1):
        if not (isinstance(facts, HeaderFacts) and facts.sop_class == _MEDIA_DIRECTORY):
            item = _record(path, facts, labels, defaults or {})
            (records if isinstance(item, ImageRecord) else exclusions).append(item)  # type: ignore[arg-type]
        if progress is not None:
            progress(done, len(files))
    return make_result(records, exclusions)


def is_side_car(path: Path) -> bool:
    """Whether a file of an archive is passed over: by its extension or name, never by its content."""
    return path.suffix.lower() in SIDE_CARS or path.name.startswith(".") or path.name.lower() in SIDE_CAR_NAMES


def _list_files(source: Path, table: Path | None) -> list[Path]:
    source = source.resolve()
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"{source} does not exist", "give the folder that holds the DICOM files")
    found = sorted(path for path in source.rglob("*") if path.is_file())
    left = None if table is None else table.resolve()
    files = [path for path in found if not is_side_car(path) and path != left]
    if not files:
        held = f"only {_extensions(found)}" if found else "no files"
        raise UserError(f"{source} holds {held}", "give a folder with DICOM files")
    return files


def _extensions(files: list[Path]) -> str:
    counts = Counter(path.suffix.lower() or "without extension" for path in files)
    return ", ".join(f"{number} {extension}" for extension, number in counts.most_common(5))


def _read_headers(files: Sequence[Path], workers: int) -> Iterator[tuple[Path, HeaderFacts | Refused]]:
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    if workers <= 1 or len(chunks) == 1:
        facts = chain.from_iterable(map(_headers_of, chunks))
        yield from zip(files, facts, strict=True)
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
        yield from zip(files, chain.from_iterable(pool.map(_headers_of, chunks)), strict=True)


def _headers_of(files: Sequence[Path]) -> list[HeaderFacts | Refused]:
    read: list[HeaderFacts | Refused] = []
    for path in files:
        try:
            read.append(read_header(path))
        except Refused as refused:
            read.append(refused)
    return read


def _record(
    path: Path, facts: HeaderFacts | Refused, labels: LabelTable | None, defaults: Mapping[str, str | None]
) -> ImageRecord | Exclusion:
    if isinstance(facts, Refused):
        return Exclusion(known={"path": str(path), **defaults}, reason=facts.reason, detail=facts.detail)
    known = known_of(path, facts) | {name: value for name, value in defaults.items() if value is not None}
    if labels is not None:
        known |= labels.look_up(facts)
    known["density_source"] = (known.get("density_source") or "table") if known.get("density") else None
    try:
        check_eligible(facts)
        missing = [name for name in ("image_id", "exam_id") if not known[name]]
        if missing:
            raise Refused(Reason.BAD_HEADER, f"no {'SOP' if missing[0] == 'image_id' else 'Study'} Instance UID")
    except Refused as refused:
        return Exclusion(known=known, reason=refused.reason, detail=refused.detail)
    return ImageRecord(**known)


def known_of(path: Path, facts: HeaderFacts) -> dict[str, Any]:
    """What a header says, under the names of the index's columns.

    An object without Patient ID is a patient of its own study: nobody else's images can be told to be hers.
    """
    said = asdict(facts)
    same = ("laterality", "view", "age", "study_date", "institution", "vendor", "machine", "implant", "frames")
    return {name: said[name] for name in (*same, "series_uid", "sop_uid", "spacing_mm")} | {
        "image_id": facts.sop_uid,
        "path": str(path),
        "patient_id": facts.patient_id or facts.study_uid,
        "exam_id": facts.study_uid,
        "modality": modality_of(facts).value,
    }
