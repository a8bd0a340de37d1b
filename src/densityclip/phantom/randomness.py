"""Random numbers that depend on what they are for, not on what was drawn before."""

import zlib

import numpy as np

# What the ids of every layout hold beside it: 16 characters of an accession number, whole numbers up to 2^53.
HIGHEST_SEED = 799_999


def keyed(seed: int, *key: str | int) -> np.random.Generator:
    """A generator for one purpose: the same seed and key give the same numbers, whatever else was drawn.

    Args:
        seed: The user's seed, not negative.
        key: What the numbers are for, such as a site, a purpose, an exam number and a view.
    """
    words = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))
