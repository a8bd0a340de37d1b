import numpy as np
import pytest
from compressed import GRID, breast
from scipy.ndimage import shift

from densityclip.phantom import tomosynthesis, xray
from densityclip.phantom.looks import AURELIA, draw_look
from densityclip.phantom.randomness import keyed
from densityclip.phantom.resampling import larger, smaller


def test_attenuation_matches_the_table_and_is_interpolated_between():
    assert xray.attenuation("gland", 20) == pytest.approx(0.0781)
    assert xray.attenuation("gland", 22) < xray.attenuation("gland", 21) < xray.attenuation("gland", 20)
    # Effective difference of gland and fat after 4 cm at 28 kVp: 0.235 per cm.
    assert xray.attenuation("gland", 20.9) - xray.attenuation("fat", 20.9) == pytest.approx(0.0235, abs=0.0015)


def test_line_integrals_are_the_sum_over_tissues():
    _, _, _, _, tissue = next(b for b in (breast("MLO", number=n) for n in range(20)) if b[1].fold.any())
    path, plain = xray.line_integrals(tissue, 20.0)
    fat = tissue.inner - tissue.gland - tissue.muscle - tissue.vessels - tissue.chalk
    parts = {
        "fat": fat,
        "skin": tissue.outer - tissue.inner,
        "gland": tissue.gland,
        "muscle": tissue.muscle + tissue.vessels,
        "calcification": tissue.chalk,
    }
    expected = sum(xray.attenuation(name, 20.0) * mm for name, mm in parts.items())
    beside = tissue.beside > 0
    assert beside.any()
    np.testing.assert_allclose(path[~beside], expected[~beside], atol=2e-4)
    assert (path[beside] > 0.0510 * tissue.beside[beside]).all()  # brighter than fat
    np.testing.assert_allclose(plain, 0.0510 * (tissue.inner + tissue.beside) + 0.0829 * parts["skin"], atol=1e-4)


def test_scatter_of_a_slab_has_the_published_ratio_to_the_primary():
    path, thickness = np.full((120, 120), 2.5, np.float32), np.full((120, 120), 50.0, np.float32)
    scatter = xray.scatter_of(path, thickness, pitch_mm=1.0, grid_passes=xray.NO_GRID)
    np.testing.assert_allclose(scatter / np.exp(-2.5), 0.6, rtol=1e-3)  # 0.12 a centimetre
    corrected = xray.scatter_correction(path, thickness, pitch_mm=1.0, grid_passes=xray.NO_GRID, share=1.0)
    np.testing.assert_allclose(corrected, np.log(1.6), rtol=1e-3)


def test_an_exposure_is_the_line_integral_with_the_noise_of_the_quanta():
    path = np.full((200, 200), 2.0, np.float32)
    none = np.zeros_like(path)
    seen = xray.exposed(path, none, pitch_mm=0.07, blur_mm=0.01, kind="DM", rng=keyed(1, "exposure"))
    assert seen.mean() == pytest.approx(2.0, abs=1e-3)
    assert seen.std() == pytest.approx(1 / np.sqrt(3100), rel=0.02)  # 1.8% at 0.07 mm


def test_projections_are_sums_of_shifted_layers():
    rng = np.random.default_rng(0)
    volume = np.zeros((4, 96, 6), np.float32)
    volume[:, 36:60] = rng.random((4, 24, 6))
    heights = np.array([-15.0, -5.0, 5.0, 15.0], np.float32)
    arc = tomosynthesis._Arc(angles=np.radians([-20.0, 0.0, 20.0]), pitch_mm=1.0)
    got = tomosynthesis._project(volume, heights, arc, 96)
    for number, angle in enumerate(np.radians([-20.0, 0.0, 20.0])):
        expected = sum(
            shift(layer, (z * np.tan(angle), 0), order=5, mode="grid-wrap")
            for layer, z in zip(volume.astype(float), heights, strict=True)
        )
        np.testing.assert_allclose(got[number].sum(axis=0), expected.sum(axis=0), rtol=1e-3)
        assert np.corrcoef(got[number].ravel(), expected.ravel())[0, 1] > 0.995


def test_what_lies_at_a_height_is_sharpest_in_its_slice_and_a_wider_arc_blurs_less_in_depth():
    total, heights = 40.0, np.linspace(-19, 19, 20).astype(np.float32)
    volume = np.zeros((20, 128, 3), np.float32)
    volume[14, 64, 1] = 1.0  # at a height of 9 mm
    widths = []
    for degrees in (15.0, 50.0):
        arc = tomosynthesis._Arc(angles=np.radians(np.linspace(-degrees / 2, degrees / 2, 25)), pitch_mm=1.0)
        signal = tomosynthesis._project(volume, heights, arc, 128)
        stack = tomosynthesis._backproject(signal, arc, total, 40, AURELIA, 128)
        through = stack[:, 64, 1]
        assert np.argmax(through) == pytest.approx(28.5, abs=1)  # 9 mm above the middle of 40 slices of 1 mm
        assert np.argmax(stack[np.argmax(through), :, 1]) == 64
        widths.append(int((through > through.max() / 2).sum()))
    assert widths[1] < widths[0]


def test_binning_keeps_the_mean_and_spreading_keeps_a_ramp():
    image = np.random.default_rng(1).random((40, 30)).astype(np.float32)
    assert smaller(image, 30, 20).mean() == pytest.approx(image.mean(), rel=1e-5)
    np.testing.assert_allclose(smaller(image, 20, 15), image.reshape(20, 2, 15, 2).mean(axis=(1, 3)), atol=1e-6)
    ramp = np.add.outer(np.arange(12.0), np.zeros(9)).astype(np.float32)
    np.testing.assert_allclose(np.diff(larger(ramp, 48, 9)[3:-3, 4]), 0.25, atol=1e-5)


def test_slices_are_about_as_far_apart_as_asked_on_three_quarters_of_the_grid():
    _, anatomy, _, _, tissue = breast("CC")
    path, plain = xray.line_integrals(tissue, AURELIA.energy_kev)
    stack = tomosynthesis.slices(path, plain, anatomy, GRID, AURELIA, keyed(1, "dbt"))
    assert len(stack) == round(anatomy.total_mm)
    assert stack.shape[1:] == (path.shape[1] * 3 / 4, path.shape[2] * 3 / 4)  # whole numbers: pixels stay square


def test_one_calcification_changes_no_exposure_of_the_rest():
    noise = []
    for added in (0.0, 14.0):
        path = np.full((200, 200), 3.2, np.float32)
        path[100, 100] += added
        seen = xray.exposed(path, np.zeros_like(path), pitch_mm=0.8, blur_mm=0.1, kind="DM", rng=keyed(1, "same"))
        noise.append(seen[:80, :80].std())
    assert noise[0] == pytest.approx(noise[1], rel=1e-3)


def test_looks_drawn_at_random_are_valid_and_differ():
    looks = [draw_look(keyed(1, "look", number)) for number in range(60)]
    assert len({look.gamma for look in looks}) == 60
    assert 2 <= sum(look.film for look in looks) <= 20
