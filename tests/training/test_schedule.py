"""Rates over a training, against tables computed by hand."""

import math

import pytest

from densityclip.training.config import TrainConfig
from densityclip.training.schedule import rate_share, warm_cosine

HALF = math.sqrt(0.5)  # cos of an eighth of a turn


def test_the_rate_rises_linearly_and_falls_as_a_half_cosine_to_zero():
    # Four steps up: a quarter of the peak at the first, the peak at the fourth. Eight steps down from there.
    table = {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 4: 1.0, 6: (1 + HALF) / 2, 8: 0.5, 10: (1 - HALF) / 2, 12: 0.0}
    config = TrainConfig(steps=12, validate_every=12, warmup_steps=4)
    assert {step: rate_share(step, config) for step in table} == pytest.approx(table, abs=1e-12)


def test_without_a_warm_up_the_first_step_has_the_peak_rate():
    config = TrainConfig(steps=4, validate_every=4, warmup_steps=0)
    shares = [rate_share(step, config) for step in range(4)]
    assert shares == pytest.approx([1.0, (1 + HALF) / 2, 0.5, (1 - HALF) / 2])


def test_lp_ft_has_a_schedule_for_the_probe_at_its_own_rate_and_then_one_for_everything():
    config = TrainConfig(
        adaptation="lp-ft",
        steps=24,
        validate_every=24,
        probe_share=0.5,
        warmup_steps=4,
        learning_rate=1e-5,
        probe_rate=1e-3,
    )
    half = [0.25, 0.5, 0.75, 1.0] + [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert [rate_share(step, config) for step in range(24)] == pytest.approx([100 * share for share in half] + half)


def test_the_probe_warms_up_for_at_most_half_of_its_steps():
    config = TrainConfig(
        adaptation="lp-ft", steps=20, validate_every=20, probe_share=0.2, warmup_steps=8, probe_rate=1e-5
    )
    assert [rate_share(step, config) for step in range(4)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert rate_share(4, config) == pytest.approx(1 / 8)


def test_a_warm_up_as_long_as_the_training_only_rises():
    assert [warm_cosine(step, 3, 3) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
