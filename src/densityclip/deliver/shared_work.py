"""Workers beside a service: processes that are started by themselves and answer what waits in its store.

The service leaves an order in its store that says with what to answer. A worker is told the store and nothing else, so
it cannot disagree with the service, or with another worker, about the model, the limits or what an answer is.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from densityclip import __version__
from densityclip.artifacts import atomic_path, read_json
from densityclip.deliver.audit_log import AUDIT_LOG, audit, close_audit, open_audit
from densityclip.deliver.jobs import Jobs, by_file_name
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.needs import check_installed
from densityclip.deliver.receive import UploadLimits
from densityclip.deliver.retrieve import Retrieval
from densityclip.deliver.store import Store
from densityclip.deliver.uploads import Uploads
from densityclip.deliver.worker import MakeAnswer
from densityclip.errors import UserError

ORDER = "workers.json"
"""The file in a store that says how its jobs are answered."""

_LOOK_SECONDS, _BREATH = 1.0, 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkOrder:
    """With what a store's jobs are answered.

    Attributes:
        kind: Whose store it is.
        bundle: Folder of the model.
        limits: What a job may use.
        pauses: Between attempts at a job.
        overlay: Whether a listener's answers have secondary captures.
        retrieval: From where a web service fetches studies.
        queue: URL of the Redis server by which workers hear of jobs; None for a file in the store.
    """

    kind: Literal["listen", "serve"]
    bundle: Path
    limits: Limits
    pauses: Pauses
    overlay: bool = False
    retrieval: Retrieval = field(default_factory=Retrieval)
    queue: str | None = None

    def leave(self, store: Path) -> None:
        """Write the order into a store."""
        said = asdict(self) | {"bundle": str(self.bundle.resolve()), "densityclip": __version__}
        with atomic_path(store / ORDER) as temporary:
            # Addresses of servers, and a password of the queue's, are nobody else's business.
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(said, indent=2), encoding="utf-8")

    def make(self) -> MakeAnswer:
        """What opens the model in a worker process."""
        if self.kind == "listen":
            from densityclip.deliver.listen_answer import open_answer

            return partial(open_answer, self.bundle, overlay=self.overlay)
        from densityclip.deliver.upload_answer import open_upload_answer

        return partial(open_upload_answer, self.bundle, self.retrieval)

    def join(self, folder: Path) -> Store | Uploads:
        """Open the store beside its service."""
        kind = Store if self.kind == "listen" else Uploads
        return kind(folder, limits=self.limits, joining=True)


def read_order(store: Path) -> WorkOrder:
    """The order that a service left in its store.

    Raises:
        UserError: There is none, or the service is of another version.
    """
    if not (store / ORDER).is_file():
        raise UserError(
            f"no service has been started with the store {store}",
            "start `densityclip listen` or `serve` with this --store first",
        )
    said = read_json(store / ORDER, "the service")
    if said["densityclip"] != __version__:
        raise UserError(
            f"the service of the store {store} is densityclip {said['densityclip']}, this is {__version__}",
            "use the same version for both",
        )
    upload = UploadLimits(**said["retrieval"]["upload"])
    return WorkOrder(
        said["kind"],
        Path(said["bundle"]),
        Limits(**said["limits"]),
        Pauses(**said["pauses"]),
        said["overlay"],
        Retrieval(said["retrieval"]["servers"], upload, Limits(**said["retrieval"]["disk"])),
        said.get("queue"),
    )


def work_beside(
    folder: Path,
    stop: threading.Event,
    *,
    workers: int = 1,
    make: MakeAnswer | None = None,
    began: Callable[[WorkOrder], None] = lambda order: None,
) -> None:
    """Answer what waits in a store until told to stop; a service that is started anew with another order is followed.

    Args:
        folder: The store.
        stop: Set to end.
        workers: Processes that answer.
        make: In place of what the order says; for tests.
        began: Called when the model is open.

    Raises:
        UserError: There is no service, or it is of another version; or at the start: the store cannot be joined, the
            model cannot be opened, or the queue does not answer. Later on these are waited out.
    """
    check_installed("a worker", "huey")
    started = False
    while not stop.is_set():
        order = read_order(folder)
        try:
            with _working(order, folder, make or order.make(), workers):
                started = True
                began(order)
                while not stop.wait(_LOOK_SECONDS) and read_order(folder) == order:
                    pass
        except UnusableOrderError as error:
            if not started:
                raise error.reason from error
            _log.error("nothing can be answered for now: %s", error.reason)
            stop.wait(_BREATH)


class UnusableOrderError(Exception):
    """What an order names cannot be used.

    Attributes:
        reason: What is said of it.
    """

    def __init__(self, reason: UserError) -> None:
        self.reason = reason
        super().__init__(str(reason))


@contextlib.contextmanager
def _working(order: WorkOrder, folder: Path, make: MakeAnswer, workers: int) -> Iterator[None]:
    """Work on what waits, for as long as it lasts."""
    try:
        store = order.join(folder)
    except UserError as error:
        raise UnusableOrderError(error) from error
    handler = open_audit(folder / AUDIT_LOG)
    jobs = Jobs(
        store,
        make,
        name=None if order.kind == "listen" else by_file_name,
        quiet_seconds=None,
        workers=workers,
        pauses=order.pauses,
        queue=order.queue,
        noun="study" if order.kind == "listen" else "job",
    )
    try:
        try:
            jobs.open()
        except UserError as error:
            raise UnusableOrderError(error) from error
        jobs.start()
        audit("worker started", worker=store.claims.name)
        yield
    finally:
        jobs.stop()
        audit("worker stopped", worker=store.claims.name)
        store.close()
        close_audit(handler)
