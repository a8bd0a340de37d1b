"""The instruments of the phantom benchmarks, on fields and edges whose answer is known."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import phantom_measures as measures

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_draws(monkeypatch):
    """Every test draws the same numbers, whichever ran before it."""
    monkeypatch.setattr(f"{__name__}.RNG", np.random.default_rng(3))


def power_law_field(beta: float, size: int = 768) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    phases = RNG.standard_normal((2, *frequency.shape))
    field = np.fft.irfft2((phases[0] + 1j * phases[1]) * frequency ** (-beta / 2), s=(size, size))
    return 100 + 20 * field / field.std()


def half_ellipse(rows: int = 600, columns: int = 480, depth: int = 360, half: int = 260) -> np.ndarray:
    y, x = np.ogrid[:rows, :columns]
    return ((y - rows / 2) / half) ** 2 + (x / depth) ** 2 < 1


@pytest.mark.parametrize("beta", [0.0, 1.8, 3.0, 4.2])
def test_exponent_of_a_power_law_is_found_in_every_band(beta):
    depth = 512
    mask = np.zeros((768, 768), dtype=bool)
    mask[40:-40, : depth + 60] = True
    spectra = [measures.breast_spectrum(measures.Breast(power_law_field(beta), mask, depth)) for _ in range(4)]
    for low, high, within in ((8, 24, 0.25), (24, 72, 0.1), (72, 160, 0.1)):
        found = [measures.exponent(*spectrum, low / depth, high / depth) for spectrum in spectra]
        assert np.mean(found) == pytest.approx(beta, abs=within)


def test_scale_and_slant_of_the_grey_levels_leave_the_exponent():
    field = power_law_field(3.0)
    slanted = 3 * field + np.linspace(0, 2000, 768)[:, None]
    corners = measures.patch_corners(np.ones(field.shape, dtype=bool), 256)
    found = [measures.exponent(*measures.patch_spectrum(image, corners, 256), 0.02, 0.3) for image in (field, slanted)]
    assert found[1] == pytest.approx(found[0], abs=0.02)


def test_a_band_beyond_the_grid_is_not_measured():
    corners = measures.patch_corners(np.ones((200, 200), dtype=bool), 64)
    frequency, power = measures.patch_spectrum(power_law_field(3.0, 200), corners, 64)
    assert measures.exponent(frequency, power, 0.1, 0.45) is None
    assert measures.exponent(frequency, power, 0.001, 0.01) is None


def test_patches_lie_within_the_mask():
    mask = half_ellipse()
    corners = measures.patch_corners(mask, 90)
    assert 4 <= len(corners) <= 12
    assert all(mask[r : r + 90, c : c + 90].mean() > 0.99 for r, c in corners)


@pytest.mark.parametrize("blur", [2.0, 6.0])
def test_rise_of_a_blurred_edge_is_that_of_the_normal_distribution(blur):
    mask = half_ellipse()
    image = measures.gaussian_filter(np.where(mask, 120.0, 8.0), blur, mode="nearest").astype(np.float32)
    rise, overshoot = measures.skin_line(measures.Breast(image, mask, 360))
    assert rise * 360 == pytest.approx(2.563 * blur, abs=1.5)  # 10% to 90% of a normal distribution
    assert overshoot == pytest.approx(0, abs=0.03)


def test_a_bright_line_at_the_skin_is_seen_as_overshoot():
    mask = half_ellipse()
    inner = measures.eroded(mask, 8)
    image = np.where(mask, 100.0, 0.0) + 60.0 * (mask & ~inner)
    _, overshoot = measures.skin_line(measures.Breast(image.astype(np.float32), mask, 360))
    assert overshoot == pytest.approx(0.6, abs=0.1)


def test_depth_is_brought_to_the_standard_and_the_mask_with_it():
    mask = half_ellipse()
    same = measures.at_depth(measures.Breast(np.where(mask, 90, 0).astype(np.float32), mask, 360), 180)
    assert abs(np.flatnonzero(same.mask.any(axis=0))[-1] + 1 - 180) <= 1
    assert same.image[same.mask].mean() == pytest.approx(90, abs=2)


def test_a_right_breast_is_turned_to_stand_left():
    mask = half_ellipse()
    noise = RNG.standard_normal(mask.shape)
    shown = np.where(mask, 0.5 + 0.05 * noise, 0.01 + 0.003 * np.abs(noise)).astype(np.float32)
    left, right = measures.standing(shown), measures.standing(np.ascontiguousarray(shown[:, ::-1]))
    assert (left.mask == right.mask).mean() > 0.99
    assert left.depth == pytest.approx(360, abs=6)


def test_local_spread_is_largest_at_the_scale_of_the_structure():
    mask = np.zeros((256, 256), dtype=bool)
    mask[20:-20, :-20] = True
    noise = RNG.standard_normal((256, 256))
    fine, coarse = (measures.gaussian_filter(noise, sigma) for sigma in (1.2, 9.0))
    spread = {
        name: [np.median(measures.local_spread(image / image.std(), mask, scale)) for scale in measures.TEXTURE_SCALES]
        for name, image in (("fine", fine), ("coarse", coarse))
    }
    assert np.argmax(spread["fine"]) == 0
    assert np.argmax(spread["coarse"]) == 3


def test_air_beside_the_breast_does_not_count_as_texture():
    mask = half_ellipse(256, 200, 150, 110)
    flat = np.where(mask, 130.0, 0.0)
    assert max(measures.local_spread(flat, mask, scale).max() for scale in measures.TEXTURE_SCALES) < 1e-6


def test_texture_distance_is_the_shift_between_two_groups():
    base = {scale: np.linspace(2, 6, 400) for scale in measures.TEXTURE_SCALES}
    moved = {scale: values + 1.5 for scale, values in base.items()}
    shift = dict.fromkeys(measures.TEXTURE_SCALES, 1.5)
    assert measures.texture_distance([base, base], [moved]) == pytest.approx(shift)
    assert max(measures.halves_distance([base] * 6, np.random.default_rng(0)).values()) == pytest.approx(0)
