"""The recipe: a frozen, hashed description of every step that changes pixels on their way to the model."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from densityclip.artifacts import hash_json
from densityclip.errors import UserError

VERSION = 2
INTENTS = ("for-presentation", "for-processing")
INTENSITIES = ("window", "breast-percentile", "breast-histogram")
# Mean over 16 mammograms, DM and synthesized, four of each category, between their 2nd and 99.5th percentiles.
REFERENCE = (0.0, 0.14, 0.18, 0.22, 0.26, 0.3, 0.35, 0.41, 0.5, 0.64, 1.0)
DEPTHS = ("uint8", "uint16")
_SLICES = re.compile(r"central|max|(spread|slab):([1-9]\d?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How pixels become what the model sees. Two caches or bundles go together only if their recipes are equal.

    Attributes:
        version: Of the code that carries the recipe out; another version may give other pixels.
        height: Rows of the prepared image.
        width: Columns of the prepared image.
        depth: Type of a prepared pixel: `uint8`, or `uint16` where 256 grey levels are too few (small windows, later
            changes of contrast) and a cache twice as large is affordable.
        dbt_slices: What of a tomosynthesis volume is prepared: `central`, the middle slice; `spread:k`, k slices at
            equal distances; `slab:k`, the volume cut into k slabs of equal thickness, each the mean of its slices;
            `max`, the brightest value along the whole depth.
        intensity: `window`: the display values of the file's own window; `breast-percentile`: stretched between two
            percentiles of the breast, so that vendors and windows look alike; `breast-histogram`: the distribution of
            the breast's grey levels brought to `reference`, so that curved looks go as well, and with them the share of
            bright tissue, of which only the pattern is left. To be compared, not assumed.
        low_percentile: Percentile of the breast that becomes black, except under `window`.
        high_percentile: Percentile of the breast that becomes white, except under `window`.
        reference: Grey levels in `[0, 1]`, rising from 0 to 1, that `breast-histogram` gives to as many points at equal
            steps between the two percentiles.
        margin: Air kept around the breast, as a share of the longer side of its box; none at the chest wall.
        intent: `for-presentation`: images ready for the screen, pictures among them; `for-processing`: raw DM, whose
            values become attenuations, the negative logarithm of the exposure, before all else. Files of the other
            kind are refused: a model knows one of the two.
    """

    version: int = VERSION
    height: int = 224
    width: int = 224
    depth: str = "uint8"
    dbt_slices: str = "spread:3"
    intensity: str = "breast-percentile"
    low_percentile: float = 2.0
    high_percentile: float = 99.5
    reference: tuple[float, ...] = REFERENCE
    margin: float = 0.02
    intent: str = INTENTS[0]

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise UserError(
                f"the recipe is of version {self.version}, and this densityclip carries out version {VERSION}",
                "prepare and train again, or install the release that the recipe was made with",
            )
        wrong = [
            sentence
            for ok, sentence in (
                (16 <= self.height <= 4096, f"height {self.height} is not within 16 to 4096"),
                (16 <= self.width <= 4096, f"width {self.width} is not within 16 to 4096"),
                (self.depth in DEPTHS, f"depth {self.depth!r} is not one of {', '.join(DEPTHS)}"),
                (
                    _SLICES.fullmatch(self.dbt_slices),
                    f"dbt_slices {self.dbt_slices!r} is not central, spread:K, slab:K or max",
                ),
                (self.intensity in INTENSITIES, f"intensity {self.intensity!r} is not one of {', '.join(INTENSITIES)}"),
                (
                    0 <= self.low_percentile < self.high_percentile <= 100,
                    f"percentiles {self.low_percentile:g} and {self.high_percentile:g} are not rising within 0 to 100",
                ),
                (_rises_from_0_to_1(self.reference), f"reference {self.reference} does not rise from 0 to 1"),
                (0 <= self.margin <= 0.5, f"margin {self.margin:g} is not within 0 to 0.5"),
                (self.intent in INTENTS, f"intent {self.intent!r} is not one of {', '.join(INTENTS)}"),
                (
                    not (self.for_processing and self.intensity == "window"),
                    "intensity window needs a window, and images For Processing have none",
                ),
            )
            if not ok
        ]
        if wrong:
            raise UserError(f"the recipe is not valid: {'; '.join(wrong)}", "correct it with --set recipe.key=value")

    @property
    def recipe_hash(self) -> str:
        """16 hexadecimal digits that differ when anything in the recipe differs."""
        return hash_json(self.to_dict())[:16]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a prepared pixel; its largest value is white."""
        return np.dtype(self.depth)

    @property
    def for_processing(self) -> bool:
        """Whether raw images are prepared, and no others."""
        return self.intent == "for-processing"

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, equal to what is read back from JSON."""
        content = asdict(self) | {"reference": list(self.reference)}
        if not self.for_processing:
            # The key is younger than the caches and bundles that do without it: their hashes stay as they are.
            del content["intent"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Recipe":
        """Read a recipe back.

        Raises:
            UserError: A key is unknown, or a value has the wrong type or is out of range.
        """
        types = {field.name: field.type for field in fields(cls)}
        unknown = sorted(set(content) - set(types))
        if unknown:
            raise UserError(f"the recipe has no key {', '.join(unknown)}", f"its keys are {', '.join(types)}")
        return cls(**{name: _cast(name, value, types[name]) for name, value in content.items()})

    def with_overrides(self, overrides: Iterable[str]) -> "Recipe":
        """This recipe with some values replaced.

        Args:
            overrides: `recipe.key=value` or `key=value`.

        Raises:
            UserError: An override has no `=`, an unknown key, or a value that does not fit.
        """
        changes: dict[str, Any] = {}
        for text in overrides:
            name, equals, value = text.partition("=")
            if not equals:
                raise UserError(f"{text!r} has no '='", "write --set recipe.key=value")
            changes[name.strip().removeprefix("recipe.")] = value.strip()
        return Recipe.from_dict(self.to_dict() | changes)

    def sized(self, height: int, width: int | None = None) -> "Recipe":
        """This recipe for another size; square unless a width is given."""
        return replace(self, height=height, width=height if width is None else width)


@dataclass(frozen=True, slots=True)
class Slab:
    """The slices of a volume that one prepared image shows.

    Attributes:
        frames: Their numbers, without a gap; one slice alone is a slab of one.
        projection: `mean` or `max` along the depth.
    """

    frames: range
    projection: str = "mean"

    @property
    def middle(self) -> int:
        """The slice that stands for the slab in tables: `slice_index`."""
        return self.frames[len(self.frames) // 2]


def slabs(frames: int, dbt_slices: str) -> tuple[Slab, ...]:
    """What of a volume is prepared, in the order of its depth.

    `spread` and `slab` cut the volume into k parts of equal thickness (all slices of their own if there are no more
    than k); `spread` takes the middle slice of each, `slab` the mean of all its slices. Workstations show slabs of
    about a centimetre as a mean or as a maximum; for soft tissue, which density is about, the mean has the better
    contrast to noise, and the maximum for calcifications (Diekmann 2009, J Digit Imaging 22). Nor does a mean become
    brighter as the breast becomes thicker, as a maximum does; `max` is there to be compared.

    Args:
        frames: Number of frames, at least 1; a file of one frame is one slab of one.
        dbt_slices: As in a recipe.

    Returns:
        At least one; no frame is in two of them.
    """
    if dbt_slices == "max":
        return (Slab(range(frames), "max"),)
    match = _SLICES.fullmatch(dbt_slices)
    wanted = int(match.group(2) or 1) if match else 1
    parts = min(wanted, frames)
    cut = [part * frames // parts for part in range(parts + 1)]
    whole = [Slab(range(first, end)) for first, end in pairwise(cut)]
    if dbt_slices.startswith("slab"):
        return tuple(whole)
    middles = [(2 * part + 1) * frames // (2 * parts) for part in range(parts)]
    return tuple(Slab(range(middle, middle + 1)) for middle in middles)


def prepared_count(frames: int, recipe: Recipe) -> int:
    """How many prepared images a file of some frames gives.

    Args:
        frames: Number of frames, at least 1.
        recipe: How it is prepared.
    """
    return len(slabs(frames, recipe.dbt_slices))


def _rises_from_0_to_1(levels: tuple[float, ...]) -> bool:
    return 2 <= len(levels) <= 101 and (levels[0], levels[-1]) == (0, 1) and all(a < b for a, b in pairwise(levels))


def _cast(name: str, value: Any, kind: Any) -> Any:
    if kind == tuple[float, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            raise UserError(f"recipe {name} is {value!r}", "give it as numbers with commas between them")
        return tuple(_cast(name, part, float) for part in parts)
    try:
        if kind is str and isinstance(value, str):
            return value
        if kind is int and not isinstance(value, bool) and float(value) == int(value):
            return int(value)
        if kind is float and not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"recipe {name} is {value!r}", f"give it as {kind.__name__}")
