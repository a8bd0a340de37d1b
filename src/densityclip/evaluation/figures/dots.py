"""Dots with intervals: every test set in one view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from densityclip.evaluation.figures.canvas import ARM_MARKERS, GRID, Format, arm_colours, canvas, legend_handle
from densityclip.evaluation.metrics import METRICS

Triple = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Dot:
    """One figure of the dot plot.

    Attributes:
        row: Which row it stands in, such as `North · DM`.
        arm: Whose it is.
        values: Metric name to (value, low, high); None where not estimable.
        points: Metric name to what single trainings reached, drawn as small rings.
    """

    row: str
    arm: str
    values: Mapping[str, Triple]
    points: Mapping[str, Sequence[float]] = field(default_factory=dict)


def dot_figure(
    dots: Sequence[Dot],
    arms: Sequence[str],
    metric_names: Sequence[str],
    *,
    image_format: Format = "svg",
) -> bytes:
    """Dots with 95% intervals: a row per test set, a panel per metric, a colour and a marker per arm.

    Args:
        dots: In the order of the rows, from the top.
        arms: In the order shown.
        metric_names: Panels, keys of `METRICS`.
        image_format: `svg` or `png`.
    """
    rows = list(dict.fromkeys(dot.row for dot in dots))
    colours, markers = arm_colours(arms), dict(zip(arms, ARM_MARKERS * len(arms), strict=False))
    # A fixed share of a row for all of its arms, however many: rows must not run into each other.
    step = min(0.24, 0.8 / max(1, len(arms)))
    height = 1.15 + len(rows) * max(0.42, 0.2 * len(arms))
    with canvas(9.4, height, image_format) as (figure, sink):
        panels = figure.subplots(1, len(metric_names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, metric_names, strict=True):
            for dot in dots:
                y = rows.index(dot.row) + (arms.index(dot.arm) - (len(arms) - 1) / 2) * step
                value, low, high = dot.values.get(name, (None, None, None))
                if value is None:
                    continue
                colour = colours[dot.arm]
                if low is not None and high is not None:
                    axes.plot([low, high], [y, y], color=colour, linewidth=2.0, solid_capstyle="round")
                axes.plot([value], [y], markers[dot.arm], color=colour, markersize=6, markeredgecolor="white")
                singles = list(dot.points.get(name, ()))
                axes.plot(singles, [y + 0.1] * len(singles), "o", color=colour, markersize=3.2, markerfacecolor="none")
            axes.set_title(METRICS[name], fontsize=10, loc="left")
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            for k in range(1, len(rows)):
                axes.axhline(k - 0.5, color=GRID, linewidth=0.8)
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = [legend_handle(colour=colours[arm], marker=markers[arm], label=arm) for arm in arms]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(6, len(arms)), fontsize=9)
    return sink.getvalue()
