"""BiomedCLIP's files from the hub into a folder that works offline: pinned, compared with the hub's hashes, no pickle.

A file reaches its place in the folder only after its content was found to be what the hub says it is; until then it
lies in `.fetch/`. So whatever a killed run leaves in place is whole, and the next run goes on from there.
"""

import contextlib
import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densityclip import __version__
from densityclip.artifacts import SCHEMA_VERSION, atomic_path, hash_file, write_json
from densityclip.errors import UserError
from densityclip.model.biomedclip import (
    BIOMEDCLIP,
    CONFIG,
    PICKLE,
    SAFETENSORS,
    TEXT_FOLDER,
    TOKENIZER_FILES,
    WEIGHTS,
    check_model,
    read_config,
    read_weights,
)
from densityclip.model.hub_errors import hub_errors_told
from densityclip.model.weights_check import RECORD, check_hashes, read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

# The newest revision when this was written; another one may hold other weights.
BIOMEDCLIP_REVISION = "9f341de24bfb00180f1b847274256e9b65a3a32e"

_TEXT_CONFIG = f"{TEXT_FOLDER}/config.json"
_STAGING = ".fetch"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MB = 1_000_000
# Room for what else is written to the disk meanwhile.
_SPARE_BYTES = 50 * _MB


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        folder: The model folder.
        repo: Where it came from.
        commit: The revision, as 40 hexadecimal digits.
        downloaded: Names of the files that were downloaded; empty where all were there.
    """

    folder: Path
    repo: str
    commit: str
    downloaded: tuple[str, ...]


@dataclass(frozen=True)
class _Remote:
    """A file as the hub describes it.

    Attributes:
        etag: SHA-256 of its content where it is stored in LFS, else the SHA-1 that git gives its blob.
        size: In bytes; 0 where the server does not say.
        place: Its path in the model folder.
    """

    repo: str
    commit: str
    name: str
    etag: str
    size: int
    place: str


def fetch(
    out: Path,
    repo: str = BIOMEDCLIP,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fetched:
    """Fetch a model in open_clip's format, with its text tower's config, into a folder that loads without a network.

    Args:
        out: The folder; what a stopped run left there is used.
        repo: Repository of the hub.
        revision: Commit, branch or tag. BiomedCLIP has a pinned one; of other repositories it must be said.
        progress: Called with (MB done, MB in all).

    Raises:
        UserError: The hub cannot be reached or has no such file, a file is not what the hub says it is, the disk is
            too small, the folder holds another model, or the model is none that can be adapted here.
    """
    if revision is None and repo != BIOMEDCLIP:
        raise UserError(f"no revision of {repo} was given", "name one with --revision, best a commit of 40 digits")
    revision = revision or BIOMEDCLIP_REVISION
    record = _own_record(out, repo, revision)
    if record is not None and _COMMIT.fullmatch(revision) and _is_whole(out, record):
        return _finish(out, record, ())
    first = _look(repo, revision, CONFIG)
    if record is not None and record["commit"] != first.commit:
        raise _another(out, f"{repo} at {record['commit']}")
    if record is None and (out / CONFIG).exists() and not _is_as_said(out / CONFIG, first.etag):
        raise _another(out, "another model")
    if record is not None and _is_whole(out, record):
        return _finish(out, record, ())
    # What a killed run was downloading has a name that the client never takes up again.
    shutil.rmtree(out / _STAGING, ignore_errors=True)
    try:
        return _fetch_files(out, revision, first, record, progress or (lambda done, total: None))
    finally:
        shutil.rmtree(out / _STAGING, ignore_errors=True)


def _fetch_files(
    out: Path, revision: str, first: _Remote, record: dict[str, Any] | None, progress: Callable[[int, int], None]
) -> Fetched:
    downloaded = _download([first], out, record, lambda done, total: None)
    config = read_config(out)
    text = _text_config(config, first, record)
    weights = _weights(first)
    others = [*_tokenizer(config, first), *([text] if text else [])]
    # The small files first: what is wrong with them is found before the large one.
    downloaded += _download([*others, weights], out, record, progress)
    if weights.name == PICKLE and (out / PICKLE).is_file():
        _convert(out)
    check_model(out)
    places = [CONFIG, SAFETENSORS, *(remote.place for remote in others)]
    content = {
        "schema_version": SCHEMA_VERSION,
        "densityclip": __version__,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "repository": first.repo,
        "revision": revision,
        "commit": first.commit,
        "text_repository": text.repo if text else None,
        "text_commit": text.commit if text else None,
        "files": {place: hash_file(out / place) for place in places},
        "converted_from": {PICKLE: weights.etag} if weights.name == PICKLE else {},
    }
    write_json(out / RECORD, content)
    return _finish(out, content, tuple(downloaded))


def _finish(out: Path, record: "Mapping[str, Any]", downloaded: tuple[str, ...]) -> Fetched:
    """The pickle goes last: a run that is killed before the record is written can still convert it again."""
    if record["converted_from"]:
        (out / PICKLE).unlink(missing_ok=True)
    return Fetched(out, record["repository"], record["commit"], downloaded)


def _own_record(out: Path, repo: str, revision: str) -> dict[str, Any] | None:
    """The record of an earlier fetch of the same model, or None where the folder has none."""
    record = read_record(out)
    if record is None:
        return None
    if record["repository"] != repo or (_COMMIT.fullmatch(revision) and record["commit"] != revision):
        raise _another(out, f"{record['repository']} at {record['commit']}")
    return record


def _another(out: Path, what: str) -> UserError:
    return UserError(f"{out} holds {what}", "choose another --out; nothing of that folder was changed")


def _is_whole(out: Path, record: dict[str, Any]) -> bool:
    try:
        check_hashes(out, record)
    except UserError:
        return False
    return True


def _look(repo: str, revision: str, name: str, place: str | None = None) -> _Remote:
    """Ask the hub for a file's commit, hash and size."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with hub_errors_told(repo, revision, name):
        found = get_hf_file_metadata(hf_hub_url(repo, name, revision=revision))
    if found.commit_hash is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found.etag or ""):
        raise UserError(
            f"the server that was asked for {name} of {repo} does not say its commit and hash, as the hub does",
            "check HF_ENDPOINT, or a proxy that answers in the hub's place",
        )
    if _COMMIT.fullmatch(revision) and found.commit_hash != revision:
        raise UserError(f"the server gave commit {found.commit_hash} of {repo} for {revision}", "check HF_ENDPOINT")
    return _Remote(repo, found.commit_hash, name, str(found.etag), found.size or 0, place or name)


def _look_if_there(repo: str, revision: str, name: str) -> _Remote | None:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _look(repo, revision, name)
    except UserError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise


def _weights(first: _Remote) -> _Remote:
    """The repository's weights, safetensors first; those have one name here, whichever the publisher chose."""
    for name in WEIGHTS:
        found = _look_if_there(first.repo, first.commit, name)
        if found is not None:
            place = PICKLE if name == PICKLE else SAFETENSORS
            return _Remote(found.repo, found.commit, name, found.etag, found.size, place)
    raise UserError(
        f"{first.repo} has no weights at {first.commit}: none of {', '.join(WEIGHTS)}",
        "choose a repository or a --revision that holds a model in open_clip's format",
    )


def _tokenizer(config: dict[str, Any], first: _Remote) -> list[_Remote]:
    """The tokenizer's files that the repository has; CLIP's own tokenizer comes with open_clip."""
    text = config["model_cfg"]["text_cfg"]
    if not text.get("hf_tokenizer_name") and not text.get("hf_model_name"):
        return []
    found = [_look_if_there(first.repo, first.commit, name) for name in TOKENIZER_FILES]
    return [remote for remote in found if remote is not None]


def _text_config(config: dict[str, Any], first: _Remote, record: dict[str, Any] | None) -> _Remote | None:
    """The config of a Hugging Face text tower: from the repository if it carries one, else from the one it names."""
    named = config["model_cfg"]["text_cfg"].get("hf_model_name")
    if not named:
        return None
    own = _look_if_there(first.repo, first.commit, _TEXT_CONFIG)
    if own is not None:
        return own
    revision = record["text_commit"] if record is not None and record["text_repository"] == named else "main"
    return _look(named, revision, "config.json", _TEXT_CONFIG)


def _is_as_said(path: Path, etag: str) -> bool:
    """Whether a file's content is what the hub says: by SHA-256, or by the SHA-1 that git gives it as a blob."""
    if len(etag) == 64:
        return hash_file(path) == etag
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == etag


def _is_there(remote: _Remote, out: Path, record: dict[str, Any] | None) -> bool:
    if (out / remote.place).is_file() and _is_as_said(out / remote.place, remote.etag):
        return True
    if remote.place != PICKLE or record is None or record["converted_from"].get(PICKLE) != remote.etag:
        return False
    converted = out / SAFETENSORS
    return converted.is_file() and hash_file(converted) == record["files"][SAFETENSORS]


def _download(
    remotes: list[_Remote], out: Path, record: dict[str, Any] | None, progress: Callable[[int, int], None]
) -> list[str]:
    """Download the files that are not there; each reaches its place only when it is what the hub says."""
    wanted = [remote for remote in remotes if not _is_there(remote, out, record)]
    _check_disk(wanted, out)
    total, done = sum(remote.size for remote in wanted), 0
    for remote in wanted:
        with _watched(out / _STAGING, done, total, progress):
            path = _download_one(remote, out)
        place = out / remote.place
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
        done += remote.size
    if wanted:
        progress(-(-total // _MB), -(-total // _MB))
    return [remote.place for remote in wanted]


def _download_one(remote: _Remote, out: Path) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors_told(remote.repo, remote.commit, remote.name, out), _without_bars():
        staging = out / _STAGING / remote.repo.replace("/", "--")
        path = Path(hf_hub_download(remote.repo, remote.name, revision=remote.commit, local_dir=staging))
        as_said = _is_as_said(path, remote.etag)
    if not as_said:
        raise UserError(
            f"{remote.name} of {remote.repo} came with other content than the hub's hash says ({remote.etag}), "
            "and was deleted",
            "run the same command again; if it stays so, a proxy or mirror on the way (HF_ENDPOINT) changes files",
        )
    return path


def _check_disk(wanted: list[_Remote], out: Path) -> None:
    """Stop before a download that cannot fit; the pickle and what it is converted to lie side by side for a while."""
    needed = sum(remote.size * (2 if remote.place == PICKLE else 1) for remote in wanted)
    if not needed:
        return
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"{out} needs {-(-(needed + _SPARE_BYTES) // _MB)} MB while the files are fetched, and its disk has "
            f"{free // _MB} MB free",
            "free some space or choose another --out",
        )


def _convert(out: Path) -> None:
    """Store the pickle's tensors as safetensors, without what today's open_clip no longer knows."""
    from safetensors.torch import save_file

    weights = read_weights(out / PICKLE)
    # One by one, so that the model is not twice in memory; safetensors takes no tensors that share it.
    state = {name: weights.pop(name).contiguous().clone() for name in list(weights)}
    with atomic_path(out / SAFETENSORS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """The client's own bars would stand beside ours."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def _watched(staging: Path, done: int, total: int, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Report how much has arrived, twice a second: the size of the files tells it whichever way they come."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            arrived = 0
            for path in staging.rglob("*"):
                with contextlib.suppress(OSError):
                    arrived += path.stat().st_size if path.is_file() else 0
            progress(min(done + arrived, total) // _MB, -(-total // _MB))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
