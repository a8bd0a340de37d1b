"""Whether what is made of some data may be passed on: said by the dataset's licence, carried from index to cache."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from densityclip.artifacts import read_json, write_json

LICENCE = "licence.json"


def carry_licence(index: Path, cache: Path) -> None:
    """Write beside a cache what the manifest of its index says of the licence.

    An index without a manifest (made by hand, or by an older version) says nothing, and nothing is written.
    """
    manifest = index.with_suffix(".manifest.json")
    config = read_json(manifest, "densityclip index")["config"] if manifest.is_file() else {}
    if "redistribute" in config:
        write_json(cache / LICENCE, {"dataset": config["dataset"], "redistribute": config["redistribute"]})


def restricted_by(caches: Iterable[Path]) -> list[str]:
    """Datasets whose licence keeps what is made of some caches in the house, by name."""
    return sorted({item["dataset"] for item in _licences(caches) if item is not None and item["redistribute"] is False})


def allowed_by(caches: Iterable[Path]) -> bool:
    """Whether each of some caches says that what is made of it may be passed on; own images say nothing of it."""
    return all(item is not None and item["redistribute"] is True for item in _licences(caches))


def _licences(caches: Iterable[Path]) -> list[dict[str, Any] | None]:
    """The licence beside each cache, None where nothing is said."""
    paths = [cache / LICENCE for cache in caches]
    return [read_json(path, "densityclip prepare") if path.is_file() else None for path in paths]
