"""BiomedCLIP's real shape, as the hub lays it out, through our loading and through open_clip's own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from clip_samples import open_plainly, prepared

from densityclip.model.biomedclip import load_foundation, load_image_tower
from densityclip.model.full_size import make_full_size

CAPTIONS = ["a mammogram with extremely dense breasts", "almost entirely fatty"]


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest keeps its own folders of the last three runs, and this one holds 784 MB.
    with tempfile.TemporaryDirectory() as name:
        make_full_size(Path(name), seed=0)
        yield Path(name)


@pytest.mark.slow
def test_the_published_shape_loads_as_open_clip_loads_it(folder: Path):
    image, tokens = prepared(224, 224, 1), open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    with torch.no_grad():
        ours = load_foundation(folder)
        assert sum(value.numel() for value in ours.clip.parameters()) == 195_902_721
        assert sum(value.numel() for value in ours.clip.visual.parameters()) == 86_191_872
        assert torch.equal(ours.tokenizer(CAPTIONS), tokens)
        features = ours.clip.encode_image(image), ours.clip.encode_text(tokens)
        # One model at a time: each takes 0.8 GB.
        del ours
        assert torch.equal(load_image_tower(folder)(image), features[0])
        theirs = open_plainly(folder)
        assert torch.equal(theirs.encode_image(image), features[0])
        assert torch.equal(theirs.encode_text(tokens), features[1])
