from pathlib import Path

import numpy as np
import pytest
import torch

from densityclip.model.biomedclip import Foundation, load_foundation
from densityclip.model.classifier import DensityClassifier, class_embeddings, normalise, tokenise
from densityclip.model.prompts import DEFAULT_PROMPTS


@pytest.fixture(scope="module")
def foundation(small_foundation: Path) -> Foundation:
    return load_foundation(small_foundation)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 160, 160), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def test_a_class_embedding_is_the_normalised_mean_of_its_captions(foundation: Foundation):
    found = class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ["s2D"])
    captions = DEFAULT_PROMPTS.captions("C", "s2D")
    with torch.no_grad():
        # One text at a time, padded to the full context: the plain way.
        each = [foundation.clip.encode_text(foundation.tokenizer([text]), normalize=True)[0] for text in captions]
    mean = torch.stack(each).mean(0)
    assert torch.allclose(found["s2D"][2], mean / mean.norm(), atol=1e-6)
    assert set(found) == {"plain", "s2D"}


def test_leaving_out_padding_does_not_change_a_text(foundation: Foundation):
    texts = ["dense", "a mammogram of breast density category A: almost entirely fatty"]
    short = tokenise(foundation.tokenizer, texts, 0)
    whole = foundation.tokenizer(texts)
    assert short.shape[1] < whole.shape[1]
    with torch.no_grad():
        assert torch.allclose(foundation.clip.encode_text(short), foundation.clip.encode_text(whole), atol=1e-6)


def test_logits_are_scaled_cosines_with_the_prompts_of_the_images_own_modality(foundation: Foundation, pixels):
    embeddings = class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ["DM", "DBT"])
    preprocess = foundation.config["preprocess_cfg"]
    classifier = DensityClassifier(foundation.clip.visual, embeddings, 12.5, preprocess)
    with torch.no_grad():
        logits = classifier(pixels, ["DBT", "s2D", None]).numpy()
        features = foundation.clip.encode_image(normalise(pixels, preprocess)).numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    # s2D was not trained on and None is not known: both are compared with the plain prompts.
    for row, name in enumerate(("DBT", "plain", "plain")):
        np.testing.assert_allclose(logits[row], 12.5 * embeddings[name].numpy() @ features[row], atol=1e-4)


def test_pixels_are_normalised_as_open_clip_does(pixels: torch.Tensor, foundation: Foundation):
    from PIL import Image
    from torchvision.transforms import Normalize
    from torchvision.transforms.functional import to_tensor

    preprocess = foundation.config["preprocess_cfg"]
    rgb = to_tensor(Image.fromarray(pixels[0].numpy()).convert("RGB"))
    expected = Normalize(preprocess["mean"], preprocess["std"])(rgb)
    assert torch.allclose(normalise(pixels[:1], preprocess)[0], expected, atol=1e-6)
