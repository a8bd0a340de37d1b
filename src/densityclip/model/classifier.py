"""Images to logits over the four categories, by similarity to the categories' prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from densityclip.density import CATEGORIES
from densityclip.errors import UserError
from densityclip.model.prompts import PLAIN, Prompts

if TYPE_CHECKING:
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer


def grey_levels(pixels: Tensor) -> Tensor:
    """Prepared pixels of any depth as float32 grey levels in `[0, 1]`; floats are grey levels already."""
    return pixels if pixels.is_floating_point() else pixels.float() / float(torch.iinfo(pixels.dtype).max)


def normalise(pixels: Tensor, preprocess: dict[str, Any]) -> Tensor:
    """Prepared grey levels to what the image tower takes.

    Args:
        pixels: `[batch, h, w]`, uint8 or uint16 as prepared, or float in `[0, 1]`.
        preprocess: `mean` and `std` per channel, from the model's `preprocess_cfg`.

    Returns:
        `[batch, 3, h, w]` float32.
    """
    grey = grey_levels(pixels)
    mean = torch.tensor(preprocess["mean"], device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocess["std"], device=pixels.device).view(1, 3, 1, 1)
    return (grey.unsqueeze(1) - mean) / std


def pad_token(clip: nn.Module) -> int | None:
    """The token that a model's text tower masks as padding; None for a tower that reads its whole context.

    Hugging Face's towers mask it. open_clip's own add position embeddings of the whole context to the tokens (class
    CLIP) or mask a square of the whole context (TextTransformer), and refuse a shorter text.
    """
    config = getattr(getattr(clip, "text", None), "config", None)
    return getattr(config, "pad_token_id", None)


def tokenise(tokenizer: "HFTokenizer | SimpleTokenizer", texts: Sequence[str], pad_token: int | None) -> Tensor:
    """Texts to `[n, longest]` token ids, the last columns left out where all of them pad every text.

    Where the text tower masks padding the features are the same, and the cost is that of the words alone.

    Args:
        tokenizer: The model's.
        texts: The words.
        pad_token: Of `pad_token`; with None no column is left out.
    """
    tokens: Tensor = tokenizer(list(texts))
    if pad_token is None:
        return tokens
    used = (tokens != pad_token).any(dim=0).nonzero()
    return tokens[:, : int(used.max()) + 1]


def check_captions(tokenizer: "HFTokenizer | SimpleTokenizer", prompts: Prompts, modalities: Sequence[str]) -> None:
    """Check that the tokens of the captions tell the categories apart, and that the model reads all of each.

    Args:
        tokenizer: The model's.
        prompts: The words.
        modalities: The modalities whose worded captions are used, besides the plain ones.

    Raises:
        UserError: A caption is cut at the context length, or captions of two categories are the same to the model.
    """
    captions = [
        (text, category)
        for name in (PLAIN, *modalities)
        for category in CATEGORIES
        for text in prompts.captions(category, name)
    ]
    texts = [text for text, _ in captions]
    length = int(tokenizer.context_length or 0)
    # With room for one token more, a text that fits leaves it empty.
    longer = tokenizer(["", *texts], length + 1)[:, -1]
    cut = [text for text, end in zip(texts, longer[1:].tolist(), strict=True) if end != int(longer[0])]
    if cut:
        raise UserError(
            f"{len(cut)} of {len(texts)} captions are longer than the {length} tokens that the model reads, and would "
            f"be cut: {cut[0]!r}",
            "shorten the prompts",
        )
    seen: dict[tuple[int, ...], tuple[str, str]] = {}
    for (text, category), tokens in zip(captions, tokenizer(texts).tolist(), strict=True):
        first, owner = seen.setdefault(tuple(tokens), (text, category))
        if owner != category:
            raise UserError(
                f"the model cannot tell a caption of category {owner} from one of {category}: {first!r} and {text!r} "
                "have the same tokens",
                "give each category words of its own",
            )


@torch.no_grad()
def class_embeddings(
    clip: "CLIP | CustomTextCLIP",
    tokenizer: "HFTokenizer | SimpleTokenizer",
    prompts: Prompts,
    modalities: Sequence[str],
) -> dict[str, Tensor]:
    """Embed the prompts of each category: normalised mean of the normalised embeddings of its captions.

    Args:
        clip: The whole model.
        tokenizer: Its tokenizer.
        prompts: The words.
        modalities: The modalities whose worded captions the model has learned.

    Returns:
        `[4, d]` unit rows in the order A, B, C, D, for `plain` and for each modality.
    """
    embeddings = {}
    device = clip.logit_scale.device
    for name in (PLAIN, *modalities):
        rows = []
        for category in CATEGORIES:
            tokens = tokenise(tokenizer, prompts.captions(category, name), pad_token(clip))
            rows.append(clip.encode_text(tokens.to(device), normalize=True).mean(dim=0))
        embeddings[name] = functional.normalize(torch.stack(rows), dim=-1)
    return embeddings


class DensityClassifier(nn.Module):
    """The image tower with fixed class embeddings: all that prediction needs.

    An image is compared with the prompts that name its own modality if the model learned them, else with the plain
    ones, so that a modality not trained on, or not known, is never compared with words that the model has not seen.
    """

    prompts: Tensor
    visual: nn.Module

    def __init__(
        self, visual: nn.Module, embeddings: dict[str, Tensor], logit_scale: float, preprocess: dict[str, Any]
    ) -> None:
        super().__init__()
        self.visual = visual
        self.names = tuple(embeddings)
        self.register_buffer("prompts", torch.stack([embeddings[name] for name in self.names]))  # [names, 4, d]
        self.logit_scale = logit_scale
        self.preprocess = preprocess

    def rows(self, modalities: Sequence[str | None]) -> Tensor:
        """`[batch]` index of the prompts that serve each modality."""
        known = {name: index for index, name in enumerate(self.names)}
        return torch.tensor([known.get(name or PLAIN, known[PLAIN]) for name in modalities])

    def from_normalised(self, images: Tensor, modalities: Sequence[str | None]) -> Tensor:
        """Logits `[batch, 4]` of normalised images `[batch, 3, h, w]`; see `forward`."""
        return self.compared(self.embedded(images), modalities)

    def features(self, pixels: Tensor) -> Tensor:
        """Unit rows `[batch, d]`, float32, of prepared pixels as `forward` takes them."""
        return self.embedded(normalise(pixels, self.preprocess))

    def embedded(self, images: Tensor) -> Tensor:
        """Unit rows `[batch, d]`, float32, of normalised images `[batch, 3, h, w]`."""
        return functional.normalize(self.visual(images).float(), dim=-1)

    def compared(self, features: Tensor, modalities: Sequence[str | None]) -> Tensor:
        """Logits `[batch, 4]` of features `[batch, d]`; see `forward`."""
        prompts = self.prompts[self.rows(modalities).to(features.device)].float()
        # Logits reach 100, where bfloat16 knows steps of 0.5 only.
        with torch.autocast(features.device.type, enabled=False):
            return self.logit_scale * torch.einsum("bd,bkd->bk", features, prompts)

    def forward(self, pixels: Tensor, modalities: Sequence[str | None]) -> Tensor:
        """Uncalibrated logits.

        Args:
            pixels: `[batch, h, w]`, uint8 or uint16 as prepared, or float in `[0, 1]`.
            modalities: Modality of each image, `unknown` or None where it is not known.

        Returns:
            `[batch, 4]` in the order A, B, C, D.
        """
        return self.from_normalised(normalise(pixels, self.preprocess), modalities)
