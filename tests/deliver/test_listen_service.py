"""What was accepted is answered and delivered, as one object an exam, however often the service is killed."""

import json
import random
import time

import pytest
from listen_samples import PATIENT, answer_uid, mammogram, studies
from listen_scene import ListenProcess, RecordingPeer, free_port, in_background, send_until_success, wait_until

from densityclip.deliver.audit_log import AUDIT_LOG


@pytest.fixture
def scene(tmp_path, request):
    """A listener of a short quiet time, and a peer that is not up yet; with `redis` as parameter, on that queue."""
    queue = request.getfixturevalue("redis_server").url if getattr(request, "param", "") == "redis" else None
    peer, port = RecordingPeer(free_port()), free_port()
    service = ListenProcess(tmp_path / "store", port, 1.0, peer.address, queue=queue)
    yield service, port, peer
    peer.stop()
    if service.process is not None:
        service.kill()


def exams(count: int, views: int = 4) -> dict[str, list]:
    return {study: [mammogram(study, number=number) for number in range(views)] for study in studies(count)}


def expected(sent: dict[str, list]) -> set[str]:
    return {str(answer_uid([image.SOPInstanceUID for image in images])) for images in sent.values()}


def test_an_exam_is_answered_after_its_quiet_time_and_the_answer_delivered_once(scene, tmp_path):
    service, port, peer = scene
    peer.start()
    service.start()
    sent = exams(2)
    send_until_success(port, [image for images in sent.values() for image in images], until=time.monotonic() + 30)
    wait_until(lambda: expected(sent) <= set(peer.contents))
    assert service.terminate() == 0
    assert set(peer.contents) == expected(sent)
    assert set(peer.times.values()) == {1}
    log = (tmp_path / "store" / AUDIT_LOG).read_text()
    events = [json.loads(line.partition(" ")[2])["event"] for line in log.splitlines()]
    assert {"started", "associated", "accepted", "answered", "delivered", "stopped"} <= set(events)
    for secret in (PATIENT, "ID-4711", *sent):
        assert secret not in log


def test_answers_wait_while_the_peer_is_down_and_go_later_and_over_a_restart(scene):
    service, port, peer = scene
    service.start()
    sent = exams(2)
    send_until_success(port, [image for images in sent.values() for image in images], until=time.monotonic() + 30)
    time.sleep(2)
    assert service.terminate() == 0
    service.start()
    peer.start()
    wait_until(lambda: set(peer.contents) == expected(sent))


def kill_under_load(scene, *, kills: int, count: int, seed: int) -> None:
    service, port, peer = scene
    dice = random.Random(seed)
    sent = exams(count)
    service.start()
    # The senders of two devices; each goes on with its exam when the service is back.
    halves = [[image for study in list(sent)[start::2] for image in sent[study]] for start in (0, 1)]
    until = time.monotonic() + 30 + 6 * kills
    senders = [in_background(send_paced, port, half, until) for half in halves]
    for number in range(kills):
        if number == kills // 2:
            peer.start()
        time.sleep(dice.uniform(0.0, 1.5))
        service.kill()
        service.start()
    for sender in senders:
        sender.join(max(1.0, until - time.monotonic()))
        assert not sender.is_alive()
    wait_until(lambda: expected(sent) <= set(peer.contents), seconds=60)
    time.sleep(1.5)
    assert set(peer.contents) == expected(sent), "an exam has more than one object"
    assert all(len(contents) == 1 for contents in peer.contents.values()), "one UID had different bytes"


def send_paced(port: int, images: list, until: float) -> None:
    """Send so slowly that kills fall between, and so fast that no exam is quiet before it is whole."""
    for image in images:
        send_until_success(port, [image], until=until)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["built in", "redis"], indirect=True)
def test_killed_several_times_under_load_everything_accepted_is_answered_and_delivered(scene):
    kill_under_load(scene, kills=5, count=12, seed=8)


@pytest.mark.long
@pytest.mark.parametrize("scene", ["built in", "redis"], indirect=True)
def test_killed_fifty_times_under_load_everything_accepted_is_answered_and_delivered(scene):
    kill_under_load(scene, kills=50, count=120, seed=9)
