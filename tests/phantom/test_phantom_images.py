from dataclasses import replace

import numpy as np
import pytest
from compressed import breast
from scipy.stats import spearmanr

from densityclip.phantom.exam import exam_images, look_of
from densityclip.phantom.grid import make_grid
from densityclip.phantom.population import draw_woman
from densityclip.phantom.presentation import marker
from densityclip.phantom.sites import SITES

GRID = make_grid(160, 4.0)


@pytest.fixture(scope="module")
def exams():
    """Twelve women of the internal site, every image of each, spread over the density scale."""
    drawn = (draw_woman("internal", 5, number) for number in range(64))
    women = sorted((w for w in drawn if not w.implants and w.spot is None), key=lambda w: w.z[0])[::5][:12]
    return [(woman, list(exam_images(woman, SITES["internal"], 5, GRID))) for woman in women]


def shown(image):
    pixels = image.stored.pixels.astype(float)
    return 4095 - pixels if image.stored.inverted else pixels


def test_truth_holds_the_fraction_that_was_drawn(exams):
    for woman, images in exams:
        for image in images:
            drawn = woman.fractions["LR".index(image.side)]
            assert image.truth.with_skin == pytest.approx(drawn, rel=0.02) or image.truth.without_skin < 0.02
            on_image = float(image.gland_mm.astype(float).sum()) * image.pitch_mm**2 / 1000
            assert on_image == pytest.approx(image.truth.gland_cm3, rel=0.005)


@pytest.mark.parametrize("modality", ["DM", "s2D", "DBT"])
def test_dense_breasts_are_brighter_than_fatty_ones(exams, modality):
    """Thirds, not ranks: the window follows each image's own range and levels breasts of like density out."""
    truth, grey = [], []
    for _, images in exams:
        for image in images:
            if image.modality == modality and image.view == "CC":
                truth.append(image.truth.without_skin)
                grey.append(shown(image)[..., image.breast].mean())
    order, third = np.argsort(truth), len(truth) // 3
    assert third >= 7
    assert np.mean(np.array(grey)[order[-third:]]) > 1.3 * np.mean(np.array(grey)[order[:third]])


def test_the_pectoral_muscle_is_a_wedge_at_the_upper_chest_wall_corner_of_every_mlo(exams):
    for _, images in exams:
        for image in images:
            pectoral = image.pectoral if image.side == "L" else image.pectoral[:, ::-1]
            widths = pectoral.sum(axis=1)
            assert not (pectoral & ~(image.breast if image.side == "L" else image.breast[:, ::-1])).any()
            # A width without gaps from the chest wall on.
            np.testing.assert_array_equal(pectoral, np.arange(pectoral.shape[1]) < widths[:, None])
            if image.view == "MLO":
                assert 20 < widths.max() * image.pitch_mm < 75
                assert int(widths.argmax()) < len(widths) // 3
                assert not widths[int(0.9 * len(widths)) :].any()
            else:
                assert widths.max() * image.pitch_mm < 11


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
    middle = len(slices) // 2
    near = np.corrcoef(slices[middle][breast], slices[middle + 1][breast])[0, 1]
    far = np.corrcoef(slices[1][breast], slices[-2][breast])[0, 1]
    assert 0.3 < far < near < 0.9999


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
            if image.modality == "s2D":
                continue  # it says besides that it is synthesized
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


def test_a_synthesized_image_says_that_it_is_one(exams):
    seen = 0
    for _, images in exams:
        for image in images:
            if image.modality == "s2D":
                lit = (shown(image) == 4035) & ~image.breast
                letters = marker("SYN 2D", max(7, lit.shape[0] // 26))
                windows = np.lib.stride_tricks.sliding_window_view(lit, letters.shape)
                seen += bool((windows == letters).all(axis=(2, 3)).any())
    assert seen > 20


def exponent(image, pitch_mm, centre, side=24):
    """Of the power spectrum of a square of tissue, between 0.07 and 0.4 cycles per mm."""
    row, column = centre
    patch = image[row - side : row + side, max(column - side, 0) : max(column - side, 0) + 2 * side]
    power = np.abs(np.fft.fft2((patch - patch.mean()) * np.outer(*[np.hanning(2 * side)] * 2))) ** 2
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(2 * side, pitch_mm)] * 2, indexing="ij"))
    band = (radius > 0.07) & (radius < 0.4)
    return -np.polyfit(np.log(radius[band]), np.log(power[band]), 1)[0]


def test_projected_tissue_has_the_spectrum_of_mammograms():
    """Chen 2012: 3.17 in DM (CC), single women between 2.4 and 3.9."""
    grid, exponents = make_grid(288), []
    for number in range(8):
        _, _, _, _, tissue = breast("CC", number=number, seed=21, grid=grid, fraction=0.2)
        gland = tissue.gland.sum(axis=0)
        centre = [int(np.average(axis, weights=gland)) for axis in np.indices(gland.shape)]
        exponents.append(exponent(gland, grid.pitch_mm, centre))
    assert 2.4 < np.mean(exponents) < 3.6


def test_a_spot_view_is_a_magnified_part_with_its_own_pitch():
    woman = replace(draw_woman("internal", 5, 3), spot=("L", "CC"))
    images = list(exam_images(woman, SITES["internal"], 5, GRID, sides=("L",), views=("CC",)))
    whole, spot = (next(image for image in images if image.kind == kind) for kind in ("standard", "spot"))
    assert sum(image.kind == "spot" for image in images) == 1
    assert spot.stored.pixels.shape == whole.stored.pixels.shape
    assert spot.pitch_mm == pytest.approx(whole.pitch_mm / 1.8)
    assert np.asarray(spot.gland_mm, float).max() <= np.asarray(whole.gland_mm, float).max() + 0.1
    assert (np.argwhere(spot.breast).max(axis=0) - np.argwhere(spot.breast).min(axis=0) > 20).all()


def test_an_implant_is_the_brightest_thing_and_changes_nothing_else():
    woman = draw_woman("internal", 5, 3)
    plain, filled = (
        next(iter(exam_images(w, SITES["internal"], 5, GRID, sides=("L",), views=("CC",))))
        for w in (woman, replace(woman, implants=True))
    )
    assert (plain.kind, filled.kind) == ("standard", "implant")
    np.testing.assert_array_equal(plain.gland_mm, filled.gland_mm)
    middle = filled.breast.shape[0] // 2
    assert shown(filled)[middle - 5 : middle + 5, :8].mean() > shown(plain)[middle - 5 : middle + 5, :8].mean() + 800


def test_an_image_is_the_same_made_alone_or_with_the_exam():
    woman = draw_woman("internal", 5, 3)
    alone = list(exam_images(woman, SITES["internal"], 5, GRID, sides=("R",), views=("MLO",)))
    exam = {
        (i.modality, i.kind): i
        for i in exam_images(woman, SITES["internal"], 5, GRID)
        if (i.side, i.view) == ("R", "MLO")
    }
    for image in alone:
        np.testing.assert_array_equal(image.stored.pixels, exam[image.modality, image.kind].stored.pixels)


def test_every_exam_of_the_varied_site_has_a_look_of_its_own():
    looks = {look_of(draw_woman("varied", 1, number), SITES["varied"], 1) for number in range(20)}
    assert len(looks) == 20
