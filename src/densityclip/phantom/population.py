"""The women: density, age, size and thickness of the breasts, as published distributions say, without any image."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densityclip.density import CATEGORIES
from densityclip.phantom.randomness import keyed
from densityclip.phantom.readers import READERS, READERS_PER_SITE
from densityclip.phantom.sites import MEDIAN_FRACTION, SIGMA_LN_FRACTION, SITES, TRUE_CUTS, Site

# Share of dense breasts falls from 57% at 40-44 to 26% at 70-74 (Sprague 2014): 0.27 standard deviations a decade.
_Z_PER_DECADE = -0.27
# Left-right difference of ln density 0.12-0.15; half the variance on either side.
_SIDE_SD = 0.14 / SIGMA_LN_FRACTION / np.sqrt(2)
# Total volume falls with density, gland volume hardly varies: 1149/690/485/364 cm3 for A-D, and compressed thickness
# 59 +- 16 mm with a rank correlation of about -0.6 to density.
_LN_VOLUME_CM3, _LN_VOLUME_PER_Z, _LN_VOLUME_SD = 6.42, -0.34, 0.33
_THICKNESS_MM, _THICKNESS_PER_Z, _THICKNESS_SD = 57.0, -9.0, 12.5
# A man's breast holds fat and a little gland behind the nipple; chosen to be small and dark, not measured.
_MANS_Z = -2.2
_MANS_VOLUME_CM3, _MANS_THICKNESS_MM = (130.0, 220.0), (27.0, 38.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Woman:
    """One woman of a site, before any image is made.

    Attributes:
        number: Position in the site, from 0.
        age: Years, 35 to 89.
        race: Group as the site records it, or None.
        machine: Index into the site's machines.
        z: Density of the left and the right breast: standardised ln gland fraction.
        labels: What the reader wrote for the left and the right breast.
        volume_cm3: Volume of a breast.
        thickness_mm: Compressed thickness, mean of the views.
        implants: Whether both breasts have implants.
        male: Whether this is a man: small breasts with almost no gland.
        spot: Side and view of a spot magnification view that was made besides, or None.
    """

    number: int
    age: int
    race: str | None
    machine: int
    z: tuple[float, float]
    labels: tuple[str, str]
    volume_cm3: float
    thickness_mm: float
    implants: bool = False
    male: bool = False
    spot: tuple[str, str] | None = None

    @property
    def fractions(self) -> tuple[float, float]:
        """Volumetric fraction of gland and skin, left and right, in (0, 1)."""
        left, right = fraction_of(self.z)
        return float(left), float(right)

    @property
    def categories(self) -> tuple[str, str]:
        """True categories, left and right: the cuts without noise."""
        left, right = true_category(self.z)
        return str(left), str(right)


def fraction_of(z: ArrayLike) -> NDArray[np.float64]:
    """Volumetric fraction, skin included, of densities on the z scale (lognormal of Yaffe 2009), at most 0.85."""
    return np.minimum(MEDIAN_FRACTION * np.exp(SIGMA_LN_FRACTION * np.asarray(z, dtype=float)), 0.85)


def true_category(z: ArrayLike) -> NDArray[np.str_]:
    """Categories `A B C D` of densities on the z scale, by cuts without noise."""
    return np.asarray(CATEGORIES)[np.searchsorted(TRUE_CUTS, np.asarray(z, dtype=float))]


def _age(site: Site, z: float, rng: np.random.Generator) -> int:
    # Age follows density here instead of the other way round, so that z stays exactly normal and the shares exact.
    correlation = _Z_PER_DECADE * site.age_sd / 10
    years = site.age_mean + site.age_sd * (
        correlation * (z - site.mean_z) + np.sqrt(1 - correlation**2) * rng.standard_normal()
    )
    return int(np.clip(round(years), 35, 89))


def draw_woman(site_name: str, seed: int, number: int) -> Woman:
    """Draw one woman of a site; the same seed and number give the same woman, however many are drawn.

    Args:
        site_name: One of `SITES`.
        seed: The user's seed.
        number: Position in the site, from 0.
    """
    site = SITES[site_name]
    rng = keyed(seed, site.name, "woman", number)
    z = float(rng.normal(site.mean_z, np.sqrt(1 - _SIDE_SD**2)))  # each breast's z then has variance 1
    sides = z + rng.normal(0.0, _SIDE_SD, 2)
    age = _age(site, z, rng)
    race = None
    if site.races:
        names, shares = zip(*site.races, strict=True)
        race = str(rng.choice(names, p=shares))
    machine = int(rng.choice(len(site.machines), p=[machine.share for machine in site.machines]))
    volume = float(np.exp(_LN_VOLUME_CM3 + _LN_VOLUME_PER_Z * z + rng.normal(0.0, _LN_VOLUME_SD)))
    thickness = float(_THICKNESS_MM + _THICKNESS_PER_Z * z + rng.normal(0.0, _THICKNESS_SD))
    reading = keyed(seed, site.name, "reading", number)
    leaning = READERS.leaning(seed, site.name, int(reading.integers(READERS_PER_SITE)))
    left, right = float(sides[0]), float(sides[1])
    woman = Woman(
        number=number,
        age=age,
        race=race,
        machine=machine,
        z=(left, right),
        labels=READERS.read_breasts(left, right, leaning=leaning, rng=reading),
        volume_cm3=float(np.clip(volume, 150.0, 2200.0)),
        thickness_mm=float(np.clip(thickness, 25.0, 95.0)),
    )
    return _unusual(woman, site, seed)


def _unusual(woman: Woman, site: Site, seed: int) -> Woman:
    """The same woman with an implant or a spot view, or a man instead; each drawn apart, so that all else stays."""

    def happens(what: str, share: float) -> bool:
        return bool(keyed(seed, site.name, what, woman.number).random() < share)

    if happens("man", site.men):
        rng = keyed(seed, site.name, "a man", woman.number)
        return replace(
            woman,
            male=True,
            z=(_MANS_Z, _MANS_Z),
            labels=("A", "A"),
            volume_cm3=float(rng.uniform(*_MANS_VOLUME_CM3)),
            thickness_mm=float(rng.uniform(*_MANS_THICKNESS_MM)),
        )
    rng = keyed(seed, site.name, "spot view", woman.number)
    spot = (str(rng.choice(["L", "R"])), str(rng.choice(["CC", "MLO"])))
    return replace(
        woman,
        implants=happens("implants", site.implants),
        spot=spot if happens("spot", site.spots) else None,
    )
