"""Tables and image folders of an archive, found where the dataset puts them; nothing is opened here."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from densityclip.datasets.contract import Request
from densityclip.errors import UserError

_SHOWN = 8
_TABLES = frozenset({".csv", ".parquet", ".pq", ".xls", ".xlsx"})
_READ_NEXT = "docs/datasets.md says what each archive holds; to plan without images add --no-files"


def find_table(request: Request, names: Sequence[str], places: Sequence[str] = ()) -> Path:
    """A dataset's table: the one that was given, or the first of its names under the source, or beside it.

    Args:
        request: What was asked for; its table may be a file, or a folder that holds the table.
        names: Names that the table has in the releases of the dataset.
        places: Subfolders of the source to look in, after the source itself.

    Raises:
        UserError: The given table is not there, or none was found; what is there is named.
    """
    if request.table is not None and not request.table.is_dir():
        if not request.table.is_file():
            raise UserError(f"the table {request.table} does not exist", "correct --table")
        return request.table
    top = request.table or request.source
    if not top.is_dir():
        raise UserError(
            f"{top} is not a folder" if top.exists() else f"{top} does not exist", "give the folder of the archive"
        )
    tops = [top] if request.table else [top, top.resolve().parent]
    found = (folder / place / name for folder in tops for name in names for place in ("", *places))
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{top} has no {' or '.join(names)}; it holds {_held(top)}", "say where it is with --table FILE"
        )
    return path


def find_root(request: Request, subfolders: Sequence[str], firsts: Iterable[str], table: Path) -> Path:
    """The folder that a table's paths start from: the one of some subfolders, or the source, that holds their firsts.

    Copies of an archive differ in how many folders lie around it, and may be partial: one folder that a table names is
    enough.

    Args:
        request: What was asked for; with `no_files` nothing is looked at, and the first subfolder is taken.
        subfolders: Where the dataset keeps its images, under the source; the usual one first.
        firsts: First parts of the table's paths.
        table: The table, for the message.

    Raises:
        UserError: The source is missing, or holds none of the folders.
    """
    source = request.source.resolve()
    if request.no_files:
        return source / subfolders[0]
    if not source.is_dir():
        raise UserError(f"{source} does not exist", f"give the folder of the images; {_READ_NEXT}")
    wanted = set(firsts)
    for root in (*(source / name for name in subfolders), source):
        if root.is_dir() and not wanted.isdisjoint(os.listdir(root)):
            return root
    raise UserError(
        f"{source} holds none of the image folders that {table.name} names (looked for {', '.join(subfolders)}; it "
        f"holds {_held(source)})",
        f"give the folder that holds {subfolders[0]}; {_READ_NEXT}",
    )


def list_files(source: Path, extensions: frozenset[str]) -> pl.Series:
    """Absolute paths of an archive's files by extension, sorted; links to folders are not followed.

    Raises:
        UserError: The source is no folder.
    """
    if not source.is_dir():
        raise UserError(f"{source} does not exist", f"give the folder of the images; {_READ_NEXT}")
    return pl.Series("path", _walk(source.resolve(), extensions), dtype=pl.String()).sort()


def _walk(source: Path, extensions: frozenset[str]) -> Iterator[str]:
    for folder, _, names in os.walk(source):
        yield from (os.path.join(folder, name) for name in names if os.path.splitext(name)[1].lower() in extensions)


def _held(folder: Path) -> str:
    """What lies in a folder: its tables by name, the rest by number, because names are often those of patients."""
    entries = list(folder.iterdir())
    tables = sorted(entry.name for entry in entries if entry.suffix.lower() in _TABLES)
    folders = sum(entry.is_dir() for entry in entries)
    more = [f"{len(tables) - _SHOWN} more tables"] if len(tables) > _SHOWN else []
    counts = [(folders, "folder"), (len(entries) - len(tables) - folders, "other file")]
    said = [f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts if number > 0]
    return ", ".join([*tables[:_SHOWN], *more, *said]) or "nothing"
