"""A small CLIP of BiomedCLIP's shape with a classifier over four fixed directions: what the methods are tested on."""

from collections import Counter

import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor, nn

VISION = {
    "timm_model_name": "test_vit",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "linear",
    "image_size": 160,
}
TEXT = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 50, "context_length": 8}
POSITIONS = torch.tensor([-1.5, -0.5, 0.5, 1.5])
CATEGORY = torch.tensor([1.0, 2.0, 3.0, 4.0])

# What each target means for the four logits of one image, written down once more.
SCORES = {
    "density-score": lambda logits: (logits * POSITIONS).sum(),
    "expected-density": lambda logits: (logits.softmax(0) * CATEGORY).sum(),
    "A": lambda logits: logits[0],
    "B": lambda logits: logits[1],
    "C": lambda logits: logits[2],
    "D": lambda logits: logits[3],
}


class Small(nn.Module):
    """The model, its trunk on a grid of 10 x 10, three images and the same images without their tissue."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.model = CustomTextCLIP(embed_dim=32, vision_cfg=VISION, text_cfg=TEXT).eval()
        self.trunk = self.model.visual.trunk
        self.classes = nn.functional.normalize(torch.randn(4, 32), dim=1)
        self.images = torch.randn(3, 3, 160, 160)
        self.fat = torch.randn(3, 3, 160, 160)

    def classify(self, images: Tensor) -> Tensor:
        return 10 * self.model.encode_image(images, normalize=True) @ self.classes.T

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(images)


def count_passes(
    forward: Counter[int], backward: Counter[int], index: int, _block: nn.Module, _inputs: object, output: Tensor
) -> None:
    """A forward hook that counts how often a block runs, and how often a gradient reaches its output."""
    forward[index] += 1
    if output.requires_grad:
        output.register_hook(lambda _gradient: backward.update([index]))
