"""A worker may hang, die or eat memory: the service goes on, and so do the other exams."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from listen_samples import as_bytes, make_stand_in, mammogram, stand_in_answer

from densityclip.deliver.exams import State, hashed
from densityclip.deliver.jobs import Jobs
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.store import Store
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused

QUIET = 0.05
AT_ONCE = Pauses(first=0.01, factor=1, longest=0.01)


def behaving(files, out, earlier):
    """Does to the exam what its Patient ID says."""
    what = pydicom.dcmread(files[0], stop_before_pixels=True).PatientID
    if what == "hang":
        time.sleep(600)
    if what == "die":
        os.kill(os.getpid(), 9)
    if what == "eat":
        bytearray(8 << 30)
    if what == "raise":
        raise ValueError("Doe^Jane has a bad pixel")
    if what == "refuse":
        raise Refused(Reason.NO_BREAST, "in any image")
    if what == "escape":
        path = out.parent / "elsewhere.dcm"
        path.write_bytes(b"")
        return [path]
    if what == "once" and not (out.parents[1] / "seen").exists():
        (out.parents[1] / "seen").touch()
        os.kill(os.getpid(), 9)
    return stand_in_answer(files, out, earlier)


def make_behaving():
    return behaving


def make_nothing():
    raise UserError("there is no such bundle", "give another")


def put(store: Store, study: str, what: str) -> str:
    image = mammogram(study)
    image.PatientID = what
    store.accept([as_bytes(image)], sop_instance_uid=image.SOPInstanceUID, sender="SENDER")
    return hashed(study)


def audited(caplog, number: int, seconds: float = 30) -> list[dict]:
    """The entries of the audit log, which are written after what they tell of is in the store."""
    until = time.monotonic() + seconds
    while len(caplog.records) < number and time.monotonic() < until:
        time.sleep(0.02)
    return [json.loads(record.getMessage()) for record in caplog.records]


def wait_for(store: Store, *studies: str, seconds: float = 60) -> list[State]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = [store.state_of(study)[0] for study in studies]
        if set(states) <= {State.DELIVERED, State.FAILED}:
            return states
        time.sleep(0.05)
    raise AssertionError(states)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store", limits=Limits(job_seconds=2, job_bytes=2 << 30, attempts=2))
    yield opened
    opened.close()


@pytest.fixture
def run(store):
    made = []

    def start(make=make_behaving, **settings):
        made.append(Jobs(store, make, quiet_seconds=QUIET, pauses=AT_ONCE, **settings))
        made[-1].open()
        made[-1].start()

    yield start
    for jobs in made:
        jobs.stop()


def test_an_exam_is_answered_with_the_object_of_its_sources(store, run):
    study = put(store, "1.2.3", "well")
    run(make_stand_in)
    assert wait_for(store, study) == [State.DELIVERED]
    (path,) = (store.folder / "results").rglob("*.dcm")
    assert pydicom.dcmread(path).StudyInstanceUID == "1.2.3"
    until = time.monotonic() + 30
    while list(store.claims.folder.iterdir()) and time.monotonic() < until:  # cleared after the answer is in the store
        time.sleep(0.02)
    assert not list(store.claims.folder.iterdir())


@pytest.mark.parametrize(
    ("what", "reason", "detail"),
    [
        ("hang", "timeout", "more than 2 s"),
        ("die", "crashed", "the worker ended with exit code -9"),
        ("eat", "crashed", "the memory limit was reached"),
        ("raise", "crashed", "ValueError at test_jobs.py"),
        ("refuse", "no_breast", "in any image"),
        ("escape", "crashed", "an object lies outside of its folder"),
    ],
)
def test_a_poison_exam_fails_with_its_reason_and_blocks_no_other(store, run, what, reason, detail):
    poison = put(store, "1.2.3", what)
    time.sleep(0.01)
    good = [put(store, f"1.2.4.{number}", "well") for number in range(2)]
    run()
    assert wait_for(store, poison, *good) == [State.FAILED, State.DELIVERED, State.DELIVERED]
    assert store.state_of(poison) == (State.FAILED, reason)
    (said,) = store.table.one("SELECT detail FROM exams WHERE study = ?", poison)
    assert said.startswith(detail)
    assert "Doe" not in said


def test_an_exam_whose_worker_died_once_is_answered_at_the_second_attempt(store, run, caplog):
    with caplog.at_level("INFO", "densityclip.audit"):
        study = put(store, "1.2.3", "once")
        run()
        assert wait_for(store, study) == [State.DELIVERED]
        events = [entry["event"] for entry in audited(caplog, 2)]
    assert events == ["to be tried again", "answered"]


def test_two_workers_answer_every_exam_once(store, run, caplog):
    with caplog.at_level("INFO", "densityclip.audit"):
        exams = [put(store, f"1.2.{number}", "well") for number in range(8)]
        run(workers=2)
        assert set(wait_for(store, *exams)) == {State.DELIVERED}
        answered = [entry["study"] for entry in audited(caplog, len(exams))]
    assert sorted(answered) == sorted(exams)


def test_a_model_that_cannot_be_opened_is_said_at_the_start(store):
    jobs = Jobs(store, make_nothing)
    with pytest.raises(UserError, match="there is no such bundle"):
        jobs.open()
    jobs.stop()


def test_stopping_leaves_the_exam_that_was_under_way_to_the_next_start(store):
    study = put(store, "1.2.3", "hang")
    jobs = Jobs(store, make_behaving, quiet_seconds=QUIET)
    jobs.open()
    jobs.start()
    until = time.monotonic() + 30
    while not (out := list(store.claims.folder.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    assert [path.name for path in out] == [study]
    started = time.monotonic()
    jobs.stop()
    assert time.monotonic() - started < 5
    assert store.state_of(study) == (State.READY, None)


def test_a_worker_ends_when_the_service_is_killed(tmp_path: Path):
    script = tmp_path / "service.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from densityclip.deliver.worker import Worker\n"
        "from densityclip.deliver.limits import Limits\n"
        "from listen_samples import make_stand_in\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker(make_stand_in, Limits())\n"
        "    worker.start()\n"
        "    print(worker._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    pid, until = int(done.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < until:
        if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
