"""Every command of the page about listening runs as it stands."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from page_scene import INSTALLS, blocks, lines
from test_orthanc import why_not

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
PAGE = ROOT / "docs" / "listen.md"


def commands() -> list[str]:
    return [line for block in blocks(PAGE.read_text(encoding="utf-8"), "sh") for line in lines(block)]


def test_what_the_page_installs_is_what_continuous_integration_installs():
    page = PAGE.read_text(encoding="utf-8")
    assert [line for line in commands() if line.startswith(INSTALLS)] == ["pip install '.[serve]'"]
    assert "serve" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tools = (ROOT / ".ci" / "run").read_text().partition("tools=(")[2].partition(")")[0].split()
    assert "`apt-get install orthanc orthanc-dicomweb`" in page
    assert "`apt-get install redis-server`" in page
    assert {"orthanc", "orthanc-dicomweb", "redis-server"} <= set(tools)


@pytest.mark.pacs
@pytest.mark.slow
def test_every_command_of_the_page_runs_as_it_stands_and_orthanc_holds_one_report(bundle, tmp_path):
    if reason := why_not():
        pytest.skip(reason)
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is missing: apt-get install redis-server")
    done = subprocess.run(
        ["unshare", "-rnm", sys.executable, HERE / "page_scene.py", PAGE, tmp_path, bundle],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if "mount" in done.stderr and "denied" in done.stderr:
        pytest.skip("this machine allows no file system in a namespace")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert [said["line"] for said in found["said"]] == [line for line in commands() if not line.startswith(INSTALLS)]
    for said in found["said"]:
        assert said["code"] == 0, said
        assert not {"Traceback", "HttpError"} & set((said["out"] + said["err"]).replace('"', " ").split()), said
    listening = [said for said in found["said"] if said["line"].startswith("densityclip listen")]
    assert all("Stopped." in said["out"] for said in listening)
    (series,) = [said for said in found["said"] if '"SR"' in said["line"]]
    assert [one["MainDicomTags"]["Modality"] for one in json.loads(series["out"])] == ["SR"]
    over_dicom, over_web = found["kept"]
    assert len(over_dicom) == 1
    assert over_web == over_dicom, "the same exam has the same report, which is stored once"
