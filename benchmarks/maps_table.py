"""The tables of maps in docs/explain.md, from the folder of a study.

python benchmarks/maps_table.py STUDY ARM
"""

import argparse
import json
from pathlib import Path
from typing import Any

from densityclip.explain.summary import interval_words
from densityclip.report.map_tables import map_words

FIGURES = {
    "gland_auc": "finds the gland, AUC",
    "pointing": "points at gland",
    "deletion": "deletion",
    "insertion": "insertion",
    "energy_breast": "heat in the breast",
    "noise": "under noise",
    "randomised.everything": "tower randomised",
    "shuffled_labels": "labels shuffled",
}
MAPS = ("gradcam", "attention", "occlusion", "brightness", "centre", "flat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("arm")
    given = parser.parse_args()
    folders = sorted((given.study / "arms" / given.arm / "maps").iterdir())
    contents = {folder.name: json.loads((folder / "explain.json").read_text()) for folder in folders}
    for cohort, content in contents.items():
        rows = content["figures"]
        modalities = list(dict.fromkeys(row["modality"] for row in rows))
        print(f"\n### {cohort}: {content['images']} images\n")
        shown = [name for name in FIGURES if any(row["figure"] == name for row in rows)]
        print(f"| images | map | {' | '.join(FIGURES[name] for name in shown)} |\n|---|---|{'---|' * len(shown)}")
        for modality in modalities:
            for name in MAPS:
                cells = [cell(rows, modality, name, figure) for figure in shown]
                if any(cells):
                    print(f"| {modality} | {map_words(name)} | {' | '.join(cells)} |")
        print("\n| map | claim | verdict |\n|---|---|---|")
        for row in content["verdicts"]:
            print(f"| {map_words(row['map'])} | {row['claim']} | {row['verdict']}: {row['figures']} |")
        print("\n| map | pairs | same woman | other women | difference |\n|---|---|---|---|---|")
        for row in content["consistency"]:
            told = (estimate(row[name]) for name in ("same", "other", "difference"))
            print(f"| {map_words(row['map'])} | {row['kind']} {row['modalities']} | {' | '.join(told)} |")


def cell(rows: list[dict[str, Any]], modality: str, name: str, figure: str) -> str:
    wanted = {"modality": modality, "density": "all", "map": name, "figure": figure}
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return interval_words(found[0]) if found else ""


def estimate(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return ""
    return interval_words({"mean": one["value"], "low": one["low"], "high": one["high"]})


if __name__ == "__main__":
    main()
