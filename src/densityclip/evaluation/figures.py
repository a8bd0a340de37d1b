"""Figures of an evaluation as image bytes: one style, one fixed colour per arm and per modality."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from densityclip.density import CATEGORIES
from densityclip.evaluation.metrics import METRICS
from densityclip.records import MODALITIES

Format = Literal["svg", "png"]

# Okabe and Ito's palette for arms and Tol's muted one for modalities: told apart with every common colour vision.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MODALITY_COLOURS: dict[str, str] = {"DM": "#332288", "s2D": "#117733", "DBT": "#CC6677", "all": "#555555"}
# Ordered categories get an ordered scale, light to dark, and dash patterns for print in grey.
CATEGORY_COLOURS: dict[str, str] = {"A": "#E0A100", "B": "#5DA05D", "C": "#2F7A9E", "D": "#3B1F6B"}
CATEGORY_DASHES: dict[str, str] = {"A": "-", "B": "--", "C": "-.", "D": ":"}
ARM_DASHES = ("-", "--", ":", "-.")
INK, MUTED, GRID = "#1c2733", "#5c6b7a", "#dfe5ea"


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """A fixed colour per arm: by name, so that an arm keeps its colour in whatever order a page shows the arms."""
    return {arm: ARM_COLOURS[k % len(ARM_COLOURS)] for k, arm in enumerate(sorted(arms))}


def confusion_figure(confusion: Sequence[Sequence[int]], *, image_format: Format = "svg") -> bytes:
    """One confusion matrix: shade and percentage by row, counts below.

    Args:
        confusion: `[4, 4]` counts, label by prediction.
        image_format: `svg` or `png`.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    with _canvas(2.9, 2.75, image_format) as (figure, sink):
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        for i, j in np.ndindex(counts.shape):
            colour = "white" if shares[i, j] > 0.55 else INK
            share = f"{100 * shares[i, j]:.0f}%" if rows[i, 0] else "–"
            axes.text(j, i - 0.12, share, ha="center", va="center", color=colour, fontsize=10, fontweight="bold")
            axes.text(j, i + 0.25, f"{counts[i, j]:,.0f}", ha="center", va="center", color=colour, fontsize=7.5)
        axes.set_xticks(range(4), CATEGORIES)
        axes.set_yticks(range(4), CATEGORIES)
        axes.set(xlabel="predicted", ylabel="label")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for side in ("top", "right", "bottom", "left"):
            axes.spines[side].set_visible(False)
    return sink.getvalue()


def roc_figure(
    roc: Mapping[str, Mapping[str, Sequence[float]]],
    areas: Mapping[str, float | None],
    *,
    image_format: Format = "svg",
) -> bytes:
    """ROC curve of each category against the rest.

    Args:
        roc: Letter to `fpr` and `tpr`.
        areas: Letter to its AUC, for the legend.
        image_format: `svg` or `png`.
    """
    with _canvas(2.9, 2.75, image_format) as (figure, sink):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        for letter in CATEGORIES:
            area = areas.get(letter)
            label = f"{letter}  {area:.2f}" if area is not None else f"{letter}  not estimable"
            curve = roc.get(letter, {"fpr": [], "tpr": []})
            axes.plot(
                curve["fpr"],
                curve["tpr"],
                color=CATEGORY_COLOURS[letter],
                linestyle=CATEGORY_DASHES[letter],
                linewidth=1.8,
                label=label,
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        axes.legend(loc="lower right", title="AUC", handlelength=2.2, fontsize=8, title_fontsize=8)
    return sink.getvalue()


@dataclass(frozen=True)
class Dot:
    """One figure of the dot plot.

    Attributes:
        row: Which row it stands in, such as `North · DM`.
        arm: Whose it is.
        values: Metric name to (value, low, high); None where not estimable.
    """

    row: str
    arm: str
    values: Mapping[str, tuple[float | None, float | None, float | None]]


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
    colours, markers = arm_colours(arms), dict(zip(arms, "osD^vP" * len(arms), strict=False))
    height = 1.15 + len(rows) * max(0.42, 0.2 * len(arms))
    with _canvas(9.4, height, image_format) as (figure, sink):
        panels = figure.subplots(1, len(metric_names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, metric_names, strict=True):
            for dot in dots:
                y = rows.index(dot.row) + (arms.index(dot.arm) - (len(arms) - 1) / 2) * 0.24
                value, low, high = dot.values.get(name, (None, None, None))
                if value is None:
                    continue
                if low is not None and high is not None:
                    axes.plot([low, high], [y, y], color=colours[dot.arm], linewidth=2.0, solid_capstyle="round")
                axes.plot([value], [y], markers[dot.arm], color=colours[dot.arm], markersize=6, markeredgecolor="white")
            axes.set_title(METRICS[name], fontsize=10, loc="left")
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            for k in range(1, len(rows)):
                axes.axhline(k - 0.5, color=GRID, linewidth=0.8)
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = [_handle(colour=colours[arm], marker=markers[arm], label=arm) for arm in arms]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(arms), fontsize=9)
    return sink.getvalue()


@dataclass
class _Panel:
    """Curves that share an axis."""

    title: str
    curves: list[tuple[str, str | None, pl.DataFrame]] = field(default_factory=list)


# What a panel is called; a name not listed stands under itself.
_PANEL_TITLES = {
    "train/loss": "Training loss",
    "train/loss/*": "Training loss per modality",
    "validation/loss": "Validation loss",
    "validation/macro_auc/*": "Validation macro AUC",
    "validation/macro_auc": "Validation macro AUC, all modalities",
    "validation/worst_macro_auc": "Validation macro AUC of the worst modality",
    "signal/*": "Learning signal per modality",
    "train/signal": "Learning signal",
    "weight/*": "Modality weight in the loss",
    "train/logit_scale": "Logit scale",
    "train/learning_rate": "Learning rate",
    "lr": "Learning rate",
}


def training_figure(trainings: Mapping[str, pl.DataFrame], *, image_format: Format = "svg") -> bytes:
    """Curves of the trainings: a panel per quantity, a colour per arm or, where a quantity has them, per modality.

    Args:
        trainings: Arm to a table of `step`, `name`, `value`; names such as `train/loss`, `validation/macro_auc/DM`,
            `weight/DM`, `lr`.
        image_format: `svg` or `png`.
    """
    arms = list(trainings)
    panels = _panels(trainings)
    columns = 2
    lines = max(1, -(-len(panels) // columns))
    with _canvas(9.4, 2.55 * lines + 0.2, image_format) as (figure, sink):
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid, panels, strict=False):
            _draw_curves(axes, panel, arms)
    return sink.getvalue()


def _panels(trainings: Mapping[str, pl.DataFrame]) -> list[_Panel]:
    found: dict[str, _Panel] = {}
    for arm, table in trainings.items():
        for name in table["name"].unique(maintain_order=True).to_list():
            stem, _, last = name.rpartition("/")
            quantity, modality = (f"{stem}/*", last) if last in (*MODALITIES, "all") and stem else (name, None)
            panel = found.setdefault(quantity, _Panel(_PANEL_TITLES.get(quantity, quantity)))
            curve = table.filter((pl.col("name") == name) & pl.col("value").is_finite()).sort("step")
            panel.curves.append((arm, modality, curve))
    known = list(_PANEL_TITLES)
    return [found[name] for name in sorted(found, key=lambda n: known.index(n) if n in known else len(known))]


def _draw_curves(axes: Any, panel: _Panel, arms: list[str]) -> None:
    by_modality = any(modality for _, modality, _ in panel.curves)
    for arm, modality, curve in panel.curves:
        steps, values = curve["step"].to_numpy(), curve["value"].to_numpy()
        k = arms.index(arm)
        colour = MODALITY_COLOURS[modality] if modality else (MUTED if by_modality else arm_colours(arms)[arm])
        style = ARM_DASHES[k % len(ARM_DASHES)]
        label = f"{arm} · {modality}" if modality else arm
        if len(values) > 60 and panel.title.startswith("Training loss"):
            # A long curve of losses is a band of noise: it stays as a faint line under its running mean.
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.25)
            width = max(3, len(values) // 25)
            values = np.convolve(values, np.ones(width) / width, mode="valid")
            steps = steps[width // 2 : width // 2 + len(values)]
        marker = "o" if len(values) <= 20 else None
        axes.plot(steps, values, color=colour, linestyle=style, marker=marker, markersize=3, linewidth=1.6, label=label)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel("optimiser step")
    axes.grid(visible=True)
    axes.legend(fontsize=7.5, ncols=2 if len(panel.curves) > 3 else 1, handlelength=2.6)


def _handle(*, colour: str, marker: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, markersize=6, linewidth=2, markeredgecolor="white", label=label)


_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    # Text as outlines: a page looks alike on every machine. A fixed salt: the same data gives the same bytes.
    "svg.fonttype": "path",
    "svg.hashsalt": "densityclip",
}


@contextmanager
def _canvas(width: float, height: float, image_format: Format) -> Iterator[tuple[Any, io.BytesIO]]:
    """A figure of some inches in the house style, written to the sink when the block ends."""
    # A figure with its own Agg canvas, not pyplot: no window and no list of open figures.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sink = io.BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, sink
        metadata = {"Date": None} if image_format == "svg" else {"Software": None}
        figure.savefig(sink, format=image_format, dpi=160, facecolor="white", metadata=metadata)
