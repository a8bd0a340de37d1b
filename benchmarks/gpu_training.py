"""Full fine-tuning of BiomedCLIP's real shape on one GPU: images/s, share of the bf16 ceiling, memory, time per epoch.

    python benchmarks/gpu_training.py [--batch 256] [--steps 30] [--chunk 64]

The ceiling is a large bf16 matrix product, measured in the same run; the share counts the floating-point operations of
the image tower alone (forward, and twice that backward), so the captions' work lowers it. Images come from the device's
memory and are augmented there, as in training. `--device cpu` runs a tiny case, to see that the script works.
"""

import argparse
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from densityclip.model.full_size import make_full_size
from train_step import SIZE, a_step, a_task, ours_loss

# Multiply-adds of ViT-B/16 at 224 px, times two, from its matrices and attention: 197 tokens, 12 blocks, width 768.
_TOKENS, _WIDTH, _BLOCKS = 197, 768, 12
FORWARD = 2 * _BLOCKS * (12 * _TOKENS * _WIDTH**2 + 2 * _TOKENS**2 * _WIDTH) + 2 * 196 * 768 * _WIDTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {name}, torch {torch.__version__}, batch {given.batch}\n")
    ceiling = matrix_product(device)
    with tempfile.TemporaryDirectory() as folder:
        make_full_size(Path(folder), seed=0)
        task = a_task(Path(folder), "trained", given.batch, given.chunk).train()
    task.batches.augment = True
    task.to(device)
    task.batches.store.move_to(device)
    step = a_step(task, ours_loss)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        seconds = [timed(step, number, device) for number in range(given.steps + 3)][3:]
    rate = given.batch / statistics.median(seconds)
    achieved = 3 * FORWARD * rate / 1e12
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    print("| images/s | TFLOP/s | ceiling | share | peak memory | epoch of 100,000 images |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {rate:,.0f} | {achieved:.1f} | {ceiling:.1f} | {achieved / ceiling:.0%} | {memory:.1f} GB | "
        f"{100_000 / rate / 60:.1f} min |"
    )


def matrix_product(device: torch.device) -> float:
    """TFLOP/s of a bf16 matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda _: a @ b, 0, device) for _ in range(13)][3:]
    return 2 * size**3 / statistics.median(seconds) / 1e12


def timed(run, number: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


assert SIZE == 224, "the count of operations is for 224 px"

if __name__ == "__main__":
    main()
