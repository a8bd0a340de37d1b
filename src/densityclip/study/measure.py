"""How fast this machine is at what a study does, measured in a few seconds on the real shapes."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densityclip.artifacts import read_table
from densityclip.imaging.recipe import Recipe
from densityclip.reasons import Refused
from densityclip.steps import INDEX
from densityclip.study.sizes import VIEWS
from densityclip.study_file import STAND_IN_SITE, Generate, Study

if TYPE_CHECKING:
    from torch import Tensor

    from densityclip.evaluation.metrics import Sample
    from densityclip.model.biomedclip import Foundation

_FILES = 3
_SECONDS = 2.0
# What the bootstrap is timed on.
_FEW_ROWS, _MANY_ROWS, _ROWS_A_PATIENT, _RESAMPLES = 100, 4000, 4, 64


@dataclass(frozen=True)
class Speeds:
    """Seconds, with one worker; None or absent where nothing could be measured.

    Attributes:
        exam: To generate one exam, by cohort.
        image: To prepare one image, by cohort.
        trained: Of a training step, per image of the batch.
        scored: To score one prepared image.
        convolved: Of a step of the baseline `cnn`, per image.
        taught: To generate and prepare an exam of the stand-in, and of a step of its training.
        resampled: Of scoring one resample by every figure, and what each row adds to it.
        recalibrated: To fit the probabilities to some labelled exams, and to score the others.
        blocks: Blocks of the image tower, each of which is randomised to test maps.
    """

    exam: dict[str, float] = field(default_factory=dict)
    image: dict[str, float] = field(default_factory=dict)
    trained: float | None = None
    scored: float | None = None
    convolved: float | None = None
    taught: tuple[float, float] | None = None
    resampled: tuple[float, float] | None = None
    recalibrated: float | None = None
    blocks: int = 0


def measure(study: Study, out: Path) -> Speeds:
    """Generate and prepare an exam of each kind, prepare a few files of each archive, take a few training steps.

    Files of an archive that is not indexed yet are the first that are found in it.

    Raises:
        UserError: The foundation model cannot be loaded.
    """
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
        elif cohort.source is not None:
            tried[name] = _prepared(list(_first_files(cohort.source)), recipe)
    image = {name: seconds for name, seconds in tried.items() if seconds is not None}
    with tempfile.TemporaryDirectory() as folder:
        model = _model(study, Path(folder))
        trained, scored = _steps(model, study, recipe)
        taught = _taught(model) if study.foundation.stand_in is not None else None
    return Speeds(
        exam,
        image,
        trained,
        scored,
        convolved=_cnn_step(study, recipe) if "cnn" in study.baselines else None,
        taught=taught,
        resampled=_resampled(),
        recalibrated=_recalibrated(),
        blocks=len(getattr(getattr(model.clip.visual, "trunk", None), "blocks", ())),
    )


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


def _first_files(source: Path) -> Iterator[Path]:
    """The first DICOM files that a walk through an archive meets: few, for an archive may have millions."""
    if source.is_file():
        return
    found = (Path(folder) / name for folder, _, names in os.walk(source) for name in sorted(names))
    yield from islice((path for path in found if path.suffix.lower() in (".dcm", ".dicom")), _FILES)


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


def _model(study: Study, folder: Path) -> "Foundation":
    """The model of the study, or one of its shape where it is still to be made."""
    from densityclip.model.biomedclip import load_foundation
    from densityclip.model.small import make_small_foundation

    source = study.foundation.path
    if source is None:
        source = folder / "small"
        make_small_foundation(source, seed=0)
    return load_foundation(source)


def _steps(model: "Foundation", study: Study, recipe: Recipe) -> tuple[float, float]:
    """Seconds per image of a step of the first arm, and of scoring."""
    from densityclip.training.device import use_threads
    from densityclip.training.fit import at_size

    config = study.train_config(study.members()[0])
    use_threads(config.threads)
    shape = (recipe.height, recipe.width)
    return _model_steps(at_size(model, shape), config.modalities, shape, config.batch_size)


def _taught(model: "Foundation") -> tuple[float, float]:
    """Seconds of an exam of the stand-in, and of a step of its training."""
    from densityclip.model.small import IMAGE_SIZE
    from densityclip.steps.stand_in import SIZE, SLICE_MM
    from densityclip.training.stand_in import Pretraining

    recipe = Recipe().sized(IMAGE_SIZE).with_overrides(["dbt_slices=spread:3"])
    made = Generate(site=STAND_IN_SITE, exams=1, seed=0, size=SIZE, slice_mm=SLICE_MM)
    exam, image = _generated(made, recipe)
    batch = Pretraining().batch_size
    trained, _ = _model_steps(model, made.modalities, (recipe.height, recipe.width), batch)
    return exam + VIEWS * len(made.modalities) * (image or 0.0), batch * trained


def _model_steps(
    model: "Foundation", modalities: Sequence[str], shape: tuple[int, int], batch_size: int
) -> tuple[float, float]:
    """Seconds per image of a training step, and of scoring."""
    import torch

    from densityclip.model.classifier import normalise, pad_token, tokenise
    from densityclip.model.prompts import DEFAULT_PROMPTS
    from densityclip.training.losses import multi_positive

    clip, device = model.clip, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip.to(device).train()
    captions = [text for name in modalities for k in "ABCD" for text in DEFAULT_PROMPTS.captions(k, name)]
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

    trained = _per_image(step, shape, batch_size, device)
    clip.eval()
    return trained, _per_image(score, shape, batch_size, device)


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


def _resampled() -> tuple[float, float]:
    """Seconds of one resample by every figure, and what each row adds, from a small and a large sample."""
    from densityclip.evaluation.compare import ScoredArm

    def seconds(rows: int) -> float:
        sample = _sample(rows)
        patients = [str(row // _ROWS_A_PATIENT) for row in range(rows)]
        began = time.monotonic()
        ScoredArm.of(patients, patients, sample, resamples=_RESAMPLES, seed=0)
        return (time.monotonic() - began) / _RESAMPLES

    seconds(_FEW_ROWS)
    few, many = seconds(_FEW_ROWS), seconds(_MANY_ROWS)
    each = max(0.0, many - few) / (_MANY_ROWS - _FEW_ROWS)
    return max(0.0, few - each * _FEW_ROWS), each


def _recalibrated() -> float:
    """Seconds of one draw of local adaptation: its fit, and the figures before and after."""
    from densityclip.probability.local import fit_recalibration
    from densityclip.steps.local import SHOWN

    sample = _sample(_FEW_ROWS)
    patients = [str(row) for row in range(_FEW_ROWS)]
    began = time.monotonic()
    fit_recalibration(sample.probabilities, sample.labels, patients)
    for _ in range(2):
        sample.score(names=SHOWN)
    return time.monotonic() - began


def _sample(rows: int) -> "Sample":
    from densityclip.evaluation.metrics import Sample

    rng = np.random.default_rng(0)
    return Sample.of(np.arange(rows) % 4, rng.dirichlet(np.ones(4), size=rows))
