"""Run by Lightning's launcher in two processes: a few steps, and what each process saw, to a file of its own."""

import sys
from pathlib import Path

import torch
from tiny_training import tiny_task

from densityclip.training.engine import run


def main(foundation: Path, out: Path, *settings: str) -> None:
    given = dict(pair.split("=", 1) for pair in settings)
    task = tiny_task(foundation, devices=2, **given)
    rank = 0 if run(task, out, task.config, None) else 1
    torch.save({"losses": task.losses_seen, "gradients": task.gradients, "weights": task.weights}, out / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
