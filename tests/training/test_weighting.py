import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from densityclip.errors import UserError
from densityclip.training.losses import class_prompt, multi_positive, ordinal
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
    before = weights.current()
    feed(weights, {0: 1.0}, steps=5)
    modalities = torch.zeros(4, dtype=torch.long)
    assert bool(torch.isfinite(weights.current()).all())
    assert bool(torch.isfinite(weights.penalty(modalities)))
    if scheme in ("moving-average", "group-dro"):
        # What was learned of it is kept: it still counts for more.
        assert before[1] > 1
        assert float(weights.current()[1]) == pytest.approx(float(before[1]), rel=0.05)


@pytest.mark.parametrize("kind", MOVING)
def test_until_there_is_something_to_compare_all_weights_are_one(kind):
    weights = kind([0.5, 0.5])
    assert weights.current().tolist() == [1.0, 1.0]
    feed(weights, {0: 9.0})
    assert weights.current().tolist() == [1.0, 1.0]


def test_group_dro_ascends_as_its_paper_says_and_lets_go_soon():
    weights = GroupDroWeights([0.5, 0.5], prior=0.0, rate=0.1)
    feed(weights, {0: 1.0, 1: 2.0}, steps=1)
    # q_g times exp(rate * loss_g), renormalised: the ratio moves by exp(rate * difference).
    first = weights.current()
    assert float(first[1] / first[0]) == pytest.approx(np.exp(0.1), rel=1e-5)
    feed(weights, {0: 1.0, 1: 9.0}, steps=500)
    highest = float(weights.current()[1])
    assert highest == pytest.approx(1.5)  # with mean one, when the other is at its lower bound
    feed(weights, {0: 9.0, 1: 1.0}, steps=50)
    assert float(weights.current()[1]) < highest


def test_the_pull_of_group_dro_leads_a_lasting_lag_to_a_weight_and_no_further():
    weights = GroupDroWeights([0.5, 0.5], momentum=0.0, prior=0.0, rate=0.01, pull=0.05)
    feed(weights, {0: 1.0, 1: 2.0}, steps=400)
    current = weights.current()
    # The mean of one takes the same factor from both, and the pull gives a share of it back: the ratio does not see it.
    assert float(current[1] / current[0]) == pytest.approx(np.exp(0.01 / 0.05 * 1.0), rel=1e-3)


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


def test_a_lag_is_the_mean_over_categories_of_what_lies_above_their_images_mean():
    # Category 1: nine images of modality 0 at 1, one of modality 1 at 2. Category 3: one of each, at 4 and 6.
    # Category 0: modality 0 alone. Modality 1 has no image of it, so its lag is over two categories.
    losses = torch.tensor([1.0] * 9 + [2.0, 4.0, 6.0, 9.0])
    labels = torch.tensor([1] * 10 + [3, 3, 0])
    modalities = torch.tensor([0] * 9 + [1, 0, 1, 0])
    weights = MovingAverageWeights([0.8, 0.2], prior=0.0)
    weights.update(losses, labels, modalities)
    assert weights.lag().tolist() == pytest.approx([(-0.1 - 1.0 + 0.0) / 3, (0.9 + 1.0) / 2])
    # Averaged over images: half a batch later, three more of modality 1 in category 1, of which two are at the mean.
    weights.momentum = 0.5
    weights.update(torch.tensor([1.0, 1.0, 4.0]), torch.tensor([1, 1, 1]), torch.tensor([1, 1, 1]))
    assert float(weights.lag()[1]) == pytest.approx(((0.9 * 0.5 - 1 - 1 + 2) / 3.5 + 1.0) / 2)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.integers(0, 1000))
def test_what_a_category_costs_and_how_often_a_modality_shows_it_do_not_move_the_weights(costs, seed: int):
    """Losses that depend on the category alone, with modalities of different mixes: no weight moves at all."""
    rng = np.random.default_rng(seed)
    weights = MovingAverageWeights([0.7, 0.3])
    for _ in range(5):
        modalities = torch.from_numpy(rng.choice(2, 24, p=[0.7, 0.3]))
        mixes = np.array([[0.1, 0.4, 0.4, 0.1], [0.7, 0.0, 0.0, 0.3]])
        labels = torch.tensor([rng.choice(4, p=mixes[m]) for m in modalities.tolist()])
        counts = torch.bincount(labels, minlength=4)
        weights.update(torch.tensor(costs)[labels] + counts[labels].log(), labels, modalities)
    torch.testing.assert_close(weights.current(), torch.ones(2), rtol=0, atol=1e-5)


SHARES = (0.80, 0.15, 0.05)
NEAR_PROMPTS = 0.3


def simulated(kind, loss, noise: tuple[float, ...], *, steps: int = 300, seed: int = 0) -> np.ndarray:
    """Mean weights over the last two thirds of a training in which nothing learns; batches of 32, priors of density.

    Images lie about the axis of their category with a noise by modality.
    """
    generator = torch.Generator().manual_seed(seed)
    weights, axes, seen = kind(SHARES), torch.eye(4), []
    for step in range(steps):
        labels = torch.multinomial(torch.tensor([0.1, 0.4, 0.4, 0.1]), 32, replacement=True, generator=generator)
        modalities = torch.multinomial(torch.tensor(SHARES), 32, replacement=True, generator=generator)
        spread = torch.tensor(noise)[modalities][:, None]
        images = functional.normalize(axes[labels] + spread * torch.randn(32, 4, generator=generator), dim=1)
        texts = axes.expand(32, 4, 4) if loss is class_prompt else axes[labels]
        weights.update(loss(images, texts, labels, torch.tensor(10.0)), labels, modalities)
        if step >= steps // 3:
            seen.append(weights.current().numpy())
    return np.mean(seen, axis=0)


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("loss", [multi_positive, class_prompt, ordinal])
def test_modalities_that_differ_in_their_share_alone_stay_equal(kind, loss):
    np.testing.assert_allclose(simulated(kind, loss, (NEAR_PROMPTS,) * 3), 1, atol=0.04)


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("noisy", range(3))
def test_a_modality_whose_images_are_noisier_gains_whatever_its_share(kind, noisy: int):
    noise = tuple(0.5 if index == noisy else NEAR_PROMPTS for index in range(3))
    weights = simulated(kind, multi_positive, noise)
    others = np.delete(weights, noisy)
    # With a mean of one and a lower bound of 0.5, eight images of ten cannot gain more than 0.125.
    assert weights[noisy] > 1.04
    assert (others < 1).all()
    assert weights[noisy] > 1.25 * others.max()
    assert float(weights @ np.array(SHARES)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", MOVING)
def test_the_state_travels_in_a_checkpoint(kind):
    first, second = kind([0.5, 0.5]), kind([0.5, 0.5])
    feed(first, {0: 1.0, 1: 2.0})
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.current(), second.current())
