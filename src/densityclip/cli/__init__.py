"""The command line: each command parses, calls one function, prints. Nothing heavy is imported here."""

import logging
import sys
from typing import Annotated

import typer

from densityclip import __version__
from densityclip.cli import answers, data, models, reading_room, studies, weights
from densityclip.errors import EXIT_NOTHING_DONE, UserError

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="densityclip",
    help="Breast density (BI-RADS A-D) from DM, s2D and DBT with BiomedCLIP. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    data.phantom,
    data.index,
    data.split,
    data.prepare,
    models.train,
    answers.predict,
    answers.evaluate,
    answers.explain,
    reading_room.listen,
    reading_room.serve,
    models.calibrate,
    reading_room.worker,
    models.export,
    studies.study,
    studies.demo,
):
    app.command()(command)

weights_app = typer.Typer(
    help="The foundation model's files: fetch them once, then work offline.", no_args_is_help=True
)
weights_app.command("fetch")(weights.fetch_weights)
weights_app.command("check")(weights.check_weights)
weights_app.command("stand-in")(weights.make_stand_in)
app.add_typer(weights_app, name="weights")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(standalone_mode=True)
    except UserError as error:
        sys.stderr.write(f"densityclip: {error}\n")
        sys.exit(EXIT_NOTHING_DONE)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            sys.stderr.write("densityclip: stopped. Run the same command again; what is finished is not done twice.\n")
        raise


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"densityclip {__version__}")
        raise typer.Exit
