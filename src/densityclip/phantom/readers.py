"""Simulated readers: from the true density to the category that a radiologist writes down."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from densityclip.density import CATEGORIES
from densityclip.phantom.randomness import keyed
from densityclip.phantom.sites import REFERENCE_SHARES

# A side is read on its own only when the breasts differ by this much on the z scale: about 1 woman in 150, as in
# VinDr-Mammo, where 32 of 5,000 studies carry different categories left and right.
OWN_READING_FROM = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderModel:
    """Noise between and within readers, in units of z (standardised ln gland fraction).

    The default values give an agreement of about 0.77 when one reader reads twice (Spayne 2012: 77.2%) and about
    17.5% of dense/not-dense discordance between readers (Sprague 2016: 17.2%).

    Attributes:
        reader_sd: Each reader's own leaning.
        reader_case_sd: How a reader sees this woman, at every reading.
        reading_sd: What differs from reading to reading.
    """

    reader_sd: float = 0.25
    reader_case_sd: float = 0.15
    reading_sd: float = 0.30

    @property
    def cuts(self) -> NDArray[np.float64]:
        """Three cuts between categories, widened so that readers keep the shares of the reference population."""
        spread = np.sqrt(1 + self.reader_sd**2 + self.reader_case_sd**2 + self.reading_sd**2)
        return ndtri(np.cumsum(REFERENCE_SHARES)[:3]) * spread

    def leaning(self, seed: int, site: str, reader: int) -> float:
        """The offset that one reader of a site adds to every case."""
        return float(keyed(seed, site, "reader", reader).normal(0.0, self.reader_sd))

    def category(self, perceived: ArrayLike) -> NDArray[np.str_]:
        """Categories `A B C D` of perceived densities on the z scale."""
        return np.asarray(CATEGORIES)[np.searchsorted(self.cuts, np.asarray(perceived, dtype=float))]

    def read_breasts(
        self, z_left: float, z_right: float, *, leaning: float, rng: np.random.Generator
    ) -> tuple[str, str]:
        """One reading of a woman: a category for each breast, nearly always the same.

        Args:
            z_left: True density of the left breast.
            z_right: True density of the right breast.
            leaning: The reader's offset.
            rng: Draws of this reader with this woman at this reading.
        """
        noise = leaning + rng.normal(0.0, self.reader_case_sd) + rng.normal(0.0, self.reading_sd)
        seen = np.array([z_left, z_right])
        if abs(z_left - z_right) < OWN_READING_FROM:
            seen[:] = seen.mean()
        left, right = self.category(seen + noise)
        return str(left), str(right)


READERS = ReaderModel()
READERS_PER_SITE = 6
