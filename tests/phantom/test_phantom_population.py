from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, spearmanr
from sklearn.metrics import cohen_kappa_score

from densityclip.phantom.population import draw_woman, fraction_of, true_category
from densityclip.phantom.readers import READERS
from densityclip.phantom.sites import REFERENCE_SHARES, SITES

LETTERS = "ABCD"


@pytest.fixture(scope="module")
def women():
    return {name: [draw_woman(name, 11, number) for number in range(1500)] for name in SITES}


def test_reference_site_has_the_published_shares():
    assert SITES["internal"].shares == pytest.approx(REFERENCE_SHARES)


@pytest.mark.parametrize("name", list(SITES))
def test_true_categories_come_in_the_shares_that_the_site_states(women, name):
    drawn = [woman.categories[0] for woman in women[name] if not woman.male]
    for letter, share in zip(LETTERS, SITES[name].shares, strict=True):
        low, high = binom.interval(0.9995, len(drawn), share)
        assert low <= drawn.count(letter) <= high, letter


def test_external_sites_differ_in_class_mix_age_and_modality(women):
    ages = {name: np.mean([w.age for w in women[name]]) for name in SITES}
    assert ages["rsna-like"] > ages["internal"] + 4 > ages["embed-like"] + 8
    dense = {name: np.mean([w.categories[0] in "CD" for w in women[name]]) for name in SITES}
    assert dense["rsna-like"] < dense["internal"] - 0.05 < dense["embed-like"] - 0.15
    assert SITES["rsna-like"].modalities == ("DM",)
    assert SITES["internal"].s2d_form != SITES["embed-like"].s2d_form


def test_cuts_are_the_published_fractions():
    just_below = np.log(np.array([0.072, 0.166, 0.385]) / 0.158) / 0.636
    assert "".join(true_category(just_below - 0.04)) == "ABC"
    assert "".join(true_category(just_below + 0.04)) == "BCD"
    assert fraction_of(0.0) == pytest.approx(0.158)


def test_fat_decides_the_category_and_dense_breasts_are_thinner(women):
    z = np.array([np.mean(w.z) for w in women["internal"]])
    thickness = np.array([w.thickness_mm for w in women["internal"]])
    gland = np.array([w.volume_cm3 * np.mean(w.fractions) for w in women["internal"]])
    assert -0.72 < spearmanr(z, thickness).statistic < -0.50  # Norway: -0.56 CC, -0.62 MLO
    assert np.mean([w.volume_cm3 for w in women["internal"] if w.categories[0] == "A"]) == pytest.approx(1149, rel=0.2)
    assert np.mean([w.volume_cm3 for w in women["internal"] if w.categories[0] == "D"]) == pytest.approx(364, rel=0.25)
    assert np.std(np.log(gland)) < np.std(np.log([np.mean(w.fractions) for w in women["internal"]])) + 0.1


def test_a_woman_does_not_depend_on_who_was_drawn_before(women):
    assert draw_woman("embed-like", 11, 42) == women["embed-like"][42]
    assert draw_woman("embed-like", 12, 42) != women["embed-like"][42]


def test_breasts_of_a_woman_are_rarely_labelled_differently(women):
    different = [w.labels[0] != w.labels[1] for site in women.values() for w in site]
    assert 0 < np.mean(different) < 0.02  # VinDr-Mammo: 32 of 5,000


def test_one_reader_reading_twice_agrees_as_published():
    rng = np.random.default_rng(0)
    n = 60_000
    z, leaning = rng.standard_normal(n), rng.normal(0, READERS.reader_sd, n)
    seen = z + leaning + rng.normal(0, READERS.reader_case_sd, n)
    first, second = (READERS.category(seen + rng.normal(0, READERS.reading_sd, n)) for _ in range(2))
    assert np.mean(first == second) == pytest.approx(0.772, abs=0.03)  # Spayne 2012
    assert cohen_kappa_score(first, second, weights="linear") == pytest.approx(0.70, abs=0.03)
    assert [np.mean(first == letter) for letter in LETTERS] == pytest.approx(REFERENCE_SHARES, abs=0.006)


def test_two_readers_disagree_about_dense_as_published():
    rng = np.random.default_rng(1)
    n = 60_000
    z = rng.standard_normal(n)
    spread = np.sqrt(READERS.reader_sd**2 + READERS.reader_case_sd**2 + READERS.reading_sd**2)
    dense = [np.isin(READERS.category(z + rng.normal(0, spread, n)), ["C", "D"]) for _ in range(2)]
    assert np.mean(dense[0] != dense[1]) == pytest.approx(0.172, abs=0.015)  # Sprague 2016


@pytest.mark.parametrize("name", list(SITES))
def test_implants_spot_views_and_men_come_as_often_as_the_site_states(women, name):
    site, drawn = SITES[name], women[name]
    found = {
        site.men: sum(woman.male for woman in drawn),
        site.implants * (1 - site.men): sum(woman.implants for woman in drawn),
        site.spots * (1 - site.men): sum(woman.spot is not None for woman in drawn),
    }
    for share, number in found.items():
        low, high = binom.interval(0.9995, len(drawn), share)
        assert low <= number <= high
    assert not any(woman.male and (woman.implants or woman.spot) for woman in drawn)


def test_what_is_unusual_changes_nothing_else_of_a_woman(women):
    name = "embed-like"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SITES, name, replace(SITES[name], implants=0.0, spots=0.0, men=0.0))
        plain = [draw_woman(name, 11, number) for number in range(300)]
    for woman, usual in zip(women[name], plain, strict=False):
        if not woman.male:
            assert replace(woman, implants=False, spot=None) == usual


def test_labels_of_a_site_match_the_truth_about_as_often_as_one_reader_can(women):
    match = np.mean([w.labels[0] == w.categories[0] for site in women.values() for w in site])
    assert match == pytest.approx(0.77, abs=0.05)
