"""A multipart body to files on disk, as it comes: limits hold before anything is kept, and names are never used."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from densityclip.deliver.uploads import UnknownKindError, Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

FIELD = "files"

_MOST_HEADER_BYTES, _MOST_HEADERS = 8192, 20


class RequestRefused(Exception):
    """A request is refused.

    Attributes:
        status: HTTP status code.
        sentence: What to tell the person, without anything that was sent.
    """

    def __init__(self, status: int, sentence: str) -> None:
        self.status, self.sentence = status, sentence
        super().__init__(sentence)


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What one upload may hold.

    Attributes:
        upload_bytes: Bytes of the request.
        files: Number of files; an archive is one.
        seconds: Time that it may take.
    """

    upload_bytes: int = 2 << 30
    files: int = 500
    seconds: float = 900.0


async def receive(body: AsyncIterator[bytes], content_type: str, upload: Upload, limits: UploadLimits) -> None:
    """Write the files of a multipart body to an upload.

    Raises:
        RequestRefused: 415 for another kind of body or file, 413 beyond the limits, 422 without any file.
        DiskFullError: There is no room.
    """
    parts = _Parts(upload, limits)
    parser = _parser(content_type, parts)
    received = 0
    from python_multipart.exceptions import MultipartParseError

    try:
        async for piece in body:
            received += len(piece)
            if received > limits.upload_bytes:
                raise too_large(limits)
            parser.write(piece)
        parser.finalize()
    except MultipartParseError:
        raise RequestRefused(422, "The upload is damaged or was cut off; send it again.") from None
    except UnknownKindError as error:
        raise RequestRefused(
            415, f"File {error.number} is neither DICOM nor a picture (PNG, JPEG, TIFF, BMP) nor a zip archive."
        ) from None
    if not parts.ended:
        raise RequestRefused(422, "The upload is damaged or was cut off; send it again.")
    if not upload.files:
        raise RequestRefused(422, f"There is no file; send one or more in the field '{FIELD}'.")
    if upload.is_archive and upload.files > 1:
        raise RequestRefused(422, "Send a zip archive alone, or send the files without an archive.")


def too_large(limits: UploadLimits) -> RequestRefused:
    """The refusal of an upload with too many bytes."""
    return RequestRefused(413, f"The upload has more than {limits.upload_bytes >> 20} MB; send fewer files at a time.")


@dataclass
class _Parts:
    """What the parser calls; only parts that are files of the field `files` are kept."""

    upload: Upload
    limits: UploadLimits
    ended: bool = False
    _is_file: bool = False
    _name: bytes = b""
    _value: bytes = b""
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _parts: int = 0

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self.limits.files:
            raise RequestRefused(413, f"The upload has more than {self.limits.files} files; send a zip archive.")
        self._headers, self._name, self._value = {}, b"", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name = self._short(self._name + data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = self._short(self._value + data[start:end])

    def on_header_end(self) -> None:
        if len(self._headers) >= _MOST_HEADERS:
            raise RequestRefused(413, "A file within the upload has too many headers.")
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._is_file = options.get(b"name") == FIELD.encode()
        if self._is_file:
            self.upload.begin_file()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.upload.write(data[start:end])

    def on_part_end(self) -> None:
        if self._is_file:
            self.upload.end_file()

    def on_end(self) -> None:
        self.ended = True

    def _short(self, text: bytes) -> bytes:
        if len(text) > _MOST_HEADER_BYTES:
            raise RequestRefused(413, "A header within the upload is too long.")
        return text


def _parser(content_type: str, parts: _Parts) -> "MultipartParser":
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RequestRefused(415, f"Send the files as multipart/form-data in the field '{FIELD}'.")
    names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "headers_finished")
    calls = {f"on_{name}": getattr(parts, f"on_{name}") for name in (*names, "end")}
    try:
        return MultipartParser(boundary, calls)  # type: ignore[arg-type]
    except (FormParserError, ValueError):
        raise RequestRefused(415, "The boundary of the multipart body is not valid.") from None
