"""Figures of an evaluation as image bytes: one style, one fixed colour per arm and per modality."""

from densityclip.evaluation.figures.canvas import ARM_COLOURS, MODALITY_COLOURS, Format, arm_colours
from densityclip.evaluation.figures.confusion import confusion_figure
from densityclip.evaluation.figures.curves import reliability_figure, roc_figure
from densityclip.evaluation.figures.dots import Dot, Triple, dot_figure
from densityclip.evaluation.figures.forest import ForestRow, forest_figure, forest_pages
from densityclip.evaluation.figures.training import Trainings, training_figure

__all__ = [
    "ARM_COLOURS",
    "MODALITY_COLOURS",
    "Dot",
    "ForestRow",
    "Format",
    "Trainings",
    "Triple",
    "arm_colours",
    "confusion_figure",
    "dot_figure",
    "forest_figure",
    "forest_pages",
    "reliability_figure",
    "roc_figure",
    "training_figure",
]
