"""A training step of BiomedCLIP's real shape on CPU: ours against stock open_clip's.

    python benchmarks/train_step.py [--batch 16] [--repeats 3] [--text trained frozen]

Stock sends every caption of the batch through the text tower, padded to 256 tokens, and takes `ClipLoss`. Ours encodes
each distinct caption once, cut to the longest, and where the tower is frozen not at all. Both get the same batch of
random images with our captions, the same loss (`infonce`) for the comparison of gradients, fused AdamW, float32, and
take turns in one process; memory is the peak of a fresh process for each. Weights are random (784 MB on the disk).
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import torch
from open_clip.loss import ClipLoss

from densityclip.imaging.cache import Cache
from densityclip.imaging.recipe import Recipe
from densityclip.model.biomedclip import load_foundation
from densityclip.model.classifier import normalise
from densityclip.model.full_size import make_full_size
from densityclip.model.prompts import DEFAULT_PROMPTS
from densityclip.records import MODALITIES
from densityclip.training.batches import CaptionTable, ImageStore, TrainingBatches
from densityclip.training.config import TrainConfig
from densityclip.training.task import ContrastiveTask

SIZE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--text", nargs="+", choices=("trained", "frozen"), default=["trained", "frozen"])
    given = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, Python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}; batch {given.batch}, medians of {given.repeats}, in turns\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_full_size(Path(folder), seed=0)
        compare_gradients(Path(folder), given.batch)
        print("| text tower | stock | ours | stock / ours | stock peak | ours peak | ours, chunks of 4 |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for text in given.text:
            stock, ours = in_turns(Path(folder), text, given.batch, given.repeats)
            peaks = [peak(Path(folder), way, text, given.batch) for way in ("stock", "ours", "chunked")]
            memory = " | ".join(f"{gigabytes:.2f} GB" for gigabytes in peaks)
            print(f"| {text} | {stock:.1f} s | {ours:.1f} s | {stock / ours:.2f} x | {memory} |", flush=True)
        choosing, preparing = between_steps(Path(folder), given.batch)
        print(f"\nBetween steps: {1e3 * choosing:.1f} ms of Python and copying for a batch, ", end="")
        print(f"{1e3 * preparing:.0f} ms with its augmentation, to hold against a step.")


def a_task(foundation: Path, text: str, batch: int, chunk: int | None = None) -> ContrastiveTask:
    """A task on random images, a third of each modality, of all categories."""
    rng = np.random.default_rng(0)
    number = 4 * batch
    rows = {
        "row": np.arange(number),
        "slice_index": np.zeros(number, dtype=np.int64),
        "image_id": [f"{n:04}" for n in range(number)],
        "patient_id": [f"{n:04}" for n in range(number)],
        "exam_id": [f"{n:04}" for n in range(number)],
        "laterality": ["L"] * number,
        "view": ["CC"] * number,
        "modality": [MODALITIES[n % 3] for n in range(number)],
        "density": ["ABCD"[n] for n in rng.integers(4, size=number)],
        "density_source": ["table"] * number,
    }
    images = rng.integers(256, size=(number, SIZE, SIZE), dtype=np.uint8)
    cache = Cache(Path("nowhere"), images, pl.DataFrame(rows), Recipe(height=SIZE, width=SIZE))
    splits = pl.DataFrame({"patient_id": rows["patient_id"], "fold": [0] * number, "part": ["train"] * number})
    store = ImageStore([cache], splits, part="train", fold=0, modalities=MODALITIES)
    config = TrainConfig(batch_size=batch, loss="infonce", text_tower=text, chunk_size=chunk, augment=False)
    captions = CaptionTable.build(DEFAULT_PROMPTS, MODALITIES)
    batches = TrainingBatches(store, captions, batch_size=batch, seed=0, plain_share=0.5, augment=False)
    return ContrastiveTask(load_foundation(foundation), config, DEFAULT_PROMPTS, batches, store)


def ours_loss(task: ContrastiveTask, step: int) -> torch.Tensor:
    return task.losses(task.batches.at(step), step).mean()


def stock_loss(task: ContrastiveTask, step: int) -> torch.Tensor:
    seen = task.batches.at(step)
    tokens = task.tokenizer([task.batches.captions.texts[int(number)] for number in seen.captions])
    pixels = normalise(seen.pixels, task.preprocess)
    images = task.clip.encode_image(pixels, normalize=True)
    texts = task.clip.encode_text(tokens, normalize=True)
    return ClipLoss()(images, texts, task.clip.logit_scale.exp())


def compare_gradients(foundation: Path, batch: int) -> None:
    task = a_task(foundation, "trained", batch).eval()
    gradients = []
    for loss_of in (ours_loss, stock_loss):
        task.zero_grad()
        loss_of(task, 0).backward()
        gradients.append([value.grad.clone() for value in task.clip.parameters() if value.grad is not None])
    pairs = list(zip(*gradients, strict=True))
    largest = max(float(stock.abs().max()) for _, stock in pairs)
    apart = max(float((ours - stock).abs().max()) for ours, stock in pairs)
    distinct = len(task.batches.at(0).captions.unique())
    print(f"{distinct} distinct captions of {task.caption_tokens.shape[1]} tokens; dropout off, gradients differ by ")
    print(f"at most {apart:.1e}, the largest being {largest:.1e}.\n", flush=True)


def a_step(task: ContrastiveTask, loss_of: Callable[[ContrastiveTask, int], torch.Tensor]) -> Callable[[int], None]:
    trained = [value for value in task.clip.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def step(number: int) -> None:
        loss_of(task, number).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_turns(foundation: Path, text: str, batch: int, repeats: int) -> tuple[float, float]:
    task = a_task(foundation, text, batch).train()
    steps = [a_step(task, loss_of) for loss_of in (stock_loss, ours_loss)]
    times: list[list[float]] = [[], []]
    for number in range(repeats + 1):
        for step, seconds in zip(steps, times, strict=True):
            start = time.perf_counter()
            step(number)
            seconds.append(time.perf_counter() - start)
    stock, ours = (statistics.median(seconds[1:]) for seconds in times)
    return stock, ours


def between_steps(foundation: Path, batch: int) -> tuple[float, float]:
    """Seconds that a batch takes to be chosen and copied, and the same with augmentation; medians of ten."""
    batches = a_task(foundation, "frozen", batch).batches
    seconds = []
    for batches.augment in (False, True):
        times = []
        for number in range(10):
            start = time.perf_counter()
            batches.at(number)
            times.append(time.perf_counter() - start)
        seconds.append(statistics.median(times))
    return seconds[0], seconds[1]


def peak(foundation: Path, way: str, text: str, batch: int) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measured, args=(foundation, way, text, batch, queue))
    process.start()
    gigabytes = queue.get()
    process.join()
    return float(gigabytes)


def measured(foundation: Path, way: str, text: str, batch: int, queue: "multiprocessing.Queue") -> None:
    task = a_task(foundation, text, batch, 4 if way == "chunked" else None).train()
    # Loading a pickle takes more than a step of a small batch: what counts is what the step adds to what stays.
    before = now()
    step = a_step(task, stock_loss if way == "stock" else ours_loss)
    reset_peak()
    step(0)
    queue.put(peak_now() - before)


def now() -> float:
    return _status("VmRSS")


def peak_now() -> float:
    return _status("VmHWM")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1e6


if __name__ == "__main__":
    main()
