"""A study small enough to be trained in a test: tiny generated exams, few steps."""

import contextlib
from typing import Any

from densityclip.study_file import Study, parse_study

BASELINES = ["majority", "histogram", "zero-shot", "linear-probe", "cross-entropy", "cnn"]


@contextlib.contextmanager
def silent(_: str):
    yield lambda done, total: None


def content(**more: Any) -> dict[str, Any]:
    """What the study file says."""
    return {
        "name": "tiny",
        "title": "Tiny",
        "cohorts": {
            "home": {
                "role": "internal",
                "generate": {"site": "internal", "exams": 30, "seed": 1, "size": 128, "slice_mm": 10},
            },
            "away": {"role": "external", "generate": {"site": "rsna-like", "exams": 8, "seed": 2, "size": 128}},
        },
        "recipe": {"height": 64, "width": 64},
        "foundation": {"small_seed": 1},
        "arms": {"both": {"modalities": ["DM", "s2D"]}, "one": {"modalities": ["DM"]}},
        "baseline_cnn": {"name": "test_convnext"},
        "training": {
            "steps": 4,
            "validate_every": 2,
            "batch_size": 8,
            "learning_rate": 0.001,
            "layer_decay": 1,
            "threads": 1,
            "loggers": [],
            "allow_missing_categories": True,
        },
        "primary": {"cohort": "home", "modality": "DM", "contrast": ["both", "one"]},
        "evaluation": {"resamples": 100},
        "explain": {"arms": ["both"], "patients": 1},
    } | more


def tiny(**more: Any) -> Study:
    return parse_study(content(**more), "tiny")
