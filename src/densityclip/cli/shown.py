"""The table of figures that evaluation and studies end with."""

from typing import Any


def show_metrics(metrics: dict[str, Any]) -> None:
    """Print the image level of `metrics.json`: macro AUC, accuracy and quadratic kappa with their intervals."""
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
