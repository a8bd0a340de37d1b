"""A folder of DICOM files, with the labels of a site's table or of the reports in it."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from densityclip.datasets.contract import Candidates, Request
from densityclip.datasets.exclusion import leave_out
from densityclip.datasets.headers import HeaderRules
from densityclip.datasets.labels import read_label_table
from densityclip.errors import UserError
from densityclip.reasons import Reason

# What lies beside the images of an archive and is none: passed over, and counted.
SIDE_CARS = frozenset({".csv", ".json", ".jsonl", ".npz", ".npy", ".parquet", ".txt", ".md", ".yaml", ".yml", ".html"})
SIDE_CAR_NAMES = frozenset(
    {"license", "copying", "notice", "readme", "authors", "changelog", "version", "checksums", "dicomdir"}
)


def candidates(request: Request) -> Candidates:
    """Every file of a folder; what it is, its header says.

    What the table says of site, institution, machine and age goes before the request, and this before the header.

    Raises:
        UserError: The folder is missing or holds no file that could be an image, or the label table is wrong.
    """
    listed = list_files(request.source)
    if request.table is not None:
        left = str(request.table.resolve())
        listed = listed.filter(pl.col("path") != left)
    passed = pl.Series([is_side_car(path) for path in listed["path"]], dtype=pl.Boolean())
    rows = listed.filter(~passed)
    if not rows.height:
        held = f"only {_kinds(listed['path'])}" if listed.height else "no files"
        raise UserError(f"{request.source} holds {held}", "give a folder with DICOM files")
    labels = read_label_table(request.table, request.label_map) if request.table is not None else None
    others = listed["path"].filter(passed)
    notes = [f"{len(others)} files beside the images were passed over: {_kinds(others)}."] if len(others) else []
    if labels is not None and "density" not in labels.rows.columns:
        notes.append(f"{labels.name} has no column density: no image gets a label from it.")
    return Candidates(
        rows=rows.with_columns(
            pl.lit(request.site, pl.String).alias("site"), pl.lit(request.institution, pl.String).alias("institution")
        ),
        rules=HeaderRules(pictures=False, require_view=True, for_processing=request.for_processing),
        labels=labels,
        notes=tuple(notes),
        tables={"table": request.table} if request.table is not None else {},
    )


def is_side_car(path: str | Path) -> bool:
    """Whether a file of an archive is passed over: by its extension or name, never by its content."""
    name = os.path.basename(path)
    return name.startswith(".") or os.path.splitext(name)[1].lower() in SIDE_CARS or name.lower() in SIDE_CAR_NAMES


def list_files(source: Path) -> pl.DataFrame:
    """All files of a folder, at any depth, whatever they are called; or the one file.

    Links to folders are followed, and each folder is read once: a link back to where it lies ends there. A hidden
    folder (unfinished work, snapshots) is not entered and stands in the list as if it were a file.

    Args:
        source: Folder or file.

    Returns:
        Columns `path` (absolute, sorted), `reason` and `detail`: folders that cannot be opened and files whose names
        are no text are rows with a reason.

    Raises:
        UserError: The source does not exist.
    """
    source = source.resolve()
    if source.is_file():
        return _table([str(source)])
    if not source.is_dir():
        raise UserError(f"{source} does not exist", "give the folder that holds the DICOM files")
    unreadable: list[str] = []
    # A list of a million Path objects would take 600 MB; the text of one folder at a time takes next to nothing.
    found = [_table(paths) for paths in _folders(str(source), unreadable)]
    closed = leave_out(_table(unreadable), pl.lit(value=True), Reason.UNREADABLE_FOLDER)
    return pl.concat([*found, closed]).sort("path")


def _table(paths: Iterable[str]) -> pl.DataFrame:
    paths = list(paths)
    texts = [path.encode("utf-8", "replace").decode() for path in paths]
    table = pl.DataFrame({"path": texts}, schema={"path": pl.String()})
    strange = pl.Series([text != path for text, path in zip(texts, paths, strict=True)], dtype=pl.Boolean())
    fact = "the file's name is no UTF-8 text; rename it"
    return leave_out(table, pl.lit(strange), Reason.UNREADABLE, fact)


def _folders(source: str, unreadable: list[str]) -> Iterator[list[str]]:
    """Paths of the files of each folder; folders that cannot be opened are added to the list."""
    seen: set[tuple[int, int]] = set()
    waiting: list[str] = [source]
    linked: list[str] = []
    while waiting or linked:
        # Folders go before links to them, so that a file has the path where it lies.
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            unreadable.append(folder)
            continue
        files = []
        for entry in inside:
            if entry.name.startswith(".") or not _leads_to_folder(entry):
                files.append(entry.path)
            else:
                (linked if entry.is_symlink() else waiting).append(entry.path)
        yield files


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it as a file will say so


def _kinds(paths: pl.Series) -> str:
    counts = Counter(os.path.splitext(path)[1].lower() or "without extension" for path in paths)
    return ", ".join(f"{number} {extension}" for extension, number in counts.most_common(5))
