"""The web service as a whole: the port, the workers, and what goes in time."""

import contextlib
import ipaddress
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from densityclip.deliver.api_keys import ApiKeys
from densityclip.deliver.audit_log import AUDIT_LOG, audit, close_audit, open_audit
from densityclip.deliver.jobs import Jobs, by_file_name
from densityclip.deliver.limits import Limits, Pauses
from densityclip.deliver.listen_service import told_to_end
from densityclip.deliver.needs import check_installed
from densityclip.deliver.receive import UploadLimits
from densityclip.deliver.retrieve import Retrieval
from densityclip.deliver.shared_work import WorkOrder
from densityclip.deliver.uploads import Uploads
from densityclip.deliver.worker import MakeAnswer
from densityclip.errors import UserError

if TYPE_CHECKING:
    from densityclip.model.bundle import Bundle

PAUSES = Pauses(first=2, factor=4, longest=60)
"""Between attempts at a job whose worker fails."""

_HOUR = 3600.0
# Somebody waits at the page.
_LOOK_SECONDS = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeSettings:
    """What the web service is told.

    Attributes:
        store: Folder for uploads and answers.
        host: Local address to listen on.
        port: TCP port; 0 takes a free one.
        keys: Who may ask.
        keep_hours: How long an answer stays.
        workers: Processes that answer; none where others are started on the same store.
        queue: URL of the Redis server by which workers hear of jobs; None for a file in the store.
        upload: What one upload may hold.
        limits: What a job may use.
        names: Names by which browsers may call it, besides the address.
        servers: DICOMweb servers whose studies may be asked for: name to base URL.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 8080
    keys: ApiKeys = field(default_factory=ApiKeys)
    keep_hours: float = 1.0
    workers: int = 1
    queue: str | None = None
    upload: UploadLimits = field(default_factory=UploadLimits)
    limits: Limits = field(default_factory=lambda: Limits(attempts=2))
    names: tuple[str, ...] = ()
    servers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keep_hours <= 0:
            raise UserError("answers would be kept for no time", "give a positive --keep-hours")
        if not self.keys and not _is_local(self.host):
            raise UserError(
                f"everyone who reaches {self.host} could use the service",
                "give --api-key-file, or leave --host at 127.0.0.1",
            )

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that the Host header may have; empty for any, which only a service with keys allows."""
        if self.keys and not self.names:
            return ()
        return ("localhost", "127.0.0.1", "::1", self.host, *self.names)

    @property
    def retrieval(self) -> Retrieval:
        """From where a worker may fetch studies, and how much."""
        return Retrieval(self.servers, self.upload, self.limits)


def serve_with_bundle(settings: ServeSettings, bundle: "Bundle", *, say: Callable[[str], None]) -> None:
    """Serve, with a bundle as the model, until this process is told to end (SIGTERM or Ctrl-C).

    Args:
        settings: What to do.
        bundle: The model.
        say: Told when the port is open, and at the end.

    Raises:
        UserError: The store, the model or the port cannot be opened, or a library is not installed.
    """
    check_installed("the web service", "fastapi", "uvicorn", "python_multipart", "pynetdicom", "requests", "huey")
    from densityclip.deliver.identity import model_version

    model = {
        "version": model_version(bundle),
        "weights_sha256": bundle.model_hash,
        "recipe": bundle.recipe.recipe_hash,
        "calibrated": bool(bundle.calibration["calibrated"]),
        "note": bundle.generated_note,
    }
    opened = partial(_say_where, settings, say)
    order = WorkOrder(
        "serve", bundle.folder, settings.limits, PAUSES, retrieval=settings.retrieval, queue=settings.queue
    )
    serve(settings, order.make(), model=model, opened=opened, order=order)
    say("Stopped. Uploads that wait are kept; the same command goes on with them.")


def _say_where(settings: ServeSettings, say: Callable[[str], None], port: int) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"Open http://{host}:{port}/ in a browser; the interface is described at /api/openapi.json.")


def serve(
    settings: ServeSettings,
    make: MakeAnswer,
    *,
    model: dict[str, object] | None = None,
    opened: Callable[[int], None] = lambda port: None,
    order: WorkOrder | None = None,
) -> None:
    """Serve until told to stop. A kill at any moment loses no job that was accepted.

    Args:
        settings: What to do.
        make: Opens the model in a worker process.
        model: Words about it.
        opened: Called with the TCP port when it is open.
        order: Left in the store, so that other workers may join.

    Raises:
        UserError: The store, the model or the port cannot be opened.
    """
    with running(settings, make, order=order) as uploads:
        from densityclip.deliver.service import ServiceSettings, make_app

        told = ServiceSettings(
            keys=settings.keys,
            upload=settings.upload,
            hosts=settings.hosts,
            model=dict(model or {}),
            servers=tuple(settings.servers),
        )
        _serve_http(settings, make_app(uploads, told), opened)


@contextlib.contextmanager
def running(settings: ServeSettings, make: MakeAnswer, *, order: WorkOrder | None = None) -> Iterator[Uploads]:
    """The store with its workers, without the port.

    Args:
        settings: What to do.
        make: Opens the model in a worker process.
        order: Left in the store, so that other workers may join.

    Raises:
        UserError: The store or the model cannot be opened.
    """
    uploads = Uploads(settings.store, limits=settings.limits, keep_seconds=settings.keep_hours * _HOUR)
    handler = open_audit(settings.store / AUDIT_LOG)
    jobs = Jobs(
        uploads,
        make,
        name=by_file_name,
        quiet_seconds=None,
        look_seconds=_LOOK_SECONDS,
        workers=settings.workers,
        pauses=PAUSES,
        queue=settings.queue,
        noun="job",
    )
    stop = threading.Event()
    tidy = threading.Thread(target=_tidy_until, args=(stop, uploads), daemon=True)
    try:
        jobs.open()
        if order is not None:
            order.leave(settings.store)
        jobs.start()
        tidy.start()
        audit("started")
        yield uploads
    finally:
        jobs.stop()
        stop.set()
        if tidy.is_alive():
            tidy.join(5)
        audit("stopped")
        uploads.close()
        close_audit(handler)


def _serve_http(settings: ServeSettings, app: object, opened: Callable[[int], None]) -> None:
    import uvicorn

    class _Server(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                opened(self.servers[0].sockets[0].getsockname()[1])

    # No access log: the audit log says who asked what. Nothing of a proxy is believed.
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=100,
    )
    # uvicorn ends gracefully, and then sends the signal to itself again: by then all is done.
    with told_to_end(lambda: None):
        try:
            _Server(config).run()
        except SystemExit as error:
            raise UserError(
                f"port {settings.port} of {settings.host} cannot be opened", "give another --port or --host"
            ) from error


def _tidy_until(stop: threading.Event, uploads: Uploads) -> None:
    while not stop.wait(30):
        try:
            removed = uploads.remove_old()
            if removed:
                audit("expired", jobs=removed)
        except (OSError, sqlite3.Error) as error:
            _log.error("old jobs could not be removed (%s)", type(error).__name__)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
