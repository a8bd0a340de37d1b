"""A bundle's image tower and class embeddings as one ONNX graph, and the proof that ONNX Runtime says the same."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from densityclip import __version__
from densityclip.artifacts import SCHEMA_VERSION, atomic_path, hash_file
from densityclip.density import CATEGORIES, WORDING
from densityclip.errors import UserError
from densityclip.model.bundle import Bundle
from densityclip.model.classifier import DensityClassifier, normalise
from densityclip.model.prompts import PLAIN
from densityclip.records import MODALITIES, Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRAPH = "density.onnx"
DESCRIPTION = "density.json"

# The exporter's own set of operators; later ones only name the same sums differently, and old runtimes lack them.
OPSET = 18
# Largest absolute differences. Measured with random weights: ViT-B/16 at 224 px, its logits scaled by 100, differs by
# 2e-7 in features and 1e-5 in logits.
TOLERANCE = {"features": 1e-5, "logits": 1e-4}
# One file of protobuf ends at 2 GiB.
_MOST_BYTES = 2**31 - 2**24
_BATCHES = (1, 5)
_RULE = "softmax(logits / temperature + prior_shift)"


class DensityGraph(nn.Module):
    """What is exported: prepared grey levels and rows of prompts to features and logits.

    The sums are the classifier's; only the choice of prompts by a modality's name is left to the caller, as a graph
    knows no words.
    """

    mean: Tensor
    std: Tensor
    prompts: Tensor

    def __init__(self, classifier: DensityClassifier) -> None:
        super().__init__()
        self.visual = classifier.visual
        self.register_buffer("prompts", classifier.prompts)
        self.register_buffer("mean", torch.tensor(classifier.preprocess["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(classifier.preprocess["std"]).view(1, 3, 1, 1))
        self.logit_scale = classifier.logit_scale

    def forward(self, pixels: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Features and uncalibrated logits.

        Args:
            pixels: `[batch, h, w]` float32 grey levels in `[0, 1]`.
            prompts: `[batch]` int64, the row of the class prompts that each image is compared with.

        Returns:
            Unit rows `[batch, d]`, and `[batch, 4]` in the order A, B, C, D.
        """
        images = (pixels.unsqueeze(1) - self.mean) / self.std
        features = functional.normalize(self.visual(images), dim=-1)
        return features, self.logit_scale * torch.einsum("bd,bkd->bk", features, self.prompts[prompts])


def export_onnx(bundle: Bundle, folder: Path, *, notice: str) -> dict[str, Any]:
    """Write `density.onnx`, run it where ONNX Runtime is installed, and describe it.

    Args:
        bundle: The model.
        folder: Where to write.
        notice: What the model may be used for.

    Returns:
        The content of `density.json`; `checked` is None where ONNX Runtime is not installed.

    Raises:
        UserError: The exporter is not installed, the tower is too large or cannot be exported, or ONNX Runtime's
            answer differs from torch's.
    """
    _require_exporter()
    classifier = bundle.classifier()
    graph = folder / GRAPH
    size = (bundle.recipe.height, bundle.recipe.width)
    facts = {
        "densityclip": __version__,
        "weights_sha256": bundle.model_hash,
        "notice": f"{notice} {bundle.generated_note}".strip(),
    }
    _write_graph(DensityGraph(classifier).eval(), size, graph, facts)
    checked = compare(classifier, graph, size) if find_spec("onnxruntime") is not None else None
    return describe(bundle, classifier, notice=notice) | {"sha256": hash_file(graph), "checked": checked}


def _require_exporter() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"the export to ONNX needs {' and '.join(missing)}, which this environment lacks",
            "install them with: pip install 'densityclip[onnx]'",
        )


def _write_graph(module: DensityGraph, size: tuple[int, int], path: Path, facts: dict[str, str]) -> None:
    import onnx

    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if weights > _MOST_BYTES:
        raise UserError(
            f"the image tower has {weights / 2**30:.1f} GiB of weights, and one ONNX file holds at most 2 GiB",
            "use the bundle itself, or a smaller foundation model",
        )
    proto = _traced(module, size)
    _forget_sources(proto)
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def _traced(module: DensityGraph, size: tuple[int, int]) -> Any:
    # Of two images: a batch of one would be taken for a fixed size.
    example = (torch.zeros(2, *size), torch.zeros(2, dtype=torch.int64))
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Both inputs share the axis, on purpose.
            warnings.filterwarnings("ignore", message="# The axis name")
            program = torch.onnx.export(
                module,
                example,
                input_names=["pixels", "prompts"],
                output_names=["features", "logits"],
                dynamic_shapes={"pixels": {0: batch}, "prompts": {0: batch}},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"torch cannot export this image tower: {str(error).splitlines()[0]}", "update torch and onnxscript"
        ) from error
    assert program is not None
    return program.model_proto


def _forget_sources(message: Any) -> None:
    """Drop what the exporter notes of every operator: lines of source files, with the paths of this machine."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "DESCRIPTOR") else value:
                _forget_sources(item)


def compare(classifier: DensityClassifier, graph: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Run a graph under ONNX Runtime and compare it with torch, on batches of 1 and 5 and every row of prompts.

    Args:
        classifier: What it was made of, on the CPU.
        graph: The file.
        size: Height and width of a prepared image.

    Returns:
        What was compared, and the largest absolute differences.

    Raises:
        UserError: A difference is above the tolerance, or is not a number.
    """
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(TOLERANCE, 0.0)
    for pixels in _trial_images(size):
        rows = np.arange(len(pixels)) % len(classifier.names)
        with torch.inference_mode():
            features = functional.normalize(classifier.visual(normalise(pixels, classifier.preprocess)), dim=-1)
            logits = classifier(pixels, [classifier.names[row] for row in rows])
        found = run(session, pixels.numpy(), rows)
        for key, value in (("features", features), ("logits", logits)):
            # NaN stays NaN here and is within no tolerance; Python's own maximum would pass over it.
            largest[key] = float(np.maximum(largest[key], np.abs(found[key] - value.numpy()).max()))
    beyond = [f"{key} by {largest[key]:.2g}" for key in largest if not largest[key] <= TOLERANCE[key]]
    if beyond:
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__} differs from torch: {', '.join(beyond)}",
            "update onnxruntime, onnxscript and torch; nothing was exported",
        )
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "against": f"torch {torch.__version__}",
        "batches": list(_BATCHES),
        "prompt_rows": list(classifier.names),
        "largest_difference": largest,
        "tolerance": TOLERANCE,
    }


def run(session: Any, pixels: "NDArray[np.float32]", prompts: "NDArray[np.int64]") -> "dict[str, NDArray[np.float32]]":
    """Features and logits of a graph by name.

    Args:
        session: An `onnxruntime.InferenceSession` of `density.onnx`.
        pixels: `[batch, h, w]` grey levels in `[0, 1]`.
        prompts: `[batch]` rows.
    """
    names = ("features", "logits")
    return dict(zip(names, session.run(list(names), {"pixels": pixels, "prompts": prompts}), strict=True))


def _trial_images(size: tuple[int, int]) -> Iterator[Tensor]:
    """Noise, a ramp as of tissue, and black: one image alone, and several together."""
    generator = torch.Generator().manual_seed(0)
    for number in _BATCHES:
        pixels = torch.rand(number, *size, generator=generator)
        if number > 1:
            pixels[1] = torch.linspace(0, 1, size[1]).expand(size)
            pixels[2] = 0.0
        yield pixels


def describe(bundle: Bundle, classifier: DensityClassifier, *, notice: str) -> dict[str, Any]:
    """What a program must know to call the graph and to reach probabilities."""
    recipe, calibration = bundle.recipe, bundle.calibration
    rows = {name: row for row, name in enumerate(classifier.names)}
    white = 2 ** (8 * recipe.dtype.itemsize) - 1
    return {
        "schema_version": SCHEMA_VERSION,
        "file": GRAPH,
        "notice": notice,
        "generated_note": bundle.generated_note,
        "redistribute": bundle.provenance["data"].get("redistribute"),
        "densityclip": __version__,
        "weights_sha256": bundle.model_hash,
        "opset": OPSET,
        "categories": list(CATEGORIES),
        "wording": WORDING,
        "inputs": {
            "pixels": {
                "type": "float32",
                "shape": ["batch", recipe.height, recipe.width],
                "range": [0.0, 1.0],
                "white": white,
                "meaning": f"grey levels of the recipe divided by {white}, its white; mean and std are in the graph",
            },
            "prompts": {
                "type": "int64",
                "shape": ["batch"],
                "rows": rows,
                "meaning": "the row of prompts that the image is compared with: its modality's",
                "row_of_modality": {
                    name: rows.get(name, rows[PLAIN]) for name in (*MODALITIES, Modality.UNKNOWN.value)
                },
            },
        },
        "outputs": {
            "features": {
                "type": "float32",
                "shape": ["batch", int(classifier.prompts.shape[-1])],
                "meaning": "unit rows: the image's embedding",
            },
            "logits": {
                "type": "float32",
                "shape": ["batch", len(CATEGORIES)],
                "meaning": "uncalibrated, in the order of `categories`; no probabilities yet",
            },
        },
        "calibration": calibration | {"formula": _RULE},
        "to_probabilities": _to_probabilities(),
        "recipe_hash": recipe.recipe_hash,
        "recipe": recipe.to_dict(),
    }


def _to_probabilities() -> list[str]:
    return [
        "Prepare the image with `recipe` (densityclip.imaging.prepare.prepare_file, which needs no torch): a "
        "tomosynthesis volume gives several slices. Other pixels give other answers.",
        "Run all slices of the image with the prompts row of its modality.",
        "logits = log(mean over the slices of softmax(logits)); with one slice this changes nothing below.",
        f"probabilities = {_RULE}, temperature and prior_shift of `calibration`.",
        "A breast averages the probabilities of its images, within modality and view first; an exam its breasts.",
    ]
