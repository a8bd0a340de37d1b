"""Maps for a batch of images: ours against grad-cam used in the plain way, one image at a time.

    python benchmarks/explain_maps.py [--tower small|vit-b16] [--images 16] [--batch 8] [--repeats 3] [--occlusion]

The plain way is `GradCAM(model, target_layers, reshape_transform)` of pytorch-grad-cam, given each image by itself and
the density score as its target. Ours makes the same maps batch-wise. Images and weights are random. The ways take turns
in one process; memory is the peak of a fresh process for each, less what it held after the map of one image. Parameters
ask for gradients, without which the plain way fails; ours is also run with all of them frozen. Maps are compared image
by image: grad-cam's are on the canvas and stretched to [0, 1], so ours are put there the same way.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from numpy.typing import NDArray
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

from densityclip.explain.gradcam import DENSITY_SCORE, token_maps
from densityclip.explain.methods import method_maps
from densityclip.model.small import small_config

TEXT = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 50, "context_length": 8}
POSITIONS = (-1.5, -0.5, 0.5, 1.5)
SIDES = {"small": 160, "vit-b16": 224}
Way = Callable[["Classifier", Tensor, int], NDArray[np.float32]]


class Classifier(nn.Module):
    """An image tower with random weights and four random prompts."""

    def __init__(self, tower: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        vision = dict(small_config()["model_cfg"]["vision_cfg"])
        if tower == "vit-b16":
            vision |= {"timm_model_name": "vit_base_patch16_224", "image_size": 224}
        self.visual = CustomTextCLIP(embed_dim=64, vision_cfg=vision, text_cfg=TEXT).visual.eval()
        self.register_buffer("prompts", nn.functional.normalize(torch.randn(4, 64), dim=1))

    def forward(self, images: Tensor) -> Tensor:
        return 100 * nn.functional.normalize(self.visual(images), dim=1) @ self.prompts.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tower", choices=tuple(SIDES), default="small")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--occlusion", action="store_true", help="time occlusion too, on one batch")
    given = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"timm {timm.__version__}, open_clip {open_clip.__version__}")
    print(f"tower {given.tower}, {given.images} images, batches of {given.batch}, medians of {given.repeats}\n")
    ways: dict[str, Way] = {"grad-cam, image by image": plain, "GradCAM": gradcam, "attention": attention}
    ways |= {"GradCAM, frozen": gradcam_frozen, "attention, frozen": attention_frozen}
    classifier, images = Classifier(given.tower), some_images(given.tower, given.images)
    agreement(classifier, images, given.batch)
    seconds = in_turns(ways, classifier, images, given.batch, given.repeats)
    print("| way | images/s | to grad-cam | memory |")
    print("|---|---|---|---|", flush=True)
    for name, way in ways.items():
        megabytes = peak(way, given.tower, given.images, given.batch)
        ratio = seconds["grad-cam, image by image"] / seconds[name]
        print(f"| {name} | {given.images / seconds[name]:.2f} | {ratio:.2f} x | {megabytes:.0f} MB |", flush=True)
    if given.occlusion:
        started = time.perf_counter()
        occlusion(classifier, images[: given.batch], given.batch)
        rate = given.batch / (time.perf_counter() - started)
        ratio = rate * seconds["grad-cam, image by image"] / given.images
        megabytes = peak(occlusion, given.tower, given.batch, given.batch)
        print(f"| occlusion, one batch, once | {rate:.2f} | {ratio:.3f} x | {megabytes:.0f} MB |")


def some_images(tower: str, count: int) -> Tensor:
    return torch.randn(count, 3, SIDES[tower], SIDES[tower], generator=torch.Generator().manual_seed(1))


def plain(classifier: Classifier, images: Tensor, _batch: int) -> NDArray[np.float32]:
    """pytorch-grad-cam as its documentation shows it for a ViT, one image a call."""
    from pytorch_grad_cam import GradCAM

    trunk = classifier.visual.trunk
    rows, columns = trunk.patch_embed.grid_size

    def reshape_transform(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(tokens.shape[0], rows, columns, -1).permute(0, 3, 1, 2)

    def density_score(logits: Tensor) -> Tensor:
        return (logits * torch.tensor(POSITIONS)).sum()

    with GradCAM(classifier, [trunk.blocks[-1].norm1], reshape_transform) as cam:
        return np.concatenate([cam(images[i : i + 1], [density_score]) for i in range(len(images))])


def gradcam(classifier: Classifier, images: Tensor, batch: int) -> NDArray[np.float32]:
    return np.concatenate([token_maps(classifier, classifier.visual.trunk, part) for part in images.split(batch)])


def attention(classifier: Classifier, images: Tensor, batch: int) -> NDArray[np.float32]:
    return np.concatenate([by_method("attention", classifier, part) for part in images.split(batch)])


def gradcam_frozen(classifier: Classifier, images: Tensor, batch: int) -> NDArray[np.float32]:
    with frozen(classifier):
        return gradcam(classifier, images, batch)


def attention_frozen(classifier: Classifier, images: Tensor, batch: int) -> NDArray[np.float32]:
    with frozen(classifier):
        return attention(classifier, images, batch)


@contextmanager
def frozen(classifier: Classifier) -> Iterator[None]:
    classifier.requires_grad_(False)
    try:
        yield
    finally:
        classifier.requires_grad_(True)


def occlusion(classifier: Classifier, images: Tensor, batch: int) -> NDArray[np.float32]:
    return np.concatenate([by_method("occlusion", classifier, part) for part in images.split(batch)])


def by_method(method: str, classifier: Classifier, images: Tensor) -> NDArray[np.float32]:
    trunk, fat = classifier.visual.trunk, torch.zeros_like(images)
    return method_maps(method, classifier, trunk, images, (DENSITY_SCORE,), fat=lambda: fat)[DENSITY_SCORE]


def agreement(classifier: Classifier, images: Tensor, batch: int) -> None:
    """How far our maps, stretched as grad-cam stretches its own, are from grad-cam's."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    theirs = plain(classifier, images, batch)
    ours = scale_cam_image(gradcam(classifier, images, batch), images.shape[:1:-1])
    filled = [(a.ravel(), b.ravel()) for a, b in zip(ours, theirs, strict=True) if a.any() and b.any()]
    lowest = min(float(np.corrcoef(a, b)[0, 1]) for a, b in filled)
    print(f"GradCAM, ours against grad-cam: lowest correlation of {len(filled)} images {lowest:.6f} ", end="")
    print(f"({len(images) - len(filled)} maps are empty in either)\n", flush=True)


def in_turns(
    ways: dict[str, Way], classifier: Classifier, images: Tensor, batch: int, repeats: int
) -> dict[str, float]:
    for way in ways.values():
        way(classifier, images[:batch], batch)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way(classifier, images, batch)
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def peak(way: Way, tower: str, count: int, batch: int) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (way, tower, count, batch))


def _peak_here(way: Way, tower: str, count: int, batch: int) -> float:
    classifier, images = Classifier(tower), some_images(tower, count)
    way(classifier, images[:1], 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; Linux only
    before = _megabytes("VmRSS")
    way(classifier, images, batch)
    return _megabytes("VmHWM") - before


def _megabytes(name: str) -> float:
    """A figure of this process; the ru_maxrss of a spawned process is its parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
