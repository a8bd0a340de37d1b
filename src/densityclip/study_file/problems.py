"""What pydantic found wrong with settings, in our words."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


def validation_problems(error: ValidationError, *, whole: str = "") -> str:
    """All problems that pydantic found, in one line.

    Args:
        error: What it raised.
        whole: What a problem of no single key is said to be of; blank says nothing.
    """
    said = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or whole
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            said.append(f"{place} is not a setting")
            continue
        if problem["type"] in ("tuple_type", "list_type"):
            message = "write a list in brackets, such as [one, two], or [] for none"
        elif problem["type"] == "dict_type":
            message = "write names with values, such as {DM: 1, s2D: 2}"
        said.append(f"{place}: {message}" if place else message)
    return "; ".join(said)


def unknown_keys(error: ValidationError) -> list[str]:
    """Settings that do not exist, of those that stand at the top."""
    return [str(one["loc"][0]) for one in error.errors() if one["type"] == "extra_forbidden" and len(one["loc"]) == 1]


def nearest_first(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The known names, those like one of some names first."""
    known = list(known)
    near = [one for name in names for one in difflib.get_close_matches(name, known, n=3, cutoff=0.6)]
    return list(dict.fromkeys((*near, *known)))
