"""Curves of trainings: a panel per quantity; of several trainings of an arm, thin lines and their mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from densityclip.evaluation.figures.canvas import (
    ARM_DASHES,
    MODALITY_COLOURS,
    MUTED,
    Format,
    arm_colours,
    canvas,
)
from densityclip.records import MODALITIES

# Of one arm: one training, or several.
Trainings = Mapping[str, pl.DataFrame | Sequence[pl.DataFrame]]


@dataclass
class _Panel:
    """Curves that share an axis."""

    title: str
    curves: dict[tuple[str, str | None], list[pl.DataFrame]] = field(default_factory=dict)


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


def training_figure(trainings: Trainings, *, image_format: Format = "svg") -> bytes:
    """Curves of the trainings: a panel per quantity, a colour per arm or, where a quantity has them, per modality.

    Args:
        trainings: Arm to one table of `step`, `name`, `value`, or to several, one a training; names such as
            `train/loss`, `validation/macro_auc/DM`, `weight/DM`, `lr`.
        image_format: `svg` or `png`.
    """
    arms = list(trainings)
    panels = _panels(trainings)
    columns = 2
    lines = max(1, -(-len(panels) // columns))
    with canvas(9.4, 2.55 * lines + 0.2, image_format) as (figure, sink):
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel, arms)
    return sink.getvalue()


def _panels(trainings: Trainings) -> list[_Panel]:
    found: dict[str, _Panel] = {}
    for arm, tables in trainings.items():
        for table in [tables] if isinstance(tables, pl.DataFrame) else tables:
            for name in table["name"].unique(maintain_order=True).to_list():
                stem, _, last = name.rpartition("/")
                quantity, modality = (f"{stem}/*", last) if last in (*MODALITIES, "all") and stem else (name, None)
                panel = found.setdefault(quantity, _Panel(_PANEL_TITLES.get(quantity, quantity)))
                curve = table.filter((pl.col("name") == name) & pl.col("value").is_finite()).sort("step")
                panel.curves.setdefault((arm, modality), []).append(curve.select("step", "value"))
    known = list(_PANEL_TITLES)
    return [found[name] for name in sorted(found, key=lambda n: known.index(n) if n in known else len(known))]


def _mean(curves: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Mean over trainings at the steps that all of them have; a mean over some would jump where one begins or ends."""
    every = pl.concat(curves).group_by("step").agg(pl.col("value").mean(), pl.len().alias("trainings"))
    return every.filter(pl.col("trainings") == len(curves)).sort("step").select("step", "value")


def _draw_panel(axes: Any, panel: _Panel, arms: list[str]) -> None:
    by_modality = any(modality for _, modality in panel.curves)
    for (arm, modality), curves in panel.curves.items():
        colour = MODALITY_COLOURS[modality] if modality else (MUTED if by_modality else arm_colours(arms)[arm])
        style = ARM_DASHES[arms.index(arm) % len(ARM_DASHES)]
        for curve in curves if len(curves) > 1 else ():
            axes.plot(*_smooth(curve, panel), color=colour, linewidth=0.6, alpha=0.4)
        _draw_curve(axes, panel, _mean(curves), colour, style, f"{arm} · {modality}" if modality else arm, len(curves))
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel("optimiser step")
    axes.grid(visible=True)
    axes.legend(fontsize=7.5, ncols=2 if len(panel.curves) > 3 else 1, handlelength=2.6)


def _draw_curve(
    axes: Any, panel: _Panel, curve: pl.DataFrame, colour: str, style: str, label: str, trainings: int
) -> None:
    steps, values = _smooth(curve, panel)
    if trainings == 1 and _is_long(curve, panel):
        axes.plot(curve["step"].to_numpy(), curve["value"].to_numpy(), color=colour, linewidth=0.7, alpha=0.25)
    marker = "o" if len(values) <= 20 else None
    axes.plot(steps, values, color=colour, linestyle=style, marker=marker, markersize=3, linewidth=1.6, label=label)


def _is_long(curve: pl.DataFrame, panel: _Panel) -> bool:
    return curve.height > 60 and panel.title.startswith("Training loss")


def _smooth(curve: pl.DataFrame, panel: _Panel) -> tuple[Any, Any]:
    """Steps and values; a long curve of losses is a band of noise, so its running mean."""
    steps, values = curve["step"].to_numpy(), curve["value"].to_numpy()
    if not _is_long(curve, panel):
        return steps, values
    width = max(3, len(values) // 25)
    smoothed = np.convolve(values, np.ones(width) / width, mode="valid")
    return steps[width // 2 : width // 2 + len(smoothed)], smoothed
