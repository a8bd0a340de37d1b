"""Curves over probabilities: ROC and reliability."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.density import CATEGORIES
from densityclip.evaluation.figures.canvas import CATEGORY_COLOURS, CATEGORY_DASHES, GRID, MUTED, Format, square_canvas

# Title, colour, line and marker: told apart also in grey.
_RELIABILITY = {
    "chosen": ("chosen category", "#0072B2", "-", "o"),
    "dense": ("dense (C or D)", "#D55E00", "--", "s"),
}


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
    with square_canvas(image_format) as (axes, sink):
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


def reliability_figure(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    image_format: Format = "svg",
) -> bytes:
    """How often it was so, against how probable the model held it; the size of a point grows with its rows.

    Args:
        curves: `chosen` and `dense` to bins of `count`, `mean_probability` and `observed`.
        image_format: `svg` or `png`.
    """
    with square_canvas(image_format) as (axes, sink):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        for name, (title, colour, style, marker) in _RELIABILITY.items():
            bins = [one for one in curves.get(name, []) if one["count"]]
            if not bins:
                continue
            x, y = [one["mean_probability"] for one in bins], [one["observed"] for one in bins]
            most = max(one["count"] for one in bins)
            sizes = [8 + 62 * one["count"] / most for one in bins]
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1.4, zorder=2)
            axes.scatter(x, y, s=sizes, color=colour, marker=marker, edgecolor="white", linewidth=0.6, zorder=3)
            axes.plot([], [], color=colour, linestyle=style, marker=marker, markersize=5, label=title)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.set(xlabel="probability", ylabel="share that was so")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", handlelength=2.4, fontsize=8)
    return sink.getvalue()
