"""Commands that make a model, or hand one on."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from densityclip.cli.options import Out, OutFolder, Sets, Workers, open_model
from densityclip.errors import UserError


def train(
    caches: Annotated[list[Path], typer.Argument(help="Caches of `densityclip prepare`.")],
    splits: Annotated[Path, typer.Option(help="File of `densityclip split`.")],
    out: OutFolder,
    foundation: Annotated[Path, typer.Option(help="Folder with BiomedCLIP's files.")],
    config: Annotated[Path | None, typer.Option(help="YAML with training settings.")] = None,
    set_: Sets = None,
    redistribute: Annotated[
        bool | None,
        typer.Option(
            "--redistribute/--no-redistribute",
            help="Whether the model may be passed on (never EMBED's); without it, what the datasets' licences say.",
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Do not train on: make the bundle from the best validation so far.")
    ] = False,
) -> None:
    """Adapt the foundation model to density.

    Example: densityclip train cache --splits splits.parquet --foundation biomedclip --out model --set steps=2000
    """
    from densityclip import steps, terminal
    from densityclip.study_file import read_train_config

    settings = read_train_config(config, set_ or [])
    data = {} if redistribute is None else {"redistribute": redistribute}
    try:
        # Of several processes of one training the first alone speaks.
        with terminal.progress("train") if steps.is_first_process() else nullcontext() as report:
            bundle = steps.train(caches, splits, foundation, out, settings, data=data, finish=finish, progress=report)
    except steps.TrainingStopped as stop:
        if not stop.kept:
            raise
        way_on = "the same command with --finish makes the bundle of it"
        raise UserError(stop.fact, f"{stop.next_step}, and {way_on}") from stop
    if steps.is_first_process():
        for sentence in steps.training_outcome(bundle):
            terminal.say(sentence)
        terminal.say(f"The trained model is {bundle}.")


def calibrate(
    model: Annotated[Path, typer.Argument(help="Bundle.")],
    source: Annotated[
        Path, typer.Argument(help="Labelled exams of the site: DICOM folder or zip archive, index, or cache.")
    ],
    out: OutFolder,
    labels: Annotated[
        Path | None, typer.Option(help="Label table of DICOM files, as of `densityclip index --table`.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Split file: only patients of its calibration and external part are used.")
    ] = None,
    workers: Workers = 1,
) -> None:
    """Fit a model's probabilities to a site from labelled exams of it, as a new bundle; says what changed.

    Example: densityclip calibrate model/bundle site --labels site/labels.csv --out fitted

    Example: densityclip calibrate model/bundle site-cache --out fitted
    """
    from densityclip import steps, terminal

    bundle, said = open_model(model), list[str]()
    with terminal.progress("calibrate") as report:
        steps.calibrate(
            bundle,
            source,
            out,
            labels=labels,
            splits=splits,
            workers=workers,
            progress=report,
            announce=said.append,
        )
    for sentence in said:
        terminal.say(sentence)
    terminal.say(f"The fitted model lies in {out}.")


def export(
    bundle: Annotated[Path, typer.Argument(help="Bundle.")],
    to: Annotated[str, typer.Option(help="onnx, or hub: a folder to publish, with a model card.")],
    out: Out,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the published model, as the hub names it, such as mit.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="metrics.json of `densityclip evaluate`, for the model card.")
    ] = None,
    redistribute: Annotated[
        bool,
        typer.Option("--redistribute", help="State that the training data may be passed on, if the bundle does not."),
    ] = False,
) -> None:
    """Write a model for others: an ONNX graph, or a folder for a model hub. Nothing is uploaded.

    Example: densityclip export model/bundle --to onnx --out density-onnx

    Example: densityclip export model/bundle --to hub --licence mit --metrics evaluation/metrics.json --out density-hub
    """
    from densityclip import steps, terminal

    if to not in steps.TARGETS:
        raise UserError(f"--to {to} is not known", f"choose one of {', '.join(steps.TARGETS)}")
    if to == "onnx" and (licence or metrics or redistribute):
        raise UserError("--licence, --metrics and --redistribute are for the model card of --to hub", "leave them out")
    model = open_model(bundle)
    if to == "onnx":
        _say_checked(steps.to_onnx(model, out)["checked"], out)
        return
    steps.to_hub(model, out, licence=licence, metrics=metrics, redistribute=redistribute)
    terminal.say(f"{out} is ready to publish; read {out / 'README.md'} first. Nothing was uploaded.")
    terminal.say(f"Upload it with: hf upload OWNER/NAME {out}")


def _say_checked(checked: dict[str, Any] | None, out: Path) -> None:
    from densityclip import terminal

    if checked is None:
        terminal.say(
            f"{out / 'density.onnx'} was written and not run: ONNX Runtime is not installed "
            "(pip install 'densityclip[onnx]')."
        )
        return
    largest = checked["largest_difference"]
    terminal.say(
        f"{out / 'density.onnx'} answers as torch does under {checked['runtime']}: features differ by at most "
        f"{largest['features']:.1g}, logits by {largest['logits']:.1g}. How to call it: {out / 'density.json'}."
    )
