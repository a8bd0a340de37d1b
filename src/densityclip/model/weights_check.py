"""Is a model folder whole: every file there, as it was fetched, and weights that fit the config in name and shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densityclip.artifacts import hash_file, read_json, write_json
from densityclip.errors import UserError
from densityclip.model.biomedclip import BIOMEDCLIP, check_model, model_files, weights_path

RECORD = "weights.json"
MADE = "foundation.json"


@dataclass(frozen=True)
class Checked:
    """A model folder that was found whole.

    Attributes:
        folder: The folder.
        files: How many files make the model.
        weights: Name of the file of weights.
        tensors: How many it holds.
        parameters: Numbers in them.
        height: Of the images that the model takes, in pixels.
        width: Of the same.
        source: Repository and commit that it was fetched from, or None where no record tells.
        made: What a model is called that was made here; with neither, nothing is known of the content but that it fits
            together.
    """

    folder: Path
    files: int
    weights: str
    tensors: int
    parameters: int
    height: int
    width: int
    source: tuple[str, str] | None
    made: str | None = None


def check(folder: Path) -> Checked:
    """Prove that a model folder is complete, without loading its weights where they are safetensors.

    Raises:
        UserError: A file is missing, damaged or changed, or names or shapes of the weights differ from the config's.
    """
    record = read_record(folder)
    made = None
    if record is not None:
        check_hashes(folder, record)
    elif "files" in _read_made(folder):
        made = str(origin(folder)["name"])
    shapes, size = check_model(folder)
    return Checked(
        folder=folder,
        files=len(model_files(folder)),
        weights=weights_path(folder).name,
        tensors=len(shapes),
        parameters=sum(shape.numel() for shape in shapes.values()),
        height=size[0],
        width=size[1],
        source=None if record is None else (record["repository"], record["commit"]),
        made=made,
    )


def write_made(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `foundation.json` beside a model that was made here, last, with the SHA-256 of its files.

    Args:
        folder: The model folder.
        about: `name`, `weights` and how it was made.
    """
    write_json(folder / MADE, {**about, "files": {name: hash_file(folder / name) for name in model_files(folder)}})


def _read_made(folder: Path) -> dict[str, Any]:
    """What `foundation.json` says; nothing where there is none."""
    return dict(read_json(folder / MADE, "densityclip weights stand-in")) if (folder / MADE).is_file() else {}


def origin(folder: Path) -> dict[str, Any]:
    """Where a foundation model is from, for the provenance of what is made of it.

    Returns:
        `name`, and `commit` of fetched weights or what `foundation.json` says of a model that was made here; only
        `name: null` where the folder was filled by hand.

    Raises:
        UserError: The folder's files are not those that its record names.
    """
    record = read_record(folder)
    if record is not None:
        check_hashes(folder, record)
        return {"name": record["repository"], "commit": record["commit"]}
    made = _read_made(folder)
    wrong = _unlike(folder, made.get("files", {}))
    if wrong:
        raise UserError(f"{folder} is not as it was made ({wrong})", "remove it and make it again, or copy it again")
    return {name: value for name, value in made.items() if name != "files"} or {"name": None}


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `densityclip weights fetch` wrote about a folder, or None where it did not make it.

    Raises:
        UserError: The record is damaged.
    """
    if not (folder / RECORD).is_file():
        return None
    command = f"densityclip weights fetch --out {folder}"
    record = read_json(folder / RECORD, command)
    wanted = {"repository": str, "commit": str, "files": dict, "converted_from": dict}
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in wanted.items()):
        raise UserError(f"{folder / RECORD} is no record of fetched weights", f"delete it and run `{command}`")
    return record


def fetch_command(folder: Path, record: dict[str, Any]) -> str:
    """The command that fetched a folder, to be typed again."""
    command = f"densityclip weights fetch --out {folder}"
    if record["repository"] != BIOMEDCLIP:
        command += f" --repo {record['repository']}"
    return f"{command} --revision {record['commit']}"


def check_hashes(folder: Path, record: dict[str, Any]) -> None:
    """Compare a folder's files with its record.

    Raises:
        UserError: Files are missing or changed; all of them are named.
    """
    wrong = _unlike(folder, record["files"])
    if wrong:
        raise UserError(
            f"{folder} is not what was fetched from {record['repository']} ({wrong})",
            f"mend it with `{fetch_command(folder, record)}`",
        )


def _unlike(folder: Path, files: Mapping[str, str]) -> str:
    """Which files are missing or of another hash than recorded; blank where none is."""
    missing = [name for name in files if not (folder / name).is_file()]
    changed = [name for name, sha256 in files.items() if name not in missing and hash_file(folder / name) != sha256]
    return "; ".join(
        f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("changed", changed)) if names
    )
