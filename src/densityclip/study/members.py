"""What the members of a study leave on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densityclip.artifacts import read_json
from densityclip.probability.calibrate import Calibration
from densityclip.probability.joining import Joining
from densityclip.probability.joining import Member as Key
from densityclip.study_file import Member
from densityclip.training.baselines import BASELINE, FITTED_HERE


def is_bundle(member: Member) -> bool:
    """Whether a member is trained as arms are, and leaves a bundle."""
    return member.arm not in FITTED_HERE


def shuffled_folder(arm: str) -> str:
    """The folder below `arms` of an arm's training on shuffled labels."""
    return f"{arm}/shuffled-labels"


def about_of(member: Member, folder: Path) -> Path:
    """The file that names everything that made a member, its weights' hashes included."""
    return folder / "bundle" / "provenance.json" if is_bundle(member) else folder / BASELINE


def read_about(member: Member, folder: Path) -> dict[str, Any]:
    """That file's content."""
    about: dict[str, Any] = read_json(about_of(member, folder), "densityclip study")
    return about


def calibration_of(member: Member, folder: Path) -> dict[str, Any]:
    """What turns a member's logits into probabilities, as `calibration.json` holds it."""
    found: dict[str, Any] = (
        read_json(folder / "bundle" / "calibration.json", "densityclip study")
        if is_bundle(member)
        else read_about(member, folder)["calibration"]
    )
    return found


def joinings_of(models: Mapping[Member, Path]) -> dict[Key, Joining]:
    """How each member joins its images, as `evaluate` takes it."""
    return {
        (member.arm, member.fold, member.seed): Calibration.from_dict(calibration_of(member, folder)).joining
        for member, folder in models.items()
    }
