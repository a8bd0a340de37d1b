"""Deletion and insertion curves of the maps of an arm on a cohort, as pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from densityclip.evaluation.figures.canvas import ARM_COLOURS, ARM_MARKERS, MUTED, canvas
from densityclip.explain.faithfulness import RANDOM
from densityclip.explain.figures import DELETION, INSERTION
from densityclip.explain.followers import BRIGHTNESS, CENTRE
from densityclip.explain.methods import METHOD_WORDS, METHODS
from densityclip.records import number_of
from densityclip.report.map_tables import Maps, map_words
from densityclip.report.pictures import Picture
from densityclip.report.render import data_uri

# What knows nothing of the model is grey, and told apart by its dashes.
_DASHES = {BRIGHTNESS: (0, (5, 2)), CENTRE: (0, (2, 2)), RANDOM: "-"}
_AXES = {
    DELETION: ("share of the breast's tokens taken away", "deletion: lower is better"),
    INSERTION: ("share of the breast's tokens given back", "insertion: higher is better"),
}


def curve_pictures(maps: Sequence[Maps]) -> list[Picture]:
    """One picture for each arm and cohort whose maps were measured."""
    return [_picture(one) for one in maps if one.content.get("curves")]


def curve_rows(maps: Sequence[Maps]) -> Iterator[dict[str, Any]]:
    """Every point of every curve, for CSV: one row a point."""
    for one in maps:
        for row in one.content.get("curves", []):
            ends = [row[end] or [None] * len(row["mean"]) for end in ("low", "high")]
            about = {"arm": one.arm, "cohort": one.cohort, "map": row["map"], "curve": row["curve"]}
            for share, mean, low, high in zip(row["share"], row["mean"], *ends, strict=True):
                yield about | {
                    "share": share,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "images": row["images"],
                    "patients": row["patients"],
                }


def _picture(one: Maps) -> Picture:
    curves = one.content["curves"]
    patients = number_of(max(row["patients"] for row in curves), "patient")
    banded = any(row["low"] is not None for row in curves)
    band = "bands are 95% intervals over patients, point by point" if banded else "too few patients for intervals"
    halves = [
        f"{_words(row['map'])} {row['mean'][len(row['mean']) // 2]:.2f}" for row in curves if row["curve"] == DELETION
    ]
    whole = max(row["mean"][0] for row in curves if row["curve"] == DELETION)
    return Picture(
        data_uri(_drawn(curves), "svg"),
        "",
        f"{one.title}, {patients}; means over images; {band}.",
        f"Deletion and insertion curves of {one.title}. With half of the tokens taken away, of {whole:.2f} are left: "
        + ", ".join(halves),
    )


def _drawn(curves: Sequence[Mapping[str, Any]]) -> bytes:
    with canvas(9.0, 3.3, "svg") as (figure, sink):
        both = figure.subplots(1, 2, sharey=True)
        for axes, (name, (across, title)) in zip(both, _AXES.items(), strict=True):
            for row in (row for row in curves if row["curve"] == name):
                _line(axes, row)
            axes.set(xlim=(0, 1), xlabel=across)
            axes.set_title(title, loc="left", fontsize=9)
        both[0].set_ylabel("density score above fat's")
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, handlelength=3)
    return sink.getvalue()


def _line(axes: Any, row: Mapping[str, Any]) -> None:
    name = row["map"]
    if name not in METHOD_WORDS:
        axes.plot(row["share"], row["mean"], color=MUTED, linestyle=_DASHES[name], linewidth=1.2, label=_words(name))
        return
    place = METHODS.index(name)
    axes.plot(
        row["share"],
        row["mean"],
        color=ARM_COLOURS[place],
        marker=ARM_MARKERS[place],
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.5,
        linewidth=1.8,
        label=_words(name),
        zorder=3,
    )
    if row["low"] is not None:
        axes.fill_between(row["share"], row["low"], row["high"], color=ARM_COLOURS[place], alpha=0.15, linewidth=0)


def _words(name: str) -> str:
    return "random orders" if name == RANDOM else map_words(name)
