"""The tables of docs/demo.md, from the folder of `make demo`.

python benchmarks/demo_table.py demo
"""

import argparse
import json
from pathlib import Path
from typing import Any

from densityclip.report.tables import find_cell, find_difference
from sites_table import text

PLACES = (
    *(("internal", "test", modality) for modality in ("DM", "s2D", "DBT", "all")),
    *(("embed-like", "external", modality) for modality in ("DM", "s2D", "DBT", "all")),
    ("rsna-like", "external", "DM"),
)
ARMS = ("single", "multi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    metrics = json.loads((parser.parse_args().study / "metrics.json").read_text())
    for level in ("image", "exam"):
        print(f"\n## {level.capitalize()} level\n")
        heads = ("single: macro AUC", "multi: macro AUC", "multi - single", "single: accuracy", "multi: accuracy")
        print(f"| cohort | test modality | {level}s / patients | {' | '.join(heads)} |")
        print(f"|---|---|---|{'---|' * len(heads)}")
        for cohort, part, modality in PLACES:
            where = {"cohort": cohort, "part": part, "modality": modality, "level": level}
            print(row(metrics, where))
    endpoint = metrics["endpoint"]
    print(f"\nprimary: {endpoint['verdict']}, {text(endpoint['estimate'], 3, '+')}, {endpoint['n_patients']} patients")


def row(metrics: dict[str, Any], where: dict[str, str]) -> str:
    cells = [find_cell(metrics, arm, **where) for arm in ARMS]
    difference = find_difference(metrics, ("multi", "single"), **where)
    assert difference is not None, where
    assert cells[0] is not None, where
    single, multi = (cell["metrics"] for cell in cells if cell is not None)
    columns = (
        where["cohort"],
        where["modality"],
        f"{cells[0]['n']} / {cells[0]['n_patients']}",
        text(single["macro_auc"]),
        text(multi["macro_auc"]),
        text(difference["metrics"]["macro_auc"], 3, "+"),
        text(single["accuracy"]),
        text(multi["accuracy"]),
    )
    return f"| {' | '.join(columns)} |"


if __name__ == "__main__":
    main()
