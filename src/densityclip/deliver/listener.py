"""The DICOM port: a Storage SCP (PS3.4 annex B) that says success only for what is on disk, or is told to drop.

Nothing is decoded here. The bytes go to the store as they came; only the header is read, for the study's UID.
"""

import ipaddress
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from densityclip.deliver.audit_log import audit
from densityclip.deliver.durable import DiskFullError
from densityclip.deliver.exams import Accepted
from densityclip.deliver.limits import Limits
from densityclip.deliver.store import Store
from densityclip.dicom import modality
from densityclip.dicom.decoders import SYNTAXES
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.transport import ThreadedAssociationServer

VERIFICATION = "1.2.840.10008.1.1"

STORAGE_CLASSES: dict[str, str] = {
    modality.DM_FOR_PRESENTATION: "Digital Mammography X-Ray Image Storage - For Presentation",
    modality.DM_FOR_PROCESSING: "Digital Mammography X-Ray Image Storage - For Processing",
    modality.TOMOSYNTHESIS: "Breast Tomosynthesis Image Storage",
    "1.2.840.10008.5.1.4.1.1.13.1.4": "Breast Projection X-Ray Image Storage - For Presentation",
    "1.2.840.10008.5.1.4.1.1.13.1.5": "Breast Projection X-Ray Image Storage - For Processing",
    modality.SECONDARY_CAPTURE: "Secondary Capture Image Storage",
}
"""What is accepted: mammograms, and what travels with them and would else make a whole association fail."""

REPORT_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.88.11": "Basic Text SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.35": "Extensible SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.50": "Mammography CAD SR Storage",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection Document Storage",
    "1.2.840.10008.5.1.4.1.1.88.67": "X-Ray Radiation Dose SR Storage",
    "1.2.840.10008.5.1.4.1.1.11.1": "Grayscale Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.2": "Color Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.11.4": "Blending Softcopy Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.104.1": "Encapsulated PDF Storage",
}
"""What a PACS sends along where it sends whole studies, our own reports among it; taken on request, and never kept."""

_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
TRANSFER_SYNTAXES: tuple[str, ...] = (*_UNCOMPRESSED, *sorted(SYNTAXES))
"""Every transfer syntax that can be decoded; nobody need unpack a compressed image to send it."""

# Statuses of C-STORE, PS3.4 table B.2-1.
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

_MAX_PDU = 1 << 20
_REJECTED_FOR_GOOD, _BY_USER, _CALLING_TITLE_UNKNOWN = 0x01, 0x01, 0x03

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """TLS of the port.

    Attributes:
        certificate: PEM file of this server.
        key: PEM file of its key.
        client_authority: PEM file of those who vouch for clients; without it any client may connect.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def context(self) -> ssl.SSLContext:
        """The context of the server, TLS 1.2 or newer.

        Raises:
            UserError: A file is missing or is no PEM file.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_authority is not None:
                context.load_verify_locations(self.client_authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # ssl.SSLError is one
            raise UserError(
                f"the TLS files cannot be read ({error})", "give PEM files as --tls-cert, --tls-key and --tls-client-ca"
            ) from error
        return context


def tls_of(certificate: Path | None, key: Path | None, client_authority: Path | None = None) -> Tls | None:
    """TLS where a certificate is given, else None.

    Raises:
        UserError: Only a part of what TLS needs is given.
    """
    if certificate is None and key is None and client_authority is None:
        return None
    if certificate is None or key is None:
        raise UserError("TLS needs a certificate and its key", "give --tls-cert and --tls-key")
    return Tls(certificate, key, client_authority)


@dataclass(frozen=True)
class Port:
    """Where and for whom to listen.

    Attributes:
        ae_title: Ours; 1 to 16 characters.
        address: Local address; loopback unless said otherwise.
        port: TCP port; 0 takes a free one.
        allowed_titles: Calling AE titles; empty allows all.
        allowed_addresses: Addresses or networks, such as `10.1.0.0/16`; empty allows all.
        tls: None is plain TCP.
        limits: Of associations and sizes.
        discard_reports: Say success to reports and presentation states too, and drop them.
    """

    ae_title: str = "DENSITYCLIP"
    address: str = "127.0.0.1"
    port: int = 11112
    allowed_titles: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    tls: Tls | None = None
    limits: Limits = field(default_factory=Limits)
    discard_reports: bool = False

    def __post_init__(self) -> None:
        for title in (self.ae_title, *self.allowed_titles):
            check_title(title)
        for network in self.allowed_addresses:
            _network(network)

    def allows(self, address: str) -> bool:
        """Whether a remote address may send."""
        if not self.allowed_addresses:
            return True
        remote = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(remote, "ipv4_mapped", None) or remote
        return any(mapped in _network(network) for network in self.allowed_addresses)


def check_title(title: str) -> None:
    """Check an AE title (PS3.5 6.2, VR AE).

    Raises:
        UserError: It is none.
    """
    if not (
        len(title.strip()) > 0 and len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title
    ):
        raise UserError(f"{title!r} is no AE title", "give 1 to 16 ASCII characters without a backslash")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no address or network", "write it like 10.1.2.3 or 10.1.0.0/16") from error


class Listener:
    """The open port; `stop` closes it.

    Attributes:
        port: The TCP port, as it came out where 0 was asked for.
    """

    def __init__(self, store: Store, settings: Port, *, arrived: Callable[[], None] = lambda: None) -> None:
        """Open the port.

        Args:
            store: Where instances go.
            settings: Where and for whom.
            arrived: Called when an instance was accepted.

        Raises:
            UserError: The port is taken, the address is not of this machine, or the TLS files are bad.
        """
        from pynetdicom import evt

        self._store, self._settings, self._arrived = store, settings, arrived
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._associated),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_DIMSE_RECV, self._message_whole),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._stored),
        ]
        self._ae = _application(settings)
        context = None if settings.tls is None else settings.tls.context()
        try:
            server = self._ae.start_server(
                (settings.address, settings.port), block=False, ssl_context=context, evt_handlers=handlers
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {settings.address} port {settings.port} ({error.strerror or error})",
                "give another --port or --address",
            ) from error
        self.port = int(cast("ThreadedAssociationServer", server).server_address[1])

    def stop(self) -> None:
        """Close the port and end the associations; an instance under way is not acknowledged."""
        self._ae.shutdown()

    # pynetdicom calls these in the threads of associations. Its events are typed as any request at all.

    def _opened(self, event: Any) -> None:
        event.assoc.dul.socket.recv = _Meter(event.assoc, self._settings.limits).recv

    def _requested(self, event: Any) -> None:
        address = event.assoc.requestor.address
        if not self._settings.allows(address):
            audit("rejected", address=address, sender=_title(event), why="address")
            event.assoc.acse.send_reject(_REJECTED_FOR_GOOD, _BY_USER, _CALLING_TITLE_UNKNOWN)
            # Waits until the refusal is sent; else the connection is closed before it.
            event.assoc.kill()

    def _associated(self, event: Any) -> None:
        audit("associated", address=event.assoc.requestor.address, sender=_title(event))

    def _rejected(self, event: Any) -> None:
        request, sender = event.assoc.requestor.primitive, _title(event)
        called = _printable(str(request.called_ae_title)) if request is not None else ""
        if called != self._settings.ae_title.strip():
            why = f"called as {called}"
        elif self._settings.allowed_titles and sender not in self._settings.allowed_titles:
            why = "AE title"
        else:
            why = "too many associations"
        audit("rejected", address=event.assoc.requestor.address, sender=sender, why=why)

    def _message_whole(self, event: Any) -> None:
        event.assoc.dul.socket.recv.__self__.seen = 0

    def _echo(self, event: Any) -> int:
        audit("echo", sender=_title(event))
        return SUCCESS

    def _stored(self, event: Any) -> int:
        sender = _title(event)
        if event.context.abstract_syntax in REPORT_CLASSES:
            return self._discarded(event, sender)
        try:
            accepted = self._accept(event, sender)
        except DiskFullError:
            _log.error("an image of %s was refused: the disk is full", sender)
            audit("refused", sender=sender, why="disk full")
            return OUT_OF_RESOURCES
        except Refused as refused:
            audit("refused", sender=sender, why=refused.detail or refused.reason.value)
            return OUT_OF_RESOURCES if refused.reason is Reason.TOO_LARGE else CANNOT_UNDERSTAND
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender must not hear success, and others go on
            _log.error("an image of %s could not be kept (%s)", sender, type(error).__name__)
            audit("refused", sender=sender, why=type(error).__name__)
            return CANNOT_UNDERSTAND
        audit("accepted", sender=sender, study=accepted.study, new=int(accepted.is_new))
        self._arrived()
        return SUCCESS

    def _discarded(self, event: Any, sender: str) -> int:
        """Nothing is kept of a report; an image that comes as one is refused, as it would be lost."""
        named = str(event.request.AffectedSOPClassUID)
        if named not in REPORT_CLASSES:
            audit("refused", sender=sender, why="an image in the context of a report")
            return CANNOT_UNDERSTAND
        audit("discarded", sender=sender, why=REPORT_CLASSES[named])
        return SUCCESS

    def _accept(self, event: Any, sender: str) -> Accepted:
        from pynetdicom.dsutils import encode_file_meta

        # `event.dataset` would parse it all, and `encoded_dataset()` make a copy, of up to a gigabyte.
        body = event.request.DataSet.getbuffer()
        head = bytes(128) + b"DICM" + encode_file_meta(event.file_meta)
        if not self._settings.limits.has_room(self._store.folder, len(body)):
            raise DiskFullError
        uid = str(event.request.AffectedSOPInstanceUID)
        return self._store.accept([head, body], sop_instance_uid=uid, sender=sender)


class _Meter:
    """Ends a connection that claims or sends more than it may, before the memory for it is gone.

    pynetdicom reads as many bytes as the head of a PDU states, up to 4 GB, from anyone who connects, and gathers the
    parts of a message without end.
    """

    def __init__(self, association: Any, limits: Limits) -> None:
        self._recv, self._most = association.dul.socket.recv, limits.instance_bytes
        self.seen = 0

    def recv(self, wanted: int) -> bytearray:
        self.seen += wanted
        if wanted > _MAX_PDU or self.seen > self._most + _MAX_PDU:
            audit("aborted", why="too large")
            # What pynetdicom takes for a connection that was closed.
            raise ConnectionAbortedError("more than the limit")
        return self._recv(wanted)


def _application(settings: Port) -> "ApplicationEntity":
    from pynetdicom import AE

    quiet_libraries()
    ae = AE(ae_title=settings.ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(settings.allowed_titles)
    ae.maximum_associations = settings.limits.associations
    ae.maximum_pdu_size = _MAX_PDU
    # A connection that asks for nothing stands in the way of others, so it is not waited for long.
    ae.acse_timeout = 10
    ae.dimse_timeout = 60
    # A slow sender of a large volume is heard from with every PDU; one that says nothing for so long is gone.
    ae.network_timeout = 120
    ae.add_supported_context(VERIFICATION)
    for sop_class in STORAGE_CLASSES:
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    for sop_class in REPORT_CLASSES if settings.discard_reports else ():
        ae.add_supported_context(sop_class, list(_UNCOMPRESSED))
    return ae


def quiet_libraries() -> None:
    """Keep pydicom's and pynetdicom's own words out of the log: they quote values of the data set."""
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _title(event: Any) -> str:
    """Calling AE title, fit for a log."""
    return _printable(event.assoc.requestor.ae_title)


def _printable(title: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in title.strip())[:16]
