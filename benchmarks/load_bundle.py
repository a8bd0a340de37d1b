"""Opening a bundle of BiomedCLIP's real size for inference: ours against the whole model through open_clip.

    python benchmarks/load_bundle.py [--repeats 5]

The bundle holds random weights (1.6 GB on the disk while it runs). Each opening happens in a fresh process, after its
imports, and they take turns; the files are in the page cache, as they were just written. Peak memory is what the
process took beyond its imports.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

# What any of the ways imports, the text tower's module included, which transformers would import while it is built.
IMPORTS = (
    "open_clip",
    "timm",
    "transformers.models.bert.modeling_bert",
    "densityclip.model.bundle",
    "densityclip.model.classifier",
)


def make(folder: Path) -> None:
    import torch

    from densityclip.imaging.recipe import Recipe
    from densityclip.model.biomedclip import load_foundation
    from densityclip.model.bundle import save_bundle
    from densityclip.model.classifier import class_embeddings
    from densityclip.model.full_size import make_full_size
    from densityclip.model.prompts import DEFAULT_PROMPTS
    from densityclip.probability.calibrate import Calibration

    make_full_size(folder / "foundation", seed=0)
    foundation = load_foundation(folder / "foundation")
    with torch.no_grad():
        embeddings = class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ["DM", "s2D", "DBT"])
    save_bundle(
        folder / "bundle",
        foundation,
        recipe=Recipe(height=224, width=224),
        prompts=DEFAULT_PROMPTS,
        embeddings=embeddings,
        calibration=Calibration().to_dict(),
        provenance={"data": {}},
    )


def checked(bundle: Path) -> None:
    from densityclip.model.bundle import load_bundle

    load_bundle(bundle)


def ours(bundle: Path) -> None:
    from densityclip.model.bundle import load_bundle

    load_bundle(bundle).classifier()


def whole_by_us(bundle: Path) -> None:
    from densityclip.model.biomedclip import load_foundation

    load_foundation(bundle)


def whole_by_open_clip(bundle: Path) -> None:
    import open_clip

    text = json.loads((bundle / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    open_clip.create_model_from_pretrained(
        f"local-dir:{bundle}", text_cfg=text | {"hf_model_name": str(bundle / "text"), "hf_model_pretrained": False}
    )


WAYS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ours": ("bundle checked, classifier loaded: ours", ours),
    "checked": ("of that, checking every file's hash", checked),
    "whole": ("both towers and tokenizer: ours, as training does", whole_by_us),
    "open_clip": ("both towers: open_clip, nothing checked", whole_by_open_clip),
}


def measure(way: str, bundle: Path) -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    WAYS[way][1](bundle)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3]))


def alone(*arguments: str) -> str:
    """Run this file in a process of its own; this one stays small, as a child begins with its parent's peak memory."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().rpartition("\n")[2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        return make(arguments.make)
    if arguments.measure:
        return measure(arguments.measure[0], Path(arguments.measure[1]))
    figures: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        alone("--make", folder)
        for _ in range(arguments.repeats):
            for way in WAYS:
                figures[way].append(json.loads(alone("--measure", way, f"{folder}/bundle")))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "open_clip_torch", "timm"))
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()}, Python {platform.python_version()}, {versions}, ", end=""
    )
    print(f"{os.cpu_count()} cores; medians of {arguments.repeats}, lowest and highest in brackets\n")
    print("| what | seconds | peak memory, MB | seconds / ours |\n|---|---|---:|---:|")
    middle = statistics.median(seconds for seconds, _ in figures["ours"])
    for way, (words, _) in WAYS.items():
        times = sorted(seconds for seconds, _ in figures[way])
        memory = statistics.median(megabytes for _, megabytes in figures[way])
        median = statistics.median(times)
        spread = f"{median:.2f} ({times[0]:.2f}-{times[-1]:.2f})"
        print(f"| {words} | {spread} | {memory:.0f} | {median / middle:.2f} |")
    return None


if __name__ == "__main__":
    main()
