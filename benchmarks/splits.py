"""Splits: seconds for a million images, and the balance of five folds, beside scikit-learn's StratifiedGroupKFold.

python benchmarks/splits.py [--quick] [--repeats N] [--patients N]
"""

import argparse
import os
import platform
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import date

import numpy as np
import polars as pl
import sklearn
from sklearn.model_selection import StratifiedGroupKFold

from densityclip.datasets.splits import make_splits

FOLDS = 5
KINDS = ("density", "modality", "site")


def archive(patients: int, sites: int, seed: int) -> pl.DataFrame:
    """Sites of very different size, class mix and machines; one exam or several; a few women seen at two sites."""
    random = np.random.default_rng(seed)
    size = 1 / np.arange(1, sites + 1) ** 1.6
    site = random.choice(sites, p=size / size.sum(), size=patients)
    mix = np.stack([np.roll([0.1, 0.4, 0.4, 0.1], shift) for shift in range(3)]).cumsum(axis=1)
    label = (random.random(patients)[:, None] > mix[site % 3]).sum(axis=1).clip(0, 3)
    has = random.random((patients, 3)) < np.stack([1 - 0.1 * (site % 7), 0.1 * (site % 5), np.full(patients, 0.15)], 1)
    has[~has.any(axis=1), 0] = True
    exams = 1 + random.geometric(0.5, patients) * (random.random(patients) < 0.2)
    who, kind = np.nonzero(has)
    rows = np.repeat(np.arange(len(who)), 2 * exams[who])
    who, kind = who[rows], kind[rows]
    elsewhere = random.random(patients)[who] < 0.02
    return pl.DataFrame(
        {
            "patient_id": who,
            "density": np.array(list("ABCD"))[label[who]],
            "modality": np.array(["DM", "s2D", "DBT"])[kind],
            "site": np.where(elsewhere & (random.random(len(who)) < 0.5), 0, site[who]),
        }
    ).with_columns(
        pl.format("P{}", "patient_id").alias("patient_id"),
        pl.format("site {}", "site").alias("site"),
        institution=pl.lit("one"),
    )


def ours(index: pl.DataFrame, seed: int) -> dict[str, int]:
    shares = {"train": 1 - 1 / FOLDS, "validation": 1 / FOLDS}
    splits = make_splits({"in": index}, external=[], folds=FOLDS, seed=seed, shares=shares)
    return dict(splits.filter(part="validation").select("patient_id", "fold").iter_rows())


def theirs(*by: str) -> Callable[[pl.DataFrame, int], dict[str, int]]:
    def run(index: pl.DataFrame, seed: int) -> dict[str, int]:
        target = index.select(pl.concat_str(by, separator=" ")).to_series().to_numpy()
        groups = index["patient_id"].to_physical().rank("dense").to_numpy()
        names = index["patient_id"].to_numpy()
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(groups, target, groups)
        return {name: fold for fold, (_, scored) in enumerate(folds) for name in set(names[scored])}

    return run


WAYS = {
    "densityclip": ours,
    "StratifiedGroupKFold by label": theirs("density"),
    "StratifiedGroupKFold by label, modality and site": theirs(*KINDS),
}


def imbalance(index: pl.DataFrame, fold_of: Mapping[str, int], unit: str, kind: str) -> float:
    """Mean over folds and values of |share in the fold - share overall|, in percentage points."""
    folded = index.with_columns(
        pl.col("patient_id").replace_strict(list(fold_of), list(fold_of.values())).alias("fold")
    )
    rows = folded if unit == "images" else folded.unique(["patient_id", kind])
    whole = folded if unit == "images" else folded.unique("patient_id")
    sizes = dict(whole.group_by("fold").len().iter_rows())
    overall = {value: number / len(whole) for value, number in rows.group_by(kind).len().iter_rows()}
    found = {(fold, value): number for fold, value, number in rows.group_by("fold", kind).len().iter_rows()}
    distances = [
        abs(found.get((fold, value), 0) / size - share)
        for fold, size in sizes.items()
        for value, share in overall.items()
    ]
    return 100 * statistics.fmean(distances)


def balance(seeds: int, patients: int) -> None:
    totals: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    for seed in range(seeds):
        index = archive(patients, 6, seed)
        for name, way in WAYS.items():
            folds = way(index, seed)
            totals[name].append(
                [imbalance(index, folds, unit, kind) for unit in ("patients", "images") for kind in KINDS]
            )
    heads = [f"{unit} by {kind}" for unit in ("patients", "images") for kind in KINDS]
    print(
        f"\nMean |share in a fold - share overall|, percentage points: {seeds} generated cohorts of {patients} "
        f"patients at 6 sites, {FOLDS} folds\n"
    )
    print(f"| | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name, rows in totals.items():
        print(f"| {name} | {' | '.join(f'{np.mean(column):.2f}' for column in zip(*rows, strict=True))} |")


def speed(patients: int, sites: int, repeats: int) -> None:
    index = archive(patients, sites, 0)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    peak = 0.0
    for repeat in range(repeats):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way(index, repeat)
            seconds[name].append(time.perf_counter() - start)
            if not peak:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{FOLDS} folds of {len(index):,} images, {patients:,} patients, {sites} sites; median of {repeats}\n")
    print("| | seconds | of densityclip's |\n|---|---:|---:|")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {value / medians['densityclip']:.1f} |")
    print(f"\nPeak memory of the process after densityclip's first run, the table included: {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patients", type=int, default=300_000)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="The least populated class")
    print(
        f"{date.today()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, polars {pl.__version__}, "
        f"numpy {np.__version__}, scikit-learn {sklearn.__version__}"
    )
    balance(3 if given.quick else 10, 300)
    speed(20_000 if given.quick else given.patients, 60, 1 if given.quick else given.repeats)


if __name__ == "__main__":
    main()
