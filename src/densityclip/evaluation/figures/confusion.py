"""Confusion matrices."""

from collections.abc import Sequence

import numpy as np

from densityclip.density import CATEGORIES
from densityclip.evaluation.figures.canvas import INK, Format, square_canvas


def confusion_figure(confusion: Sequence[Sequence[int]], *, image_format: Format = "svg") -> bytes:
    """One confusion matrix: shade and percentage by row, counts below.

    Args:
        confusion: `[4, 4]` counts, label by prediction.
        image_format: `svg` or `png`.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    with square_canvas(image_format) as (axes, sink):
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
