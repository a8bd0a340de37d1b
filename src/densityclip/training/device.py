"""Where a training runs and with what: device and precision as resolved, versions of the libraries."""

import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from densityclip.errors import UserError
from densityclip.training.config import TrainConfig
from densityclip.worker_pool import cores

if TYPE_CHECKING:
    import torch

# Those that decide numbers; another version of one of them may give other last bits.
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "peft", "lightning", "numpy")
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def device_of(config: TrainConfig) -> "torch.device":
    """The device on which this process trains and scores: a GPU where one is wanted and there, else the CPU."""
    import torch

    gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def precision_of(config: TrainConfig) -> Precision:
    """The precision of a training; `auto` is bfloat16 autocast on a GPU that has it, else float32.

    Raises:
        UserError: float16 is wanted on a CPU.
    """
    import torch

    kind = device_of(config).type
    if config.precision == "16-mixed" and kind == "cpu":
        raise UserError(
            "precision 16-mixed needs a GPU, and this training runs on the CPU",
            "set precision to auto, 32-true or bf16-mixed",
        )
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if kind == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def use_threads(threads: int) -> None:
    """Compute with so many CPU threads from here on, or with as many as there are cores."""
    import torch

    torch.set_num_threads(min(threads, cores()))


def environment(config: TrainConfig) -> dict[str, Any]:
    """What `provenance.json` says of the machine and the software, besides this package's own version.

    Returns:
        `device` (`cpu`, or the GPU's name), `devices` (processes that shared a batch), `precision`, `threads` as they
        were, `python`, and `libraries` (name to version).
    """
    import torch

    device = device_of(config)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "devices": config.devices * config.nodes,
        "precision": precision_of(config),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        # torch's own word also names its build, such as +cu126.
        "libraries": {name: metadata.version(name) for name in _LIBRARIES} | {"torch": torch.__version__},
    }
