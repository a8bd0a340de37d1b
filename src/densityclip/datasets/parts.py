"""Unfinished work of an index on disk, so that a killed command goes on where it stopped."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import polars as pl

from densityclip import __version__
from densityclip.artifacts import atomic_path, hash_json, hash_table, write_json
from densityclip.datasets.headers import SEEN, HeaderRules
from densityclip.reasons import Reason

_ROWS_A_PART = 4_000
_SECONDS_A_PART = 5.0
# Reasons that a person may have mended between two runs.
_MENDABLE = [
    reason.value
    for reason in (
        Reason.MISSING_FILE,
        Reason.EMPTY_FILE,
        Reason.UNREADABLE,
        Reason.TRUNCATED,
        Reason.CRASHED,
        Reason.UNREADABLE_FOLDER,
    )
]

logger = logging.getLogger(__name__)


class Parts:
    """A folder of Parquet files, each a run of rows in the order of the candidates.

    Args:
        folder: Where they are; work that was done for other candidates or rules is dropped.
        rows: The candidates.
        rules: How files are used.
    """

    def __init__(self, folder: Path, rows: pl.DataFrame, rules: HeaderRules) -> None:
        self._folder = folder
        identity = {"densityclip": __version__, "rules": asdict(rules), "rows": hash_table(rows), "seen": list(SEEN)}
        mark = folder / f"{hash_json(identity)[:16]}.json"
        if folder.exists() and not mark.exists():
            logger.warning("unfinished work on other files, or by another version, is dropped; starting afresh")
            shutil.rmtree(folder)
        write_json(mark, identity)
        self.done = 0
        while self._found():
            self.done += self._found()

    def _found(self) -> int:
        names = list(self._folder.glob(f"{self.done:09d}-*.parquet"))
        return int(names[0].stem.split("-")[1]) if names else 0

    def look_again(self, rows: pl.DataFrame, look: Callable[[pl.DataFrame], Iterable[pl.DataFrame]]) -> None:
        """Look again at what an earlier run found missing or damaged: copying it again is what its reason advised.

        Args:
            rows: The candidates.
            look: Gives rows of the schema `SEEN` for some candidates, in their order.
        """
        for path in sorted(self._folder.glob("*.parquet")):
            part = pl.read_parquet(path)
            found = part["reason"].is_in(_MENDABLE).fill_null(value=False)
            if not found.any():
                continue
            again = pl.concat(look(rows[part["_row"].filter(found)])).with_columns(part["_row"].filter(found))
            with atomic_path(path) as temporary:
                pl.concat([part.filter(~found), again]).sort("_row").write_parquet(temporary)
        if self.done:
            logger.info("%d rows are kept from an earlier run", self.done)

    def keep(self, slices: Iterable[pl.DataFrame]) -> None:
        """Write slices as they come, several to a file."""
        waiting: list[pl.DataFrame] = []
        since = time.monotonic()
        for piece in slices:
            waiting.append(piece)
            late = time.monotonic() - since > _SECONDS_A_PART
            if sum(part.height for part in waiting) >= _ROWS_A_PART or late:
                self._write(waiting)
                waiting, since = [], time.monotonic()
        if waiting:
            self._write(waiting)

    def _write(self, pieces: list[pl.DataFrame]) -> None:
        part = pl.concat(pieces)
        with atomic_path(self._folder / f"{self.done:09d}-{part.height}.parquet") as temporary:
            part.write_parquet(temporary)
        self.done += part.height

    def read(self) -> pl.LazyFrame:
        """All rows, in order, as a query over the files."""
        return pl.scan_parquet(sorted(self._folder.glob("*.parquet")))

    def remove(self) -> None:
        """Drop the folder: its work is done."""
        shutil.rmtree(self._folder)
