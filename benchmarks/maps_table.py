"""The tables of maps in docs/explain.md, from the folder of a study on the three sites; then verdicts and consistency.

python benchmarks/maps_table.py STUDY ARM
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densityclip.explain.summary import interval_words
from densityclip.report.map_tables import map_words

FIGURES = {
    "gland_auc": "finds the gland, AUC",
    "pointing": "points at gland",
    "deletion": "deletion",
    "insertion": "insertion",
    "randomised.everything": "tower randomised",
    "shuffled_labels": "labels shuffled",
}
MAPS = {
    "gradcam": "GradCAM",
    "attention": "attention",
    "occlusion": "occlusion",
    "brightness": "brightness",
    "centre": "blob in the middle",
}
COHORTS = ("internal", "embed-like", "rsna-like")
MODALITIES = ("all", "DM", "s2D", "DBT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("arm")
    given = parser.parse_args()
    folder = given.study / "arms" / given.arm / "maps"
    contents = {name: json.loads((folder / name / "explain.json").read_text()) for name in COHORTS}
    every = [row for content in contents.values() for row in content["figures"]]
    shown = [name for name in FIGURES if any(row["figure"] == name for row in every)]
    maps = [name for name in MAPS if any(row["map"] == name for row in every)]
    heads = " | ".join(FIGURES[name] for name in shown)
    print(f"| site | images | map | {heads} |\n|---|---|---|{'---|' * len(shown)}")
    for cohort, content in contents.items():
        for line in lines(cohort, content["figures"], maps, shown):
            print(line)
    for cohort, content in contents.items():
        print(f"\n### {cohort}\n\n| map | claim | verdict |\n|---|---|---|")
        for row in content["verdicts"]:
            print(f"| {map_words(row['map'])} | {row['claim']} | {row['verdict']}: {row['figures']} |")
        print("\n| map | pairs | same woman | other women | difference |\n|---|---|---|---|---|")
        for row in content["consistency"]:
            told = (estimate(row[name]) for name in ("same", "other", "difference"))
            print(f"| {map_words(row['map'])} | {row['kind']} {row['modalities']} | {' | '.join(told)} |")


def lines(cohort: str, rows: list[dict[str, Any]], maps: list[str], shown: list[str]) -> Iterator[str]:
    modalities = [name for name in MODALITIES if any(row["modality"] == name for row in rows)]
    for modality in modalities:
        count = next(
            row["images"]
            for row in rows
            if (row["modality"], row["density"], row["map"], row["figure"])
            == (modality, "all", "attention", "gland_auc")
        )
        for name in maps:
            cells = " | ".join(cell(rows, modality, name, figure) for figure in shown)
            site = cohort if name == maps[0] and modality == modalities[0] else ""
            yield f"| {site} | {f'{modality}, {count}' if name == maps[0] else ''} | {MAPS[name]} | {cells} |"


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
