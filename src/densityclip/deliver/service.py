"""The web service: files in, a job, answers out; and the page that does the same for a person.

Nothing is decoded here: files go to disk as they come, a worker process with limits reads them. Errors are one
sentence and never repeat what was sent. Addresses hold random job ids and small numbers only.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as PathPart
from fastapi.responses import FileResponse
from fastapi.security import APIKeyHeader
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from densityclip import __version__
from densityclip.deliver.api_keys import NOBODY, ApiKeys
from densityclip.deliver.audit_log import audit
from densityclip.deliver.durable import DiskFullError
from densityclip.deliver.exam_json import answer_schema
from densityclip.deliver.exams import hashed
from densityclip.deliver.receive import RequestRefused, UploadLimits, receive, too_large
from densityclip.deliver.service_frame import add_page, guard_requests, say_problems_in_one_sentence
from densityclip.deliver.service_views import (
    MISSING,
    PROBLEMS,
    STUDY_BODY,
    STUDY_PROBLEMS,
    UPLOAD_BODY,
    UPLOAD_PROBLEMS,
    Health,
    JobView,
    StudyRequest,
    Version,
    view,
)
from densityclip.deliver.uploads import JobStatus, Uploads
from densityclip.deliver.wording import NOTICE

KEY_HEADER = "X-API-Key"

_DICOM = "application/dicom"
_STUDY_BYTES, _STUDY_SECONDS = 4096, 30.0

JobId = Annotated[str, PathPart(pattern="^[0-9a-f]{32}$", description="As given when the job was accepted.")]
Number = Annotated[int, PathPart(ge=1, le=100_000, description="Counted from 1.")]


@dataclass(frozen=True)
class ServiceSettings:
    """What the service is told.

    Attributes:
        keys: Who may ask.
        upload: What one upload may hold.
        waiting: Jobs that may wait at once.
        receiving: Uploads that may come in at once.
        hosts: Names by which it may be called; empty for any. Keeps pages of strangers from calling a service on the
            reader's own machine by a name of theirs (DNS rebinding).
        model: Words about the model, for the page and `version`.
        servers: Names of the DICOMweb servers whose studies may be asked for.
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    upload: UploadLimits = field(default_factory=UploadLimits)
    waiting: int = 100
    receiving: int = 4
    hosts: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    servers: tuple[str, ...] = ()


def make_app(uploads: Uploads, settings: ServiceSettings) -> FastAPI:
    """Make the web application; workers, and what goes in time, are `serve`'s.

    Args:
        uploads: Where jobs are kept.
        settings: Who may do what.
    """
    app = FastAPI(
        title="DensityCLIP",
        version=__version__,
        summary="Breast density (BI-RADS A to D) of mammograms.",
        description=NOTICE,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    version = Version(
        densityclip=__version__,
        notice=NOTICE,
        model=settings.model,
        needs_key=bool(settings.keys),
        max_upload_mb=settings.upload.upload_bytes >> 20,
        max_files=settings.upload.files,
        dicomweb=list(settings.servers),
    )
    say_problems_in_one_sentence(app)
    guard_requests(app, settings.hosts)
    add_page(app, version.model_dump())
    _add_service(app, uploads, version)
    owner, receiving = _owner_of(settings.keys), asyncio.Semaphore(settings.receiving)
    _add_jobs(app, uploads, settings, owner, receiving)
    if settings.servers:
        _add_studies(app, uploads, settings, owner, receiving)
    _add_files(app, uploads, owner)
    return app


def _owner_of(keys: ApiKeys) -> Any:
    if not keys:
        return Depends(lambda: NOBODY)
    header = APIKeyHeader(name=KEY_HEADER, auto_error=False)

    def owner(key: Annotated[str | None, Depends(header)] = None) -> str:
        found = keys.owner(key)
        if found is None:
            raise HTTPException(401, f"Send a valid key in the header {KEY_HEADER}.", {"WWW-Authenticate": "ApiKey"})
        return found

    return Depends(owner)


def _add_service(app: FastAPI, uploads: Uploads, version: Version) -> None:
    @app.get("/api/health", tags=["service"], responses={400: PROBLEMS[400]})
    def health() -> Health:
        """Say whether jobs can be taken; asks for no key."""
        room = uploads.limits.has_room(uploads.folder, 0)
        return Health(status="ok" if room else "full", waiting=uploads.waiting())

    @app.get("/api/version", tags=["service"], responses={400: PROBLEMS[400]})
    def show_version() -> Version:
        """Say what answers, and what may be sent; asks for no key."""
        return version

    @app.get("/api/schema", tags=["service"], responses={400: PROBLEMS[400]})
    def schema() -> dict[str, Any]:
        """Give the JSON Schema of an exam's answer; asks for no key."""
        return answer_schema()


def _add_jobs(
    app: FastAPI, uploads: Uploads, settings: ServiceSettings, owner: Any, receiving: asyncio.Semaphore
) -> None:
    @app.post("/api/jobs", tags=["jobs"], status_code=202, responses=UPLOAD_PROBLEMS, openapi_extra=UPLOAD_BODY)
    async def upload(request: Request, response: Response, who: Annotated[str, owner]) -> JobView:
        """Upload the files of one or more exams; the answer names the job to ask for."""
        _check_before_reading(request, uploads, settings, receiving)
        async with receiving:
            name, passed_over = await _take(request, uploads, settings, who)
        return (await _entered(uploads, response, name, who)).model_copy(update={"passed_over": passed_over})

    @app.get("/api/jobs/{job}", tags=["jobs"], responses=MISSING)
    def show(job: JobId, who: Annotated[str, owner]) -> JobView:
        """Say how far a job is, and what there is of it."""
        return view(uploads, _status(uploads, job, who))

    @app.delete("/api/jobs/{job}", tags=["jobs"], status_code=204, responses=MISSING)
    def remove(job: JobId, who: Annotated[str, owner]) -> None:
        """Remove a job now, with all that was uploaded and answered."""
        _status(uploads, job, who)
        uploads.remove(job)
        audit("removed", job=job, who=who)


async def _entered(uploads: Uploads, response: Response, name: str, who: str) -> JobView:
    """A job that was just entered, and where to ask for it."""
    response.headers["Location"] = f"/api/jobs/{name}"
    return view(uploads, await asyncio.to_thread(uploads.status, name, who))


def _add_studies(
    app: FastAPI, uploads: Uploads, settings: ServiceSettings, owner: Any, receiving: asyncio.Semaphore
) -> None:
    @app.post("/api/studies", tags=["jobs"], status_code=202, responses=STUDY_PROBLEMS, openapi_extra=STUDY_BODY)
    async def fetch(request: Request, response: Response, who: Annotated[str, owner]) -> JobView:
        """Answer a study that a DICOMweb server holds; it is fetched as a part of the job."""
        _check_before_reading(request, uploads, settings, receiving)
        async with receiving:
            asked = await _read_study(request)
        if asked.server not in settings.servers:
            raise RequestRefused(404, "There is no DICOMweb server of this name; /api/version names them.")
        name = await asyncio.to_thread(_enter_study, uploads, asked, who)
        return await _entered(uploads, response, name, who)


async def _read_study(request: Request) -> StudyRequest:
    """What is asked for. FastAPI itself would read a body of any length into memory, before it asks for a key."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestRefused(415, "Send the server's name and the Study Instance UID as JSON (application/json).")
    body = b""
    try:
        async with asyncio.timeout(_STUDY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > _STUDY_BYTES:
                    raise RequestRefused(413, "That is too long for a server's name and a Study Instance UID.")
        return StudyRequest.model_validate_json(body)
    except TimeoutError:
        raise RequestRefused(408, f"The request took longer than {_STUDY_SECONDS:g} s.") from None
    except (ValidationError, ClientDisconnect):
        raise RequestRefused(422, "Send `server`, a name, and `study`, a Study Instance UID, and no more.") from None


def _enter_study(uploads: Uploads, asked: StudyRequest, who: str) -> str:
    try:
        upload = uploads.begin()
        try:
            upload.refer(asked.server, asked.study)
            name = uploads.enter(upload, who)
        finally:
            upload.drop()
    except DiskFullError:
        raise _disk_full() from None
    audit("accepted", job=name, who=who, server=asked.server, study=hashed(asked.study))
    return name


def _check_before_reading(
    request: Request, uploads: Uploads, settings: ServiceSettings, receiving: asyncio.Semaphore
) -> None:
    stated = request.headers.get("content-length", "")
    size = int(stated) if stated.isascii() and stated.isdigit() else 0
    if size > settings.upload.upload_bytes:
        raise too_large(settings.upload)
    if receiving.locked() or uploads.waiting() >= settings.waiting:
        raise RequestRefused(503, "Too many uploads are waiting; try again in a minute.")
    if not uploads.limits.has_room(uploads.folder, size):
        raise _disk_full()


async def _take(request: Request, uploads: Uploads, settings: ServiceSettings, who: str) -> tuple[str, list[int]]:
    """The job that an upload became, and which of its files were passed over."""
    upload = uploads.begin()
    try:
        async with asyncio.timeout(settings.upload.seconds):
            await receive(
                _with_room(request.stream(), uploads), request.headers.get("content-type", ""), upload, settings.upload
            )
        name = await asyncio.to_thread(uploads.enter, upload, who)
    except TimeoutError:
        raise RequestRefused(408, f"The upload took longer than {settings.upload.seconds:g} s.") from None
    except ClientDisconnect:
        raise RequestRefused(422, "The upload was cut off; send it again.") from None
    except DiskFullError:
        raise _disk_full() from None
    finally:
        upload.drop()
    audit("accepted", job=name, who=who, files=upload.kept, passed_over=len(upload.passed_over), bytes=upload.bytes)
    return name, upload.passed_over


async def _with_room(body: AsyncIterator[bytes], uploads: Uploads) -> AsyncIterator[bytes]:
    """The body as it comes, while there is room: a client need not state its length."""
    since = 0
    async for piece in body:
        since += len(piece)
        if since > 64 << 20:
            since = 0
            if not uploads.limits.has_room(uploads.folder, 0):
                raise DiskFullError
        yield piece


def _disk_full() -> RequestRefused:
    return RequestRefused(507, "The disk of the service is full; try again later.")


def _status(uploads: Uploads, job: str, who: str) -> JobStatus:
    try:
        return uploads.status(job, who)
    except KeyError:
        raise HTTPException(404, "There is no such job, or its time is over.") from None


def _add_files(app: FastAPI, uploads: Uploads, owner: Any) -> None:
    def file_of(job: str, who: str, name: str, media_type: str) -> FileResponse:
        _status(uploads, job, who)
        try:
            path = uploads.result(job, name)
        except KeyError:
            raise HTTPException(404, "There is no such file.") from None
        audit("handed out", job=job, who=who, file=name)
        return FileResponse(path, media_type=media_type)

    def kinds(media_type: str, what: str) -> dict[int | str, dict[str, Any]]:
        return MISSING | {200: {"description": what, "content": {media_type: {}}}}

    base = "/api/jobs/{job}/exams/{exam}"

    @app.get(
        base,
        tags=["answers"],
        response_class=FileResponse,
        responses=kinds("application/json", "The answer for one exam, by `/api/schema`."),
    )
    def answer(job: JobId, exam: Number, who: Annotated[str, owner]) -> FileResponse:
        """Give an exam's answer."""
        return file_of(job, who, f"{exam}-answer.json", "application/json")

    @app.get(
        f"{base}/report", tags=["answers"], response_class=FileResponse, responses=kinds(_DICOM, "Comprehensive 3D SR.")
    )
    def report(job: JobId, exam: Number, who: Annotated[str, owner]) -> FileResponse:
        """Give an exam's DICOM structured report."""
        return file_of(job, who, f"{exam}-report.dcm", _DICOM)

    @app.get(
        f"{base}/images/{{image}}/capture",
        tags=["answers"],
        response_class=FileResponse,
        responses=kinds(_DICOM, "Secondary capture with the overlay."),
    )
    def capture(job: JobId, exam: Number, image: Number, who: Annotated[str, owner]) -> FileResponse:
        """Give the DICOM secondary capture of an image."""
        return file_of(job, who, f"{exam}-{image}-capture.dcm", _DICOM)

    @app.get(
        f"{base}/images/{{image}}/{{layer}}",
        tags=["answers"],
        response_class=FileResponse,
        responses=kinds("image/png", "The image, or the heat to lay over it."),
    )
    def layer(
        job: JobId, exam: Number, image: Number, layer: Literal["view", "heat"], who: Annotated[str, owner]
    ) -> FileResponse:
        """Give an image as a screen shows it, or where the model looked, as PNGs of one size."""
        return file_of(job, who, f"{exam}-{image}-{layer}.png", "image/png")
