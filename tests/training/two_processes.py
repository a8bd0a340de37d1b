"""Run by Lightning's launcher in two processes, or in one: a few steps, and what came out of them, to a file."""

import sys
from pathlib import Path

import torch

from densityclip.artifacts import read_table
from densityclip.imaging.cache import Cache
from densityclip.training.config import TrainConfig
from densityclip.training.fit import fit


def main(road: Path, out: Path, *settings: str) -> None:
    given = dict(pair.split("=", 1) for pair in settings)
    config = TrainConfig(
        **{"accelerator": "cpu", "threads": 1, "loggers": (), "learning_rate": 1e-3, "layer_decay": 1.0}
        | {"steps": 3, "validate_every": 3, "batch_size": 16, "warmup_steps": 0, "class_weights": "none"}
        | {"allow_missing_categories": True}
        | given,
    )
    torch.use_deterministic_algorithms(True)
    splits = read_table(road / "splits.parquet", "splits")
    fit([Cache.open(road / "cohorts/internal/cache")], splits, road / "foundation", out, config, data={})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
