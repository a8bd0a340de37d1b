"""A real PACS sends exams to the listener and holds the answers afterwards; the web service fetches from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from listen_samples import PATIENT, answer_uid, compressed, hashed_pixels, mammogram, studies
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


def play(folder: Path, what: str):
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, HERE / "orthanc_scene.py", folder, what],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.pacs
@pytest.mark.slow
@pytest.mark.parametrize("way", ["dicom", "web"])
def test_orthanc_sends_exams_and_holds_one_answer_of_each_afterwards(tmp_path, way):
    said = play(tmp_path, way)
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


@pytest.mark.pacs
@pytest.mark.slow
def test_a_study_is_fetched_from_orthanc_as_it_is_stored(tmp_path):
    found, missing = play(tmp_path, "fetch")
    (study,) = studies(1)
    images = [*(mammogram(study, number=number) for number in range(3)), compressed(mammogram(study, number=3))]
    expected = [[i.SOPInstanceUID, i.file_meta.TransferSyntaxUID, hashed_pixels(i)] for i in images]
    assert sorted(found) == sorted(expected)
    assert missing == "not_retrieved: pacs has no such study"
