import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from densityclip.errors import UserError
from densityclip.training.weighting import (
    MODALITY_WEIGHTS,
    GroupDroWeights,
    ModalityWeights,
    MovingAverageWeights,
    UncertaintyWeights,
    bounded_mean_one,
    make_modality_weights,
)

MOVING = [MovingAverageWeights, GroupDroWeights]


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_bounded_weights_keep_their_bounds_their_order_and_mean_one(raw: list[float], sizes: list[float]):
    shares = np.array(sizes[: len(raw)]) / sum(sizes[: len(raw)])
    weights = bounded_mean_one(raw, shares, 0.5, 2.0)
    assert float(shares @ weights) == pytest.approx(1, abs=1e-9)
    assert weights.min() >= 0.5
    assert weights.max() <= 2.0
    order = np.argsort(raw)
    assert (np.diff(weights[order]) >= -1e-12).all()


def feed(weights: ModalityWeights, losses: dict[int, float], steps: int = 50) -> None:
    for _ in range(steps):
        modalities = torch.tensor([m for m in losses for _ in range(4)])
        values = torch.tensor([losses[int(m)] for m in modalities])
        weights.update(values, torch.arange(len(modalities)) % 4, modalities)


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("shares", [[1 / 3] * 3, [0.7, 0.2, 0.1]])
def test_the_lagging_modality_gains_and_equal_ones_stay_equal(kind, shares):
    weights = kind(shares)
    feed(weights, {0: 1.0, 1: 1.0, 2: 1.0})
    assert torch.allclose(weights.current(), torch.ones(3))
    feed(weights, {0: 1.0, 1: 1.0, 2: 1.5})
    current = weights.current()
    assert current[2] > 1 > current[0]
    assert current[0] == pytest.approx(float(current[1]))


@pytest.mark.parametrize("kind", MOVING)
@given(
    losses=st.lists(st.floats(0.01, 20), min_size=3, max_size=3),
    sizes=st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
)
def test_moving_weights_have_mean_one_over_the_samples_drawn_and_bounds(kind, losses, sizes):
    shares = np.array(sizes) / sum(sizes)
    weights = kind(shares.tolist())
    feed(weights, dict(enumerate(losses)), steps=20)
    current = weights.current().double().numpy()
    assert float(shares @ current) == pytest.approx(1, abs=1e-5)
    assert current.min() >= 0.5 - 1e-6
    assert current.max() <= 2.0 + 1e-6


@pytest.mark.parametrize("kind", MOVING)
def test_one_modality_alone_has_exactly_weight_one(kind):
    weights = kind([1.0])
    feed(weights, {0: 3.7})
    assert weights.current().tolist() == [1.0]


@pytest.mark.parametrize("scheme", MODALITY_WEIGHTS)
def test_a_modality_missing_from_a_batch_breaks_nothing(scheme: str):
    weights = make_modality_weights(scheme, ("DM", "s2D"), [0.5, 0.5], {"DM": 1, "s2D": 1})
    feed(weights, {0: 1.0, 1: 2.0})
    before = weights.current()[1].item()
    feed(weights, {0: 1.0})
    modalities = torch.zeros(4, dtype=torch.long)
    assert bool(torch.isfinite(weights.current()).all())
    assert bool(torch.isfinite(weights.penalty(modalities)))
    if scheme == "moving-average":
        assert float(weights.average[1] / weights.mass[1]) == pytest.approx(2.0)
    if scheme == "group-dro":
        assert weights.current()[1].item() == before


def test_until_every_modality_was_seen_averages_leave_all_weights_at_one():
    weights = MovingAverageWeights([0.5, 0.5])
    feed(weights, {0: 9.0})
    assert weights.current().tolist() == [1.0, 1.0]


def test_group_dro_ascends_as_its_paper_says_and_lets_go_at_once():
    weights = GroupDroWeights([0.5, 0.5], rate=0.1)
    feed(weights, {0: 1.0, 1: 2.0}, steps=1)
    # q_g times exp(rate * loss_g), renormalised: the ratio moves by exp(rate * difference).
    first = weights.current()
    assert float(first[1] / first[0]) == pytest.approx(np.exp(0.1), rel=1e-5)
    feed(weights, {0: 1.0, 1: 9.0}, steps=500)
    highest = float(weights.current()[1])
    feed(weights, {0: 2.0, 1: 1.0}, steps=1)
    assert float(weights.current()[1]) < highest


def test_learned_uncertainty_has_its_optimum_where_the_weight_is_half_of_one_over_the_loss():
    # d/ds of exp(-s) L + s / 2 is zero at exp(-s) = 1 / (2 L); its weight falls with the loss.
    weights = UncertaintyWeights([0.5, 0.5])
    losses, modalities = torch.tensor([0.3, 1.5]), torch.tensor([0, 1])
    optimiser = torch.optim.LBFGS(weights.parameters(), max_iter=100)

    def closure():
        optimiser.zero_grad()
        loss = (weights.current()[modalities] * losses).mean() + weights.penalty(modalities)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert weights.current().tolist() == pytest.approx([1 / 0.6, 1 / 3.0], rel=1e-3)


def test_fixed_weights_keep_their_ratio_and_mean_one_and_must_name_every_modality():
    weights = make_modality_weights("fixed", ("DM", "s2D"), [0.8, 0.2], {"DM": 1, "s2D": 3})
    assert weights.current().tolist() == pytest.approx([1 / 1.4, 3 / 1.4])
    with pytest.raises(UserError, match="lack s2D"):
        make_modality_weights("fixed", ("DM", "s2D"), [0.8, 0.2], {"DM": 1})
    with pytest.raises(UserError, match="'sqrt' are unknown"):
        make_modality_weights("sqrt", ("DM",), [1.0], {})


def test_the_loss_of_a_modality_counts_its_classes_equally():
    # Nine easy images of one class and one hard image of another: the average is that of the classes, not the images.
    weights = MovingAverageWeights([1.0], momentum=0.0)
    weights.update(torch.tensor([1.0] * 9 + [5.0]), torch.tensor([1] * 9 + [3]), torch.zeros(10, dtype=torch.long))
    assert float(weights.average / weights.mass) == pytest.approx(3.0)


@pytest.mark.parametrize("kind", MOVING)
def test_the_state_travels_in_a_checkpoint(kind):
    first, second = kind([0.5, 0.5]), kind([0.5, 0.5])
    feed(first, {0: 1.0, 1: 2.0})
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.current(), second.current())
