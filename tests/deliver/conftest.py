"""One generated exam for every test of what is handed out."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from listen_scene import free_port
from redis_scene import RedisServer

from densityclip.imaging.recipe import Recipe
from densityclip.inference.sources import gather
from densityclip.phantom.generate import generate
from densityclip.probability.calibrate import Calibration


@pytest.fixture(scope="session")
def exam_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one generated exam: DM, s2D and DBT of four views."""
    out = tmp_path_factory.mktemp("exam")
    generate(out, site="internal", exams=1, seed=3, size=96, slice_mm=8)
    return out / "dicom"


@pytest.fixture(scope="session")
def exam(exam_files: Path) -> pl.DataFrame:
    """Its index."""
    found, excluded = gather(exam_files)
    assert (len(found), len(excluded)) == (12, 0)
    return found


@pytest.fixture(scope="session")
def bundle(small_foundation: Path, tmp_path_factory) -> Path:
    """A bundle with the small model, as it was made: it answers, and knows nothing."""
    from densityclip.model.biomedclip import load_foundation
    from densityclip.model.bundle import save_bundle
    from densityclip.model.classifier import class_embeddings
    from densityclip.model.prompts import DEFAULT_PROMPTS

    foundation = load_foundation(small_foundation)
    size = foundation.config["model_cfg"]["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    folder = tmp_path_factory.mktemp("listening") / "bundle"
    save_bundle(
        folder,
        foundation,
        recipe=Recipe(height=height, width=width),
        prompts=DEFAULT_PROMPTS,
        embeddings=class_embeddings(foundation.clip, foundation.tokenizer, DEFAULT_PROMPTS, ("DM", "s2D", "DBT")),
        calibration=Calibration().to_dict(),
        provenance={"data": {"generated": True, "images": 9, "images_generated": 9}},
    )
    return folder


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis server; the test skips with a reason where there is none."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), free_port())
    server.start()
    yield server
    server.stop()
