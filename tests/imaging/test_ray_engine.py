"""Ray against the local engine: the same bytes, also from two nodes, also when one of them is lost."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from breast_samples import drawn, index_of, write_dicom

from densityclip.errors import UserError
from densityclip.imaging.cache import build_cache
from densityclip.imaging.engine import open_engine
from densityclip.imaging.recipe import Recipe

RECIPE = Recipe(height=48, width=40)
DATA_FILES = ("images.npy", "rows.parquet", "refused.parquet", "recipe.json")


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed: pip install 'densityclip[ray]'")


def archive(folder: Path, number: int) -> pl.DataFrame:
    """DICOM, a volume, a file that is missing, one that is broken and one that hangs whoever opens it."""
    paths = [write_dicom(folder / f"{n:03d}.dcm", drawn(120, 100, seed=n)[0]) for n in range(number)]
    paths[2] = write_dicom(folder / "volume.dcm", np.stack([drawn(120, 100, seed=n)[0] for n in range(5)]))
    paths[5] = folder / "missing.dcm"
    paths[7] = folder / "broken.dcm"
    paths[7].write_bytes(paths[0].read_bytes()[:3000])
    paths[9] = folder / "fifo.dcm"
    os.mkfifo(paths[9])
    return index_of(paths, [5 if path.stem == "volume" else 1 for path in paths])


def data_of(cache: Path) -> dict[str, bytes]:
    return {name: (cache / name).read_bytes() for name in DATA_FILES}


def processes() -> set[int]:
    return {one.pid for one in psutil.process_iter(["name"]) if one.info["name"] == "raylet"}


@pytest.mark.slow
def test_ray_writes_the_same_bytes_silently_and_leaves_no_process(ray, tmp_path) -> None:
    archive(tmp_path, 24).write_parquet(tmp_path / "index.parquet")
    build_cache(pl.read_parquet(tmp_path / "index.parquet"), tmp_path / "local", RECIPE, workers=2, timeout=2)
    before = processes()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "index.parquet"), str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    counted, stopped = done.stdout.splitlines()
    assert counted == "24 24"
    assert "Ray gave up" in stopped
    assert "the job was started with 0.0.0" in stopped
    assert data_of(tmp_path / "ray") == data_of(tmp_path / "local")
    assert processes() <= before


SCRIPT = """
import sys
from pathlib import Path
import polars as pl
from densityclip.errors import UserError
from densityclip.imaging import ray_engine
from densityclip.imaging.cache import build_cache
from densityclip.imaging.engine import open_engine
from densityclip.imaging.plan import estimate, make_plan
from densityclip.imaging.recipe import Recipe
recipe, index = Recipe(height=48, width=40), pl.read_parquet(sys.argv[1])
with open_engine("ray", recipe, workers=2, timeout=2) as engine:
    # A run that is given up in its middle is no hindrance to the next.
    estimate(make_plan(index, recipe), Path(sys.argv[2]), engine, sample_seconds=0)
    said = []
    build_cache(index, Path(sys.argv[2]), recipe, engine=engine, progress=lambda *numbers: said.append(numbers))
    print(*said[-1])
    # As a node with another release sees it.
    ray_engine.__version__ = "0.0.0"
    try:
        list(engine.run(index["path"].head(1)))
    except UserError as error:
        print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("lose_a_node", [False, True])
def test_two_nodes_write_the_same_bytes_also_when_one_is_lost(ray, tmp_path, lose_a_node) -> None:
    from ray.cluster_utils import Cluster

    index = archive(tmp_path, 600)
    build_cache(index, tmp_path / "local", RECIPE, workers=2, timeout=5)
    before = processes()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    used: set[int] = set()
    try:
        with open_engine("ray", RECIPE, timeout=5, ray_address=cluster.address) as engine:
            assert engine.workers == 2
            lose = (lambda: cluster.remove_node(second, allow_graceful=False)) if lose_a_node else None
            watch = threading.Thread(target=_watch, args=(used, lose))
            watch.start()
            build_cache(index, tmp_path / "ray", RECIPE, engine=engine)
            watch.join()
    finally:
        cluster.shutdown()
    assert len(used) == 2
    assert data_of(tmp_path / "ray") == data_of(tmp_path / "local")
    assert processes() <= before


def _watch(used: set[int], lose: Callable[[], None] | None) -> None:
    """Note which nodes have a worker of ours; take one away when both are at work."""
    end = time.monotonic() + 60
    while len(used) < 2 and time.monotonic() < end:
        time.sleep(0.2)
        for raylet in processes():
            below = psutil.Process(raylet).children(recursive=True)
            if any("densityclip.imaging.worker" in " ".join(one.cmdline()) for one in below):
                used.add(raylet)
    if lose is not None:
        lose()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_in_one_sentence(ray) -> None:
    with pytest.raises(UserError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be reached"):
        list(open_engine("ray", RECIPE, ray_address="127.0.0.1:1").run(pl.Series(["a"])))


def test_without_ray_the_command_to_install_it_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(UserError, match=r"pip install 'densityclip\[ray\]'"):
        open_engine("ray", RECIPE)
