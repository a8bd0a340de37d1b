"""The listener as a whole: the port, the workers, the deliveries, and what is thrown away in time."""

import contextlib
import logging
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from densityclip.deliver.audit_log import AUDIT_LOG, audit, close_audit, open_audit
from densityclip.deliver.exams import State
from densityclip.deliver.jobs import Jobs
from densityclip.deliver.limits import Pauses
from densityclip.deliver.listener import Listener, Port
from densityclip.deliver.needs import check_installed
from densityclip.deliver.peers import Deliveries, Peer
from densityclip.deliver.shared_work import WorkOrder
from densityclip.deliver.store import Store
from densityclip.deliver.worker import MakeAnswer
from densityclip.errors import UserError

_HOUR, _TIDY_SECONDS = 3600.0, 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenSettings:
    """What a listener is told.

    Attributes:
        store: Folder for all that must not be lost.
        port: Where and for whom to listen; its limits hold for everything.
        peers: Who gets the answers.
        given_up: Names of peers for which nothing is to wait any more.
        quiet_seconds: An exam is complete when no image came for so long.
        keep_hours: After delivery, until images and answers are removed.
        keep_failed_hours: The same for exams that could not be answered.
        workers: Processes that answer; none where others are started on the same store.
        queue: URL of the Redis server by which workers hear of exams; None for a file in the store.
        job_pauses: Between attempts at an exam whose worker fails.
        peer_pauses: Between attempts at a peer that is down.
    """

    store: Path
    port: Port = field(default_factory=Port)
    peers: tuple[Peer, ...] = ()
    given_up: tuple[str, ...] = ()
    quiet_seconds: float = 30.0
    keep_hours: float = 24.0
    keep_failed_hours: float = 168.0
    workers: int = 1
    queue: str | None = None
    job_pauses: Pauses = field(default_factory=lambda: Pauses(first=10, factor=4, longest=600))
    peer_pauses: Pauses = field(default_factory=lambda: Pauses(first=2, factor=2, longest=60))

    def __post_init__(self) -> None:
        if not (self.quiet_seconds > 0 and self.keep_hours >= 0 and self.keep_failed_hours >= 0):
            raise UserError("a time is negative or no number", "give a positive number")
        names = [peer.name for peer in self.peers]
        if len(set(names)) < len(names):
            raise UserError("a peer is named twice", "give each --peer once")
        for name in set(names) & set(self.given_up):
            raise UserError(f"{name} is to get answers and is given up", "leave out --peer or --give-up-peer")


def listen_with_bundle(
    settings: ListenSettings, bundle: Path, *, say: Callable[[str], None], overlay: bool = False
) -> None:
    """Listen, with a bundle as the model, until this process is told to end (SIGTERM or Ctrl-C).

    Args:
        settings: What to do.
        bundle: Folder of the bundle.
        say: Told when the port is open, and at the end.
        overlay: Whether to send secondary captures too.

    Raises:
        UserError: As of `listen`; or a library is not installed.
    """
    check_installed("listening", "pynetdicom", "huey")
    order = WorkOrder(
        "listen", bundle, settings.port.limits, settings.job_pauses, overlay=overlay, queue=settings.queue
    )
    stop = threading.Event()
    where = f"{settings.port.ae_title} on {settings.port.address}"
    with told_to_end(stop.set):
        listen(settings, order.make(), stop, opened=lambda port: say(f"Listening: {where} port {port}."), order=order)
    say("Stopped. What was accepted and not yet delivered is kept; the same command goes on with it.")


def listen(
    settings: ListenSettings,
    make: MakeAnswer,
    stop: threading.Event,
    *,
    opened: Callable[[int], None] = lambda port: None,
    order: WorkOrder | None = None,
) -> None:
    """Listen until told to stop. A kill at any moment loses nothing: the next start goes on where this one was.

    Args:
        settings: What to do.
        make: Opens the model in a worker process.
        stop: Set to end.
        opened: Called with the TCP port when it is open.
        order: Left in the store, so that other workers may join.

    Raises:
        UserError: The store, the model or the port cannot be opened.
    """
    store = Store(settings.store, limits=settings.port.limits)
    handler = open_audit(settings.store / AUDIT_LOG)
    store.outbox.deliver_to([peer.name for peer in settings.peers])
    deliveries = Deliveries(store.outbox, settings.peers, peer_pauses=settings.peer_pauses)
    jobs = Jobs(
        store,
        make,
        quiet_seconds=settings.quiet_seconds,
        workers=settings.workers,
        pauses=settings.job_pauses,
        queue=settings.queue,
        answered=deliveries.wake,
    )
    try:
        _settle_former_peers(store, settings)
        deliveries.start()
        # Nobody is told "success" by a service that cannot answer; without workers of its own, others answer.
        jobs.open()
        if order is not None:
            order.leave(settings.store)
        listener = Listener(store, settings.port)
        try:
            # Opening a model takes longer than a quiet time; only now can the rest of an exam come.
            store.begin_quiet_times()
            jobs.start()
            audit("started", port=listener.port, title=settings.port.ae_title)
            opened(listener.port)
            _look_after_until(stop, store, settings)
        finally:
            listener.stop()
    finally:
        jobs.stop()
        deliveries.stop()
        audit("stopped")
        store.close()
        close_audit(handler)


def _look_after_until(stop: threading.Event, store: Store, settings: ListenSettings) -> None:
    idle = False
    while not stop.is_set():
        try:
            removed = store.remove_old(
                delivered_seconds=settings.keep_hours * _HOUR, failed_seconds=settings.keep_failed_hours * _HOUR
            )
            if removed:
                audit("removed", exams=removed)
            waiting = 0 if settings.workers or store.claims.others() else store.states().get(State.READY, 0)
            if waiting and not idle:
                _log.warning("%d exams wait, and no `densityclip worker` is at work on %s", waiting, settings.store)
            idle = waiting > 0
        except (OSError, sqlite3.Error) as error:
            _log.error("the store could not be looked after (%s)", type(error).__name__)
        stop.wait(_TIDY_SECONDS)


def _settle_former_peers(store: Store, settings: ListenSettings) -> None:
    if not settings.peers:
        _log.warning("no --peer is given: answers stay in the store, and go after %g hours", settings.keep_hours)
    for name in settings.given_up:
        objects = store.outbox.give_up(name)
        audit("given up", peer=name, objects=objects)
        if objects:
            _log.warning("%d objects waited for %s, and no longer do", objects, name)
        else:
            waiting = ", ".join(store.outbox.waiting_for()) or "nobody"
            _log.warning("nothing waits for %s; something waits for: %s", name, waiting)
    known = {peer.name for peer in settings.peers}
    for name, objects in store.outbox.waiting_for().items():
        if name not in known:
            _log.warning(
                "%d objects wait for %s, which is no --peer of this run; they are kept (--give-up-peer drops them)",
                objects,
                name,
            )


@contextlib.contextmanager
def told_to_end(do: Callable[[], None]) -> Iterator[None]:
    """Do something on SIGTERM and Ctrl-C instead of dying of them, for as long as it lasts."""
    before = {kind: signal.signal(kind, lambda *_: do()) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
