"""A real PACS sends exams to the listener and holds the answers afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from listen_samples import PATIENT, answer_uid, mammogram, studies
from orthanc_scene import DICOMWEB, ORTHANC

HERE = Path(__file__).parent


def why_not() -> str:
    """Why this machine cannot run Orthanc apart from the network; empty where it can."""
    missing = [path for path in (ORTHANC, DICOMWEB, "/usr/sbin/ip") if not Path(path).exists()]
    if missing:
        return f"{missing[0]} is missing: apt-get install orthanc orthanc-dicomweb iproute2"
    try:
        done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return "unshare is missing"
    return "this machine allows no network namespace" if done.returncode else ""


@pytest.mark.pacs
@pytest.mark.slow
@pytest.mark.parametrize("way", ["dicom", "web"])
def test_orthanc_sends_exams_and_holds_one_answer_of_each_afterwards(tmp_path, way):
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, HERE / "orthanc_scene.py", tmp_path, way],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["code"] == 0
    reports = [tags for tags in said["held"] if tags["Modality"] == "SR"]
    expected = {
        study: str(answer_uid([mammogram(study, number=number).SOPInstanceUID for number in range(4)]))
        for study in studies(2)
    }
    assert {tags["StudyInstanceUID"]: tags["SOPInstanceUID"] for tags in reports} == expected
    assert len(reports) == 2
    assert {tags["PatientName"] for tags in reports} == {PATIENT}
    assert len(said["held"]) == 2 * 4 + 2, "the images of the PACS are as they were"
