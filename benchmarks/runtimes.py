"""What runs a bundle's image tower fastest on a CPU, and does it say the same: torch, bfloat16, ONNX Runtime.

    python benchmarks/runtimes.py [--rounds 5] [--threads 1] [--batches 1 4]

Two models with random weights: BiomedCLIP's own shape (ViT-B/16 at 224 px) and the stand-in's. The ways take turns,
round by round, so that a busy machine is busy for all of them; the figure is the median of the rounds' processor time
divided by the threads, which another program's load moves less than the clock on the wall. Answers are compared with
torch in float32 on the same pixels: the largest difference of a logit (scaled as the bundle scales it) and of a
probability at temperature 1. ONNX Runtime also has its way from bundle to first answer told: writing the graph, opening
it.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from densityclip.imaging.recipe import Recipe
from densityclip.probability.aggregate import softmax

Way = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


def make_bundle(folder: Path, *, full_size: bool) -> Path:
    """A bundle of random weights whose logits have the scale of a trained one's."""
    import torch

    from densityclip.model.biomedclip import load_foundation
    from densityclip.model.bundle import save_bundle
    from densityclip.model.classifier import class_embeddings
    from densityclip.model.full_size import make_full_size
    from densityclip.model.prompts import DEFAULT_PROMPTS
    from densityclip.model.small import IMAGE_SIZE, make_small_foundation
    from densityclip.probability.calibrate import Calibration

    (make_full_size if full_size else make_small_foundation)(folder / "foundation", seed=0)
    foundation = load_foundation(folder / "foundation")
    size = 224 if full_size else IMAGE_SIZE
    with torch.no_grad():
        foundation.clip.logit_scale.fill_(np.log(100.0))
        embeddings = class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ["DM"])
    save_bundle(
        folder / "bundle",
        foundation,
        recipe=Recipe(height=size, width=size),
        prompts=DEFAULT_PROMPTS,
        embeddings=embeddings,
        calibration=Calibration().to_dict(),
        provenance={"data": {}},
    )
    return folder / "bundle"


def ways(bundle: Path, folder: Path, threads: int) -> tuple[dict[str, Way], str]:
    """Each way from prepared pixels to logits, and what ONNX Runtime's costs before the first."""
    import onnxruntime
    import torch

    from densityclip.model.bundle import load_bundle
    from densityclip.model.onnx_export import GRAPH, export_onnx, run

    loaded = load_bundle(bundle)
    classifier = loaded.classifier()

    def in_torch(pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        with torch.inference_mode():
            return classifier(torch.from_numpy(pixels), ["DM"] * len(pixels)).numpy()

    def in_bfloat16(pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return in_torch(pixels)

    start = time.process_time()
    exported = export_onnx(loaded, folder, notice="Benchmark.")
    written = time.process_time() - start
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    start = time.process_time()
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    opened = time.process_time() - start
    row = exported["inputs"]["prompts"]["rows"]["DM"]

    def in_onnx(pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        grey = pixels.astype(np.float32) / np.float32(255)
        return run(session, grey, np.full(len(pixels), row))["logits"]

    told = f"writing and checking the graph took {written:.0f} s of processor time, opening it {opened:.1f} s"
    return {"torch, float32": in_torch, "torch, bfloat16": in_bfloat16, "ONNX Runtime": in_onnx}, told


def measure(found: dict[str, Way], pixels: NDArray[np.uint8], rounds: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds of processor time an image and thread, by way, of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for name in found:
        found[name](pixels)
    for _ in range(rounds):
        for name, way in found.items():
            start = time.process_time()
            way(pixels)
            seconds[name].append(1e3 * (time.process_time() - start) / len(pixels) / threads)
    return seconds


def differences(found: dict[str, Way], pixels: NDArray[np.uint8]) -> dict[str, tuple[float, float]]:
    """By way, the largest difference from torch in float32 of a logit and of a probability."""
    answers = {name: np.asarray(way(pixels), dtype=np.float64) for name, way in found.items()}
    first = next(iter(answers.values()))
    return {
        name: (float(np.abs(one - first).max()), float(np.abs(softmax(one) - softmax(first)).max()))
        for name, one in answers.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    import torch

    from densityclip.model.bundle import load_bundle

    torch.set_num_threads(options.threads)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "timm"))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {packages}, {options.threads} threads")
    print("\n| model | way | images a batch | ms an image (lowest to highest) | logits | probabilities |")
    print("|---|---|---:|---|---:|---:|")
    notes = []
    for full_size in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            bundle = make_bundle(Path(folder), full_size=full_size)
            found, told = ways(bundle, Path(folder), options.threads)
            size = load_bundle(bundle).recipe.height
            draw = np.random.default_rng(0)
            name = "ViT-B/16 at 224 px" if full_size else f"stand-in at {size} px"
            notes.append(f"{name}: {told}.")
            for batch in options.batches:
                pixels = draw.integers(0, 256, (batch, size, size), dtype=np.uint8)
                apart = differences(found, pixels)
                for way, each in measure(found, pixels, options.rounds, options.threads).items():
                    spread = f"{statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})"
                    print(f"| {name} | {way} | {batch} | {spread} | {apart[way][0]:.1g} | {apart[way][1]:.1g} |")
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
