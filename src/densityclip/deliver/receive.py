"""What the web service is sent, and the sentence for what it does not take."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from densityclip.deliver.incoming import Upload
from densityclip.deliver.multipart import Headers, MultipartError, MultipartFiles, MultipartTooLarge

FIELD = "files"


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
    """Write the files of a multipart body to an upload; those of other kinds are passed over.

    Raises:
        RequestRefused: 415 for another kind of body or of all files, 413 beyond the limits, 422 without any file.
        DiskFullError: There is no room.
    """
    received = 0
    try:
        parts = MultipartFiles(
            content_type, b"multipart/form-data", upload, most_parts=limits.files, wanted=_is_of_the_field
        )
        async for piece in body:
            received += len(piece)
            if received > limits.upload_bytes:
                raise too_large(limits)
            parts.write(piece)
        parts.finish()
    except MultipartError as error:
        if error.is_kind:
            raise RequestRefused(415, f"Send the files as multipart/form-data in the field '{FIELD}'.") from None
        raise RequestRefused(422, "The upload is damaged or was cut off; send it again.") from None
    except MultipartTooLarge as error:
        if error.what == "files":
            raise RequestRefused(413, f"The upload has more than {limits.files} files; send a zip archive.") from None
        raise RequestRefused(413, "The headers within the upload are too long or too many.") from None
    if not upload.files:
        raise RequestRefused(422, f"There is no file; send one or more in the field '{FIELD}'.")
    if not upload.kept:
        which = "The file is" if upload.files == 1 else "All files are"
        raise RequestRefused(415, f"{which} neither DICOM nor a picture (PNG, JPEG, TIFF, BMP) nor a zip archive.")
    if upload.is_archive and upload.kept > 1:
        raise RequestRefused(422, "Send a zip archive alone, or send the files without an archive.")


def _is_of_the_field(headers: Headers) -> bool:
    from python_multipart.multipart import parse_options_header

    _, options = parse_options_header(headers.get(b"content-disposition"))
    return options.get(b"name") == FIELD.encode()


def too_large(limits: UploadLimits) -> RequestRefused:
    """The refusal of an upload with too many bytes."""
    return RequestRefused(413, f"The upload has more than {limits.upload_bytes >> 20} MB; send fewer files at a time.")
