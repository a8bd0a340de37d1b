"""What a map explains: one number an image, made from the four logits, which every method of explanation shares."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from densityclip.density import CATEGORIES, category_index

if TYPE_CHECKING:
    from torch import Tensor

EXPECTED_DENSITY = "expected-density"
# The four logits along the ordinal scale. The expected density runs through a softmax, and where the model is sure its
# gradient is nil: maps of clear A and D images came out empty. This one stays linear in the similarities.
DENSITY_SCORE = "density-score"
TARGETS: tuple[str, ...] = (DENSITY_SCORE, EXPECTED_DENSITY, *CATEGORIES)
_POSITIONS = (-1.5, -0.5, 0.5, 1.5)


def check_targets(targets: Sequence[str]) -> None:
    """Check that there is a target and that each is one of `TARGETS`.

    Raises:
        ValueError: It is not so.
    """
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        raise ValueError(f"target {unknown} is not one of {', '.join(TARGETS)}")


def score(logits: "Tensor", target: str) -> "Tensor":
    """What is explained, one number an image: images do not see each other, so the sum's gradient is each one's own.

    Args:
        logits: `[b, 4]` in the order A, B, C, D, of any float type.
        target: A category: its logit. `density-score`: the logits weighted -1.5, -0.5, 0.5, 1.5. `expected-density`:
            the mean of the categories, counted 1 to 4, under the softmax.

    Returns:
        `[b]` float32.

    Raises:
        ValueError: Unknown target.
    """
    import torch

    check_targets((target,))
    logits = logits.float()
    if target == DENSITY_SCORE:
        return logits @ torch.tensor(_POSITIONS, device=logits.device)
    if target == EXPECTED_DENSITY:
        return logits.softmax(dim=1) @ torch.arange(1.0, len(CATEGORIES) + 1, device=logits.device)
    return logits[:, category_index(target)]
