"""What was accepted stays on disk, whatever happens between two steps."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from listen_samples import PATIENT, answer_uid, as_bytes, mammogram, next_job, stand_in_answer, studies
from pydicom.dataelem import DataElement

import densityclip.deliver.durable as durable
from densityclip.deliver.durable import DiskFullError
from densityclip.deliver.exams import State, hashed
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.store import Store
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock):
    opened = Store(tmp_path / "store", clock=clock)
    yield opened
    opened.close()


def put(store: Store, image):
    return store.accept([as_bytes(image)], sop_instance_uid=image.SOPInstanceUID, sender="SENDER")


def answer(store: Store, job, peers=("peer",)) -> bool:
    out = store.work / job.study
    out.mkdir()
    paths = stand_in_answer(job.files, out, job.earlier)
    uid = answer_uid([mammogram_uid(path) for path in job.files])
    store.outbox.deliver_to(peers)
    done = store.answered(job, [(uid, paths[0])])
    store.release(job)
    for path in out.iterdir():
        path.unlink()
    out.rmdir()
    return done


def mammogram_uid(path: Path) -> str:
    return pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID


def reopened(store: Store, clock: Clock) -> Store:
    store.close()
    return Store(store.folder, clock=clock)


def test_the_bytes_on_disk_are_the_bytes_that_came(store, clock):
    (study,) = studies(1)
    image = mammogram(study)
    assert put(store, image).is_new
    clock.now += 31
    job = next_job(store, 30)
    assert [path.read_bytes() for path in job.files] == [as_bytes(image)]


def test_a_file_and_its_folder_are_synced_before_success_is_returned(store, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle):
        calls.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        real_sync(handle)

    def replace(source, target):
        calls.append(("rename", str(target)))
        return real_replace(source, target)

    monkeypatch.setattr(durable.os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    (study,) = studies(1)
    image = mammogram(study)
    put(store, image)
    name = f"{hashed(image.SOPInstanceUID)}.dcm"
    folder = store.folder / "instances" / hashed(study)
    assert calls[0][0] == "sync"
    assert calls[0][1].endswith(".part")
    assert calls.index(("rename", str(folder / name))) > 0
    assert calls[-1] == ("sync", str(folder))
    assert ("sync", str(folder.parent)) in calls
    assert store.table.one("PRAGMA synchronous") == (2,)
    assert store.table.one("PRAGMA journal_mode") == ("wal",)


def test_no_uid_and_no_name_stands_in_a_path_or_in_the_table(store):
    (study,) = studies(1)
    image = mammogram(study)
    put(store, image)
    names = "\n".join(str(path.relative_to(store.folder)) for path in store.folder.rglob("*"))
    table = (store.folder / "exams.sqlite").read_bytes() + (store.folder / "exams.sqlite-wal").read_bytes()
    for secret in (study, image.SOPInstanceUID, PATIENT, "ID-4711"):
        assert secret not in names
        assert secret.encode() not in table


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "1.2/3", "1" * 65])
def test_a_study_uid_that_is_none_is_refused_and_leaves_nothing(store, uid):
    image = mammogram("1.2.3")
    image.add(DataElement("StudyInstanceUID", "UI", uid, validation_mode=pydicom.config.IGNORE))
    with pytest.raises(Refused) as refused:
        put(store, image)
    assert refused.value.reason is Reason.UNREADABLE
    assert not [path for path in store.folder.rglob("*") if path.suffix in (".dcm", ".part")]


def test_a_data_set_that_is_another_object_than_the_message_said_is_refused(store):
    image = mammogram("1.2.3")
    with pytest.raises(Refused, match="another SOP Instance UID"):
        store.accept([as_bytes(image)], sop_instance_uid="1.2.3.4", sender="SENDER")


def test_a_duplicate_is_harmless(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 20
    assert not put(store, mammogram(study)).is_new
    clock.now += 11
    job = next_job(store, 30)
    assert job is not None
    assert (len(job.files), job.revision) == (1, 1)


def test_an_exam_waits_for_its_quiet_time_and_each_image_begins_it_anew(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study, number=0))
    clock.now += 29
    put(store, mammogram(study, number=1))
    clock.now += 29
    assert next_job(store, 30) is None
    clock.now += 1
    assert len(next_job(store, 30).files) == 2
    assert next_job(store, 30) is None, "one exam was given to two workers"


def test_the_quiet_time_of_an_unfinished_exam_begins_anew_at_a_restart(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 1000
    again = reopened(store, clock)
    assert next_job(again, 30) is None
    clock.now += 30
    assert next_job(again, 30) is not None
    again.close()


def test_an_exam_that_was_being_answered_is_answered_again_after_a_restart(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    first = next_job(store, 30)
    (store.claims.folder / "half").mkdir()
    again = reopened(store, clock)
    assert next_job(again, 30) == first
    assert sorted(again.work.iterdir()) == [again.claims.folder, again.claims.folder.with_suffix(".lock")]
    assert not list(again.claims.folder.iterdir())
    again.close()


def test_a_file_that_was_renamed_but_not_entered_is_adopted(store, clock, monkeypatch):
    (study,) = studies(1)
    put(store, mammogram(study, number=0))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.table, "transaction", killed)
    with pytest.raises(KeyboardInterrupt):
        put(store, mammogram(study, number=1))
    monkeypatch.undo()
    again = reopened(store, clock)
    clock.now += 30
    assert len(next_job(again, 30).files) == 2
    again.close()


def test_an_answer_is_delivered_to_each_peer_and_then_the_exam_is_delivered(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    assert answer(store, next_job(store, 30), peers=("a", "b"))
    assert store.state_of(hashed(study)) == (State.ANSWERED, None)
    for peer in ("a", "b"):
        (due,) = store.outbox.due(peer)
        store.outbox.delivered(due, peer, due.objects)
        assert not list(store.outbox.due(peer))
    assert store.state_of(hashed(study)) == (State.DELIVERED, None)


def test_what_a_peer_did_not_take_waits_over_a_restart_and_goes_later(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    answer(store, next_job(store, 30))
    (due,) = store.outbox.due("peer")
    store.outbox.failed(due, "peer", pause=60)
    again = reopened(store, clock)
    assert not list(again.outbox.due("peer"))
    clock.now += 60
    (due,) = again.outbox.due("peer")
    assert due.failures == 1
    assert due.objects[0].is_file()
    assert again.outbox.waiting_for() == {"peer": 1}
    again.close()


def test_a_job_that_could_not_be_given_back_on_a_full_disk_is_due_again(store, clock, monkeypatch):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    job = next_job(store, 30)
    with monkeypatch.context() as full:
        full.setattr(store.claims, "drop", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("disk is full")))
        with pytest.raises(sqlite3.OperationalError):
            store.release(job)
    assert store.due() == [hashed(study)]
    assert store.take(hashed(study)) == job
    assert store.due() == [], "now it is being worked on"
    assert store.take(hashed(study)) is None


def test_an_exam_is_nobody_elses_until_it_is_given_back(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study, number=0))
    clock.now += 30
    job = next_job(store, 30)
    put(store, mammogram(study, number=1))
    clock.now += 30
    assert not store.answered(job, []), "a late image came"
    assert next_job(store, 30) is None, "the first worker still clears up"
    store.release(job)
    assert next_job(store, 30) is not None


def test_what_waits_for_a_peer_that_is_given_up_is_dropped_and_nobody_elses(store, clock):
    one, two = studies(2)
    for study, peers in ((one, ("gone",)), (two, ("gone", "there"))):
        put(store, mammogram(study))
        clock.now += 30
        answer(store, next_job(store, 30), peers=peers)
    assert store.outbox.give_up("nobody") == 0
    assert store.outbox.give_up("gone") == 2
    assert store.outbox.waiting_for() == {"there": 1}
    assert store.state_of(hashed(one)) == (State.DELIVERED, None), "so that it goes in time"
    assert store.state_of(hashed(two)) == (State.ANSWERED, None)
    clock.now += 60
    assert store.remove_old(delivered_seconds=60, failed_seconds=60) == 1


def test_an_answer_that_a_late_image_has_overtaken_is_dropped(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study, number=0))
    clock.now += 30
    job = next_job(store, 30)
    put(store, mammogram(study, number=1))
    assert not answer(store, job)
    assert not list(store.outbox.due("peer"))
    clock.now += 30
    assert answer(store, next_job(store, 30))


def test_a_late_image_makes_a_second_answer_that_knows_the_first(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study, number=0))
    clock.now += 30
    answer(store, next_job(store, 30))
    put(store, mammogram(study, number=1))
    clock.now += 30
    job = next_job(store, 30)
    assert len(job.earlier) == 1
    answer(store, job)
    (due,) = store.outbox.due("peer")
    assert due.objects[0] == job.earlier[0]
    assert len(due.objects) == 2


def test_our_own_answer_that_comes_back_is_no_image_of_the_exam(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    answer(store, next_job(store, 30), peers=())
    ours = pydicom.dcmread(next((store.folder / "results").rglob("*.dcm")))
    assert not put(store, ours).is_new
    assert store.state_of(hashed(study)) == (State.DELIVERED, None)
    store.remove_old(delivered_seconds=0, failed_seconds=0)
    assert not put(store, ours).is_new


def test_an_exam_that_fails_is_tried_later_and_at_last_given_up_with_its_reason(store, clock):
    first, second = studies(2)
    put(store, mammogram(first))
    clock.now += 1
    put(store, mammogram(second))
    clock.now += 30
    for attempt in range(1, store.limits.attempts + 1):
        job = next_job(store, 30)
        assert job.study == hashed(first)
        assert store.failed(job, Reason.CRASHED, "exit code 9", pause=lambda _: 5) == attempt
        store.release(job)
        if attempt == 1:
            assert answer(store, next_job(store, 30)), "the other exam was held up"
        clock.now += 5
    assert next_job(store, 30) is None
    assert store.state_of(hashed(first)) == (State.FAILED, "crashed")


def test_a_failed_exam_that_is_sent_again_is_tried_again(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    job = next_job(store, 30)
    store.failed(job, Reason.CRASHED, "", pause=float, for_good=True)
    store.release(job)
    assert store.state_of(hashed(study)) == (State.FAILED, "crashed")
    put(store, mammogram(study))
    clock.now += 30
    assert next_job(store, 30) is not None


def test_a_kill_is_not_held_against_the_exam_that_was_being_answered(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    for _ in range(10):
        assert next_job(store, 30) is not None
        store = reopened(store, clock)
    assert store.state_of(hashed(study)) == (State.READY, None)
    store.close()


def test_uploads_and_answers_go_when_their_time_has_passed_and_not_before(store, clock):
    delivered, failed, waiting = studies(3)
    for study in (delivered, failed, waiting):
        put(store, mammogram(study))
        clock.now += 30
        job = next_job(store, 30)
        if study is failed:
            store.failed(job, Reason.CRASHED, "", pause=float, for_good=True)
            store.release(job)
        else:
            answer(store, job, peers=("peer",) if study is waiting else ())
    assert store.remove_old(delivered_seconds=3600, failed_seconds=7200) == 0
    clock.now += 3600
    assert store.remove_old(delivered_seconds=3600, failed_seconds=7200) == 1
    clock.now += 7200
    assert store.remove_old(delivered_seconds=3600, failed_seconds=7200) == 1
    left = {path.parent.name for path in store.folder.rglob("*.dcm")}
    assert left == {hashed(waiting)}, "an answer that waits for its peer must stay"


def test_an_exam_that_comes_again_after_its_removal_is_answered_again(store, clock):
    (study,) = studies(1)
    put(store, mammogram(study))
    clock.now += 30
    answer(store, next_job(store, 30), peers=())
    store.remove_old(delivered_seconds=0, failed_seconds=0)
    assert put(store, mammogram(study)).is_new
    clock.now += 30
    assert answer(store, next_job(store, 30))
    (due,) = store.outbox.due("peer")
    assert due.objects[0].is_file()


def test_a_full_disk_is_said_and_leaves_no_half_file(store, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(DiskFullError):
        put(store, mammogram("1.2.3"))
    assert not [path for path in store.folder.rglob("*") if path.suffix in (".dcm", ".part")]


FILL = """
import sys
from pathlib import Path
from densityclip.deliver.limits import Limits
from densityclip.deliver.durable import DiskFullError
from densityclip.deliver.store import Store
from densityclip.errors import UserError
from listen_samples import as_bytes, mammogram, next_job
folder, ballast = Path(sys.argv[1]) / "store", Path(sys.argv[1]) / "ballast"
ballast.write_bytes(bytes(100_000))
store = Store(folder, limits=Limits(reserve_bytes=0))
accepted = 0
try:
    for number in range(200):
        image = mammogram("1.2.3", number=number)
        store.accept([as_bytes(image)], sop_instance_uid=image.SOPInstanceUID, sender="S")
        accepted += 1
except DiskFullError:
    store.close()
    try:
        Store(folder).close()
    except UserError:
        pass
    ballast.unlink()
    again = Store(folder)
    assert len(next_job(again, -1).files) >= accepted
    print("full after", accepted)
"""


def test_on_a_disk_that_really_is_full_everything_accepted_is_still_there(tmp_path):
    # Of the store's own: a small file system in memory, in a namespace of its own.
    (tmp_path / "small").mkdir()
    (tmp_path / "fill.py").write_text(FILL)
    script = 'mount -t tmpfs -o size=700k tmpfs "$1" && exec "$2" "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path / "small", sys.executable, tmp_path / "fill.py"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("this machine allows no file system in a namespace")
    assert done.returncode == 0, done.stderr
    assert 5 < int(done.stdout.removeprefix("full after ")) < 200


def test_an_exam_has_no_more_instances_than_its_limit(tmp_path):
    small = Store(tmp_path / "small", limits=Limits(exam_instances=2))
    for number in range(2):
        put(small, mammogram("1.2.3", number=number))
    with pytest.raises(Refused) as refused:
        put(small, mammogram("1.2.3", number=2))
    assert refused.value.reason is Reason.TOO_LARGE
    small.close()


def test_a_store_is_of_one_process(store):
    with pytest.raises(UserError, match="another process uses"):
        Store(store.folder)


def test_pauses_grow_up_to_the_longest():
    pauses = Pauses(first=2, factor=3, longest=50)
    assert [pauses.after(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [2, 6, 18, 50, 50, 50]
