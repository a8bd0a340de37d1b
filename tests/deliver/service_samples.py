"""A stand-in for the model of the web service, and one process that runs the service with it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from densityclip.deliver.api_keys import ApiKeys
from densityclip.deliver.incoming import REFERENCE
from densityclip.deliver.limits import Limits
from densityclip.deliver.receive import UploadLimits
from densityclip.deliver.serve import ServeSettings, serve
from densityclip.reasons import Reason, Refused

SECRET = "Doe^Jane"
ANSWERED = {"A": 0.1, "B": 0.6, "C": 0.2, "D": 0.1}


def stand_in_answer(files, out: Path, earlier) -> list[Path]:
    """Does what the first uploaded file says, after its preamble; else answers one exam with two images.

    A reference to a study is refused, with what stands in it.
    """
    if files[0].name == REFERENCE:
        raise Refused(Reason.NOT_RETRIEVED, f"{json.loads(files[0].read_bytes())['server']} has no such study")
    what = files[0].read_bytes()[132:].decode(errors="replace")
    if what.startswith("refuse"):
        raise Refused(Reason.NOT_MAMMOGRAPHY, "none of the files")
    if what.startswith("raise"):
        raise ValueError(SECRET)
    if what.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("slow"):
        (out / "progress.json").write_text('{"done": 1, "total": 4}')
        time.sleep(float(what.split()[1]))
    part = {
        "status": "ok",
        "density": "B",
        "wording": "scattered areas of fibroglandular density",
        "dense": False,
        "probabilities": ANSWERED,
        "prob_dense": 0.3,
    }
    views = [("L", "CC"), ("R", "MLO")]
    answer = {
        "exam_id": "1.2.3",
        "calibrated": False,
        "exam": part,
        "breasts": [part | {"laterality": side} for side, _ in views],
        "images": [
            part | {"image_id": f"i{k}", "laterality": side, "view": view, "modality": "DM"}
            for k, (side, view) in enumerate(views, start=1)
        ]
        + [{"image_id": "x", "status": "refused", "reason": "implant", "detail": "the table states an implant"}],
        "agreement": {"images": 2, "categories": {"A": 0, "B": 2, "C": 0, "D": 0}},
        "refusals": [{"reason": "implant", "meaning": "An implant is in view.", "remedy": "Nothing.", "images": ["x"]}],
    }
    (out / "1-answer.json").write_text(json.dumps(answer))
    (out / "1-report.dcm").write_bytes(b"\0" * 128 + b"DICM")
    for k in (1, 2):
        Image.new("L", (60, 90), 120).save(out / f"1-{k}-view.png")
        Image.new("RGBA", (60, 90), (255, 120, 0, 180)).save(out / f"1-{k}-heat.png")
    images = [{"number": k, "image_id": f"i{k}", "capture": False} for k in (1, 2)]
    exam = {"number": 1, "report": True, "without": None, "images": images}
    (out / "result.json").write_text(json.dumps({"exams": [exam]}))
    return sorted(path for path in out.iterdir() if path.name != "progress.json")


def make_stand_in():
    return stand_in_answer


def dicom(what: str = "") -> bytes:
    """What looks like DICOM, with a word for the stand-in."""
    return b"\0" * 128 + b"DICM" + what.encode()


def main() -> None:
    settings = ServeSettings(
        Path(sys.argv[1]),
        port=0,
        keys=ApiKeys({"test": sys.argv[2]} if len(sys.argv) > 2 else {}),
        upload=UploadLimits(upload_bytes=4 << 20),
        limits=Limits(reserve_bytes=0, job_seconds=60, attempts=3),
        servers={"pacs": "http://127.0.0.1:1"},
    )
    serve(settings, make_stand_in, opened=lambda port: sys.stdout.write(f"{port}\n") and sys.stdout.flush())


if __name__ == "__main__":
    main()
