"""A bundle for others: an ONNX graph for programs without torch, or a folder to publish on a model hub."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip.artifacts import hash_file, read_json, write_json, write_text
from densityclip.errors import UserError

if TYPE_CHECKING:
    from densityclip.model.bundle import Bundle

TARGETS = ("onnx", "hub")
CARD = "README.md"

# How a value begins that is a path of a machine. A role such as validation/worst, or the token "/", is none.
_PATH = re.compile(r"~[\\/]|[A-Za-z]:[\\/]|\\\\|file:|/[^/\s]+/")
# Files that other programs wrote and sign with their own paths; what lies behind those is never read.
_SIGNED = ("tokenizer_config.json", "special_tokens_map.json", "text/config.json", "open_clip_config.json")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder under a temporary name, that gets its own when the block ends well.

    Raises:
        UserError: `out` exists and is no empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty", "choose another --out, or remove it")
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rmdir()
        partial.replace(out)
    except OSError as error:
        fact = f"{out} cannot be written: {error.strerror or error}"
        raise UserError(fact, "choose another --out, or free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def to_onnx(bundle: "Bundle", out: Path) -> dict[str, Any]:
    """Write `density.onnx`, `density.json` and `recipe.json`.

    Returns:
        The content of `density.json`.

    Raises:
        UserError: See `model.onnx_export.export_onnx`; or `out` is not empty.
    """
    from densityclip.deliver.wording import NOTICE
    from densityclip.model.bundle import RECIPE
    from densityclip.model.onnx_export import DESCRIPTION, export_onnx

    with new_folder(out) as folder:
        about = export_onnx(bundle, folder, notice=NOTICE)
        shutil.copyfile(bundle.folder / RECIPE, folder / RECIPE)
        write_json(folder / DESCRIPTION, about)
    return about


def to_hub(
    bundle: "Bundle",
    out: Path,
    *,
    licence: str | None = None,
    metrics: Path | None = None,
    redistribute: bool = False,
) -> None:
    """Write a folder to publish: the bundle without traces of this machine, and a model card.

    Args:
        bundle: The model.
        out: Where to write.
        licence: The model's licence, as the hub names it; the card says so where none is stated.
        metrics: `metrics.json` of `densityclip evaluate`, of this model alone.
        redistribute: The user's word that every licence of the training data allows it, where the bundle is silent; a
            licence that forbids it is never overruled.

    Raises:
        UserError: A licence forbids it or nothing says that it may be passed on, the metrics are of no evaluation or
            of several arms, or `out` is not empty.
    """
    from densityclip.model.bundle import PROVENANCE, load_bundle
    from densityclip.report.model_card import model_card

    refuse_restricted(bundle, stated=redistribute)
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(f"{licence!r} is no name of a licence on the hub", "write it as there, such as --licence mit")
    figures = None if metrics is None else _figures(metrics)
    with new_folder(out) as folder:
        for name in bundle.provenance["hashes"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name, folder / name)
        for name in _SIGNED:
            _unsign(folder / name)
        provenance = _published(bundle.provenance, folder)
        provenance["data"]["redistribute"] = True
        write_json(folder / PROVENANCE, provenance)
        write_text(folder / CARD, model_card(load_bundle(folder), licence=licence, metrics=figures))


def _unsign(path: Path) -> None:
    content = read_json(path, "densityclip train") if path.is_file() else None
    if content != without_paths(content):
        write_json(path, without_paths(content))


def _published(provenance: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The provenance without paths, with the hashes of the files as they are published."""
    content = without_paths(provenance)
    if provenance.get("training", {}).get("config", {}).get("prompts"):
        # A path, absolute or not, of a machine that nobody else has; the words themselves go along.
        content["training"]["config"]["prompts"] = "prompts.json"
    content["hashes"] = {name: hash_file(folder / name) for name in provenance["hashes"]}
    return dict(content)


def _figures(path: Path) -> dict[str, Any]:
    """The metrics of one model.

    Raises:
        UserError: The file is of no evaluation, or of several arms.
    """
    remedy = "give the metrics.json that `densityclip evaluate` wrote for the predictions of this model"
    content = read_json(path, "densityclip evaluate")
    if not isinstance(content, dict) or not content.get("cells") or "bootstrap" not in content:
        raise UserError(f"{path} holds no figures of an evaluation", remedy)
    arms = sorted({cell["arm"] for cell in content["cells"]})
    if len(arms) > 1:
        raise UserError(f"{path} holds figures of several models ({', '.join(arms)})", remedy)
    return content


def refuse_restricted(bundle: "Bundle", *, stated: bool = False) -> None:
    """Stop where a bundle may not be passed on, or does not say that it may and the user does not either.

    Raises:
        UserError: With the datasets or cohorts that forbid it, where they are named.
    """
    data = bundle.provenance["data"]
    cohorts = data.get("cohorts", {})
    names = [*data.get("restricted_by", []), *(name for name in cohorts if cohorts[name].get("redistribute") is False)]
    if names or data.get("redistribute") is False:
        whose = f": the licence of {', '.join(dict.fromkeys(names))} forbids it" if names else ""
        raise UserError(
            f"this model may not be passed on{whose}",
            "use the bundle, or `export --to onnx`, inside the house; publish a model trained without that data",
        )
    if data.get("redistribute") is not True and not stated:
        raise UserError(
            "the bundle does not say that it may be passed on",
            "if every licence of the training data, and the hospital whose images they are, allow it, state that with "
            "`--redistribute`, here or when training",
        )


def without_paths(content: Any) -> Any:
    """Plain values, None in the place of every path of a machine: a folder's name may name a patient."""
    if isinstance(content, dict):
        return {key: without_paths(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_paths(value) for value in content]
    return None if isinstance(content, str) and _PATH.match(content) else content
