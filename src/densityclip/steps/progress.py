"""How a step says how far it is."""

from collections.abc import Callable

Report = Callable[[int, int], None] | None
"""Told (done, total); None where nobody asks."""
