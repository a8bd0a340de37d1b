"""One generated exam for every test of what is handed out."""

from pathlib import Path

import polars as pl
import pytest

from densityclip.inference.sources import gather
from densityclip.phantom.generate import generate


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
