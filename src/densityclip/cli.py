"""The commands in the order of the road: each parses, calls one function, prints. Nothing heavy is imported here."""

import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densityclip import __version__
from densityclip.datasets.registry import DATASETS
from densityclip.errors import EXIT_NOTHING_DONE, EXIT_SOME_REFUSED, UserError

if TYPE_CHECKING:
    import polars as pl

    from densityclip.model.bundle import Bundle
    from densityclip.study_file import Study

app = typer.Typer(
    name="densityclip",
    help="Breast density (BI-RADS A-D) from DM, s2D and DBT with BiomedCLIP. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", help="Where to write.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value; may be repeated.")]


_INTERRUPTED = 130  # what typer makes of Ctrl-C


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
            sys.stderr.write("densityclip: stopped. The same command goes on where it stopped.\n")
        raise


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"densityclip {__version__}")
        raise typer.Exit


@app.command()
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


@app.command()
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
            columns=_pairs(column or [], "--column"),
            label_map=_pairs([pair for pair in label_map.split(",") if pair], "--label-map"),
            no_files=no_files,
            for_processing=for_processing,
            site=site,
            institution=institution,
            workers=workers,
            progress=report,
        )
    terminal.say(f"{kept} images indexed, {left_out} excluded; see {out / 'audit.html'}.")
    _exit_if(left_out)


@app.command()
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


@app.command()
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
    _exit_if(done.refused)


@app.command()
def train(
    caches: Annotated[list[Path], typer.Argument(help="Caches of `densityclip prepare`.")],
    splits: Annotated[Path, typer.Option(help="File of `densityclip split`.")],
    out: Out,
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


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="DICOM or image file, a folder or a zip archive of them, or a cache.")],
    model: Annotated[Path, typer.Option(help="Bundle.")],
    out: Out,
    sr: Annotated[bool, typer.Option("--sr", help="Write a DICOM structured report per exam.")] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Draw where the model looked, as PNG and as DICOM secondary captures.")
    ] = False,
    splits: Annotated[Path | None, typer.Option(help="Split file: marks training patients, so none is scored.")] = None,
    workers: Workers = 1,
) -> None:
    """Predict density: predictions.parquet and .csv, a JSON per exam, structured reports, overlays.

    Example: densityclip predict images --model model/bundle --out answers --overlay

    Example: densityclip predict exam.zip --model model/bundle --out answers --sr --overlay
    """
    from densityclip import steps, terminal

    bundle, said = _open_model(model), list[str]()
    with terminal.progress("predict") as report:
        table = steps.predict(
            source,
            bundle,
            out,
            splits=splits,
            overlay=overlay,
            report=sr,
            workers=workers,
            progress=report,
            announce=said.append,
        )
    for sentence in said:
        terminal.say(sentence)
    _show_predictions(table, out)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="predictions.parquet or its folder.")],
    out: Out,
    against: Annotated[Path | None, typer.Option(help="Other predictions of the same images, to subtract.")] = None,
    resamples: Annotated[int, typer.Option(min=100)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Score predictions with labels: metrics.json and report.html, each figure with a 95% interval.

    Example: densityclip evaluate answers --out evaluation

    Example: densityclip evaluate answers --against other-answers --out comparison
    """
    from densityclip import steps, terminal
    from densityclip.report.evaluation_report import write_evaluation_report

    table, joinings, pairs = steps.read_predictions(predictions), steps.joinings_beside(predictions), None
    if against is not None:
        both = joinings, steps.joinings_beside(against)
        table, joinings, pair = steps.compare(table, steps.read_predictions(against), both)
        pairs = [pair]
    with terminal.progress("evaluate") as report:
        metrics = steps.evaluate(
            table, out, joinings=joinings, resamples=resamples, seed=seed, pairs=pairs, progress=report
        )
    page = write_evaluation_report(out / "report.html", metrics)
    _show_metrics(metrics)
    terminal.say(f"The report is {page}.")


@app.command()
def explain(
    source: Annotated[Path, typer.Argument(help="DICOM or image file, or a folder of them.")],
    model: Annotated[Path, typer.Option(help="Bundle.")],
    out: Out,
    method: Annotated[
        list[str] | None,
        typer.Option(help="gradcam, attention or occlusion (slow); again for more.  [default: gradcam, attention]"),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="density-score, expected-density, A, B, C, D, or all; again for more.  [default: density-score]"
        ),
    ] = None,
    figures: Annotated[bool, typer.Option(help="Measure the maps: ten to a hundred times the work of mapping.")] = True,
) -> None:
    """Map where the model looked: raw maps, overlays, contact sheets, and figures about them.

    Example: densityclip explain images --model model/bundle --out maps --method gradcam --target all
    """
    from densityclip import steps, terminal

    methods, targets = steps.chosen_maps(method or (), target or ())
    bundle = _open_model(model)
    with terminal.progress("explain") as report:
        written, refused = steps.explain_source(
            source, bundle, out, methods=methods, targets=targets, measured=figures, progress=report
        )
    for row in written["verdicts"]:
        terminal.say(
            f"{row['map']}: {row['claim']}: {row['verdict']}" + (f" ({row['figures']})." if row["figures"] else ".")
        )
    terminal.say(f"{written['images']} images mapped, {refused} refused; see {out / 'sheet.png'}.")
    _exit_if(refused)


@app.command()
def listen(
    model: Annotated[Path, typer.Option(help="Bundle.")],
    store: Annotated[Path, typer.Option(help="Folder on this machine's disk for all that must not be lost.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port.")] = 11112,
    address: Annotated[str, typer.Option(help="Local address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    ae_title: Annotated[str, typer.Option("--ae-title", help="Our AE title.")] = "DENSITYCLIP",
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Who gets answers: dicom://AE@host:port, dicoms://, https://host/dicom-web; may be repeated."
        ),
    ] = None,
    allow_ae: Annotated[
        list[str] | None, typer.Option("--allow-ae", help="AE title that may send; may be repeated.")
    ] = None,
    allow_address: Annotated[
        list[str] | None, typer.Option("--allow-address", help="Address or network that may send; may be repeated.")
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Send pictures of where the model looked too.")] = False,
    quiet_time: Annotated[float, typer.Option(help="Seconds without an image until an exam is complete.")] = 30.0,
    workers: Workers = 1,
    associations: Annotated[int, typer.Option(min=1, help="Associations at once.")] = 8,
    max_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one image.")] = 1024,
    job_seconds: Annotated[float, typer.Option(min=1, help="Time limit of an exam.")] = 600.0,
    job_gb: Annotated[float, typer.Option(min=0.5, help="Memory limit of a worker, gigabytes.")] = 12.0,
    keep_hours: Annotated[float, typer.Option(min=0, help="Until images and answers go, after delivery.")] = 24.0,
    keep_failed_hours: Annotated[float, typer.Option(min=0, help="The same for exams without an answer.")] = 168.0,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, PEM: TLS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Who vouches for clients, PEM.")] = None,
) -> None:
    """Listen for exams as a DICOM Storage SCP, and send structured reports on.

    Example: densityclip listen --model model/bundle --store /var/lib/densityclip --peer dicom://PACS@10.0.0.5:104
    """
    from densityclip import terminal
    from densityclip.deliver.limits import Limits
    from densityclip.deliver.listen_service import ListenSettings, listen_with_bundle
    from densityclip.deliver.listener import Port, tls_of
    from densityclip.deliver.peers import parse_peer

    _open_model(model)
    limits = Limits(
        associations=associations,
        instance_bytes=max_mb << 20,
        job_seconds=job_seconds,
        job_bytes=int(job_gb * (1 << 30)),
    )
    tls = tls_of(tls_cert, tls_key, tls_client_ca)
    titles, networks = tuple(allow_ae or ()), tuple(allow_address or ())
    settings = ListenSettings(
        store,
        Port(ae_title, address, port, titles, networks, tls, limits),
        tuple(parse_peer(text, calling=ae_title) for text in peer or ()),
        quiet_seconds=quiet_time,
        keep_hours=keep_hours,
        keep_failed_hours=keep_failed_hours,
        workers=workers,
    )
    listen_with_bundle(settings, model, say=terminal.say, overlay=overlay)


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="Bundle.")],
    store: Annotated[Path, typer.Option(help="Folder for uploads and answers, on a local disk.")] = Path("served"),
    host: Annotated[str, typer.Option(help="Local address to listen on; another than this machine needs keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 8080,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name by which browsers may call it; may be repeated.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Who may ask: a name and a key a line.")] = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one upload.")] = 2048,
    max_files: Annotated[int, typer.Option(min=1, help="Files of one upload; an archive is one.")] = 500,
    keep_hours: Annotated[float, typer.Option(help="How long answers stay.")] = 1.0,
    workers: Workers = 1,
    job_seconds: Annotated[float, typer.Option(min=1, help="Time limit of an upload's answer.")] = 600.0,
    job_gb: Annotated[float, typer.Option(min=0.5, help="Memory limit of a worker, gigabytes.")] = 12.0,
) -> None:
    """Serve a page and a REST interface: upload exams, get density, structured reports and overlays.

    Example: densityclip serve --model model/bundle

    Example: densityclip serve --model model/bundle --host 0.0.0.0 --api-key-file keys.txt --keep-hours 4
    """
    from densityclip import terminal
    from densityclip.deliver.api_keys import ApiKeys, read_api_keys
    from densityclip.deliver.limits import Limits
    from densityclip.deliver.receive import UploadLimits
    from densityclip.deliver.serve import ServeSettings, serve_with_bundle

    settings = ServeSettings(
        store,
        host,
        port,
        ApiKeys() if api_key_file is None else read_api_keys(api_key_file),
        keep_hours=keep_hours,
        workers=workers,
        upload=UploadLimits(upload_bytes=max_upload_mb << 20, files=max_files),
        limits=Limits(job_seconds=job_seconds, job_bytes=int(job_gb * (1 << 30)), attempts=2),
        names=tuple(name or ()),
    )
    serve_with_bundle(settings, _open_model(model), say=terminal.say)


@app.command()
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
    model = _open_model(bundle)
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


@app.command()
def study(
    file: Annotated[
        Path,
        typer.Argument(
            help="Study file (YAML), or the name of one that ships: sites, ablation, archive-rsna-embed, embed-vindr."
        ),
    ],
    out: Out,
    path: Annotated[
        list[str] | None, typer.Option("--path", help="name=path for each ${name} in the study file; repeat.")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.01, max=10, help="Share of the generated exams and of the steps.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with times, and stop.")] = False,
    workers: Workers = 2,
) -> None:
    """Run a whole study, or go on with it.

    Example: densityclip study my-study.yaml --out runs/my-study

    Example: densityclip study embed-vindr --out runs/embed --path embed=/data/EMBED --path vindr=/data/vindr
    --path foundation=biomedclip --dry-run
    """
    from densityclip.study_file import read_study

    described = read_study(file, _pairs(path or [], "--path")).scaled(scale)
    _run_study(described, out, dry_run=dry_run, workers=workers)


@app.command()
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


def _run_study(described: "Study", out: Path, *, dry_run: bool, workers: int) -> None:
    from densityclip import steps, terminal
    from densityclip.artifacts import read_json
    from densityclip.study import StudyRun, measure, plan, summary

    if dry_run:
        lines = plan(described, out, speeds=measure(described, out), workers=workers)
        terminal.show_table(described.title, ("step", "what", "about"), [line.row() for line in lines])
        for sentence in summary(lines, described, out):
            terminal.say(sentence)
        return
    page = StudyRun(described, out, workers=workers, progress=terminal.progress).run()
    _show_metrics(read_json(out / steps.METRICS, "densityclip study"))
    if described.generated:
        terminal.say("All exams were generated: the figures say nothing about patients.")
    terminal.say(f"The report is {page}.")


weights = typer.Typer(help="The foundation model's files: fetch them once, then work offline.", no_args_is_help=True)
app.add_typer(weights, name="weights")


@weights.command("fetch")
def weights_fetch(
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


@weights.command("check")
def weights_check(folder: Annotated[Path, typer.Argument(help="Folder of a foundation model.")]) -> None:
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


@weights.command("stand-in")
def weights_stand_in(
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


def _show_metrics(metrics: dict[str, Any]) -> None:
    from densityclip import terminal
    from densityclip.report.tables import result_table

    names = {"macro_auc": "macro AUC", "accuracy": "accuracy", "quadratic_kappa": "quadratic kappa"}
    rows = result_table(metrics, level="image", metric_names=tuple(names))
    columns = ("arm", "cohort", "modality", "n", "n_patients", *names)
    terminal.show_table(
        "Image level, 95% intervals over patients",
        ("arm", "cohort", "modality", "images", "patients", *names.values()),
        [[str(row[name]) for name in columns] for row in rows],
    )


def _show_predictions(table: "pl.DataFrame", out: Path) -> None:
    from densityclip import steps, terminal

    level = "exam" if "exam" in table["level"] else "image"
    rows = table.filter(table["level"] == level)
    name = "patient_id" if level == "exam" else "image_id"
    shown = [
        [row[name] or "-", row["predicted"] or "-", *(_percent(row[f"prob_{c}"]) for c in "abcd")]
        for row in rows.head(20).iter_rows(named=True)
    ]
    some = "" if len(rows) <= 20 else f", the first 20 of {len(rows)}"
    first = "exam of patient" if level == "exam" else "image"
    terminal.show_table(f"Predicted, {level} level{some}", (first, "density", "A", "B", "C", "D"), shown)
    images = table.filter(table["level"] == "image")
    refused = images.filter(images["status"] == "refused")
    for row in refused.head(10).iter_rows(named=True):
        terminal.say(f"Refused: {row['image_id']} ({row['reason']})")
    for row in table.filter((table["level"] == "exam") & (table["status"] == "abstained")).iter_rows(named=True):
        terminal.say(f"No answer for the exam of {row['patient_id'] or '-'} ({row['reason']})")
    answers = images["predicted"].drop_nulls()
    if len(answers) > 5 and answers.n_unique() == 1:
        terminal.say(f"Every image got the same category, {answers[0]}: look at the training before relying on it.")
    terminal.say(
        f"{len(images) - len(refused)} of {len(images)} images answered; all rows in {out / steps.PREDICTIONS}."
    )
    if len(refused) == len(images):
        raise UserError("no image could be used", f"see the reasons in {out / 'predictions.csv'}")
    _exit_if(len(refused))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _open_model(folder: Path) -> "Bundle":
    """Load a bundle, once, and say what its answers are worth."""
    from densityclip import terminal
    from densityclip.model.bundle import load_bundle

    bundle = load_bundle(folder)
    if bundle.generated_note:
        trial = " Its answers on real images are a trial, no more." if bundle.generated_only else ""
        terminal.say(bundle.generated_note + trial)
    terminal.say("Research use only; not a medical device.")
    return bundle


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


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = dict(text.split("=", 1) for text in texts if "=" in text)
    if len(pairs) < len(texts):
        raise UserError(f"{option} wants key=value", f"write it as {option} ours=theirs")
    return pairs


def _exit_if(refused: int) -> None:
    if refused:
        raise typer.Exit(EXIT_SOME_REFUSED)


if __name__ == "__main__":
    main()
