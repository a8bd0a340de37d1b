"""What several commands share: their options, opening a model, the exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densityclip.errors import EXIT_SOME_REFUSED, UserError

if TYPE_CHECKING:
    from densityclip.model.bundle import Bundle


Out = Annotated[Path, typer.Option("--out", help="Where to write.")]


def _checked(folder: Path) -> Path:
    from densityclip.artifacts import check_folder

    check_folder(folder)
    return folder


OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write into.", callback=_checked)]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value; may be repeated.")]


def open_model(folder: Path) -> "Bundle":
    """Load a bundle, once, and say what its answers are worth."""
    from densityclip import terminal
    from densityclip.model.bundle import load_bundle

    bundle = load_bundle(folder)
    if bundle.generated_note:
        trial = " Its answers on real images are a trial, no more." if bundle.generated_only else ""
        terminal.say(bundle.generated_note + trial)
    terminal.say("Research use only; not a medical device.")
    return bundle


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """`key=value` texts of an option as a dictionary; UserError names the option where one has no `=`."""
    pairs = dict(text.split("=", 1) for text in texts if "=" in text)
    if len(pairs) < len(texts):
        raise UserError(f"{option} wants key=value", f"write it as {option} ours=theirs")
    return pairs


def exit_if(refused: int) -> None:
    """End with the exit code for "done, but some input was refused" where any was."""
    if refused:
        raise typer.Exit(EXIT_SOME_REFUSED)
