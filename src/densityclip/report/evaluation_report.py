"""The page of `densityclip evaluate`: figures with intervals, without the story of a study around them."""

from pathlib import Path
from typing import Any

from densityclip.evaluation.metrics import METRICS
from densityclip.report.pictures import confusion_pictures, dot_picture, roc_pictures
from densityclip.report.render import write_page
from densityclip.report.tables import FURTHER_METRICS, MAIN_METRICS, arms_of, matrix


def write_evaluation_report(out: Path, metrics: dict[str, Any], *, generated: bool | None = None) -> Path:
    """Write an evaluation as one HTML file.

    Args:
        out: The file to write.
        metrics: Content of `metrics.json`.
        generated: Whether the exams were generated; None where nobody said, and then the page says so.

    Returns:
        `out`.
    """
    arms = arms_of(metrics)
    first = next(iter(metrics["differences"]), None)
    contrast = first["arms"] if first else []
    levels = {level: matrix(metrics, arms, contrast, level) for level in ("image", "breast", "exam")}
    return write_page(
        out,
        "evaluation.html.j2",
        title="Evaluation of " + (", ".join(arms) if arms != ["unknown"] else "predictions"),
        generated=generated,
        levels=levels,
        titles=METRICS,
        main_metrics=MAIN_METRICS,
        further_metrics=FURTHER_METRICS,
        dots=dot_picture(levels["image"], arms),
        confusions=confusion_pictures(levels["image"]),
        rocs=roc_pictures(levels["image"]),
        left_out=metrics.get("refused", {}),
        bootstrap=metrics.get("bootstrap", {}),
        not_compared=sorted({entry["not_compared"] for entry in metrics["differences"] if entry["not_compared"]}),
    )
