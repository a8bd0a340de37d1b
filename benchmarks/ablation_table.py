"""The ablation's table and figure, from the folder of `densityclip study ablation --out DIR`.

    python benchmarks/ablation_table.py DIR --figure docs/images/ablation.png

Every training is a row and a point: nothing is averaged. The grey band is the spread of the default's own seeds, which
is what a difference has to be held against.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

from densityclip.evaluation.figures import ARM_COLOURS
from densityclip.report.tables import find_cell

matplotlib.use("Agg")

PLACES = (("internal", "test"), ("rsna-like", "external"), ("embed-like", "external"))
FACTORS = {
    "default": "default (three seeds)",
    "loss": "loss",
    "class": "class weights",
    "modality": "modality weights",
    "sampler": "sampler",
    "adapt": "adaptation",
    "text": "text tower",
    "single": "trained on",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    metrics = json.loads((given.study / "metrics.json").read_text())
    arms = list(json.loads((given.study / "study.json").read_text())["arms"])
    rows = {arm: [cell(metrics, arm, cohort, part) for cohort, part in PLACES] for arm in arms}
    heads = " | ".join(f"{cohort}, macro AUC | kappa" for cohort, _ in PLACES)
    print(f"| arm | worst validation AUC | {heads} |")
    print("|---|---|" + "---|" * (2 * len(PLACES)))
    for arm, cells in rows.items():
        figures = " | ".join(f"{text(found, 'macro_auc')} | {text(found, 'quadratic_kappa')}" for found in cells)
        print(f"| {arm} | {selected(given.study, arm):.3f} | {figures} |")
    if given.figure:
        draw(rows, given.figure)


def cell(metrics: dict[str, Any], arm: str, cohort: str, part: str) -> dict[str, Any]:
    found = find_cell(metrics, arm, cohort=cohort, part=part, modality=modality_of(cohort), level="image")
    assert found is not None, (arm, cohort)
    return dict(found["metrics"])


def modality_of(cohort: str) -> str:
    return "DM" if cohort == "rsna-like" else "all"  # rsna-like has DM alone


def text(found: dict[str, Any], name: str) -> str:
    value = found[name]
    return f"{value['value']:.3f} ({value['low']:.2f} to {value['high']:.2f})"


def selected(study: Path, arm: str) -> float:
    table = pl.read_csv(study / "arms" / arm / "training.csv")
    return float(table.filter(pl.col("name") == "validation/worst_macro_auc")["value"].max())


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    names = list(rows)[::-1]
    figure, panels = plt.subplots(1, len(PLACES), figsize=(10.5, 0.27 * len(names) + 1.2), sharey=True)
    for axes, place, (cohort, _) in zip(panels, range(len(PLACES)), PLACES, strict=True):
        own = [rows[arm][place]["macro_auc"]["value"] for arm in names if arm.startswith("default")]
        axes.axvspan(min(own), max(own), color="0.9", zorder=0)
        for height, arm in enumerate(names):
            value = rows[arm][place]["macro_auc"]
            kind = list(FACTORS).index(arm.split("-")[0])
            colour = ARM_COLOURS[kind % len(ARM_COLOURS)]
            axes.plot([value["low"], value["high"]], [height, height], color=colour, linewidth=1, alpha=0.5)
            axes.plot(value["value"], height, "o", color=colour, markersize=5)
        axes.set_title(f"{cohort} ({modality_of(cohort)})", fontsize=10)
        axes.set_xlabel("macro AUC, image level")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
