"""Forest plots: the same figure over groups, each with its interval and its number of patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from densityclip.evaluation.figures.canvas import ARM_MARKERS, INK, MUTED, Format, arm_colours, canvas, legend_handle
from densityclip.evaluation.figures.dots import Triple

_LINE = 0.17
# A longer name is set smaller, so that it ends before the number of patients.
_ROOM, _SIZE = 22, 9.0


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot.

    Attributes:
        label: The group, or the kind of group where the row is a heading.
        note: Its number of patients, or why it shows no figure.
        values: Arm to (value, low, high); empty for a heading and for a group that is not shown.
        heading: Whether it opens a kind of group.
        overall: Whether it is everyone: its values run down the plot as thin lines.
    """

    label: str
    note: str = ""
    values: Mapping[str, Triple] = field(default_factory=dict)
    heading: bool = False
    overall: bool = False

    def height(self, arms: int) -> float:
        """Inches."""
        return 0.3 if self.heading else 0.1 + _LINE * max(1, arms if self.values else 1)


def forest_pages(rows: Sequence[ForestRow], arms: int, tallest: float = 11.5) -> list[list[ForestRow]]:
    """Rows in pieces that fit a printed page, broken before a heading; the row of everyone stands in each.

    Args:
        rows: From the top.
        arms: How many are drawn in a row.
        tallest: Inches.
    """
    everyone = [row for row in rows if row.overall]
    blocks: list[list[ForestRow]] = []
    for row in (row for row in rows if not row.overall):
        if row.heading or not blocks:
            blocks.append([])
        blocks[-1].append(row)
    pages: list[list[ForestRow]] = []
    for block in blocks:
        if pages and sum(row.height(arms) for row in (*pages[-1], *block)) <= tallest:
            pages[-1] += block
        else:
            pages.append([*everyone, *block])
    return pages or [everyone]


def forest_figure(
    rows: Sequence[ForestRow],
    arms: Sequence[str],
    title: str,
    *,
    limits: tuple[float, float] | None = None,
    image_format: Format = "svg",
) -> bytes:
    """Draw groups below each other.

    Args:
        rows: From the top.
        arms: In the order shown.
        title: What the axis shows.
        limits: Of the axis, where several plots are to be read beside each other.
        image_format: `svg` or `png`.
    """
    colours, markers = arm_colours(arms), dict(zip(arms, ARM_MARKERS * len(arms), strict=False))
    heights = [row.height(len(arms)) for row in rows]
    with canvas(9.4, sum(heights) + 1.0, image_format) as (figure, sink):
        # Fixed places rather than a fitted layout: names, plot and figures are columns of one table.
        figure.set_layout_engine("none")
        whole = sum(heights) + 1.0
        axes = figure.add_axes((0.33, 0.5 / whole, 0.44, sum(heights) / whole))
        y = 0.0
        for row, height in zip(rows, heights, strict=True):
            _draw_row(axes, row, y + height / 2, arms, colours, markers)
            if row.overall:
                for arm, (value, *_) in row.values.items():
                    if value is not None:
                        axes.axvline(value, color=colours[arm], linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
            y += height
        axes.set_ylim(y, 0.0)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.set_yticks([])
        axes.grid(visible=True, axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(title)
        handles = [legend_handle(colour=colours[arm], marker=markers[arm], label=arm) for arm in arms]
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.32, 1.0), ncols=min(5, len(arms)))
    return sink.getvalue()


def _draw_row(
    axes: Any,
    row: ForestRow,
    y: float,
    arms: Sequence[str],
    colours: Mapping[str, str],
    markers: Mapping[str, str],
) -> None:
    beside = axes.get_yaxis_transform()
    weight = "bold" if row.heading or row.overall else "normal"
    indent = -0.74 if row.heading or row.overall else -0.72
    size = _SIZE * min(1.0, _ROOM / max(1, len(row.label))) if row.note else _SIZE
    axes.text(
        indent, y, row.label, transform=beside, va="center", ha="left", color=INK, fontweight=weight, fontsize=size
    )
    axes.text(-0.03, y, row.note, transform=beside, va="center", ha="right", color=MUTED, fontsize=8)
    for arm, (value, low, high) in row.values.items():
        at = y + (arms.index(arm) - (len(arms) - 1) / 2) * _LINE
        if value is None:
            said = "not estimable"
        else:
            if low is not None and high is not None:
                axes.plot([low, high], [at, at], color=colours[arm], linewidth=1.8, solid_capstyle="round")
            axes.plot([value], [at], markers[arm], color=colours[arm], markersize=5, markeredgecolor="white")
            said = f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else "")
        axes.text(1.03, at, said, transform=beside, va="center", ha="left", color=INK, fontsize=8)
        axes.text(1.32, at, arm, transform=beside, va="center", ha="left", color=colours[arm], fontsize=7.5)
