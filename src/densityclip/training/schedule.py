"""How the learning rate goes over a training."""

import math

from densityclip.training.config import TrainConfig


def rate_share(step: int, config: TrainConfig) -> float:
    """Share of the peak rate at a step: linear warm-up, then a cosine to zero; `lp-ft` has that twice.

    The probe of `lp-ft` has a rate of its own, so its share may be above one.
    """
    probe = config.probe_steps
    if step < probe:
        return config.probe_rate / config.rate * warm_cosine(step, probe, min(config.warmup_steps, probe // 2))
    return warm_cosine(step - probe, config.steps - probe, config.warmup_steps)


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate at a step: linear over `warmup` steps, then a cosine to zero at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
