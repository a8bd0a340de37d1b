"""What a training was asked for, and whether a folder holds that very training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densityclip.artifacts import read_json
from densityclip.errors import UserError
from densityclip.training.engine import CHECKPOINTS, LAST

REQUEST = "training.json"

# The words are compared by their hash, wherever their file lies.
_MAY_CHANGE = ("chunk_size", "loggers", "prompts")
# What the hashes of a request are of.
_NAMES = {"prompts": "words in the prompts file", "recipe_hash": "recipe", "foundation": "foundation model"}


def _what_decides(request: dict[str, Any]) -> dict[str, Any]:
    """A request without what may change when a training goes on: how much is computed at once, who is told."""
    config = {name: value for name, value in request.get("config", {}).items() if name not in _MAY_CHANGE}
    return request | {"config": config}


def begun_with(out: Path, request: dict[str, Any], bundle: str) -> bool:
    """Whether the folder holds this very training, begun; another one there is an error.

    A training without a checkpoint has nothing to lose, and its settings may still be corrected.

    Args:
        out: The model folder.
        request: What is wanted now.
        bundle: Name of the folder in it that a whole training leaves.

    Raises:
        UserError: It holds another training; what differs is named.
    """
    if not (out / REQUEST).is_file() or not ((out / bundle).exists() or (out / CHECKPOINTS / LAST).is_file()):
        return False
    found = _what_decides(read_json(out / REQUEST, "densityclip train"))
    if found != _what_decides(request):
        raise UserError(
            f"{out} holds another training ({'; '.join(differences(found, _what_decides(request)))})",
            "choose another --out, or remove it",
        )
    return True


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two requests, settings by name with both values, the rest (hashes) by name."""
    said = []
    for name in dict.fromkeys((*found, *wanted)):
        old, new = found.get(name), wanted.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            said += [
                f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
                for key in dict.fromkeys((*old, *new))
                if old.get(key) != new.get(key)
            ]
        elif name == "densityclip":
            said.append(f"densityclip: {_shown(old)} -> {_shown(new)}")
        else:
            said.append(f"other {_NAMES.get(name, name)}")
    return said


def _shown(value: Any) -> str:
    return "not stated" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
