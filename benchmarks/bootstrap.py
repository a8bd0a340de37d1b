"""The bootstrap over patients beside a plain scikit-learn loop: seconds, processor time and memory, in one run.

python benchmarks/bootstrap.py [--images N] [--resamples N] [--loop N] [--metrics core|all]
"""

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date

import numpy as np
import scipy
import sklearn
from sklearn import metrics as sk

from densityclip.evaluation.bootstrap import patient_weights, replicates
from densityclip.evaluation.metrics import METRICS, Sample

CORE = ("accuracy", "linear_kappa", "quadratic_kappa", "auc_a", "auc_b", "auc_c", "auc_d", "dense_auc")


def archive(images: int) -> tuple[Sample, list[str]]:
    """Four images a patient on average, categories 10-40-40-10, answers that are right more often than not."""
    random = np.random.default_rng(0)
    patient = random.integers(0, images // 4, images)
    label = random.choice(4, images // 4, p=[0.1, 0.4, 0.4, 0.1])[patient]
    probabilities = random.dirichlet(np.ones(4), images)
    probabilities[np.arange(images), label] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Sample.of(label, probabilities), [f"patient {number:07d}" for number in patient]


def plain(sample: Sample, weights: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """What one would write: scikit-learn on each resample, its weights given."""
    labels, predicted, said = sample.labels, sample.predicted, sample.probabilities
    dense, how = sample.prob_dense, {"sample_weight": weights}
    ways: dict[str, Callable[[], float]] = {
        "accuracy": lambda: sk.accuracy_score(labels, predicted, **how),
        "linear_kappa": lambda: sk.cohen_kappa_score(labels, predicted, weights="linear", **how),
        "quadratic_kappa": lambda: sk.cohen_kappa_score(labels, predicted, weights="quadratic", **how),
        "dense_auc": lambda: sk.roc_auc_score(labels >= 2, dense, **how),
        "dense_auprc": lambda: sk.average_precision_score(labels >= 2, dense, **how),
    }
    for k, letter in enumerate("abcd"):
        ways[f"auc_{letter}"] = lambda k=k: sk.roc_auc_score(labels == k, said[:, k], **how)
        ways[f"auprc_{letter}"] = lambda k=k: sk.average_precision_score(labels == k, said[:, k], **how)
    return {name: way() for name, way in ways.items() if name in names}


def timed(work: Callable[[], object]) -> tuple[object, float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--loop", type=int, default=5, help="resamples that scikit-learn scores")
    parser.add_argument("--metrics", choices=("core", "all"), default="core")
    given = parser.parse_args()
    names = CORE if given.metrics == "core" else tuple(METRICS)
    sample, patients = archive(given.images)
    before = peak_mb()
    load = os.getloadavg()[0]
    found, wall, processor = timed(lambda: replicates(sample, patients, resamples=given.resamples, seed=0, names=names))
    peak = peak_mb()
    # The first resamples of a shorter draw are those of a longer one.
    position, counts = patient_weights(patients, given.loop, 0)
    rows = [counts[position, k].astype(np.float64) for k in range(given.loop)]
    loop, loop_wall, loop_processor = timed(lambda: [plain(sample, weights, names) for weights in rows])
    off = max(abs(one[name] - found[name][k]) for k, one in enumerate(loop) for name in one)
    print(
        f"{date.today()}, {os.cpu_count()} CPUs, load {load:.1f} before, {os.getloadavg()[0]:.1f} after, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
        f"scikit-learn {sklearn.__version__}"
    )
    print(
        f"\n{given.images:,} images of {len(counts):,} patients, {given.resamples:,} resamples, {len(names)} metrics; "
        f"scikit-learn: {len(loop[0])} of them on {given.loop} resamples, scaled\n"
    )
    scale = given.resamples / given.loop
    print("| | seconds | processor seconds | ratio |\n|---|---:|---:|---:|")
    print(f"| densityclip | {wall:.1f} | {processor:.1f} | 1 |")
    ratio = loop_processor * scale / processor
    print(f"| scikit-learn in a loop | {loop_wall * scale:.0f} | {loop_processor * scale:.0f} | {ratio:.0f} |")
    print(f"\nPeak memory {peak:.0f} MB, of it {before:.0f} MB before the first resample; largest difference {off:.1e}")


if __name__ == "__main__":
    main()
