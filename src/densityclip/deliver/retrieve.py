"""A study from a DICOMweb server (WADO-RS, PS3.18 10.4) into a folder: configured servers only, limits as it comes.

Not by dicomweb-client, which holds a part in memory until it is whole and follows redirects: a server that lies could
fill the memory or lead to other addresses. Here every piece goes to disk at once and is counted.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from densityclip.deliver.durable import DiskFullError
from densityclip.deliver.incoming import Upload
from densityclip.deliver.limits import Limits
from densityclip.deliver.multipart import Headers, MultipartError, MultipartFiles, MultipartTooLarge
from densityclip.deliver.receive import UploadLimits
from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused

if TYPE_CHECKING:
    from requests import Response

_NAMED = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_HOW_TO = "write it as NAME=https://host/dicom-web"
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""What is asked for: objects as they are stored, whatever their transfer syntax."""

_CONNECT_SECONDS, _SILENT_SECONDS = 10, 60
_PIECE, _BETWEEN_LOOKS = 1 << 16, 64 << 20


def parse_servers(texts: list[str]) -> dict[str, str]:
    """DICOMweb servers by name.

    Args:
        texts: `NAME=URL` each.

    Raises:
        UserError: One is no name of 1 to 40 letters, digits, `_`, `.`, `-` and URL, has a password in it, or is named
            twice.
    """
    servers: dict[str, str] = {}
    for text in texts:
        name, _, url = text.partition("=")
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError as error:
            raise UserError("the address of a DICOMweb server cannot be read", _HOW_TO) from error
        if parts.username or parts.password:
            raise UserError(
                f"the address of the DICOMweb server {name!r} has a user or a password in it",
                "put them into ~/.netrc, where no list of processes shows them",
            )
        plain = parts.scheme in ("http", "https") and host and not (parts.query or parts.fragment)
        if not (_NAMED.fullmatch(name) and plain):
            raise UserError(f"{text!r} is no DICOMweb server", _HOW_TO)
        if name in servers:
            raise UserError(f"the DICOMweb server {name!r} is named twice", "give each --dicomweb a name of its own")
        servers[name] = url.rstrip("/")
    return servers


@dataclass(frozen=True, slots=True)
class Retrieval:
    """From where studies may be fetched, and how much.

    Attributes:
        servers: Names and base URLs; nothing else is ever asked.
        upload: What one study may hold; its `seconds` are not used: the time limit of a job ends its worker.
        disk: How much of the disk is left free.
    """

    servers: dict[str, str] = field(default_factory=dict)
    upload: UploadLimits = field(default_factory=UploadLimits)
    disk: Limits = field(default_factory=Limits)


@contextlib.contextmanager
def retrieved(reference: Path, retrieval: Retrieval, *, within: Path) -> Iterator[Path]:
    """The objects of a study, in a folder of their own, for as long as it lasts.

    Args:
        reference: What `incoming.Upload.refer` wrote.
        retrieval: From where, and how much.
        within: Where to make the folder.

    Raises:
        Refused: `not_retrieved`: the server has no such study, cannot be reached, or does not send DICOM objects;
            `too_much`: beyond the limits.
        DiskFullError: There is no room.
    """
    asked = json.loads(reference.read_bytes())
    name, study = str(asked["server"]), str(asked["study"])
    base = retrieval.servers.get(name)
    if base is None:
        # It was accepted by a service that knew it.
        raise _not_retrieved(f"{name} is no longer a server of this service")
    upload = Upload(within)
    try:
        _fetch(f"{base}/studies/{study}", name, upload, retrieval)
        yield upload.folder
    finally:
        upload.drop()


def _fetch(url: str, name: str, upload: Upload, retrieval: Retrieval) -> None:
    import requests

    try:
        with requests.get(
            url,
            headers={"Accept": ACCEPT, "Accept-Encoding": "identity"},
            stream=True,
            allow_redirects=False,
            timeout=(_CONNECT_SECONDS, _SILENT_SECONDS),
        ) as response:
            _check_status(response, name)
            _keep(response, name, upload, retrieval)
    except requests.RequestException as error:
        # Its words hold the address.
        raise _not_retrieved(f"{name} cannot be reached, or broke off ({type(error).__name__})") from None


def _check_status(response: "Response", name: str) -> None:
    status = response.status_code
    if status == 404:
        raise _not_retrieved(f"{name} has no such study")
    if status in (401, 403):
        raise _not_retrieved(f"{name} does not let this service in (HTTP {status})")
    if 300 <= status < 400:
        raise _not_retrieved(f"{name} points to another address (HTTP {status}), and none but its own is asked")
    if status != 200:
        raise _not_retrieved(f"{name} answered with HTTP {status}")


def _keep(response: "Response", name: str, upload: Upload, retrieval: Retrieval) -> None:
    limits, received, looked = retrieval.upload, 0, 0
    kind = response.headers.get("Content-Type", "")
    try:
        parts = MultipartFiles(kind, b"multipart/related", upload, most_parts=limits.files, wanted=_is_dicom)
        for piece in response.iter_content(_PIECE):
            received += len(piece)
            if received > limits.upload_bytes:
                raise Refused(Reason.TOO_MUCH, f"the study has more than {limits.upload_bytes >> 20} MB")
            if received - looked > _BETWEEN_LOOKS:
                looked = received
                if not retrieval.disk.has_room(upload.folder, 0):
                    raise DiskFullError
            parts.write(piece)
        parts.finish()
    except MultipartTooLarge as error:
        limit = f"more than {limits.files} objects" if error.what == "files" else "headers that are too long"
        raise Refused(Reason.TOO_MUCH, f"the study has {limit}") from None
    except MultipartError as error:
        fact = "sent something else than DICOM objects" if error.is_kind else "broke off, or sent a damaged answer"
        raise _not_retrieved(f"{name} {fact}") from None
    if not upload.files or upload.passed_over or any(path.suffix != ".dcm" for path in upload.folder.iterdir()):
        raise _not_retrieved(f"{name} sent {'something else than' if upload.files else 'no'} DICOM objects")


def _is_dicom(headers: Headers) -> bool:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/dicom"


def _not_retrieved(fact: str) -> Refused:
    return Refused(Reason.NOT_RETRIEVED, fact)
