"""What several folders of tests share: the small foundation model, and the whole road run once in miniature."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure, and CI shall say the same of the same code every time.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("default")


def run_densityclip(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed package as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "densityclip.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="session")
def densityclip():
    """The command line, as a function."""
    return run_densityclip


@pytest.fixture(scope="session")
def small_foundation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from densityclip.model.small import make_small_foundation

    folder = tmp_path_factory.mktemp("foundation") / "small"
    make_small_foundation(folder, seed=1)
    return folder


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo in miniature, run by its command; the folder holds everything that the road leaves."""
    folder = tmp_path_factory.mktemp("road")
    done = run_densityclip("demo", "--out", folder / "demo", "--scale", "0.1")
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "demo"


@pytest.fixture(scope="session")
def real_images() -> Path:
    folder = os.environ.get("DENSITYCLIP_REAL_IMAGES")
    if not folder:
        pytest.skip("DENSITYCLIP_REAL_IMAGES is not set: no folder of real images to read")
    return Path(folder)
