"""The page of a cohort's audit: what is in an index, what was left out and why, and what must not be made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densityclip.density import CATEGORIES, WORDING
from densityclip.report.counts import Block, blocks, heading, label, text
from densityclip.report.render import write_page

_NOT_STATED = "not stated"
_SHOWN = ("schema_version", "totals", "limits", "notes", "density_by_modality", "density_by_site", "label_conflicts")
_ALSO_SHOWN = ("exams", "age", "excluded", "counts")
_TILES = {"images": "images indexed", "images_excluded": "images left out"}
_MOST_BARS = 12
# Below this share of a bar, its number does not fit inside.
_FITS = 7.0


@dataclass(frozen=True)
class Cell:
    """One cell of the table of categories by modality.

    Attributes:
        main: Its number of patients, as text.
        small: Its number of images, as text.
        kind: `filled`, `thin`, `empty` or `unlabelled`.
        strength: Depth of its colour, 0 to 1.
    """

    main: str
    small: str
    kind: str
    strength: float


@dataclass(frozen=True)
class Bar:
    """One line of bars.

    Attributes:
        name: What it counts.
        numbers: Text beside it.
        pieces: (kind, width in percent, text inside, text on pointing) from left to right.
        detail: A line below.
    """

    name: str
    numbers: tuple[str, ...]
    pieces: tuple[tuple[str, float, str, str], ...]
    detail: str = ""


@dataclass(frozen=True)
class AuditView:
    """An audit, laid out.

    Attributes:
        tiles: (number, what) of the totals, as text.
        whole: The images found, by what became of them; None if the totals do not say.
        limits: Sentences on what it must not be used for.
        notes: Sentences on how it was made.
        heat: (modality, cells by category and without label); empty if unknown.
        thin: Below this number of patients a cell is thin.
        sites: A bar of categories for each site.
        excluded: A bar for each reason.
        conflicts: (what, number) of labels that differ, where there are any; None if the audit does not say.
        exams: (what, number) on exams and ages.
        same: (column, value) where all images have the same value.
        counts: (column, bars).
        rest: What else an audit holds.
    """

    tiles: tuple[tuple[str, str], ...]
    whole: Bar | None
    limits: tuple[str, ...]
    notes: tuple[str, ...]
    heat: tuple[tuple[str, tuple[Cell, ...]], ...]
    thin: int
    sites: tuple[Bar, ...]
    excluded: tuple[Bar, ...]
    conflicts: tuple[tuple[str, str], ...] | None
    exams: tuple[tuple[str, str], ...]
    same: tuple[tuple[str, str], ...]
    counts: tuple[tuple[str, tuple[Bar, ...]], ...]
    rest: tuple[Block, ...]


def write_audit(out: Path, audit: Mapping[str, Any], *, title: str = "Cohort audit") -> Path:
    """Write an audit as one HTML file.

    Args:
        out: The file to write.
        audit: Content of `audit.json`; parts that are missing are passed over, and parts that this page does not know
            are shown as they come, in any nesting.
        title: Heading of the page.

    Returns:
        `out`.
    """
    return write_page(out, "audit.html.j2", title=title, audit=lay_out(audit), categories=tuple(WORDING.items()))


def lay_out(audit: Mapping[str, Any]) -> AuditView:
    """Lay an audit out for a page; parts that are missing come out empty."""
    cells = audit.get("density_by_modality", {})
    shared, counted = _counts(audit.get("counts", {}))
    return AuditView(
        tiles=_tiles(audit.get("totals", {})),
        whole=_whole(audit.get("totals", {})),
        limits=tuple(str(item["sentence"]) for item in audit.get("limits", [])),
        notes=tuple(map(str, audit.get("notes", []))),
        heat=_heat(cells),
        thin=int(cells.get("thin_means_fewer_patients_than", 0)),
        sites=_sites(audit.get("density_by_site", {})),
        excluded=_excluded(audit.get("excluded", [])),
        conflicts=_conflicts(audit),
        exams=_exams(audit.get("exams", {}), audit.get("age", {})),
        same=shared,
        counts=counted,
        rest=tuple(blocks({k: v for k, v in audit.items() if k not in _SHOWN + _ALSO_SHOWN})),
    )


def _tiles(totals: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((text(number), _TILES.get(name, label(name))) for name, number in totals.items())


def _whole(totals: Mapping[str, int]) -> Bar | None:
    found = totals.get("images_found", 0)
    if not found or not {"images", "images_labelled", "images_excluded"} <= set(totals):
        return None
    pieces = (
        ("labelled", totals["images_labelled"], "indexed, with a label"),
        ("unlabelled", totals["images"] - totals["images_labelled"], "indexed, without a label"),
        ("excluded", totals["images_excluded"], "left out"),
    )
    return Bar("", (), tuple(_piece(kind, number, found, what) for kind, number, what in pieces if number))


def _piece(kind: str, number: int, total: int, what: str) -> tuple[str, float, str, str]:
    width = 100 * number / total
    return kind, round(width, 2), f"{width:.0f}%" if width >= _FITS else "", f"{what}: {number:,} ({width:.1f}%)"


def _heat(cells: Mapping[str, Any]) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    patients, images = cells.get("patients", {}), cells.get("images", {})
    most = max((row.get(name, 0) for row in patients.values() for name in CATEGORIES), default=0)
    empty, thin = set(cells.get("empty_cells", [])), set(cells.get("thin_cells", []))
    rows = []
    for modality, row in patients.items():
        line = []
        for name in (*CATEGORIES, _NOT_STATED):
            kind = "unlabelled" if name == _NOT_STATED else "filled"
            kind = next((k for k, s in (("empty", empty), ("thin", thin)) if f"{modality} {name}" in s), kind)
            strength = row[name] / most if most and kind == "filled" else 0.0
            line.append(Cell(text(row[name]), text(images[modality][name]), kind, round(strength, 3)))
        rows.append((modality, tuple(line)))
    return tuple(rows)


def _sites(by_site: Mapping[str, Any]) -> tuple[Bar, ...]:
    images, patients = by_site.get("images", {}), by_site.get("patients", {})
    bars = []
    for site, row in images.items():
        labelled = sum(row[name] for name in CATEGORIES)
        pieces = tuple(
            _piece(f"density-{name.lower()}", row[name], labelled, f"{name}, {WORDING[name]}")
            for name in CATEGORIES
            if row[name]
        )
        unlabelled = row[_NOT_STATED]
        detail = " · ".join(f"{name} {patients[site][name]:,}" for name in CATEGORIES) + " patients"
        if unlabelled:
            detail += f" · {_images(unlabelled)} without a label"
        bars.append(Bar(site, (_images(labelled),), pieces, detail if labelled else f"{_images(unlabelled)}, no label"))
    return tuple(bars)


def _images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


def _excluded(items: Sequence[Mapping[str, Any]]) -> tuple[Bar, ...]:
    most = max((item["images"] for item in items), default=0) or 1
    bars = []
    for item in items:
        lines = [
            f"{heading(name.removeprefix('by_'))}: {', '.join(f'{value} {number:,}' for value, number in part.items())}"
            for name, part in item.items()
            if name.startswith("by_")
        ]
        remedy = str(item.get("remedy", ""))
        if remedy and not remedy.startswith("Nothing"):
            lines.insert(0, f"What you can do: {remedy.replace('`', '')}")
        width = round(100 * item["images"] / most, 2)
        bars.append(
            Bar(
                label(item["reason"]),
                (text(item["images"]), str(item.get("sentence", ""))),
                (("excluded", width, "", text(item["images"])),),
                " · ".join(lines),
            )
        )
    return tuple(bars)


def _conflicts(audit: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    if "label_conflicts" not in audit:
        return None
    return tuple((heading(name), text(number)) for name, number in audit["label_conflicts"].items() if number)


def _exams(exams: Mapping[str, Any], age: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = [(heading(name), text(number)) for name, number in exams.items() if not name.endswith("_year")]
    if exams.get("first_year") is not None:
        found.append(
            ("Years of the exams, as the source states them", f"{exams['first_year']} to {exams['last_year']}")
        )
    if age.get("low") is not None:
        found.append(("Ages, the middle 98% of labelled images", f"{age['low']} to {age['high']}"))
    return tuple(found)


def _counts(
    counts: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, tuple[Bar, ...]], ...]]:
    """Columns with one value for all images, and bars of the others."""
    same, several = [], []
    for column, rows in counts.items():
        if len(rows) == 1:
            same.append((heading(column), str(rows[0]["value"])))
        elif rows:
            several.append((heading(column), _value_bars(rows)))
    return tuple(same), tuple(several)


def _value_bars(rows: Sequence[Mapping[str, Any]]) -> tuple[Bar, ...]:
    most = max(row["images"] for row in rows)
    bars = [
        Bar(
            str(row["value"]),
            (text(row["images"]), text(row.get("patients"))),
            tuple(
                (kind, round(100 * number / most, 2), "", f"{number:,} {what}")
                for kind, number, what in (
                    ("labelled", row.get("images_labelled", row["images"]), "images with a label"),
                    ("unlabelled", row["images"] - row.get("images_labelled", row["images"]), "without"),
                )
                if number
            ),
        )
        for row in rows[:_MOST_BARS]
    ]
    if len(rows) > _MOST_BARS:
        further = rows[_MOST_BARS:]
        number = sum(row["images"] for row in further)
        bars.append(Bar(f"{len(further)} more, in audit.json", (f"{number:,}", "–"), ()))
    return tuple(bars)
