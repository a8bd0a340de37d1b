"""A queue may lose everything, be down, or hold rubbish: jobs stand in the table, and each is done once."""

import contextlib
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from listen_samples import as_bytes, make_stand_in, mammogram, studies
from listen_scene import free_port, wait_until
from redis_scene import RedisServer

from densityclip.deliver.exams import State, hashed
from densityclip.deliver.job_queue import QUEUE, JobQueue
from densityclip.deliver.jobs import Jobs
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.store import Store
from densityclip.errors import UserError

SOON = Pauses(first=0.01, factor=1, longest=0.01)


@pytest.fixture(params=["built in", "redis"])
def url(request):
    return request.getfixturevalue("redis_server").url if request.param == "redis" else None


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store", limits=Limits(reserve_bytes=0))
    yield opened
    opened.close()


def put(store: Store, count: int) -> list[str]:
    images = [mammogram(study) for study in studies(count)]
    for image in images:
        store.accept([as_bytes(image)], sop_instance_uid=image.SOPInstanceUID, sender="SENDER")
    return [hashed(image.StudyInstanceUID) for image in images]


def drained(queue: JobQueue) -> list[str]:
    found = []
    while (name := queue.next()) is not None:
        found.append(name)
    return found


def test_each_job_goes_to_one_of_those_who_ask_in_the_order_of_the_offer(tmp_path, url):
    first, second = JobQueue(tmp_path, url), JobQueue(tmp_path, url)
    first.offer(["a", "b", "c"])
    assert [second.next(), first.next(), second.next(), first.next()] == ["a", "b", "c", None]


def test_what_is_there_is_not_put_in_again(tmp_path, url):
    queue = JobQueue(tmp_path, url)
    for _ in range(3):
        queue.offer(["a", "b"])
    assert drained(queue) == ["a", "b"]
    queue.offer(["a"])
    assert drained(queue) == ["a"], "what was taken out may be offered again"


def test_a_message_holds_the_name_of_a_job_and_is_no_pickle(tmp_path, redis_server):
    JobQueue(tmp_path, redis_server.url).offer(["a" * 32])
    client = redis.Redis.from_url(redis_server.url)
    (key,) = client.keys()
    (message,) = client.lrange(key, 0, -1)
    assert set(json.loads(message)) == {"id", "job"}
    assert json.loads(message)["job"] == "a" * 32


class Bomb:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


RUBBISH = [
    "pickle",
    b"",
    b"[]",
    b'{"id": 1}',
    b'{"job": 1}',
    b'{"job": "\\ud800"}',
    b'{"job": "../a"}',
    b"\xff",
    b"[" * 9999,
]


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("options", ["", "?decode_responses=true"])
def test_rubbish_in_the_queue_runs_nothing_and_stops_nothing(tmp_path, redis_server, rubbish, options):
    if options and rubbish in ("pickle", b"\xff"):
        pytest.skip("redis itself cannot decode it")
    here = tmp_path / "made by a pickle"
    queue = JobQueue(tmp_path, redis_server.url + options)
    queue.offer(["a"])
    client = redis.Redis.from_url(redis_server.url)
    (key,) = client.keys()
    client.lpush(key, pickle.dumps(Bomb(here)) if rubbish == "pickle" else rubbish)
    queue.offer(["a", "b"])
    assert [job for job in drained(queue) if job] == ["a", "b"]
    assert not here.exists()


def test_names_that_are_no_jobs_leave_the_store_as_it_is(store):
    (study,) = put(store, 1)
    assert [store.take(name) for name in ("", "../../etc", "' OR 1=1 --", "0" * 32, study)] == [None] * 5
    assert store.state_of(study)[0] is State.COLLECTING


def test_stores_that_share_a_server_do_not_see_each_others_jobs(tmp_path, redis_server):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (JobQueue(tmp_path / name, redis_server.url) for name in ("one", "two"))
    one.offer(["a"])
    assert (two.next(), one.next()) == (None, "a")


def test_who_opens_a_store_at_the_same_moment_agrees_on_its_name(tmp_path, redis_server):
    names, start = [], threading.Barrier(8)

    def name() -> None:
        start.wait()
        names.append(JobQueue(tmp_path, redis_server.url)._huey.name)

    threads = [threading.Thread(target=name) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1


def test_every_exam_is_answered_though_the_queue_is_emptied_again_and_again(store, url, caplog):
    exams = put(store, 12)
    jobs = Jobs(store, make_stand_in, quiet_seconds=0.05, workers=2, pauses=SOON, queue=url)
    thief = JobQueue(store.folder, url)
    with caplog.at_level("INFO", "densityclip.audit"):
        jobs.open()
        jobs.start()
        until = time.monotonic() + 60
        stolen = 0
        while store.states().get("delivered", 0) < len(exams) and time.monotonic() < until:
            stolen += thief.next() is not None
        jobs.stop()
    answered = [json.loads(record.getMessage())["study"] for record in caplog.records]
    assert sorted(answered) == sorted(exams), "each once"
    assert stolen > 0, "the queue was not emptied at all"


def test_exams_wait_while_redis_is_down_and_go_on_when_it_is_back(store, redis_server, caplog, monkeypatch):
    monkeypatch.setattr("densityclip.deliver.jobs._BREATH", 0.2)
    jobs = Jobs(store, make_stand_in, quiet_seconds=0.05, workers=1, pauses=SOON, queue=redis_server.url)
    jobs.open()
    jobs.start()
    try:
        redis_server.stop()
        exams = put(store, 3)
        wait_until(lambda: "exams have to wait" in caplog.text)
        assert store.states().get("delivered", 0) == 0
        time.sleep(1)
        said = [record for record in caplog.records if "have to wait" in record.message]
        assert len(said) <= 2, "once for the offers and once for the worker, however long it lasts"
        assert all("does not answer" in record.message for record in said)
        redis_server.start()
        wait_until(lambda: store.states().get("delivered", 0) == len(exams))
        wait_until(lambda: "exams no longer wait" in caplog.text)
    finally:
        jobs.stop()


def test_a_server_that_is_down_is_said_at_the_start_without_its_password(store):
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    jobs = Jobs(store, make_stand_in, queue=url)
    with pytest.raises(UserError, match="does not answer") as error:
        jobs.open()
    jobs.stop()
    assert "127.0.0.1" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_server_with_a_password_lets_in_who_has_it(tmp_path):
    server = RedisServer(tmp_path, free_port(), password="secret")
    server.start()
    try:
        JobQueue(tmp_path, server.url)
        with pytest.raises(UserError, match="ook at its address and password"):
            JobQueue(tmp_path, server.url.replace("secret", "guess"))
    finally:
        server.stop()


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "host:6379",
        "redis://",
        "redis://host:port/0",
        "redis://host/0?x=1",
        "redis://[::1:6379/0",
        *(f"redis://:se{sign}cret@host:6379/0" for sign in "/?#["),
        "redis://user:12/cret@host:6379/0",
    ],
)
def test_a_url_that_is_no_redis_server_is_refused_in_one_sentence_that_shows_no_password(tmp_path, url):
    with pytest.raises(UserError, match="no address of a Redis server") as error:
        JobQueue(tmp_path, url)
    assert "cret" not in str(error.value)


def test_the_built_in_queue_may_be_deleted_while_nobody_works(store):
    exams = put(store, 2)
    JobQueue(store.folder).offer(exams)
    for path in store.folder.glob(f"{QUEUE}*"):
        path.unlink()
    jobs = Jobs(store, make_stand_in, quiet_seconds=0.05, pauses=SOON)
    jobs.open()
    jobs.start()
    try:
        wait_until(lambda: store.states().get("delivered", 0) == len(exams))
    finally:
        jobs.stop()


def damaged(path: Path, how: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as table:
        table.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    cut = len(content) // 3
    path.write_bytes(b"no database" * 1000 if how == "all" else content[:cut] + b"\x55" * cut + content[2 * cut :])


@pytest.mark.parametrize("how", ["all", "middle"])
def test_a_built_in_queue_that_a_power_cut_damaged_is_made_anew(tmp_path, how):
    JobQueue(tmp_path).offer([f"{number:032d}" for number in range(100)])
    damaged(tmp_path / QUEUE, how)
    queue = JobQueue(tmp_path)
    queue.offer(["a"])
    assert drained(queue) == ["a"]
    assert (tmp_path / QUEUE).stat().st_mode & 0o077 == 0


def test_a_built_in_queue_that_is_damaged_in_use_is_said_once_and_made_anew(tmp_path):
    queue = JobQueue(tmp_path)
    queue.offer([f"{number:032d}" for number in range(100)])
    damaged(tmp_path / QUEUE, "all")
    with pytest.raises(UserError, match="cannot be used"):
        queue.offer(["a"])
    queue.offer(["a"])
    assert queue.next() == "a"


def test_a_store_whose_queue_cannot_be_written_is_said_in_one_sentence(tmp_path):
    (tmp_path / QUEUE).mkdir()
    with pytest.raises(UserError, match="cannot be used"):
        JobQueue(tmp_path)


@pytest.mark.parametrize("command", ["listen", "serve"])
def test_a_queue_that_does_not_answer_ends_the_command_with_one_sentence(command, tmp_path, bundle):
    told = os.environ | {"DENSITYCLIP_QUEUE": f"redis://127.0.0.1:{free_port()}/0"}
    arguments = ["--model", bundle, "--store", tmp_path / "store", "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "densityclip.cli", command, *arguments],
        env=told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
