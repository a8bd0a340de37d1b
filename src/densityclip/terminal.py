"""What a command shows while it works: a progress bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

Report = Callable[[int, int], None]

_MINUTES = 5


@contextlib.contextmanager
def progress(title: str) -> Iterator[Report]:
    """Show how far a piece of work is, on standard error, so that standard output stays for results.

    Yields:
        A function to call with (done, total).
    """
    if not sys.stderr.isatty():
        yield _plain_lines(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    rate = _Rate()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, rate="")
        yield lambda done, total: bar.update(task, completed=done, total=total, rate=rate.said(done))


class _Rate:
    """Pieces a second, minute or hour since the first report, which may find work that an earlier run has done."""

    def __init__(self) -> None:
        self._start: tuple[int, float] | None = None

    def said(self, done: int) -> str:
        now = time.monotonic()
        if self._start is None:
            self._start = (done, now)
        pieces, seconds = done - self._start[0], now - self._start[1]
        if seconds <= 1:
            return ""
        for unit, length in (("s", 1), ("min", 60)):
            if length * pieces >= 0.1 * seconds:
                return f"{length * pieces / seconds:.{1 if pieces * length < 100 * seconds else 0}f}/{unit}"
        return f"{3600 * pieces / seconds:.1f}/h"


def _plain_lines(title: str) -> Report:
    """A line at every tenth of the work, and every five minutes of a long one."""
    last, spoke = -1, time.monotonic()
    rate = _Rate()

    def report(done: int, total: int) -> None:
        nonlocal last, spoke
        tenth, said = 10 * done // max(1, total), rate.said(done)
        if tenth > last or time.monotonic() - spoke > _MINUTES * 60:
            last, spoke = tenth, time.monotonic()
            sys.stderr.write(f"{title}: {done} of {total}{f', {said}' if said else ''}\n")
            sys.stderr.flush()

    return report


def say(text: str) -> None:
    """Write a line of result to standard output, at once: a service's log waits for it, and may be a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output; its width follows the content, so that nothing is cut in a log file."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in columns:
        # On a narrow terminal a cell wraps; nothing of a figure or its interval is dropped.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 160
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(table)
