"""What the hub's client raises, as a sentence for a person and the next thing to do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from densityclip.artifacts import disk_error
from densityclip.errors import UserError


@contextlib.contextmanager
def hub_errors_told(repo: str, revision: str, name: str, out: Path | None = None) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence with the next step.

    Args:
        repo: The repository that is asked.
        revision: Its revision.
        name: The file.
        out: The folder that is written to, where it is.

    Raises:
        UserError: In the block, the client raised.
    """
    from huggingface_hub import errors

    # Of the HTTP library that the client was built on, which differs between its versions.
    kinds = (errors.HTTPError, errors.HFValidationError, getattr(errors, "XetDownloadError", OSError))
    try:
        yield
    except (*kinds, OSError, RuntimeError) as error:
        told = disk_error(error, out / name) if out is not None else error
        raise (told if isinstance(told, UserError) else _explained(error, repo, revision, name)) from error


def _explained(error: BaseException, repo: str, revision: str, name: str) -> UserError:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _explained(error.__cause__, repo, revision, name)
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        said = "HF_HUB_OFFLINE is set, so nothing is fetched", "unset it, or copy the folder from another machine"
    elif isinstance(error, errors.HFValidationError):
        said = f"{repo} is no name of a repository", "give it as OWNER/NAME"
    elif isinstance(error, errors.GatedRepoError):
        said = f"{repo} is gated: its owner wants its terms accepted", f"accept them on its page, then {log_in}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        said = f"the hub has no repository {repo}, or it is private", f"check the name; if it is private, {log_in}"
    elif isinstance(error, errors.RevisionNotFoundError):
        said = f"{repo} has no revision {revision}", "choose a --revision that its page on the hub lists"
    elif isinstance(error, errors.EntryNotFoundError):
        said = f"{repo} has no {name} at {revision}", "choose a repository with a model in open_clip's format"
    elif status in (401, 403):
        said = f"the hub refuses {name} of {repo} ({status})", f"{log_in}, or check that the token may read it"
    elif status is not None:
        said = f"the hub answered {status} for {name} of {repo}", "wait a while, then run the same command again"
    else:
        said = _unreachable(error, repo, name)
    return UserError(*said)


def _unreachable(error: BaseException, repo: str, name: str) -> tuple[str, str]:
    from huggingface_hub import constants

    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{name} of {repo} could not be fetched from {constants.ENDPOINT}: {reason}",
        "check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, then run the same command again; "
        "files that are whole are kept",
    )
