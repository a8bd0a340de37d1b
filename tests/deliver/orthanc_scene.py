"""Orthanc beside the listener or the web service; run in a network namespace with loopback only.

Arguments: folder, and what happens: `dicom` or `web` (Orthanc sends exams to the listener, and gets their answers over
C-STORE or STOW-RS), or `fetch` (a study is fetched from it over WADO-RS). Prints what came of it as JSON. Orthanc
listens on every address of its machine, which is why it is not run outside of a namespace of its own.
"""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pydicom
from listen_samples import as_bytes, compressed, hashed_pixels, mammogram, studies
from listen_scene import ListenProcess, wait_until

from densityclip.deliver.incoming import REFERENCE, Upload
from densityclip.deliver.limits import Limits
from densityclip.deliver.retrieve import Retrieval, retrieved
from densityclip.reasons import Refused

ORTHANC = "/usr/sbin/Orthanc"
DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
_URL = "http://127.0.0.1:8042"


def call(path: str, body: bytes | None = None):
    request = urllib.request.Request(_URL + path, data=body, method="GET" if body is None else "POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def start_orthanc(folder: Path) -> subprocess.Popen[bytes]:
    config = {
        "StorageDirectory": str(folder / "orthanc"),
        "HttpPort": 8042,
        "DicomAet": "ORTHANC",
        "DicomPort": 4242,
        "DicomAlwaysAllowStore": True,
        "AuthenticationEnabled": False,
        "Plugins": [DICOMWEB],
        "DicomModalities": {"density": ["DENSITYCLIP", "127.0.0.1", 11112]},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, folder / "orthanc.json"], stdout=log, stderr=log)
    wait_until(lambda: is_up())
    return process


def is_up() -> bool:
    try:
        return bool(call("/system"))
    except OSError:
        return False


def fetch(folder: Path) -> None:
    """Each transfer syntax that the study has, fetched as it is stored; and a study that is not there."""
    orthanc = start_orthanc(folder)
    try:
        (study,) = studies(1)
        sent = [as_bytes(mammogram(study, number=number)) for number in range(3)]
        for image in [*sent, as_bytes(compressed(mammogram(study, number=3)))]:
            call("/instances", image)
        (folder / "work").mkdir()
        found = []
        retrieval = Retrieval({"pacs": f"{_URL}/dicom-web"}, disk=Limits(reserve_bytes=0))
        for asked in (study, "1.2.3"):
            upload = Upload(folder)
            upload.refer("pacs", asked)
            try:
                with retrieved(upload.folder / REFERENCE, retrieval, within=folder / "work") as into:
                    images = [pydicom.dcmread(path) for path in sorted(into.iterdir())]
                    found.append([[i.SOPInstanceUID, i.file_meta.TransferSyntaxUID, hashed_pixels(i)] for i in images])
            except Refused as refused:
                found.append(str(refused))
        sys.stdout.write(json.dumps(found))
    finally:
        orthanc.terminate()
        orthanc.wait(20)


def main(folder: Path, way: str) -> None:
    subprocess.run(["/usr/sbin/ip", "link", "set", "lo", "up"], check=True)
    if way == "fetch":
        fetch(folder)
        return
    peer = {"dicom": "dicom://ORTHANC@127.0.0.1:4242", "web": f"{_URL}/dicom-web"}[way]
    service = ListenProcess(folder / "store", 11112, 1.0, peer)
    orthanc = start_orthanc(folder)
    try:
        service.start()
        for study in studies(2):
            for number in range(4):
                call("/instances", as_bytes(mammogram(study, number=number)))
        for study in call("/studies"):
            call("/modalities/density/store", study.encode())
        wait_until(lambda: len(reports()) >= 2)
        time.sleep(2.5)
        code = service.terminate()
        held = [call(f"/instances/{name}/tags?simplify") for name in call("/instances")]
        kept = ("SOPInstanceUID", "StudyInstanceUID", "Modality", "PatientName")
        sys.stdout.write(json.dumps({"code": code, "held": [{key: tags.get(key) for key in kept} for tags in held]}))
    finally:
        orthanc.terminate()
        orthanc.wait(20)
        if service.process is not None:
            service.kill()


def reports() -> list[str]:
    return [name for name in call("/series") if call(f"/series/{name}")["MainDicomTags"].get("Modality") == "SR"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
