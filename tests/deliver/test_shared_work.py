"""Several processes work in one store: each job is one process's, and one that dies leaves it to the others."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from listen_samples import answer_uid, as_bytes, make_stand_in, mammogram, next_job, studies
from listen_scene import (
    ListenProcess,
    RecordingPeer,
    WorkProcess,
    free_port,
    in_background,
    send_until_success,
    wait_until,
)

from densityclip.deliver.audit_log import AUDIT_LOG
from densityclip.deliver.exams import State, hashed
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.listen_service import ListenSettings, listen
from densityclip.deliver.receive import UploadLimits
from densityclip.deliver.retrieve import Retrieval
from densityclip.deliver.shared_work import ORDER, WorkOrder, read_order, work_beside
from densityclip.deliver.store import Store
from densityclip.deliver.uploads import JobState, Uploads
from densityclip.errors import UserError
from densityclip.reasons import Reason

TAKE_AND_DIE = """
import os, sys
from pathlib import Path
from densityclip.deliver.store import Store
store = Store(Path(sys.argv[1]), joining=True)
(study,) = store.due()[:1]
job = store.take(study)
(store.claims.folder / "half").mkdir()
print(job.study, flush=True)
if sys.argv[2] == "die":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""


def put(store: Store, study: str) -> str:
    image = mammogram(study)
    store.accept([as_bytes(image)], sop_instance_uid=image.SOPInstanceUID, sender="SENDER")
    return hashed(study)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store", limits=Limits(reserve_bytes=0))
    yield opened
    opened.close()


def taker(store: Store, what: str) -> subprocess.Popen:
    command = [sys.executable, "-c", TAKE_AND_DIE, store.folder, what]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_job_of_a_living_process_is_nobody_elses(store):
    first, second = (put(store, study) for study in studies(2))
    store.ripen(0)
    with taker(store, "live") as other:
        taken = other.stdout.readline().strip()
        job = next_job(store, 0)
        assert {taken, job.study} == {first, second}
        assert next_job(store, 0) is None
        store.release(job)
        assert next_job(store, 0) == job, "what was given back can be taken again"


def test_a_job_of_a_process_that_died_can_be_taken_at_once(store):
    study = put(store, "1.2.3")
    store.ripen(0)
    with taker(store, "die") as other:
        assert other.stdout.readline().strip() == study
    assert other.returncode == -signal.SIGKILL
    assert next_job(store, 0).study == study
    assert store.state_of(study) == (State.READY, None), "it is not held against the exam"


def test_a_service_that_starts_clears_up_after_the_dead_and_leaves_the_living_alone(tmp_path):
    store = Store(tmp_path / "store")
    put(store, "1.2.3")
    put(store, "1.2.4")
    store.ripen(0)
    with taker(store, "die") as dead, taker(store, "live") as living:
        dead.stdout.readline()
        taken = living.stdout.readline().strip()
        dead.wait()
        store.close()
        again = Store(tmp_path / "store")
        folders = [path for path in again.work.iterdir() if path.is_dir() and path != again.claims.folder]
        assert [[half.name for half in folder.iterdir()] for folder in folders] == [["half"]]
        assert [next_job(again, 0).study, next_job(again, 0)] == [
            ({hashed("1.2.3"), hashed("1.2.4")} - {taken}).pop(),
            None,
        ]
        again.close()


def test_a_worker_does_not_call_an_exam_complete(store):
    put(store, "1.2.3")
    joined = Store(store.folder, joining=True)
    time.sleep(0.01)
    assert next_job(joined) is None
    store.ripen(0)
    assert next_job(joined) is not None
    joined.close()


def test_a_worker_posts_to_the_peers_of_the_listener(store, tmp_path):
    study = put(store, "1.2.3")
    store.outbox.deliver_to(["dicom://PACS@127.0.0.1:104"])
    store.ripen(0)
    joined = Store(store.folder, joining=True)
    path = tmp_path / "answer.dcm"
    path.write_bytes(b"answer")
    assert joined.answered(next_job(joined), [("1.2.9", path)])
    (due,) = store.outbox.due("dicom://PACS@127.0.0.1:104")
    assert [one.read_bytes() for one in due.objects] == [b"answer"]
    assert store.state_of(study)[0] is State.ANSWERED
    joined.close()


def test_a_job_of_the_web_service_is_working_with_progress_whoever_works_on_it(tmp_path):
    service = Uploads(tmp_path / "store")
    upload = service.begin()
    upload.refer("pacs", "1.2.3")
    name = service.enter(upload, "ward")
    joined = Uploads(tmp_path / "store", joining=True)
    job = next_job(joined)
    (joined.claims.folder / name).mkdir()
    (joined.claims.folder / name / "progress.json").write_text('{"done": 1, "total": 4}')
    assert service.status(name, "ward").state is JobState.WORKING
    assert service.progress(name) == {"done": 1, "total": 4}
    joined.failed(job, Reason.CRASHED, "", pause=float)
    joined.release(job)
    assert service.status(name, "ward").state is JobState.WAITING
    joined.close()
    service.close()


def test_an_order_is_read_as_it_was_left(tmp_path):
    retrieval = Retrieval({"pacs": "http://x"}, UploadLimits(files=7), Limits(reserve_bytes=1))
    queue = "redis://:secret@host:6379/0"
    order = WorkOrder("serve", tmp_path / "bundle", Limits(attempts=2), Pauses(1, 2, 3), True, retrieval, queue)
    order.leave(tmp_path)
    assert read_order(tmp_path) == order
    assert (tmp_path / ORDER).stat().st_mode & 0o077 == 0


def test_a_folder_without_a_service_or_of_another_version_is_refused(tmp_path):
    with pytest.raises(UserError, match="no service has been started"):
        read_order(tmp_path)
    with pytest.raises(UserError, match="no store of a service"):
        Store(tmp_path, joining=True)
    WorkOrder("listen", tmp_path, Limits(), Pauses(1, 1, 1)).leave(tmp_path)
    said = json.loads((tmp_path / ORDER).read_text())
    (tmp_path / ORDER).write_text(json.dumps(said | {"densityclip": "0.0.1"}))
    with pytest.raises(UserError, match=r"densityclip 0\.0\.1"):
        read_order(tmp_path)


def test_a_worker_outlives_an_order_that_cannot_be_used_yet(store, monkeypatch, caplog):
    monkeypatch.setattr("densityclip.deliver.shared_work._BREATH", 0.2)
    good = WorkOrder("listen", store.folder, Limits(), Pauses(1, 1, 1))
    bad = replace(good, queue=f"redis://127.0.0.1:{free_port()}/0")
    began, stop = [], threading.Event()
    good.leave(store.folder)
    worker = in_background(work_beside, store.folder, stop, make=make_stand_in, began=began.append)
    try:
        wait_until(lambda: len(began) == 1)
        bad.leave(store.folder)
        wait_until(lambda: "nothing can be answered for now" in caplog.text)
        good.leave(store.folder)
        wait_until(lambda: len(began) == 2)
    finally:
        stop.set()
        worker.join(10)
    assert not worker.is_alive()


def test_a_worker_that_cannot_begin_says_so_and_ends(store):
    order = WorkOrder("listen", store.folder, Limits(), Pauses(1, 1, 1), queue=f"redis://127.0.0.1:{free_port()}/0")
    order.leave(store.folder)
    with pytest.raises(UserError, match="does not answer"):
        work_beside(store.folder, threading.Event(), make=make_stand_in)


def test_a_service_that_cannot_begin_leaves_its_workers_the_order_that_they_have(tmp_path):
    Store(tmp_path).close()
    order = WorkOrder("listen", tmp_path, Limits(), Pauses(1, 1, 1))
    order.leave(tmp_path)
    settings = ListenSettings(tmp_path, queue=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(UserError, match="does not answer"):
        listen(settings, make_stand_in, threading.Event(), order=replace(order, queue=settings.queue))
    assert read_order(tmp_path) == order
    Store(tmp_path).close()


def answers_of(log: Path) -> dict[str, list[str]]:
    """Who answered what, from the audit log."""
    found = defaultdict(list)
    for line in log.read_text().splitlines():
        said = json.loads(line.partition(" ")[2])
        if said["event"] == "answered":
            found[said["worker"]].append(said["study"])
    return found


@pytest.mark.parametrize("queue", ["built in", "redis"])
def test_two_workers_share_the_exams_and_the_one_that_is_killed_leaves_its_exam_to_the_other(tmp_path, request, queue):
    url = request.getfixturevalue("redis_server").url if queue == "redis" else None
    folder, peer, port = tmp_path / "store", RecordingPeer(free_port()), free_port()
    listener = ListenProcess(folder, port, 0.5, peer.address, workers=0, queue=url)
    workers = [WorkProcess(folder, 0.7) for _ in range(2)]
    peer.start()
    try:
        listener.start()
        for worker in workers:
            worker.start()
        images = [mammogram(study) for study in studies(8)]
        send_until_success(port, images, until=time.monotonic() + 60)
        log = folder / AUDIT_LOG
        wait_until(lambda: len(answers_of(log)) == 2)
        workers[0].kill()
        wait_until(lambda: len(peer.contents) == len(images), seconds=120)
        assert workers[1].terminate() == 0
        assert listener.terminate() == 0
    finally:
        peer.stop()
        for process in (listener, *workers):
            if process.process is not None:
                process.kill()
    assert set(peer.contents) == {str(answer_uid([image.SOPInstanceUID])) for image in images}
    assert all(len(contents) == 1 for contents in peer.contents.values()), "one UID had different bytes"
    answered = [study for done in answers_of(log).values() for study in done]
    assert sorted(answered) == sorted(hashed(image.StudyInstanceUID) for image in images), "each exam is answered once"
