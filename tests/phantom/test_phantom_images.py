import numpy as np
import pytest
from scipy.stats import spearmanr

from densityclip.errors import UserError
from densityclip.phantom import xray
from densityclip.phantom.anatomy import build_anatomy, draw_traits
from densityclip.phantom.exam import exam_images, make_grid
from densityclip.phantom.population import draw_woman
from densityclip.phantom.presentation import marker
from densityclip.phantom.randomness import keyed
from densityclip.phantom.sites import SITES
from densityclip.phantom.tissue import fill_gland

GRID = make_grid(160)


@pytest.fixture(scope="module")
def exams():
    """Twelve women of the internal site, every image of each, spread over the density scale."""
    women = sorted((draw_woman("internal", 5, number) for number in range(60)), key=lambda w: w.z[0])[::5]
    return [(woman, list(exam_images(woman, SITES["internal"], 5, GRID))) for woman in women]


def shown(image):
    pixels = image.stored.pixels.astype(float)
    return 4095 - pixels if image.stored.inverted else pixels


@pytest.mark.parametrize("fraction", [0.2, 0.35, 0.6])
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_gland_on_the_image_adds_up_to_the_drawn_volume(fraction, view):
    woman = draw_woman("internal", 3, 8)
    traits = draw_traits("internal", 3, woman)
    rng = keyed(3, view)
    anatomy = build_anatomy(view, woman, traits, GRID, rng)
    slabs = fill_gland(anatomy, fraction, traits, GRID, rng)
    seen = np.s_[..., : GRID.rows, : GRID.columns]
    drawn = fraction * anatomy.thickness[seen].sum() - anatomy.skin[seen].sum()
    assert slabs[seen].sum() == pytest.approx(drawn, rel=1e-3)
    assert drawn > 0
    assert slabs.min() >= 0
    assert (slabs <= anatomy.inner_slabs + 1e-4).all()


def test_slabs_add_up_to_the_compressed_breast():
    woman = draw_woman("internal", 3, 8)
    anatomy = build_anatomy("MLO", woman, draw_traits("internal", 3, woman), GRID, keyed(3, "x"))
    np.testing.assert_allclose(anatomy.outer_slabs.sum(axis=0), anatomy.thickness, atol=1e-3)
    np.testing.assert_allclose(anatomy.inner_slabs.sum(axis=0), anatomy.thickness - anatomy.skin, atol=1e-3)
    assert anatomy.thickness.max() == pytest.approx(woman.thickness_mm + 2.5, rel=1e-3)


def test_truth_holds_the_fraction_that_was_drawn(exams):
    for woman, images in exams:
        for image in images:
            drawn = woman.fractions["LR".index(image.side)]
            assert image.truth.with_skin == pytest.approx(drawn, rel=0.02) or image.truth.without_skin < 0.02
            on_image = float(image.gland_mm.astype(float).sum()) * image.pitch_mm**2 / 1000
            assert on_image == pytest.approx(image.truth.gland_cm3, rel=0.03)


@pytest.mark.parametrize("modality", ["DM", "s2D", "DBT"])
def test_denser_breasts_are_brighter(exams, modality):
    seen = {"AU": ([], []), "NV": ([], [])}  # one vendor's grey does not compare with another's
    for woman, images in exams:
        truth, grey = seen[SITES["internal"].machines[woman.machine].serial[:2]]
        for image in images:
            if image.modality == modality and image.view == "CC":
                truth.append(image.truth.without_skin)
                grey.append(shown(image)[..., image.breast].mean())
    assert min(len(truth) for truth, _ in seen.values()) >= 6
    for truth, grey in seen.values():
        assert spearmanr(truth, grey).statistic > 0.8


@pytest.mark.parametrize("modality", ["DM", "s2D", "DBT"])
def test_bright_pixels_lie_where_the_truth_has_gland(exams, modality):
    _, images = exams[6]
    for image in images:
        if image.modality == modality and image.view == "CC":
            pixels = shown(image) if modality != "DBT" else shown(image).mean(axis=0)
            inner = image.breast & (image.gland_mm > 0.2)
            assert spearmanr(pixels[inner], image.gland_mm[inner]).statistic > 0.55


def test_slices_of_one_breast_differ_in_depth_and_share_the_whole(exams):
    _, images = exams[6]
    slices = next(shown(image) for image in images if image.modality == "DBT")
    breast = next(image.breast for image in images if image.modality == "DBT")
    near = np.corrcoef(slices[5][breast], slices[6][breast])[0, 1]
    far = np.corrcoef(slices[2][breast], slices[9][breast])[0, 1]
    assert 0.3 < far < near < 0.999


def test_chest_wall_is_left_for_a_left_breast_and_right_for_a_right_one(exams):
    for _, images in exams[::3]:
        for image in images:
            mass = image.breast.sum(axis=0)
            wall, far = (0, -1) if image.side == "L" else (-1, 0)
            assert mass[wall] > 0.3 * image.breast.shape[0]
            assert mass[far] == 0
            level = shown(image)[..., :, wall][..., image.breast[:, wall]].mean()
            assert level > 4 * shown(image)[..., :, far].mean()


def test_marker_stands_upright_on_both_sides_and_outside_the_breast(exams):
    found = {"L": 0, "R": 0}
    for _, images in exams:
        for image in images:
            pixels = shown(image) if image.modality != "DBT" else shown(image)[0]
            letters = marker(image.side + image.view, max(7, pixels.shape[0] // 26))
            lit = (pixels == 4035) & ~image.breast
            if not lit.any():
                continue
            rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
            box = lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.testing.assert_array_equal(box, letters)
            found[image.side] += 1
    assert min(found.values()) > 20


def test_attenuation_matches_the_table_and_is_interpolated_between():
    assert xray.attenuation("gland", 20) == pytest.approx(0.0781)
    assert xray.attenuation("gland", 22) < xray.attenuation("gland", 21) < xray.attenuation("gland", 20)
    assert xray.attenuation("gland", 20.9) - xray.attenuation("fat", 20.9) == pytest.approx(0.0235, abs=0.0015)


def test_projection_of_a_woman_has_the_spectrum_of_a_mammogram():
    """Exponent of a DM's central tissue: 3.17 for CC (Chen 2012), women between 2.4 and 3.9."""
    grid, slopes = make_grid(288), []
    for number in range(6):
        woman = draw_woman("internal", 21, number)
        traits = draw_traits("internal", 21, woman)
        rng = keyed(21, number)
        anatomy = build_anatomy("CC", woman, traits, grid, rng)
        gland = fill_gland(anatomy, 0.2, traits, grid, rng).sum(axis=0)
        row, column = (int(np.average(axis, weights=gland)) for axis in np.indices(gland.shape))
        side = 24
        patch = gland[row - side : row + side, max(column - side, 0) : max(column - side, 0) + 2 * side]
        window = np.outer(*[np.hanning(2 * side)] * 2)
        power = np.abs(np.fft.fft2((patch - patch.mean()) * window)) ** 2
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(2 * side), np.fft.fftfreq(2 * side), indexing="ij"))
        band = (radius > 0.06) & (radius < 0.35)
        slopes.append(-np.polyfit(np.log(radius[band]), np.log(power[band]), 1)[0])
    assert 2.4 < np.mean(slopes) < 3.9


@pytest.mark.parametrize("size", [90, 100, 2048])
def test_an_impossible_size_is_a_users_error(size):
    with pytest.raises(UserError, match="multiple of 16"):
        make_grid(size)
