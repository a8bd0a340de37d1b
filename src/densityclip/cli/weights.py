"""Commands about the foundation model's files."""

from pathlib import Path
from typing import Annotated

import typer

from densityclip.cli.options import Out, Workers


def fetch_weights(
    out: Out,
    repo: Annotated[str | None, typer.Option(help="OWNER/NAME on the hub; BiomedCLIP if not given.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag; BiomedCLIP's pinned commit if not given.")
    ] = None,
) -> None:
    """Fetch BiomedCLIP, or another model of open_clip's format, from the hub into a folder that works offline.

    Example: densityclip weights fetch --out biomedclip
    """
    from densityclip import terminal
    from densityclip.model.biomedclip import BIOMEDCLIP
    from densityclip.model.hub import fetch

    with terminal.progress("weights, MB") as report:
        fetched = fetch(out, repo or BIOMEDCLIP, revision, progress=report)
    said = f"{len(fetched.downloaded)} files were downloaded" if fetched.downloaded else "nothing had to be downloaded"
    terminal.say(f"{out} holds {fetched.repo} at {fetched.commit}; {said}.")
    terminal.say(f"Next: densityclip train CACHE --splits SPLITS --foundation {out} --out MODEL")


def check_weights(folder: Annotated[Path, typer.Argument(help="Folder of a foundation model.")]) -> None:
    """Prove that a model folder is complete and unchanged.

    Example: densityclip weights check biomedclip
    """
    from densityclip import terminal
    from densityclip.model.weights_check import check

    found = check(folder)
    terminal.say(
        f"{folder} is complete: {found.tensors} tensors in {found.weights}, {found.parameters / 1e6:.1f} M numbers, "
        f"names and shapes as the config says, images of {found.height} x {found.width} px, {found.files} files."
    )
    if found.made is not None:
        terminal.say(f"It is the {found.made}, every file as it was made.")
    elif found.source is None:
        terminal.say(
            "It has no record of hashes: only completeness was checked, not that the files are the publisher's."
        )
    else:
        terminal.say(f"Every file is as it was fetched from {found.source[0]} at {found.source[1]}.")


def make_stand_in(
    out: Out,
    exams: Annotated[int, typer.Option(min=8, help="Generated exams that it is taught on.")] = 200,
    steps_: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 1200,
    seed: Annotated[int, typer.Option(min=0, help="Of its patients and its training.")] = 700_000,
    workers: Workers = 2,
) -> None:
    """Make the generated stand-in for BiomedCLIP: a small model taught on generated exams, never their densities.

    Example: densityclip weights stand-in --out stand-in
    """
    from densityclip import steps, terminal
    from densityclip.study_file import STAND_IN_SITE

    with terminal.progress("generated stand-in") as report:
        steps.make_stand_in(
            out, site=STAND_IN_SITE, exams=exams, steps=steps_, seed=seed, workers=workers, progress=report
        )
    terminal.say(f"{out} holds the generated stand-in; adapt it to other exams than those of --seed {seed}.")
    terminal.say(
        f"Next: densityclip train CACHE --splits SPLITS --foundation {out} --out MODEL "
        "--set learning_rate=0.001 --set layer_decay=1"
    )
