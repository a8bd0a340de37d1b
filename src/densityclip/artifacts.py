"""The files between steps: their schemas and versions, atomic writes, and manifests.

A reader of `index.parquet`, `splits.parquet` or `predictions.parquet` needs this file and nothing else.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from densityclip import __version__
from densityclip.errors import UserError

SCHEMA_VERSION = 1

INDEX: dict[str, pl.DataType] = {
    "image_id": pl.String(),
    "path": pl.String(),
    "patient_id": pl.String(),
    "exam_id": pl.String(),
    "series_uid": pl.String(),
    "sop_uid": pl.String(),
    "study_date": pl.Date(),
    "laterality": pl.String(),
    "view": pl.String(),
    "modality": pl.String(),
    "density": pl.String(),
    "density_source": pl.String(),
    "site": pl.String(),
    "institution": pl.String(),
    "vendor": pl.String(),
    "machine": pl.String(),
    "age": pl.Float64(),
    "race": pl.String(),
    "implant": pl.Boolean(),
    "frames": pl.Int32(),
    "spacing_mm": pl.Float64(),
    "source_split": pl.String(),
}
EXCLUDED: dict[str, pl.DataType] = INDEX | {"reason": pl.String(), "detail": pl.String()}
SPLITS: dict[str, pl.DataType] = {
    "patient_id": pl.String(),
    "cohort": pl.String(),
    "fold": pl.Int32(),
    "part": pl.String(),
}
PREDICTIONS: dict[str, pl.DataType] = {
    "level": pl.String(),
    "slice_index": pl.Int32(),
    "image_id": pl.String(),
    "exam_id": pl.String(),
    "patient_id": pl.String(),
    "modality": pl.String(),
    "view": pl.String(),
    "laterality": pl.String(),
    "site": pl.String(),
    "vendor": pl.String(),
    "machine": pl.String(),
    "age": pl.Float64(),
    "race": pl.String(),
    "cohort": pl.String(),
    "part": pl.String(),
    "fold": pl.Int32(),
    "arm": pl.String(),
    "seed": pl.Int64(),
    "label": pl.String(),
    "logit_a": pl.Float64(),
    "logit_b": pl.Float64(),
    "logit_c": pl.Float64(),
    "logit_d": pl.Float64(),
    "prob_a": pl.Float64(),
    "prob_b": pl.Float64(),
    "prob_c": pl.Float64(),
    "prob_d": pl.Float64(),
    "predicted": pl.String(),
    "prob_dense": pl.Float64(),
    "status": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}
# Columns that files of before lack: they are read as null.
_ADDED: dict[str, tuple[str, ...]] = {"predictions": ("detail",)}
_HASHED_ROWS = 20_000
LOGITS: tuple[str, ...] = ("logit_a", "logit_b", "logit_c", "logit_d")
PROBABILITIES: tuple[str, ...] = ("prob_a", "prob_b", "prob_c", "prob_d")

SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "index": INDEX,
    "excluded": EXCLUDED,
    "splits": SPLITS,
    "predictions": PREDICTIONS,
}
_MADE_BY = {
    "index": "densityclip index",
    "excluded": "densityclip index",
    "splits": "densityclip split",
    "predictions": "densityclip predict",
}


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; rename it to `path` when the block ends well.

    A reader never sees half a file. A temporary file of a killed run is overwritten by the next one.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        named = disk_error(error, path)
        if named is error:
            raise
        raise named from error


def disk_error(error: BaseException, path: Path) -> BaseException:
    """Turn a failed write into a sentence with the next step; other errors come back as they are.

    pydicom and the Rust libraries (polars, safetensors) pass the system's words on and lose its number.
    """
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return UserError(
            f"the disk is full while writing {path.name} in {path.parent}",
            "free some space or choose another --out, then run the same command again; finished work is kept",
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{path.parent} cannot be written", "choose another --out, or change its permissions")
    if number in (errno.ENOTDIR, errno.EEXIST) or (number == errno.ENOENT and not path.parent.is_dir()):
        return UserError(f"{path.parent} is no folder and cannot be made one", "choose another --out")
    return error


def check_folder(folder: Path) -> None:
    """Say before any work is done that results cannot be written into a folder; nothing is made.

    Raises:
        UserError: It is no folder, lies in something that is none, or cannot be written.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{there} is no folder", "choose another --out")
    if not os.access(there, os.W_OK):
        raise UserError(f"{there} cannot be written", "choose another --out, or change its permissions")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all, keys in the given order, floats as Python prints them."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_figures(path: Path, content: Any) -> None:
    """Write JSON whole or not at all, with a line for each innermost object or list: many figures, few spaces."""
    write_text(path, _figures(content, "") + "\n")


def _figures(content: Any, before: str) -> str:
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if not any(isinstance(one, dict | list) for one in inside):
        return json.dumps(content, ensure_ascii=False, allow_nan=False)
    deeper = before + " "
    if isinstance(content, dict):
        lines = [f"{deeper}{json.dumps(str(key))}: {_figures(one, deeper)}" for key, one in content.items()]
        return "{\n" + ",\n".join(lines) + f"\n{before}}}"
    return "[\n" + ",\n".join(f"{deeper}{_figures(one, deeper)}" for one in content) + f"\n{before}]"


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file of ours.

    Args:
        path: The file.
        made_by: The command that makes it, for the message.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", f"make it with `{made_by}`") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON", f"make it again with `{made_by}`") from error


def conform(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Put a table into the schema of its kind: columns in order, absent ones null, types cast.

    Raises:
        ValueError: A column is not in the schema (a bug in the caller).
    """
    schema = SCHEMAS[kind]
    unknown = set(table.columns) - set(schema)
    if unknown:
        raise ValueError(f"{kind} has no columns {sorted(unknown)}")
    if not table.columns:
        # Selecting literals from a table without columns would make up a row.
        return pl.DataFrame(schema=schema)
    return table.select(
        (pl.col(name) if name in table.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def write_table(table: pl.DataFrame | pl.LazyFrame, path: Path, kind: str) -> None:
    """Write a table of a kind (`index excluded splits predictions`) as Parquet, with its schema version inside.

    A query with the columns of its kind is written piece by piece as it runs.
    """
    metadata = {"densityclip_kind": kind, "schema_version": str(SCHEMA_VERSION)}
    with atomic_path(path) as temporary:
        if isinstance(table, pl.LazyFrame):
            columns = [pl.col(name).cast(dtype) for name, dtype in SCHEMAS[kind].items()]
            table.select(columns).sink_parquet(temporary, metadata=metadata, engine="streaming")
        else:
            conform(table, kind).write_parquet(temporary, metadata=metadata)


def read_table(path: Path, kind: str) -> pl.DataFrame:
    """Read a table of a kind.

    Raises:
        UserError: The file is missing, not Parquet, of another kind, or of another schema version.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", f"make it with `{_MADE_BY[kind]}`")
    try:
        metadata = pl.read_parquet_metadata(path)
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file", f"make it again with `{_MADE_BY[kind]}`") from error
    found = metadata.get("densityclip_kind")
    if found is None:
        raise UserError(
            f"{path} is a Parquet file that densityclip did not write", f"give the file that `{_MADE_BY[kind]}` wrote"
        )
    if found != kind:
        raise UserError(f"{path} holds {found}, not {kind}", f"give the file that `{_MADE_BY[kind]}` wrote")
    version = metadata.get("schema_version")
    if version != str(SCHEMA_VERSION):
        raise UserError(
            f"{path} has schema version {version}, this densityclip reads {SCHEMA_VERSION}",
            f"make it again with `{_MADE_BY[kind]}`",
        )
    absent = {name: dtype for name, dtype in SCHEMAS[kind].items() if name not in table.columns}
    added = [pl.lit(None, absent.pop(name)).alias(name) for name in _ADDED.get(kind, ()) if name in absent]
    if absent:
        raise UserError(f"{path} lacks the columns {', '.join(absent)}", f"make it again with `{_MADE_BY[kind]}`")
    return table.with_columns(added)


def file_stem(identifier: str) -> str:
    """A file name that an identifier may have: a name that came from outside never becomes a path.

    Returns:
        The identifier where it is of letters, digits, `.`, `_` and `-`; else that much of it and a hash.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", identifier).strip(".")[:80]
    return safe if safe == identifier else f"{safe}-{hash_bytes(identifier.encode())[:8]}"


def hash_bytes(*pieces: bytes) -> str:
    """SHA-256 of some bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def hash_json(content: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hash_bytes(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_table(table: pl.DataFrame) -> str:
    """SHA-256 of a table's content, independent of how Parquet laid it out."""
    # In slices: the text of a million rows is 400 MB.
    digest = hashlib.sha256(table.head(0).write_csv().encode())
    for rows in table.iter_slices(_HASHED_ROWS):
        digest.update(rows.write_csv(include_header=False).encode())
    return digest.hexdigest()


def git_revision() -> str | None:
    """Revision of the source checkout that is running, or None for an installed package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists() or not (folder / "pyproject.toml").is_file():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def write_manifest(
    path: Path,
    *,
    step: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    counts: Mapping[str, int],
    notes: Sequence[str] = (),
) -> None:
    """Write the manifest that lies beside the output of a step.

    Args:
        path: The manifest's own name, such as `index.manifest.json`.
        step: The command that ran.
        config: The resolved configuration.
        inputs: Name of each input and its SHA-256.
        counts: What was counted, such as rows in and out.
        notes: Sentences that a reader of the output should know.
    """
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "densityclip": __version__,
            "git_revision": git_revision(),
            "python": platform.python_version(),
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": dict(config),
            "inputs": dict(inputs),
            "counts": dict(counts),
            **({"notes": list(notes)} if notes else {}),
        },
    )
