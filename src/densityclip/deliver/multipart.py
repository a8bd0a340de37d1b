"""A multipart body to files on disk, as it comes: limits hold before anything is kept, and names are never used."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from densityclip.deliver.incoming import Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

Headers = dict[bytes, bytes]
"""Headers of a part; names in lower case."""

_MOST_HEADER_BYTES, _MOST_HEADERS = 8192, 20


class MultipartError(Exception):
    """A body is not what its head says.

    Attributes:
        is_kind: Whether it is of another kind altogether; else it is damaged or was cut off.
    """

    def __init__(self, *, is_kind: bool = False) -> None:
        self.is_kind = is_kind
        super().__init__("another kind of body" if is_kind else "damaged")


class MultipartTooLarge(Exception):
    """A body has too much of something.

    Attributes:
        what: Of what.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"too many {what}")


class MultipartFiles:
    """Writes the parts of a body that are wanted into an upload, a file each."""

    def __init__(
        self, content_type: str, kind: bytes, upload: Upload, *, most_parts: int, wanted: Callable[[Headers], bool]
    ) -> None:
        """Get ready for a body.

        Args:
            content_type: As the header says, with the boundary.
            kind: Which content type it has to be.
            upload: Where files go.
            most_parts: How many parts there may be.
            wanted: Whether a part with these headers is a file to keep.

        Raises:
            MultipartError: The body is of another kind.
        """
        self._upload, self._most_parts, self._wanted = upload, most_parts, wanted
        self._ended = self._is_file = False
        self._name = self._value = b""
        self._headers: Headers = {}
        self._parts = 0
        self._parser = self._parser_of(content_type, kind)

    def write(self, piece: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            MultipartError: The body is damaged.
            MultipartTooLarge: There are too many parts or headers.
            DiskFullError: There is no room.
        """
        from python_multipart.exceptions import MultipartParseError

        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise MultipartError from error

    def finish(self) -> None:
        """Say that there is no more.

        Raises:
            MultipartError: The body is not complete.
        """
        from python_multipart.exceptions import MultipartParseError

        try:
            self._parser.finalize()
        except MultipartParseError as error:
            raise MultipartError from error
        if not self._ended:
            raise MultipartError

    def _parser_of(self, content_type: str, kind: bytes) -> "MultipartParser":
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        found, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if found != kind or not boundary:
            raise MultipartError(is_kind=True)
        calls = {
            "on_part_begin": self._part_begins,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_ends,
            "on_end": self._all_ends,
        }
        try:
            return MultipartParser(boundary, calls)  # type: ignore[arg-type]
        except (FormParserError, ValueError) as error:
            raise MultipartError(is_kind=True) from error

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > self._most_parts:
            raise MultipartTooLarge("files")
        self._headers, self._name, self._value = {}, b"", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name = _short(self._name + data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = _short(self._value + data[start:end])

    def _header_ends(self) -> None:
        if len(self._headers) >= _MOST_HEADERS:
            raise MultipartTooLarge("headers")
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        self._is_file = self._wanted(self._headers)
        if self._is_file:
            self._upload.begin_file()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._upload.write(data[start:end])

    def _part_ends(self) -> None:
        if self._is_file:
            self._upload.end_file()

    def _all_ends(self) -> None:
        self._ended = True


def _short(text: bytes) -> bytes:
    if len(text) > _MOST_HEADER_BYTES:
        raise MultipartTooLarge("headers")
    return text
