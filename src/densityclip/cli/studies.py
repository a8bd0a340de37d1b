"""Commands that run a whole study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densityclip.cli.options import OutFolder, Workers, pairs
from densityclip.cli.shown import show_metrics

if TYPE_CHECKING:
    from densityclip.study_file import Study


def study(
    file: Annotated[
        Path,
        typer.Argument(
            help="Study file (YAML), or the name of one that ships: demo, sites, ablation, archive-rsna-embed, "
            "embed-vindr."
        ),
    ],
    out: OutFolder,
    path: Annotated[
        list[str] | None, typer.Option("--path", help="name=path for each ${name} in the study file; repeat.")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.01, max=10, help="Share of the generated exams and of the steps.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with times, and stop.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Take the best validation of a training that its loss stopped, and go on.")
    ] = False,
    workers: Workers = 2,
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once", min=1, help="Trainings at the same time, over the GPUs in turn, or on cores of their own."
        ),
    ] = 1,
) -> None:
    """Run a whole study, or go on with it.

    Example: densityclip study my-study.yaml --out runs/my-study

    Example: densityclip study embed-vindr --out runs/embed --path embed=/data/EMBED --path vindr=/data/vindr
    --path foundation=biomedclip --dry-run
    """
    from densityclip.study_file import read_study

    described = read_study(file, pairs(path or [], "--path")).scaled(scale)
    _run_study(described, out, dry_run=dry_run, workers=workers, finish=finish, at_once=at_once)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where to write.")] = Path("demo"),
    scale: Annotated[float, typer.Option(min=0.05, max=10, help="Share of the demo's exams and steps.")] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with times, and stop.")] = False,
    workers: Workers = 2,
) -> None:
    """Run the demo: the whole road on generated exams, to one report.

    Example: densityclip demo --out demo
    """
    from densityclip.study_file import shipped_study

    _run_study(shipped_study("demo").scaled(scale), out, dry_run=dry_run, workers=workers)


def _run_study(
    described: "Study", out: Path, *, dry_run: bool, workers: int, finish: bool = False, at_once: int = 1
) -> None:
    from densityclip import steps, terminal
    from densityclip.artifacts import read_json
    from densityclip.report.verdict import verdict
    from densityclip.study import StudyRun, check_at_once, check_paths, measure, plan, summary

    if dry_run:
        check_paths(described)
        check_at_once(described, at_once)
        speeds = measure(described, out)
        lines = plan(described, out, speeds=speeds, workers=workers)
        terminal.show_table(described.title, ("step", "what", "about"), [line.row() for line in lines])
        for sentence in summary(lines, described, out, speeds=speeds, at_once=at_once):
            terminal.say(sentence)
        return
    page = StudyRun(described, out, workers=workers, progress=terminal.progress, finish=finish, at_once=at_once).run()
    metrics = read_json(out / steps.METRICS, "densityclip study")
    show_metrics(metrics)
    terminal.say(verdict(metrics, described.question))
    if described.generated:
        terminal.say("All exams were generated: the figures say nothing about patients.")
    bundles = [str(path.parent) for path in sorted((out / "arms").rglob("bundle/provenance.json"))]
    more = f" and {len(bundles) - 2} more" if len(bundles) > 2 else ""
    terminal.say(f"Models, for `predict`, `listen` and `serve`: {', '.join(bundles[:2])}{more}.")
    terminal.say(f"The report is {page}.")
