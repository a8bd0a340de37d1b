"""Insertion and deletion curves on scores whose answer is known, and against curves drawn step by step."""

import numpy as np
import pytest
import torch

from densityclip.explain.faithfulness import RANDOM, faithfulness

GRID, PATCH = (6, 5), 4
SHAPE = (GRID[0] * PATCH, GRID[1] * PATCH)


def weights() -> torch.Tensor:
    """What each token counts for in the score: distinct powers, so that an order has one best."""
    values = np.random.default_rng(4).permutation(np.geomspace(0.01, 1.0, GRID[0] * GRID[1]))
    return torch.tensor(values.reshape(GRID), dtype=torch.float64)


def additive(images: torch.Tensor) -> torch.Tensor:
    """A score that adds up its tokens."""
    tokens = images[:, 0].double().reshape(-1, GRID[0], PATCH, GRID[1], PATCH).mean(dim=(2, 4))
    return (tokens * weights()).sum(dim=(1, 2))


IMAGE, FAT = torch.ones(3, *SHAPE), torch.zeros(3, *SHAPE)
ALL = np.ones(GRID, dtype=np.float32)


def curves_step_by_step(order: np.ndarray) -> list[list[float]]:
    """The deletion and the insertion curve of a whole order, one picture at a time."""
    curves = []
    for start, other in ((IMAGE, FAT), (FAT, IMAGE)):
        points = []
        for step in range(11):
            picture = start.clone()
            for token in order[: round(step / 10 * len(order))]:
                row, column = divmod(int(token), GRID[1])
                area = (
                    slice(None),
                    slice(row * PATCH, row * PATCH + PATCH),
                    slice(column * PATCH, column * PATCH + PATCH),
                )
                picture[area] = other[area]
            points.append(float(additive(picture[None])[0]))
        curves.append(points)
    return curves


def drawn_step_by_step(order: np.ndarray) -> tuple[float, float]:
    """Mean height of both curves."""
    deletion, insertion = (float(np.trapezoid(points, dx=0.1)) for points in curves_step_by_step(order))
    return deletion, insertion


def test_two_maps_differ_by_what_their_curves_differ_drawn_step_by_step():
    best = weights().numpy()
    maps = {"best": best, "worst": -best, "between": np.roll(best, 7)}
    found = faithfulness(additive, IMAGE, FAT, ALL, maps)
    plain = {name: drawn_step_by_step(np.argsort(-values.ravel())) for name, values in maps.items()}
    for name in ("worst", "between"):
        assert found["best"].deletion - found[name].deletion == pytest.approx(
            plain[name][0] - plain["best"][0], abs=1e-6
        )
        assert found["best"].insertion - found[name].insertion == pytest.approx(
            plain["best"][1] - plain[name][1], abs=1e-6
        )


def test_the_curves_are_those_drawn_step_by_step_above_the_score_of_fat():
    best, lighter = weights().numpy(), 0.25 * torch.ones(3, *SHAPE)
    found = faithfulness(additive, IMAGE, lighter, ALL, {"best": best})
    # With fat that has a score of its own: 0.25 of the image's.
    floor = 0.25 * best.sum()
    for mine, plain in zip(found["best"].curves, curves_step_by_step(np.argsort(-best.ravel())), strict=True):
        assert np.array(mine) == pytest.approx(0.75 * np.array(plain), abs=1e-6)
    deletion, insertion = np.array(found["best"].curves)
    assert deletion[0] == insertion[-1] == pytest.approx(best.sum() - floor, abs=1e-6)
    assert deletion[-1] == insertion[0] == 0
    # What lies between a map's curve and that of random orders is its figure.
    chance = np.array(found[RANDOM].curves)
    assert np.trapezoid(chance[0] - deletion, dx=0.1) == pytest.approx(found["best"].deletion)
    assert np.trapezoid(insertion - chance[1], dx=0.1) == pytest.approx(found["best"].insertion)


def test_the_right_map_beats_random_orders_and_the_opposite_loses():
    best = weights().numpy()
    found = faithfulness(additive, IMAGE, FAT, ALL, {"best": best, "worst": -best})
    assert found["best"].deletion > 0.1 < found["best"].insertion
    assert found["worst"].deletion < -0.1 > found["worst"].insertion


def test_a_map_without_an_order_is_as_good_as_chance_on_average():
    values = [
        faithfulness(additive, IMAGE, FAT, ALL, {"flat": np.zeros(GRID)}, seed=seed)["flat"].deletion
        for seed in range(200)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert np.std(values) > 0.01


def test_tokens_outside_the_breast_are_never_touched():
    breast = np.zeros(GRID, dtype=np.float32)
    breast[1:5, 1:5] = 1.0
    seen = []

    def watch(images: torch.Tensor) -> torch.Tensor:
        seen.append(images[:, 0])
        return additive(images)

    faithfulness(watch, IMAGE, FAT, breast, {"some": np.random.default_rng(0).random(GRID)})
    outside = torch.from_numpy(np.kron(breast == 0, np.ones((PATCH, PATCH))).astype(bool))
    ends, curves = seen[0], torch.cat(seen[1:])
    assert (torch.cat(seen)[:, outside] == 1).all()
    assert (ends[0] == 1).all()
    assert (ends[1][~outside] == 0).all()
    shown = curves[:, ~outside].mean(dim=1)
    assert ((shown > 0) & (shown < 1)).all()
    assert len(curves) == 4 * 2 * 9


def test_pieces_change_nothing_and_no_breast_has_no_figure():
    maps = {"some": weights().numpy()}
    assert faithfulness(additive, IMAGE, FAT, ALL, maps, batch_size=5) == faithfulness(additive, IMAGE, FAT, ALL, maps)
    nothing = faithfulness(additive, IMAGE, FAT, 0 * ALL, maps)["some"]
    assert np.isnan(nothing.deletion)
    assert not nothing.curves
