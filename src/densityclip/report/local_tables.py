"""Local adaptation: secondary, and named so. What a site could gain with a few labelled exams, or with none."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.report.counts import heading, text
from densityclip.report.tables import Grid, estimate_text


def local_grids(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, str] | None = None) -> list[Grid]:
    """Whatever was tried locally, one table a method; estimates with their interval, in any nesting one deep."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        methods.setdefault(str(entry.get("method", "local adaptation")), []).append(_flat(entry))
    return [_grid(name, rows) for name, rows in methods.items()]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping) and "value" not in value:
            flat |= {f"{key}: {inner}": one for inner, one in value.items()}
        elif key != "method":
            flat[key] = value
    return flat


def _grid(name: str, rows: Sequence[Mapping[str, Any]]) -> Grid:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    body = tuple(tuple(_cell(row.get(column)) for column in columns) for row in rows)
    figures = next((k for k, column in enumerate(columns) if isinstance(rows[0].get(column), int | float | dict)), 1)
    return Grid(tuple(heading(column) for column in columns), body, title=heading(name), figures_from=figures)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return estimate_text(value)
    return ", ".join(text(one) for one in value) if isinstance(value, list | tuple) else text(value)
