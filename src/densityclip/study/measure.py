"""How fast this machine is at what a study does, measured in a few seconds on the real shapes."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densityclip.artifacts import read_table
from densityclip.imaging.recipe import Recipe
from densityclip.reasons import Refused
from densityclip.steps import INDEX
from densityclip.study_file import Generate, Study

if TYPE_CHECKING:
    from torch import Tensor

    from densityclip.model.biomedclip import Foundation

_FILES = 3
_SECONDS = 2.0


@dataclass(frozen=True)
class Speeds:
    """Seconds, with one worker; None or absent where nothing could be measured.

    Attributes:
        exam: To generate one exam, by cohort.
        image: To prepare one image, by cohort.
        trained: Of a training step, per image of the batch.
        scored: To score one prepared image.
        convolved: Of a step of the baseline `cnn`, per image.
    """

    exam: dict[str, float] = field(default_factory=dict)
    image: dict[str, float] = field(default_factory=dict)
    trained: float | None = None
    scored: float | None = None
    convolved: float | None = None


def measure(study: Study, out: Path) -> Speeds:
    """Generate and prepare an exam of each kind, prepare a few files of each archive, take a few training steps."""
    recipe = study.resolved_recipe()
    exam: dict[str, float] = {}
    tried: dict[str, float | None] = {}
    for name, cohort in study.cohorts.items():
        index = out / "cohorts" / name / INDEX
        if index.is_file():
            paths = read_table(index, "index")["path"]
            tried[name] = _prepared([Path(paths[k * len(paths) // _FILES]) for k in range(_FILES)], recipe)
        elif cohort.generate is not None:
            exam[name], tried[name] = _generated(cohort.generate, recipe)
    image = {name: seconds for name, seconds in tried.items() if seconds is not None}
    with tempfile.TemporaryDirectory() as folder:
        model = _model(study, out, Path(folder))
        if model is None:
            return Speeds(exam, image)
        trained, scored = _steps(model, study, recipe)
    convolved = _cnn_step(study, recipe) if "cnn" in study.baselines else None
    return Speeds(exam, image, trained, scored, convolved)


def _generated(generate: Generate, recipe: Recipe) -> tuple[float, float | None]:
    from densityclip.phantom.generate import generate as make

    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        made = make(
            Path(folder),
            site=generate.site,
            exams=1,
            seed=generate.seed,
            size=generate.size,
            slice_mm=generate.slice_mm,
            volumes=generate.volumes,
        )
        seconds = time.monotonic() - began
        files = [path for path in sorted(made.source.rglob("*")) if path.suffix in (".dcm", ".dicom")]
        return seconds, _prepared(files[:: max(1, len(files) // _FILES)], recipe)


def _prepared(paths: list[Path], recipe: Recipe) -> float | None:
    """Seconds an image, of those that can be prepared."""
    from densityclip.imaging.prepare import prepare_file

    spent = []
    for path in paths:
        began = time.monotonic()
        try:
            prepare_file(path, recipe)
        except Refused:
            continue
        spent.append(time.monotonic() - began)
    # The first file finds the decoders unloaded.
    return float(np.mean(spent[1:] or spent)) if spent else None


def _model(study: Study, out: Path, folder: Path) -> "Foundation | None":
    """The model of the study, or one of its shape; None where it is not there yet."""
    from densityclip.errors import UserError
    from densityclip.model.biomedclip import load_foundation
    from densityclip.model.small import make_small_foundation

    source = study.foundation.path
    if source is None:
        source = folder / "small"
        make_small_foundation(source, seed=0)
    try:
        return load_foundation(source)
    except UserError:
        return None


def _steps(model: "Foundation", study: Study, recipe: Recipe) -> tuple[float, float]:
    """Seconds per image of a step of the first arm, and of scoring."""
    import torch

    from densityclip.model.classifier import normalise, pad_token, tokenise
    from densityclip.model.prompts import DEFAULT_PROMPTS
    from densityclip.training.fit import at_size
    from densityclip.training.losses import multi_positive

    config = study.train_config(study.members()[0])
    model = at_size(model, (recipe.height, recipe.width))
    clip, device = model.clip, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip.to(device).train()
    captions = [text for name in config.modalities for k in "ABCD" for text in DEFAULT_PROMPTS.captions(k, name)]
    tokens = tokenise(model.tokenizer, captions, pad_token(clip)).to(device)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=0.0)

    def step(pixels: "Tensor") -> None:
        seen = normalise(pixels, model.config["preprocess_cfg"])
        images = clip.encode_image(seen, normalize=True)
        texts = clip.encode_text(tokens[: len(pixels)], normalize=True)
        number = min(len(images), len(texts))
        labels = torch.arange(number, device=device) % 4
        losses = multi_positive(images[:number], texts[:number], labels, clip.logit_scale.exp())
        losses.mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def score(pixels: "Tensor") -> None:
        with torch.inference_mode():
            clip.encode_image(normalise(pixels, model.config["preprocess_cfg"]))

    shape = (recipe.height, recipe.width)
    trained = _per_image(step, shape, config.batch_size, device)
    clip.eval()
    return trained, _per_image(score, shape, config.batch_size, device)


def _cnn_step(study: Study, recipe: Recipe) -> float:
    import torch
    from torch.nn import functional

    from densityclip.training.supervised import cnn_classifier

    network = cnn_classifier(study.baseline_cnn.name, None, seed=0).train()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)

    def step(pixels: "Tensor") -> None:
        labels = torch.arange(len(pixels), device=device) % 4
        functional.cross_entropy(network(pixels), labels).backward()

    batch = study.train_config(study.members()[0]).batch_size
    return _per_image(step, (recipe.height, recipe.width), batch, device)


def _per_image(run: Callable[["Tensor"], None], shape: tuple[int, int], batch: int, device: "object") -> float:
    """Seconds per image, on the whole batch where it is quick, else on four images of it."""
    import torch

    few = torch.rand(min(4, batch), *shape, device=device)  # type: ignore[call-overload]
    run(few)
    seconds = _timed(run, few)
    if seconds * batch / len(few) > _SECONDS:
        return seconds / len(few)
    whole = torch.rand(batch, *shape, device=device)  # type: ignore[call-overload]
    run(whole)
    return min(_timed(run, whole) for _ in range(3)) / batch


def _timed(run: Callable[["Tensor"], None], pixels: "Tensor") -> float:
    import torch

    began = time.monotonic()
    run(pixels)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - began
