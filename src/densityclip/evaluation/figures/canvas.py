"""What every figure shares: style, colours, and the canvas that becomes image bytes."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

Format = Literal["svg", "png"]

# Okabe and Ito's palette for arms and Tol's muted one for modalities: told apart with every common colour vision.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MODALITY_COLOURS: dict[str, str] = {"DM": "#332288", "s2D": "#117733", "DBT": "#CC6677", "all": "#555555"}
# Ordered categories get an ordered scale, light to dark, and dash patterns for print in grey.
CATEGORY_COLOURS: dict[str, str] = {"A": "#E0A100", "B": "#5DA05D", "C": "#2F7A9E", "D": "#3B1F6B"}
CATEGORY_DASHES: dict[str, str] = {"A": "-", "B": "--", "C": "-.", "D": ":"}
ARM_DASHES = ("-", "--", ":", "-.")
ARM_MARKERS = "osD^vP"
INK, MUTED, GRID = "#1c2733", "#5c6b7a", "#dfe5ea"


def arm_colours(arms: Sequence[str]) -> dict[str, str]:
    """A fixed colour per arm: by name, so that an arm keeps its colour in whatever order a page shows the arms."""
    return {arm: ARM_COLOURS[k % len(ARM_COLOURS)] for k, arm in enumerate(sorted(arms))}


def legend_handle(*, colour: str, marker: str, label: str) -> Any:
    """A line with a marker, for a legend that is not made from what is drawn."""
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


# Room for axis titles around a small square plot, in shares of the figure: left, bottom, right, top.
_SQUARE_ROOM = (0.17, 0.16, 0.96, 0.97)


@contextmanager
def square_canvas(image_format: Format) -> Iterator[tuple[Any, io.BytesIO]]:
    """A small square figure: its axes and the sink. Its room is fixed, as fitting it takes half of the time."""
    with canvas(2.9, 2.85, image_format) as (figure, sink):
        figure.set_layout_engine("none")
        left, bottom, right, top = _SQUARE_ROOM
        yield figure.add_axes((left, bottom, right - left, top - bottom)), sink


@contextmanager
def canvas(width: float, height: float, image_format: Format) -> Iterator[tuple[Any, io.BytesIO]]:
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
