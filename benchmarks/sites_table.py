"""The tables of docs/sites.md, from the folder of `densityclip study sites --out DIR`.

python benchmarks/sites_table.py DIR
"""

import argparse
import json
from pathlib import Path
from typing import Any

from densityclip.report.tables import find_cell

PLACES = (("internal", "test", "all"), ("embed-like", "external", "all"), ("rsna-like", "external", "DM"))
FIGURES = ("macro_auc", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    given = parser.parse_args()
    metrics = json.loads((given.study / "metrics.json").read_text())
    study = json.loads((given.study / "study.json").read_text())
    heads = " | ".join(f"{cohort}: macro AUC | accuracy" for cohort, _, _ in PLACES)
    print(f"| exam level | {heads} |\n|---|{'---|' * len(FIGURES) * len(PLACES)}")
    for arm in (*study["arms"], *study["baselines"]):
        cells = (place(metrics, arm, *where) for where in PLACES)
        print(f"| {arm} | " + " | ".join(text(cell[name]) for cell in cells for name in FIGURES) + " |")
    endpoint = metrics["endpoint"]
    print(f"\nprimary: {endpoint['verdict']}, {text(endpoint['estimate'], 3)}, {endpoint['n_patients']} patients")


def place(metrics: dict[str, Any], arm: str, cohort: str, part: str, modality: str) -> dict[str, Any]:
    found = find_cell(metrics, arm, cohort=cohort, part=part, modality=modality, level="exam")
    assert found is not None, (arm, cohort)
    return dict(found["metrics"])


def text(estimate: dict[str, Any], digits: int = 2, sign: str = "") -> str:
    value, low, high = (f"{estimate[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main()
