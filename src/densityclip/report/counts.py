"""Nested counts, of whatever shape, as blocks that a page can show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Scalar = str | int | float | bool | None
_DEEPEST = 4
# Counts of different things: bars of one length scale would compare patients with images.
_UNITS = {"rows", "files", "images", "breasts", "exams", "patients", "labels"}


@dataclass(frozen=True)
class Block:
    """One piece of a page.

    Attributes:
        kind: `facts` (label and text), `bars` (label, text, width in percent), `table` (first row is the head),
            `group` (blocks inside).
        title: Heading, empty for none.
        rows: What `facts`, `bars` and `table` show, as text; numbers are right-aligned by the template.
        inside: What a `group` holds.
    """

    kind: Literal["facts", "bars", "table", "group"]
    title: str
    rows: tuple[tuple[Any, ...], ...] = ()
    inside: tuple["Block", ...] = ()

    @property
    def wide(self) -> bool:
        """Whether it needs the width of the page rather than a column."""
        if self.kind == "table":
            return len(self.rows[0]) > 4 or any(len(str(cell)) > 30 for row in self.rows[1:] for cell in row)
        return self.kind == "group" or not self.title or any(len(str(row[1])) > 30 for row in self.rows)


def label(key: object) -> str:
    """A key as people read it: underscores become spaces; names of files stay as they are."""
    name = str(key)
    return name if "/" in name or "." in name else name.replace("_", " ").strip()


def heading(key: object) -> str:
    """A key as the heading of a block: a label that begins with a capital."""
    name = label(key)
    return name[:1].upper() + name[1:]


def text(value: object) -> str:
    """A value as people read it: thousands apart, at most four significant digits, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def blocks(content: Mapping[str, Any], depth: int = 0) -> list[Block]:
    """Turn nested dictionaries and lists into blocks: plain values first, then each part under its own heading."""
    shown = {k: v for k, v in content.items() if k != "schema_version"}
    plain = tuple((label(k), text(v)) for k, v in shown.items() if _is_scalar(v))
    found = [Block("facts", "", plain)] if plain else []
    return found + [_block(heading(k), v, depth) for k, v in shown.items() if not _is_scalar(v)]


def _block(title: str, value: Any, depth: int) -> Block:
    if isinstance(value, Mapping):
        return _of_mapping(title, value, depth)
    items = list(value) if isinstance(value, Sequence) else [value]
    if items and all(isinstance(item, Mapping) for item in items):
        return _of_records(title, items)
    return Block("facts", "", ((title, ", ".join(text(item) for item in items) or "none"),))


def _of_mapping(title: str, value: Mapping[str, Any], depth: int) -> Block:
    if not value:
        return Block("facts", "", ((title, "none"),))
    if all(_is_number(item) for item in value.values()):
        if any(str(key).split("_")[0] in _UNITS for key in value):
            return Block("facts", title, tuple((label(k), text(v)) for k, v in value.items()))
        most = max((abs(item) for item in value.values() if item is not None), default=0) or 1
        rows = tuple((label(k), text(v), round(100 * abs(v or 0) / most, 1)) for k, v in value.items())
        return Block("bars", title, rows)
    if all(isinstance(item, Mapping) and all(map(_is_number, item.values())) for item in value.values()):
        columns = list(dict.fromkeys(column for item in value.values() for column in item))
        head = ("", *(label(column) for column in columns))
        body = ((label(k), *(text(item.get(column)) for column in columns)) for k, item in value.items())
        return Block("table", title, (head, *body))
    if all(_is_scalar(item) for item in value.values()) or depth >= _DEEPEST:
        return Block("facts", title, tuple((label(k), text(v)) for k, v in value.items()))
    return Block("group", title, inside=tuple(blocks(value, depth + 1)))


def _of_records(title: str, items: list[Mapping[str, Any]]) -> Block:
    columns = list(dict.fromkeys(column for item in items for column in item))
    body = (tuple(_cell(item.get(column)) for column in columns) for item in items)
    return Block("table", title, (tuple(label(column) for column in columns), *body))


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{label(k)} {text(v)}" for k, v in value.items())
    return ", ".join(text(item) for item in value) if isinstance(value, list | tuple) else text(value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
