"""The pages about listening say what the program does."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from densityclip import cli
from densityclip.deliver.conformance import as_page
from densityclip.deliver.listener import STORAGE_CLASSES, TRANSFER_SYNTAXES
from densityclip.dicom.decoders import SYNTAXES
from densityclip.dicom.pixels import NATIVE_SYNTAXES

DOCS = Path(__file__).parents[2] / "docs"


def test_the_conformance_statement_is_what_the_code_says():
    page = (DOCS / "conformance.md").read_text(encoding="utf-8")
    assert page == as_page(), "write it: python -m densityclip.deliver.conformance > docs/conformance.md"
    stated = set(re.findall(r"`([\d.]+)`", page))
    assert {*STORAGE_CLASSES, *map(str, TRANSFER_SYNTAXES)} <= stated


def test_the_transfer_syntaxes_are_those_that_can_be_decoded_and_no_others():
    assert set(TRANSFER_SYNTAXES) == set(SYNTAXES) | set(NATIVE_SYNTAXES)


def commands() -> list[list[str]]:
    text = (DOCS / "listen.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("densityclip listen")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_of_the_page_is_one_that_the_program_takes(command):
    listen = typer.main.get_command(cli.app).commands["listen"]
    context = click.Context(listen) if isinstance(listen, click.Command) else None
    listen.make_context("listen", command[2:], parent=context)


def test_every_option_of_the_command_stands_on_the_page():
    page = (DOCS / "listen.md").read_text(encoding="utf-8")
    listen = typer.main.get_command(cli.app).commands["listen"]
    options = {name for parameter in listen.params for name in parameter.opts} - {"--help"}
    assert {name for name in options if f"`{name}" not in page} == set()
