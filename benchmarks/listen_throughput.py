"""`densityclip listen` under load: exams per minute, seconds to the report at the peer, memory over many exams.

    python benchmarks/listen_throughput.py [--model BUNDLE] [--exams 1000] [--alone 40] [--size 160] [--enlarge 1]
        [--views 4] [--workers 1] [--queue URL] [--quiet 1] [--waiting 8] [--out FILE]

Without `--model` the bundle has BiomedCLIP's own shape (ViT-B/16 at 224 px) and random weights. `--enlarge 4` repeats
each pixel of a generated image four times along both sides: real sizes to send, keep and decode, without the time to
draw them.

The command runs as a process of its own, as a PACS would meet it: images go in by C-STORE, reports come back by C-STORE
to a peer in this process. Exams are generated DM views; a few are generated, and sent again and again under new
UIDs. First some are sent alone, each after the report of the one before: seconds from the success of the last image to
the report at the peer, less the quiet time. Then the rest, as fast as the reports come, with so many exams under way at
once: exams a minute. Memory is what the listener and its worker hold (RSS), noted on the way.
"""

import argparse
import copy
import json
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from densityclip.deliver.conformance import SENT_CLASSES
from densityclip.dicom.modality import DM_FOR_PRESENTATION
from densityclip.phantom.generate import generate

TEMPLATES = 8


@dataclass(frozen=True)
class Memory:
    """RSS in megabytes after so many exams."""

    exams: int
    listener: float
    workers: float


class Peer:
    """A Storage SCP that notes when the first object of a study came."""

    def __init__(self) -> None:
        self.came: queue.Queue[tuple[str, float]] = queue.Queue()
        ae = AE(ae_title="PACS")
        for sop_class in SENT_CLASSES:
            ae.add_supported_context(sop_class)
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._got)])
        self.address = f"dicom://PACS@127.0.0.1:{self._server.server_address[1]}"

    def _got(self, event) -> int:
        self.came.put((str(event.dataset.StudyInstanceUID), time.monotonic()))
        return 0x0000

    def stop(self) -> None:
        self._server.shutdown()


class Listening:
    """The command, and an association with it."""

    def __init__(self, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "densityclip.cli", "listen", "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stdout if line.startswith("Listening:"))
        self._port = int(line.rstrip(".\n").rpartition(" ")[2])

    def send(self, images: Sequence[Dataset]) -> float:
        """Send an exam; returns when success was said of its last image."""
        ae = AE(ae_title="SENDER")
        for syntax in {image.file_meta.TransferSyntaxUID for image in images}:
            ae.add_requested_context(DM_FOR_PRESENTATION, syntax)
        association = ae.associate("127.0.0.1", self._port, ae_title="DENSITYCLIP")
        for image in images:
            if association.send_c_store(image).Status != 0x0000:
                raise RuntimeError("an image was refused")
        last = time.monotonic()
        association.release()
        return last

    def memory(self, exams: int) -> Memory:
        listener = psutil.Process(self.process.pid)
        workers = sum(child.memory_info().rss for child in listener.children(recursive=True))
        return Memory(exams, listener.memory_info().rss / 1e6, workers / 1e6)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def enlarged(image: Dataset, times: int) -> None:
    """Repeat each pixel along both sides; the breast keeps its millimetres."""
    if image.file_meta.TransferSyntaxUID.is_compressed:
        image.decompress()
    pixels = image.pixel_array.repeat(times, 0).repeat(times, 1)
    image.Rows, image.Columns = pixels.shape
    for name in ("ImagerPixelSpacing", "PixelSpacing"):
        if name in image:
            image[name].value = [value / times for value in image[name].value]
    image.PixelData = pixels.tobytes()


def exams_of(folder: Path, size: int, views: int, enlarge: int = 1) -> Iterator[list[Dataset]]:
    """Exams of DM views, each under UIDs of its own, without end."""
    generate(folder, site="internal", exams=TEMPLATES, seed=11, size=size, slice_mm=10)
    templates: dict[str, list[Dataset]] = {}
    for path in sorted((folder / "dicom").rglob("*.dcm")):
        image = pydicom.dcmread(path)
        if image.SOPClassUID == DM_FOR_PRESENTATION and "DERIVED" not in image.ImageType:
            if enlarge > 1:
                enlarged(image, enlarge)
            templates.setdefault(image.StudyInstanceUID, []).append(image)
    number = 0
    while True:
        for images in templates.values():
            number += 1
            study, sent = generate_uid(entropy_srcs=["study", str(number)]), []
            for place, image in enumerate(images[:views]):
                image = copy.copy(image)
                image.file_meta = copy.copy(image.file_meta)
                image.StudyInstanceUID = study
                image.SOPInstanceUID = generate_uid(entropy_srcs=[study, str(place)])
                image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
                sent.append(image)
            yield sent


def alone(listening: Listening, peer: Peer, exams: Iterator[list[Dataset]], count: int, quiet: float) -> list[float]:
    """Seconds from the last image to the report, less the quiet time, of exams that come one by one."""
    seconds = []
    for _ in range(count):
        images = next(exams)
        last = listening.send(images)
        study, came = peer.came.get(timeout=300)
        assert study == images[0].StudyInstanceUID
        seconds.append(came - last - quiet)
    return seconds


def sustained(
    listening: Listening, peer: Peer, exams: Iterator[list[Dataset]], count: int, waiting: int, marks: Sequence[int]
) -> tuple[float, list[Memory]]:
    """Exams a minute with so many under way at once, and memory at some of them."""
    began, sent, answered = time.monotonic(), 0, 0
    memory = []
    while answered < count:
        while sent < count and sent - answered < waiting:
            listening.send(next(exams))
            sent += 1
        peer.came.get(timeout=300)
        answered += 1
        if answered in marks:
            memory.append(listening.memory(answered))
    return 60 * count / (time.monotonic() - began), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--exams", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=40)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--queue", default="")
    parser.add_argument("--quiet", type=float, default=1.0)
    parser.add_argument("--waiting", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    peer = Peer()
    with tempfile.TemporaryDirectory() as folder:
        if asked.model is None:
            import load_bundle

            load_bundle.alone("--make", folder)
        model = asked.model or Path(folder) / "bundle"
        exams = exams_of(Path(folder) / "exams", asked.size, asked.views, asked.enlarge)
        first = next(exams)
        options = ["--model", str(model), "--store", f"{folder}/store", "--peer", peer.address]
        options += ["--queue", asked.queue] if asked.queue else []
        listening = Listening([*options, "--quiet-time", str(asked.quiet), "--workers", str(asked.workers)])
        try:
            listening.send(first)
            peer.came.get(timeout=300)
            started = listening.memory(1)
            seconds = alone(listening, peer, exams, asked.alone, asked.quiet)
            marks = {asked.exams // 10, asked.exams // 2, asked.exams}
            rate, memory = sustained(listening, peer, exams, asked.exams, asked.waiting, sorted(marks))
        finally:
            listening.stop()
            peer.stop()
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()}, Python {platform.python_version()}, {psutil.cpu_count()} CPUs",
        "images_of_an_exam": len(first),
        "rows": sorted({image.Rows for image in first}),
        "queue": "Redis" if asked.queue else "built in",
        "exams": asked.exams,
        "exams_per_minute": rate,
        "alone": asked.alone,
        "seconds_p50": statistics.median(seconds),
        "seconds_p95": cuts[-1],
        "memory_mb": [asdict(one) for one in (started, *memory)],
    }
    text = json.dumps(found, indent=2)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
