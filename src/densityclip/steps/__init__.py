"""One function per command of the road: files in, files out. `cli` and `study` both call them."""

from densityclip.steps.answers import predict
from densityclip.steps.archive import INDEX, index, prepare, read_recipe, read_splits, split
from densityclip.steps.export import TARGETS, to_hub, to_onnx
from densityclip.steps.local import adapt_locally
from densityclip.steps.maps import DEFAULT_TARGETS, choose_images, choose_patients, chosen_maps, explain, explain_source
from densityclip.steps.models import (
    PREDICTIONS,
    fit_baseline,
    is_first_process,
    member_joining,
    predict_cohort,
    predict_with_baseline,
    read_predictions,
    train,
    write_predictions,
)
from densityclip.steps.outcome import training_outcome
from densityclip.steps.scores import METRICS, choose_arm, compare, evaluate, joinings_beside
from densityclip.steps.site import calibrate
from densityclip.steps.stand_in import make_stand_in
from densityclip.training.engine import TrainingStopped

__all__ = [
    "DEFAULT_TARGETS",
    "INDEX",
    "METRICS",
    "PREDICTIONS",
    "TARGETS",
    "TrainingStopped",
    "adapt_locally",
    "calibrate",
    "choose_arm",
    "choose_images",
    "choose_patients",
    "chosen_maps",
    "compare",
    "evaluate",
    "explain",
    "explain_source",
    "fit_baseline",
    "index",
    "is_first_process",
    "joinings_beside",
    "make_stand_in",
    "member_joining",
    "predict",
    "predict_cohort",
    "predict_with_baseline",
    "prepare",
    "read_predictions",
    "read_recipe",
    "read_splits",
    "split",
    "to_hub",
    "to_onnx",
    "train",
    "training_outcome",
    "write_predictions",
]
