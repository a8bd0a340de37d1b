"""The real predictor behind the port: images in, a structured report out."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pydicom
import pytest
from exam_samples import disagreeing_rows, exam_rows, sample_bundle
from listen_samples import as_bytes, mammogram
from listen_scene import RecordingPeer, free_port, wait_until

from densityclip.deliver import listen_answer
from densityclip.deliver.conformance import SENT_CLASSES
from densityclip.deliver.exams import hashed
from densityclip.deliver.limits import Limits
from densityclip.deliver.listen_answer import open_answer
from densityclip.deliver.secondary_capture import SECONDARY_CAPTURE
from densityclip.deliver.worker import Worker
from densityclip.phantom.generate import generate
from densityclip.reasons import Reason, Refused

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """One generated exam: four DM images, and four s2D which are too small at this size to be answered."""
    out = tmp_path_factory.mktemp("sent")
    generate(out, site="internal", exams=1, seed=3, size=96, slice_mm=8)
    found = sorted((out / "dicom").rglob("*.dcm"))
    headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in found}
    return [path for path, header in headers.items() if int(header.get("NumberOfFrames") or 1) == 1]


def laid_out(images: list[Path], folder: Path) -> list[Path]:
    folder.mkdir()
    for number, path in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(path.read_bytes())
    return sorted(folder.iterdir())


def test_the_same_exam_gives_the_same_bytes_and_a_late_image_names_the_earlier_report(bundle, images, tmp_path):
    answer = open_answer(bundle)
    most = laid_out(images[:-1], tmp_path / "most")
    (first,) = answer(most, tmp_path / "one", ())
    (again,) = answer(most, tmp_path / "two", ())
    assert first.read_bytes() == again.read_bytes()
    (late,) = answer(laid_out(images, tmp_path / "all"), tmp_path / "three", [first])
    report, earlier = pydicom.dcmread(late), pydicom.dcmread(first)
    assert report.SOPClassUID == REPORT
    assert report.SOPInstanceUID != earlier.SOPInstanceUID
    assert earlier.SOPInstanceUID in str(report.PredecessorDocumentsSequence)


def test_a_late_image_makes_every_capture_anew_in_the_same_series(bundle, images, tmp_path):
    answer = open_answer(bundle, overlay=True)
    usable = [path for path in images if "_DM_" in path.parent.name]
    before, after = {}, {}
    for made, files, name in ((before, usable[:-1], "most"), (after, usable, "all")):
        for path in answer(laid_out(files, tmp_path / name), tmp_path / f"{name}-out", ()):
            found = pydicom.dcmread(path, stop_before_pixels=True)
            if found.SOPClassUID == SECONDARY_CAPTURE:
                made[found.SourceImageSequence[0].ReferencedSOPInstanceUID] = found
    assert (len(before), len(after)) == (3, 4)
    for source, old in before.items():
        assert after[source].SOPInstanceUID != old.SOPInstanceUID
        assert after[source].SeriesInstanceUID == old.SeriesInstanceUID


def test_only_the_files_that_were_named_are_answered(bundle, images, tmp_path):
    answer = open_answer(bundle)
    files = laid_out(images, tmp_path / "all")
    (some,) = answer(files[:2], tmp_path / "one", ())
    (alone,) = answer(laid_out(images[:2], tmp_path / "some"), tmp_path / "two", ())
    assert some.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(("unusable", "said"), [(1, "the only image of the exam"), (2, "2 of 2 images of the exam")])
def test_an_exam_without_a_usable_image_is_refused_with_the_reason_of_its_images(bundle, tmp_path, unusable, said):
    folder = tmp_path / "empty"
    folder.mkdir()
    for number in range(unusable):
        (folder / f"{number}.dcm").write_bytes(as_bytes(mammogram("1.2.3")))
    with pytest.raises(Refused) as refused:
        open_answer(bundle)(sorted(folder.iterdir()), tmp_path / "out", ())
    assert refused.value.detail == said


def test_an_exam_whose_only_breast_is_held_back_says_so_and_not_that_it_is_unreadable(exam, tmp_path, monkeypatch):
    left, model = exam.filter(exam["laterality"] == "L"), sample_bundle()
    monkeypatch.setattr(listen_answer, "_predicted", lambda *_: (disagreeing_rows(left, model), left, []))
    with pytest.raises(Refused) as refused:
        listen_answer.answer_exam(SimpleNamespace(bundle=model), [], tmp_path / "out")
    assert refused.value.reason is Reason.VIEWS_DISAGREE
    assert refused.value.detail == "neither the exam nor a breast has an answer"


def test_images_of_two_patients_are_told_as_that(exam, tmp_path, monkeypatch):
    other = pydicom.dcmread(exam["path"][0])
    other.PatientID = "somebody else"
    other.save_as(tmp_path / "other.dcm")
    mixed = exam.with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(str(tmp_path / "other.dcm"))).otherwise("path").alias("path")
    )
    rows, model = exam_rows(exam, sample_bundle()), sample_bundle()
    monkeypatch.setattr(listen_answer, "_predicted", lambda *_: (rows, mixed, []))
    with pytest.raises(Refused) as refused:
        listen_answer.answer_exam(SimpleNamespace(bundle=model), [], tmp_path / "out")
    assert refused.value.reason is Reason.BAD_HEADER
    assert refused.value.detail == "the images of the exam differ in PatientID"


def test_the_classes_of_all_objects_are_those_of_the_conformance_statement(bundle, images, tmp_path):
    objects = open_answer(bundle, overlay=True)(laid_out(images, tmp_path / "all"), tmp_path / "out", ())
    assert {str(pydicom.dcmread(path).SOPClassUID) for path in objects} == set(SENT_CLASSES)
    assert {str(pydicom.dcmread(path).file_meta.TransferSyntaxUID) for path in objects} == {"1.2.840.10008.1.2.1"}
    assert len(objects) == 1 + 4, "a report, and a picture of each DM image"


def test_a_real_model_opens_and_answers_within_the_memory_limit(bundle, images, tmp_path):
    from functools import partial

    from densityclip.deliver.exams import Job

    worker = Worker(partial(open_answer, bundle), Limits())
    files = tuple(laid_out(images, tmp_path / "all"))
    out = tmp_path / "out"
    out.mkdir()
    try:
        worker.start()
        (report,) = worker.answer(Job("study", 1, files, ()), out)
    finally:
        worker.stop()
    assert pydicom.dcmread(report).SOPClassUID == REPORT


@pytest.mark.slow
@pytest.mark.pacs
def test_the_command_listens_answers_and_stops_on_sigterm(bundle, images, tmp_path):
    if not Path("/usr/bin/storescu").is_file():
        pytest.skip("dcmtk's storescu is not installed")
    peer, port = RecordingPeer(free_port()), free_port()
    peer.start()
    command = [sys.executable, "-m", "densityclip.cli", "listen", "--model", bundle, "--store", tmp_path / "store"]
    options = ["--port", str(port), "--quiet-time", "1", "--allow-ae", "DCMTK", "--peer", peer.address]
    service = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(service.stdout.readline, "")
        assert any(line == f"Listening: DENSITYCLIP on 127.0.0.1 port {port}.\n" for line in lines)
        send = ["/usr/bin/storescu", "-xs", "-aec", "DENSITYCLIP", "127.0.0.1", str(port), *images]
        assert subprocess.run([*send[:1], "-aet", "STRANGER", *send[1:]], capture_output=True, check=False).returncode
        subprocess.run([*send[:1], "-aet", "DCMTK", "-R", *send[2:]], check=True)
        wait_until(lambda: peer.contents)
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
        assert service.stdout.read().startswith("Stopped.")
    finally:
        service.kill()
        peer.stop()
    (report,) = peer.objects.values()
    study = pydicom.dcmread(images[0], stop_before_pixels=True).StudyInstanceUID
    assert report.StudyInstanceUID == study
    log = (tmp_path / "store" / "audit.log").read_text()
    assert hashed(study) in log
    assert study not in log
