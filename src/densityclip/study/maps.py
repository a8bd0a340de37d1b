"""A study's heat maps: which images are mapped, and what is said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from densityclip import steps
from densityclip.artifacts import read_json
from densityclip.study.state import Report

if TYPE_CHECKING:
    from densityclip.report.map_tables import Maps


@dataclass(frozen=True)
class Chosen:
    """Images of one cohort.

    Attributes:
        mapped: Rows of the index: those drawn, and all of the patients on whom maps are measured.
        drawn: Ids of the images that get an overlay and stand on the sheet.
    """

    mapped: pl.DataFrame
    drawn: frozenset[str]


def choose(index_table: pl.DataFrame, predictions: pl.DataFrame, *, per_cell: int, patients: int) -> Chosen:
    """The images of a cohort to draw and to measure; arguments as of `steps.choose_images` and `choose_patients`."""
    drawn = steps.choose_images(index_table, predictions, per_cell)
    whole = steps.choose_patients(index_table, predictions, patients)
    mapped = pl.concat([drawn, whole]).unique("image_id", keep="first", maintain_order=True)
    return Chosen(mapped, frozenset(drawn["image_id"]))


def make_maps(
    bundle: Path,
    others: Sequence[Path],
    chosen: Mapping[str, Chosen],
    out: Path,
    *,
    shuffled: Path | None,
    methods: Sequence[str],
    truth: Mapping[str, Path],
    title: str,
    report: Report,
) -> None:
    """Map the chosen images of each cohort with one model, and those of others for what they agree on.

    Args:
        bundle: The model.
        others: Models of the same arm that were trained in other folds.
        chosen: By cohort.
        out: Where to write, a folder a cohort.
        shuffled: The same model trained on shuffled labels, to see what is left of the maps.
        methods: How maps are made.
        truth: By cohort, the folder of fibroglandular thickness.
        title: Of the model, for the sheets.
        report: Told (done, total).
    """
    from densityclip.inference.predictor import Predictor
    from densityclip.model.bundle import load_bundle

    steps.explain(
        {name: one.mapped for name, one in chosen.items()},
        Predictor(load_bundle(bundle)),
        out,
        methods=methods,
        others=[Predictor(load_bundle(one)) for one in others],
        shuffled=None if shuffled is None else Predictor(load_bundle(shuffled)),
        drawn=frozenset().union(*(one.drawn for one in chosen.values())),
        truth=truth,
        title=f"model {title}",
        progress=report,
    )


def maps_of(arm: str, folder: Path, kinds: Mapping[str, str]) -> "Maps":
    """The maps of an arm on one cohort, as the report takes them."""
    from densityclip.report.map_tables import Maps

    cohort = folder.name
    headed = f"{cohort} ({kinds[cohort]})" if cohort in kinds else cohort
    return Maps(arm, headed, read_json(folder / "explain.json", "densityclip explain"))
