"""Commands that answer: predictions, their score, maps of where a model looked."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densityclip.cli.options import OutFolder, Workers, exit_if, open_model
from densityclip.cli.shown import show_metrics
from densityclip.cli.unanswered import say_unanswered
from densityclip.errors import UserError

if TYPE_CHECKING:
    import polars as pl


def predict(
    source: Annotated[Path, typer.Argument(help="DICOM or image file, a folder or a zip archive of them, or a cache.")],
    model: Annotated[Path, typer.Option(help="Bundle.")],
    out: OutFolder,
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

    bundle, said = open_model(model), list[str]()
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


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="predictions.parquet or its folder.")],
    out: OutFolder,
    arm: Annotated[str | None, typer.Option(help="Score this arm alone, of predictions that hold several.")] = None,
    against: Annotated[Path | None, typer.Option(help="Other predictions of the same images, to subtract.")] = None,
    against_arm: Annotated[
        str | None, typer.Option("--against-arm", help="Arm of those; the one of --arm's name if not given.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Score predictions with labels: metrics.json and report.html, each figure with a 95% interval.

    Example: densityclip evaluate answers --out evaluation

    Example: densityclip evaluate answers --against other-answers --out comparison

    Example: densityclip evaluate runs/my-study --arm multi --against runs/my-study --against-arm single --out pair
    """
    from densityclip import steps, terminal
    from densityclip.report.evaluation_report import write_evaluation_report

    if against is None and against_arm is not None:
        raise UserError("--against-arm names an arm of the predictions of --against", "give --against PREDICTIONS too")
    table, joinings, pairs = steps.read_predictions(predictions), steps.joinings_beside(predictions), None
    if against is not None:
        both = joinings, steps.joinings_beside(against)
        compared = steps.compare(table, steps.read_predictions(against), both, arms=(arm, against_arm))
        table, joinings, pairs = compared.predictions, compared.joinings, [compared.arms]
    elif arm is not None:
        table, joinings = steps.choose_arm(table, joinings, arm)
    with terminal.progress("evaluate") as report:
        metrics = steps.evaluate(
            table, out, joinings=joinings, resamples=resamples, seed=seed, pairs=pairs, progress=report
        )
    page = write_evaluation_report(out / "report.html", metrics)
    show_metrics(metrics)
    for note in metrics["notes"]:
        terminal.say(note)
    terminal.say(f"The report is {page}.")


def explain(
    source: Annotated[Path, typer.Argument(help="DICOM or image file, or a folder of them.")],
    model: Annotated[Path, typer.Option(help="Bundle.")],
    out: OutFolder,
    method: Annotated[
        list[str] | None,
        typer.Option(help="gradcam, attention or occlusion (slow); again for more.  [default: gradcam, attention]"),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="density-score (the one that figures are of), expected-density, A, B, C, D, or all; again for more.  "
            "[default: density-score]"
        ),
    ] = None,
    figures: Annotated[bool, typer.Option(help="Measure the maps: ten to a hundred times the work of mapping.")] = True,
) -> None:
    """Map where the model looked: raw maps, overlays, contact sheets, and figures about them.

    Example: densityclip explain images --model model/bundle --out maps --method gradcam --target all
    """
    from densityclip import steps, terminal

    methods, targets = steps.chosen_maps(method or (), target or ())
    bundle = open_model(model)
    with terminal.progress("explain") as report:
        written = steps.explain_source(
            source, bundle, out, methods=methods, targets=targets, measured=figures, progress=report
        )
    _show_maps(written, out, figures)
    exit_if(len(written["refused"]))


def _show_maps(written: Mapping[str, Any], out: Path, figures: bool) -> None:
    from densityclip import steps, terminal
    from densityclip.explain.figures import FEWEST_PATIENTS

    say_unanswered("Refused", written["refused"], name="image_id", where=str(out / "explain.json"))
    said = "No answer, so that pictures name no category"
    say_unanswered(said, written["abstained"], name="exam_id", where=str(out / "explain.json"))
    if figures and not set(steps.DEFAULT_TARGETS) <= set(written["targets"]):
        terminal.say("Nothing was measured: figures are of the density score, and --target leaves it out.")
    elif figures and len(written["targets"]) > 1:
        terminal.say("Figures are of the maps of the density score alone.")
    patients = max((row["patients"] for row in written["figures"]), default=0)
    if 0 < patients < FEWEST_PATIENTS:
        said = f"{patients} patient{'s' * (patients != 1)}"
        terminal.say(
            f"The images are of {said}: fewer than {FEWEST_PATIENTS} have no interval, so no claim passes or fails."
        )
    for row in written["verdicts"]:
        terminal.say(
            f"{row['map']}: {row['claim']}: {row['verdict']}" + (f" ({row['figures']})." if row["figures"] else ".")
        )
    mapped = written["images"]
    terminal.say(
        f"{mapped} image{'s' * (mapped != 1)} mapped, {len(written['refused'])} refused; see {out / 'sheet.png'}."
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
    say_unanswered("Refused", refused.to_dicts(), name="image_id", where=str(out / "predictions.csv"))
    held = table.filter((table["level"] == "exam") & (table["status"] == "abstained"))
    say_unanswered("No answer", held.to_dicts(), name="exam_id", where=str(out / "predictions.csv"))
    answers = images["predicted"].drop_nulls()
    if len(answers) > 5 and answers.n_unique() == 1:
        terminal.say(f"Every image got the same category, {answers[0]}: look at the training before relying on it.")
    terminal.say(
        f"{len(images) - len(refused)} of {len(images)} images answered; all rows in {out / steps.PREDICTIONS}."
    )
    if len(refused) == len(images):
        raise UserError("no image could be used", f"see the reasons in {out / 'predictions.csv'}")
    exit_if(len(refused))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
