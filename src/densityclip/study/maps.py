"""What is said of a cohort's heat maps."""

from pathlib import Path
from typing import Any

from densityclip.artifacts import read_json
from densityclip.records import MODALITIES


def map_caption(folder: Path) -> str:
    """What the figures about a cohort's maps say, in a sentence per modality."""
    summary = read_json(folder / "explain.json", "densityclip explain")
    figures = {(row["modality"], row["figure"]): row for row in summary["figures"]}
    present = {modality for modality, _ in figures}
    return " ".join(_map_sentence(name, figures) for name in MODALITIES if name in present)


def _map_sentence(modality: str, figures: dict[tuple[str, str], dict[str, Any]]) -> str:
    inside, share = figures.get((modality, "energy_inside")), figures[modality, "breast_share"]
    if inside is None:
        return f"{modality} (n={share['images']} images): no map has any heat."
    text = (
        f"{modality} (n={share['images']} images): {100 * inside['mean']:.0f}% of the heat lies inside the breast, "
        f"which covers {100 * share['mean']:.0f}% of the canvas"
    )
    gland, grey = figures.get((modality, "gland_auc")), figures.get((modality, "brightness_auc"))
    if gland is None or grey is None:
        return text + "."
    return (
        f"{text}; it finds the known fibroglandular tissue with AUC {_with_interval(gland)}, "
        f"the image's own brightness with {_with_interval(grey)}."
    )


def _with_interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['mean']:.2f}"
    return f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
