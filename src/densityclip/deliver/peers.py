"""Answers to those who are to have them: C-STORE or STOW-RS, at least once, for as long as it takes.

An object that is sent twice is stored once, because its SOP Instance UID derives from its sources.
"""

import logging
import sqlite3
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gaierror
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from pydicom.uid import UID

from densityclip.deliver.audit_log import audit
from densityclip.deliver.exams import Delivery
from densityclip.deliver.limits import Pauses
from densityclip.deliver.listener import check_title, quiet_libraries
from densityclip.deliver.outbox import Outbox
from densityclip.errors import UserError

_SECONDS = 60
_HOW_TO = "write it as dicom://AE@host:port, dicoms://AE@host:port or https://host/dicom-web"
# Warnings of C-STORE (PS3.4 table B.2-1) mean that the object was stored.
_STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})

_log = logging.getLogger(__name__)


class PeerError(Exception):
    """A peer cannot be reached, or takes nothing at the moment."""


class Peer(Protocol):
    """Who gets answers."""

    @property
    def name(self) -> str:
        """The address, under which deliveries are noted."""

    def send(self, objects: Sequence[Path]) -> list[Path]:
        """Send files; return those that the peer confirmed.

        Raises:
            PeerError: Nothing could be sent.
        """


@dataclass(frozen=True)
class DicomPeer:
    """A Storage SCP.

    Attributes:
        name: As it was given.
        title: Its AE title.
        host: Name or address.
        port: TCP port.
        calling: Our AE title.
        tls: Whether to connect by TLS, with the certificates that this machine trusts (or `SSL_CERT_FILE`).
    """

    name: str
    title: str
    host: str
    port: int
    calling: str
    tls: bool = False

    def send(self, objects: Sequence[Path]) -> list[Path]:
        """Send files by C-STORE, over one association; see `Peer`."""
        from pydicom import dcmread

        datasets = {path: dcmread(path) for path in objects}
        association = self._associate({(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets.values()})
        confirmed: list[Path] = []
        try:
            for path, dataset in datasets.items():
                status = association.send_c_store(dataset)
                if status.get("Status") in _STORED:
                    confirmed.append(path)
                elif "Status" in status:
                    _not_taken(self.name, f"status 0x{status.Status:04X}")
                else:
                    _not_taken(self.name, "no answer")
        except (ValueError, RuntimeError):
            refused = {UID(context.abstract_syntax).name for context in association.rejected_contexts}
            said = f"it does not accept {', '.join(sorted(refused))}" if refused else "the association has ended"
            _not_taken(self.name, said)
        finally:
            if association.is_established:
                association.release()
        return confirmed

    def _associate(self, contexts: set[tuple[str, str]]) -> Any:
        from pynetdicom import AE

        quiet_libraries()
        ae = AE(ae_title=self.calling)
        ae.connection_timeout = ae.acse_timeout = 30
        ae.dimse_timeout = ae.network_timeout = _SECONDS
        for sop_class, syntax in sorted(contexts):
            ae.add_requested_context(sop_class, syntax)
        tls = (ssl.create_default_context(), self.host) if self.tls else None
        try:
            association = ae.associate(self.host, self.port, ae_title=self.title, tls_args=tls)
        except OSError as error:
            # A name that is not known today may be known in a minute; nothing is wrong with the objects.
            raise PeerError("its name cannot be resolved" if isinstance(error, gaierror) else str(error)) from error
        # A peer that answers but knows none of these classes is up: other exams may have objects that it takes.
        if not association.is_established and not association.rejected_contexts:
            raise PeerError("it rejects us" if association.is_rejected else "no association")
        return association


@dataclass(frozen=True)
class WebPeer:
    """A DICOMweb service that takes STOW-RS (PS3.18 10.5).

    Credentials are taken from the `.netrc` file of the user; they do not stand in a command or a table.

    Attributes:
        name: Its URL, as it was given.
    """

    name: str

    def send(self, objects: Sequence[Path]) -> list[Path]:
        """Send files by STOW-RS, one request each, so that one refusal is of one object; see `Peer`."""
        from dicomweb_client import DICOMwebClient
        from pydicom import dcmread
        from requests import HTTPError, RequestException

        # Its log lines quote URLs and headers.
        logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)
        client = DICOMwebClient(self.name, timeout=_SECONDS)
        client.set_http_retry_params(retry=False)
        confirmed: list[Path] = []
        for path in objects:
            try:
                answer = client.store_instances([dcmread(path)])
            except HTTPError as error:
                code = getattr(error.response, "status_code", "?")
                if code in (401, 404):
                    # Of the address or its credentials, and of no object.
                    if confirmed:
                        break
                    raise PeerError(f"HTTP {code}: look at its address, and at ~/.netrc") from error
                _not_taken(self.name, f"HTTP {code}")
                continue
            except RequestException as error:
                if confirmed:
                    break
                raise PeerError(type(error).__name__) from error
            # Orthanc names failures, none of them, where it has the object already.
            if answer.get("FailedSOPSequence"):
                _not_taken(self.name, "it names the object as failed")
            else:
                confirmed.append(path)
        return confirmed


def _not_taken(peer: str, why: str) -> None:
    _log.warning("%s does not take an object: %s", peer, why)
    audit("object not taken", peer=peer, why=why)


def parse_peer(text: str, *, calling: str) -> Peer:
    """A peer by its address.

    Args:
        text: `dicom://AE@host:port`, `dicoms://` with TLS, `https://host/dicom-web` or `http://`.
        calling: Our AE title.

    Raises:
        UserError: It is no such address, or has a password in it.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError("a peer's address cannot be read", _HOW_TO) from error
    if parts.password is not None:
        raise UserError(
            "a peer's address has a password in it", "put it into ~/.netrc, where no list of processes shows it"
        )
    if parts.scheme in ("http", "https") and host and not (parts.username or parts.query or parts.fragment):
        return WebPeer(text.rstrip("/"))
    if parts.scheme in ("dicom", "dicoms") and host and port and parts.path in ("", "/"):
        title = unquote(parts.username or "")
        if not title:
            raise UserError(f"{text!r} names no AE title", _HOW_TO)
        check_title(title)
        name = f"{parts.scheme}://{title}@{host}:{port}"
        return DicomPeer(name, title, host, port, calling, tls=parts.scheme == "dicoms")
    raise UserError(f"{text!r} is no peer", _HOW_TO)


class Deliveries:
    """A thread for each peer, so that one which is down or slow holds up no other."""

    def __init__(
        self,
        outbox: Outbox,
        peers: Sequence[Peer],
        *,
        peer_pauses: Pauses | None = None,
        object_pauses: Pauses | None = None,
    ) -> None:
        """Prepare the threads; `start` starts them.

        Args:
            outbox: What waits for them.
            peers: Who gets them.
            peer_pauses: Between attempts at a peer that is down.
            object_pauses: Between attempts at objects that a peer which is up does not take.
        """
        self._outbox = outbox
        self._peer_pauses = peer_pauses or Pauses(first=2, factor=2, longest=60)
        self._object_pauses = object_pauses or Pauses(first=30, factor=2, longest=3600)
        self._ended, self._news = threading.Event(), {peer.name: threading.Event() for peer in peers}
        self._threads = [threading.Thread(target=self._loop, args=(peer,), daemon=True) for peer in peers]

    def start(self) -> None:
        """Begin, with what waits from earlier."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is something new."""
        for news in self._news.values():
            news.set()

    def stop(self) -> None:
        """End after the delivery under way, or without it if it takes long: it is then sent again at the next start."""
        self._ended.set()
        self.wake()
        for thread in self._threads:
            thread.join(5)

    def _loop(self, peer: Peer) -> None:
        news, failures, said = self._news[peer.name], 0, ""
        while not self._ended.is_set():
            news.clear()
            try:
                self._deliver_due(peer)
                if said:
                    _log.warning("%s takes answers again", peer.name)
                failures, said = 0, ""
                news.wait(1.0)
            except PeerError as error:
                failures += 1
                audit("peer down", peer=peer.name, why=str(error), attempt=failures)
                if str(error) != said:
                    _log.warning("%s is down (%s): its answers wait", peer.name, error)
                said = str(error)
                self._ended.wait(self._peer_pauses.after(failures))
            except (OSError, sqlite3.Error) as error:
                _log.error("deliveries to %s have to wait (%s)", peer.name, type(error).__name__)
                self._ended.wait(1.0)

    def _deliver_due(self, peer: Peer) -> None:
        for delivery in self._outbox.due(peer.name):
            if self._ended.is_set():
                return
            self._deliver(peer, delivery)

    def _deliver(self, peer: Peer, delivery: Delivery) -> None:
        confirmed: list[Path] = []
        try:
            confirmed = peer.send(delivery.objects)
        except (OSError, ValueError, RuntimeError) as error:
            # Of this exam alone, such as a file that is gone.
            _log.error("an answer cannot be sent to %s (%s)", peer.name, type(error).__name__)
        if confirmed:
            self._outbox.delivered(delivery, peer.name, confirmed)
            audit("delivered", peer=peer.name, study=delivery.study, objects=len(confirmed))
        if len(confirmed) < len(delivery.objects):
            pause = self._object_pauses.after(delivery.failures + 1)
            self._outbox.failed(delivery, peer.name, pause=pause)
            audit("not taken", peer=peer.name, study=delivery.study, objects=len(delivery.objects) - len(confirmed))
