"""BI-RADS breast density categories: their order, wording, codes and what is derived from their probabilities.

The one place that knows them. Sources: ACR BI-RADS Atlas, 5th edition (wording); FDA MQSA rule in force since
2024-09-10 (dense / not dense); SNOMED CT (codes).
"""

import math
import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

CATEGORIES: tuple[str, ...] = ("A", "B", "C", "D")
DENSE: tuple[str, ...] = ("C", "D")

WORDING: dict[str, str] = {
    "A": "almost entirely fatty",
    "B": "scattered areas of fibroglandular density",
    "C": "heterogeneously dense",
    "D": "extremely dense",
}

# SNOMED CT: concept "breast composition" and its four values; the older SRT values are read, never written.
CONCEPT_CODE: tuple[str, str] = ("129715009", "SCT")
VALUE_CODES: dict[str, str] = {"A": "129716005", "B": "129717001", "C": "129718006", "D": "129719003"}
SRT_VALUE_CODES: dict[str, str] = {"A": "F-01711", "B": "F-01712", "C": "F-01713", "D": "F-01714"}

# What programs and people write for "nothing", in lower case.
BLANKS: frozenset[str] = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "#n/a"})
_WRITTEN = re.compile(r"(?:(?:acr|bi-?rads|density)\s*)?([a-d1-4])(?:\.0+)?", re.IGNORECASE)


def parse_density(value: object) -> str | None:
    """Read a density label as tables write it.

    Args:
        value: A letter, "DENSITY B", "ACR c", 2, 2.0, "2.0"; or a blank (None, "", NaN, "NA").

    Returns:
        One of `A B C D`, or None for a blank. A blank is never turned into a category.

    Raises:
        ValueError: The value is neither blank nor a category.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    if text.lower() in BLANKS:
        return None
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"density {text!r} is not one of A, B, C, D or 1 to 4")
    letter = match.group(1).upper()
    return letter if letter in CATEGORIES else CATEGORIES[int(letter) - 1]


def category_index(label: str) -> int:
    """Position of a category on the ordinal scale, 0 (A) to 3 (D)."""
    return CATEGORIES.index(label)


def is_dense(label: str) -> bool:
    """Whether a category counts as dense (C or D)."""
    return label in DENSE


def denser(labels: Iterable[str | None]) -> str | None:
    """The densest of some labels, blanks aside: an exam takes the category of its denser breast."""
    known = [label for label in labels if label is not None]
    return max(known, key=category_index) if known else None


def predicted_category(probabilities: ArrayLike) -> NDArray[np.str_]:
    """Most probable category of each row.

    Args:
        probabilities: `[n, 4]`, rows in the order A, B, C, D.

    Returns:
        `[n]` letters; of equal probabilities the less dense one wins.
    """
    return np.asarray(CATEGORIES)[np.asarray(probabilities, dtype=float).argmax(axis=1)]


def prob_dense(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Probability of dense tissue (C or D) of each row of `[n, 4]`, in `[0, 1]`."""
    return np.asarray(probabilities, dtype=float)[:, 2:].sum(axis=1)
