"""What a study's folder remembers: which study it is, what was asked before anything was trained, what is done."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from densityclip import __version__
from densityclip.artifacts import git_revision, hash_json, read_json, write_json
from densityclip.errors import UserError
from densityclip.study_file import Study

STUDY, REGISTRATION, SPLITS, STATE = "study.json", "registration.json", "splits.parquet", "state"

Report = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[Report]]


def study_hash(study: Study) -> str:
    """SHA-256 of all that the study says, defaults included."""
    return hash_json(study.model_dump(mode="json"))


def claim(study: Study, out: Path) -> dict[str, Any]:
    """Write the resolved study and its registration, unless the folder has them.

    The registration holds the hash of the study, the revision of the code, the primary question and the time. It is
    written before anything is made and never again.

    Returns:
        The content of `registration.json`.

    Raises:
        UserError: The folder holds another study.
    """
    mine = study.model_dump(mode="json")
    begun = (out / STATE).is_dir()
    if begun and (out / STUDY).is_file() and read_json(out / STUDY, "densityclip study") != mine:
        raise UserError(f"{out} holds another study", "choose another --out, or remove that folder")
    write_json(out / STUDY, mine)
    if not (begun and (out / REGISTRATION).is_file()):
        content = {
            "study": study_hash(study),
            "primary": study.primary.model_dump(mode="json"),
            "densityclip": __version__,
            "git_revision": git_revision(),
            "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(out / REGISTRATION, content)
    registered: dict[str, Any] = read_json(out / REGISTRATION, "densityclip study")
    if registered["study"] != study_hash(study):
        raise UserError(f"{out} was registered for another study", "choose another --out, or remove that folder")
    return registered


def state_file(folder: Path, step: str) -> Path:
    """The state file of a step."""
    return folder / f"{step.replace(' ', '-')}.json"


class Steps:
    """Steps that are done when their state file names the same request and their outputs are there.

    A request holds the hashes of what the step reads, so a change anywhere upstream runs everything after it again.
    """

    def __init__(self, out: Path, progress: Progress) -> None:
        self.folder, self.progress = out / STATE, progress

    def run(self, name: str, request: Any, outputs: list[Path], run: Callable[[Report], None]) -> str:
        """Run a step unless it is done; returns the hash of its request, for the requests of later steps."""
        state = state_file(self.folder, name)
        request_hash = hash_json({"step": name, "densityclip": __version__, "request": request})
        done = state.is_file() and read_json(state, "densityclip study").get("request_hash") == request_hash
        if not (done and all(path.exists() for path in outputs)):
            with self.progress(name) as report:
                run(report)
            write_json(state, {"request_hash": request_hash})
        return request_hash
