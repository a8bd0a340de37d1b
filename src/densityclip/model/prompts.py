"""The words that stand for a density category, as data: they travel with the bundle and users may bring their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from densityclip.density import CATEGORIES, WORDING
from densityclip.errors import UserError
from densityclip.records import MODALITIES

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates for captions, with and without the modality.

    Attributes:
        plain: Templates with `{density}` and `{category}`.
        worded: Templates that name the modality too, with `{modality}`.
        densities: Wordings of each category, BI-RADS 5th edition by default.
        modalities: Wording of each modality.
    """

    plain: tuple[str, ...]
    worded: tuple[str, ...]
    densities: Mapping[str, tuple[str, ...]]
    modalities: Mapping[str, str]

    def __post_init__(self) -> None:
        problems = []
        if not self.plain or not self.worded:
            problems.append("each of `plain` and `worded` needs a template")
        problems += [
            f"template {text!r} lacks {{density}}" for text in self.plain + self.worded if "{density}" not in text
        ]
        problems += [f"template {text!r} lacks {{modality}}" for text in self.worded if "{modality}" not in text]
        problems += [
            f"template {text!r} has more in braces than density, category and modality"
            for text in self.plain + self.worded
            if not _fills(text)
        ]
        problems += [f"category {name} has no wording" for name in CATEGORIES if not self.densities.get(name)]
        problems += [f"modality {name} has no wording" for name in MODALITIES if not self.modalities.get(name)]
        if problems:
            raise UserError("the prompts are incomplete: " + "; ".join(problems), "mend the prompts file")

    def captions(self, category: str, modality: str) -> tuple[str, ...]:
        """Every caption of a category.

        Args:
            category: One of `A B C D`.
            modality: One of `DM s2D DBT`, or `plain` for captions that name none.

        Returns:
            The captions, templates within wordings, in a stable order.
        """
        templates = self.plain if modality == PLAIN else self.worded
        named = "" if modality == PLAIN else self.modalities[modality]
        return tuple(
            template.format(density=density, category=category, modality=named)
            for density in self.densities[category]
            for template in templates
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `prompts.json`."""
        return {
            "plain": list(self.plain),
            "worded": list(self.worded),
            "densities": {name: list(words) for name, words in self.densities.items()},
            "modalities": dict(self.modalities),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Prompts":
        """Prompts from the content of a prompts file.

        Raises:
            UserError: A key is missing or unknown, or a wording is missing.
        """
        expected = {"plain", "worded", "densities", "modalities"}
        if set(content) != expected:
            raise UserError(
                f"the prompts have the keys {sorted(content)}, expected {sorted(expected)}", "mend the prompts file"
            )
        densities, modalities = content["densities"], content["modalities"]
        if not isinstance(densities, Mapping) or not isinstance(modalities, Mapping):
            raise UserError("`densities` and `modalities` of the prompts need words by name", "mend the prompts file")
        return cls(
            plain=_texts(content["plain"], "plain"),
            worded=_texts(content["worded"], "worded"),
            densities={str(name): _texts(words, f"densities {name}") for name, words in densities.items()},
            modalities={str(name): " ".join(_texts(words, f"modalities {name}")) for name, words in modalities.items()},
        )


def _texts(content: Any, name: str) -> tuple[str, ...]:
    """One text or a list of them."""
    texts = [content] if isinstance(content, str) else content
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name} of the prompts is neither a text nor a list of texts", "mend the prompts file")
    return tuple(texts)


def _fills(template: str) -> bool:
    try:
        template.format(density="", category="", modality="")
    except (KeyError, IndexError, ValueError, AttributeError):
        return False
    return True


DEFAULT_PROMPTS = Prompts(
    plain=(
        "a mammogram of breast density category {category}: {density}",
        "mammogram showing breasts that are {density}",
        "BI-RADS breast composition {category}, {density}",
    ),
    worded=(
        "a {modality} of breast density category {category}: {density}",
        "{modality} showing breasts that are {density}",
        "BI-RADS breast composition {category}, {density}, on a {modality}",
    ),
    densities={
        "A": (WORDING["A"],),
        "B": (WORDING["B"],),
        "C": (WORDING["C"] + ", which may obscure small masses",),
        "D": (WORDING["D"] + ", which lowers the sensitivity of mammography",),
    },
    modalities={
        "DM": "digital mammogram",
        "s2D": "synthesized 2D mammogram",
        "DBT": "digital breast tomosynthesis slice",
    },
)


def read_prompts(path: Path | None) -> Prompts:
    """The words of a file, YAML or JSON with the keys of `prompts.json`; ours without one.

    Raises:
        UserError: The file is not readable, or a key or wording is missing.
    """
    if path is None:
        return DEFAULT_PROMPTS
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no readable prompts file", "write it like the prompts.json of a bundle") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no prompts by name", "write it like the prompts.json of a bundle")
    return Prompts.from_dict(content)
