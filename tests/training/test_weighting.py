import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from densityclip.errors import UserError
from densityclip.training.weighting import AdaptiveModalityWeights, bounded_mean_one, class_weights


def test_inverse_frequency_equals_scikit_learns_balanced_weights():
    labels = [0] * 5 + [1] * 40 + [2] * 30 + [3] * 2
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(np.bincount(labels).tolist(), "inverse-frequency"), expected)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(lambda counts: sum(counts) > 0))
def test_class_weights_have_mean_one_over_the_images(counts: list[int]):
    for scheme in ("none", "inverse-frequency"):
        weights = class_weights(counts, scheme)
        assert np.dot(weights, counts) / sum(counts) == pytest.approx(1)
        assert (weights[np.array(counts) == 0] == 0).all()


def test_an_unknown_scheme_is_named():
    with pytest.raises(UserError, match="'sqrt' are unknown"):
        class_weights([1, 1, 1, 1], "sqrt")


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


def feed(weights: AdaptiveModalityWeights, losses: dict[int, float], steps: int = 50) -> None:
    for _ in range(steps):
        modalities = torch.tensor([m for m in losses for _ in range(4)])
        values = torch.tensor([losses[int(m)] for m in modalities])
        weights.update(values, torch.arange(len(modalities)) % 4, modalities)


def test_the_lagging_modality_gains_and_equal_ones_stay_equal():
    weights = AdaptiveModalityWeights([1 / 3] * 3)
    feed(weights, {0: 1.0, 1: 1.0, 2: 1.0})
    assert torch.allclose(weights.current(), torch.ones(3))
    feed(weights, {0: 1.0, 1: 1.0, 2: 1.5})
    current = weights.current()
    assert current[2] > 1 > current[0]
    assert current[0] == pytest.approx(float(current[1]))


def test_one_modality_alone_has_exactly_weight_one():
    weights = AdaptiveModalityWeights([1.0])
    feed(weights, {0: 3.7})
    assert weights.current().tolist() == [1.0]


def test_a_modality_missing_from_a_batch_keeps_its_average():
    weights = AdaptiveModalityWeights([0.5, 0.5])
    feed(weights, {0: 1.0, 1: 2.0})
    before = float(weights.average[1])
    feed(weights, {0: 1.0})
    assert float(weights.average[1]) == before


def test_until_every_modality_was_seen_all_weights_are_one():
    weights = AdaptiveModalityWeights([0.5, 0.5])
    feed(weights, {0: 9.0})
    assert weights.current().tolist() == [1.0, 1.0]


def test_the_loss_of_a_modality_counts_its_classes_equally():
    # Nine easy images of one class and one hard image of another: the average is that of the classes, not the images.
    weights = AdaptiveModalityWeights([1.0], momentum=0.0)
    weights.update(torch.tensor([1.0] * 9 + [5.0]), torch.tensor([1] * 9 + [3]), torch.zeros(10, dtype=torch.long))
    assert float(weights.average / weights.mass) == pytest.approx(3.0)


def test_the_state_travels_in_a_checkpoint():
    first, second = AdaptiveModalityWeights([0.5, 0.5]), AdaptiveModalityWeights([0.5, 0.5])
    feed(first, {0: 1.0, 1: 2.0})
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.current(), second.current())
