"""Commands from an archive, or from nothing, to prepared images."""

from pathlib import Path
from typing import Annotated

import typer

from densityclip.cli.options import Out, Sets, Workers, exit_if, pairs
from densityclip.datasets.registry import DATASETS
from densityclip.errors import UserError


def phantom(
    out: Out,
    exams: Annotated[int, typer.Option(min=1, help="Exams, one a patient.")] = 10,
    site: Annotated[str, typer.Option(help="internal, rsna-like, embed-like, film-like or varied.")] = "internal",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(help="Rows of a DM image, a multiple of 16 from 96 to 1024.")] = 288,
    slice_mm: Annotated[
        float, typer.Option("--slice-mm", help="Distance of tomosynthesis slices, 0.5 to 10 mm.")
    ] = 1.0,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Write the volumes that embed-like names and leaves out.")
    ] = False,
    workers: Workers = 1,
) -> None:
    """Generate exams with known truth as DICOM, in the folders and tables of the site's layout.

    Example: densityclip phantom --out exams --exams 20 --site internal

    Example: densityclip phantom --out exams --exams 60 --site embed-like --volumes --slice-mm 4
    """
    from densityclip import terminal
    from densityclip.phantom.generate import generate, where_to_index

    with terminal.progress("phantom") as report:
        made = generate(
            out,
            site=site,
            exams=exams,
            seed=seed,
            size=size,
            slice_mm=slice_mm,
            volumes=volumes,
            workers=workers,
            progress=report,
        )
    layout, source, labels = where_to_index(site, out)
    table = f" --table {labels}" if labels else ""
    terminal.say(f"{exams} generated exams of site {site} are in {source}, {made.images} images.")
    terminal.say(f"Next: densityclip index {source} --dataset {layout}{table} --out INDEX")


def index(
    source: Annotated[Path, typer.Argument(help="Folder of the archive.")],
    out: Out,
    dataset: Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")] = "dicom",
    table: Annotated[
        Path | None, typer.Option(help="The dataset's table where it lies elsewhere, or labels: CSV or Parquet.")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="ours=theirs, for --dataset table.")] = None,
    label_map: Annotated[str, typer.Option(help="Labels of the table, such as F=A,G=C.")] = "",
    no_files: Annotated[bool, typer.Option("--no-files", help="Plan from the tables alone, without images.")] = False,
    for_processing: Annotated[
        bool, typer.Option("--for-processing", help="Take raw DM (For Processing) instead of For Presentation.")
    ] = False,
    site: Annotated[str | None, typer.Option(help="Name of the site.")] = None,
    institution: Annotated[str | None, typer.Option(help="Name of the institution.")] = None,
    workers: Workers = 1,
) -> None:
    """Read an archive's headers and labels: what is in it, what is left out, and why.

    Example: densityclip index exams/dicom --table exams/labels.csv --out index

    Example: densityclip index RSNA --dataset rsna --out rsna-index --workers 8
    """
    from densityclip.worker_pool import start_early

    if workers > 1:
        # Before the imports of this process, so that the workers' are made beside them.
        start_early(("densityclip.cli", "densityclip.datasets.looking"))
    from densityclip import steps, terminal

    with terminal.progress("index") as report:
        kept, left_out = steps.index(
            source,
            out,
            dataset=dataset,
            table=table,
            columns=pairs(column or [], "--column"),
            label_map=pairs([pair for pair in label_map.split(",") if pair], "--label-map"),
            no_files=no_files,
            for_processing=for_processing,
            site=site,
            institution=institution,
            workers=workers,
            progress=report,
        )
    terminal.say(f"{kept} images indexed, {left_out} excluded; see {out / 'audit.html'}.")
    exit_if(left_out)


def split(
    indexes: Annotated[list[Path], typer.Argument(help="index.parquet files or their folders; name=PATH names one.")],
    out: Out,
    external: Annotated[list[str] | None, typer.Option(help="Name of a cohort that is only scored.")] = None,
    folds: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Assign patients to train, validation, calibration, test and external.

    Example: densityclip split index rsna=rsna-index --external rsna --out splits.parquet
    """
    from densityclip import steps, terminal

    named = _named_indexes(indexes)
    splits, notes = steps.split(named, out, external=external or [], folds=folds, seed=seed)
    counts = splits.group_by("fold", "part").len().sort("fold", "part")
    terminal.show_table("Patients", ("fold", "part", "patients"), [[str(v) for v in row] for row in counts.iter_rows()])
    for note in notes:
        terminal.say(f"Note: {note}")


def prepare(
    index: Annotated[Path, typer.Argument(help="index.parquet or its folder.")],
    out: Out,
    size: Annotated[
        int | None, typer.Option(min=16, help="Rows and columns of a prepared image; 224 if not given.")
    ] = None,
    set_: Sets = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe.json or a bundle to take the recipe from.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Files at the same time: 1, or with Ray every CPU, if not given.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local (processes of this machine) or ray.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster, such as auto.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one file may take.")] = 120,
) -> None:
    """Prepare an index's images into a cache; the same command goes on where it was stopped.

    Example: densityclip prepare index --out cache --size 160 --workers 4 --set recipe.dbt_slices=spread:3
    """
    from densityclip import steps, terminal
    from densityclip.imaging.recipe import Recipe

    start = steps.read_recipe(recipe) if recipe is not None else Recipe()
    if size is not None:
        start = start.sized(size)
    path = index / steps.INDEX if index.is_dir() else index
    with terminal.progress("prepare") as report:
        done = steps.prepare(
            path,
            out,
            start.with_overrides(set_ or []),
            workers=workers,
            engine=engine,
            ray_address=ray_address,
            timeout=timeout,
            announce=terminal.say,
            progress=report,
        )
    counted = ", ".join(f"{number} {reason}" for reason, number in done.reasons.items())
    refused = (
        f"{done.refused} refused ({counted}; see {out / 'refused.parquet'}; delete the cache to try them again)"
        if done.refused
        else "none refused"
    )
    terminal.say(f"{done.images} images prepared, {refused}; the cache is {out}.")
    exit_if(done.refused)


def _named_indexes(indexes: list[Path]) -> dict[str, Path]:
    named = {}
    for given in indexes:
        name, equals, path = str(given).partition("=")
        folder = Path(path) if equals else given
        file = folder / "index.parquet" if folder.is_dir() else folder
        named[name if equals else (file.parent.name or "cohort")] = file
    if len(named) < len(indexes):
        raise UserError("two indexes have the same name", "name them: split first=DIR second=DIR")
    return named
