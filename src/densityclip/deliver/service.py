"""The web service: files in, a job, answers out; and the page that does the same for a person.

Nothing is decoded here: files go to disk as they come, a worker process with limits reads them. Errors are one
sentence and never repeat what was sent. Addresses hold random job ids and small numbers only.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as PathPart
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from densityclip import __version__
from densityclip.artifacts import read_json
from densityclip.deliver.api_keys import NOBODY, ApiKeys
from densityclip.deliver.exam_json import answer_schema
from densityclip.deliver.listener import audit
from densityclip.deliver.receive import RequestRefused, UploadLimits, receive, too_large
from densityclip.deliver.store import DiskFullError
from densityclip.deliver.uploads import RESULT, JobState, JobStatus, Uploads
from densityclip.deliver.wording import NOTICE
from densityclip.reasons import reason_of

KEY_HEADER = "X-API-Key"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_WEB = {"app.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8"}
_DICOM = "application/dicom"

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
    """

    keys: ApiKeys = field(default_factory=ApiKeys)
    upload: UploadLimits = field(default_factory=UploadLimits)
    waiting: int = 100
    receiving: int = 4
    hosts: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One sentence.")


class Progress(BaseModel):
    """How far a job is."""

    done: int = Field(description="Steps done: an image counts when it is answered, and again when it is drawn.")
    total: int


class ImageFiles(BaseModel):
    """Pictures of one answered image."""

    number: int
    image_id: str
    capture: bool = Field(description="Whether there is a DICOM secondary capture.")


class ExamFiles(BaseModel):
    """What there is for one exam."""

    number: int
    report: bool = Field(description="Whether there is a DICOM structured report.")
    without: str | None = Field(description="Why there are no DICOM objects.")
    images: list[ImageFiles]


class JobView(BaseModel):
    """A job."""

    id: str
    state: Literal["waiting", "working", "done", "failed"]
    files: int
    before: int = Field(description="Jobs that wait before it.")
    progress: Progress | None = None
    reason: str | None = Field(default=None, description="Stable code of why it failed.")
    meaning: str | None = Field(default=None, description="The reason in words.")
    remedy: str | None = Field(default=None, description="What a person can do about it.")
    detail: str | None = None
    expires_at: float | None = Field(default=None, description="When it goes, seconds since 1970.")
    exams: list[ExamFiles] = Field(default_factory=list)


class Health(BaseModel):
    """Whether the service can take jobs."""

    status: Literal["ok", "full"]
    waiting: int


class Version(BaseModel):
    """What answers."""

    densityclip: str
    notice: str
    model: dict[str, Any]
    needs_key: bool
    max_upload_mb: int
    max_files: int


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The Host header is not one of ours."},
    401: {"model": Problem, "description": "The key is missing or not known."},
}
_MISSING = _PROBLEMS | {
    404: {"model": Problem, "description": "There is no such job or file of yours, or its time is over."},
    422: {"model": Problem, "description": "The address is malformed."},
}
_UPLOAD_PROBLEMS = _PROBLEMS | {
    403: {"model": Problem, "description": "The request comes from a page of another site."},
    408: {"model": Problem, "description": "The upload took too long."},
    413: {"model": Problem, "description": "Too many bytes or files."},
    415: {"model": Problem, "description": "A kind of body or file that cannot be read."},
    422: {"model": Problem, "description": "No file, or a damaged upload."},
    503: {"model": Problem, "description": "Too much is waiting; try again later."},
    507: {"model": Problem, "description": "The disk is full."},
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                            "description": "DICOM or picture files, or one zip archive of them.",
                        }
                    },
                }
            }
        },
    }
}


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
    _say_problems_in_one_sentence(app)
    _guard(app, settings)
    _add_page(app, settings)
    owner = _owner_of(settings.keys)
    _add_jobs(app, uploads, settings, owner)
    _add_files(app, uploads, owner)
    return app


def _say_problems_in_one_sentence(app: FastAPI) -> None:
    def said(status: int, sentence: str, headers: Any = None) -> JSONResponse:
        # Middleware does not see what the outermost handler of errors says.
        return JSONResponse({"detail": sentence}, status, headers={**_HEADERS, **(headers or {})})

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestRefused)
        return said(error.status, error.sentence, {"Retry-After": "60"} if error.status in (503, 507) else None)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # Starlette names the methods of the first route with this address, and there is one a method.
            headers["Allow"] = ", ".join(_methods(app, request))
        return said(error.status_code, str(error.detail), headers)

    async def malformed(_: Request, error: Exception) -> Response:
        # FastAPI's own words repeat the input.
        return said(422, "The address or a parameter is malformed.")

    async def broken(_: Request, error: Exception) -> Response:
        return said(500, "Something in the service went wrong; it was noted.")

    app.add_exception_handler(RequestRefused, refused)
    app.add_exception_handler(StarletteHTTPException, http)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(Exception, broken)


def _methods(app: FastAPI, request: Request) -> list[str]:
    routes = [route for route in app.router.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", None) or ()})


def _guard(app: FastAPI, settings: ServiceSettings) -> None:
    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response: Response
        if settings.hosts and (request.url.hostname or "") not in settings.hosts:
            response = JSONResponse({"detail": "The service is not known by this name."}, 400)
        elif request.method not in ("GET", "HEAD") and _is_foreign(request):
            response = JSONResponse({"detail": "Requests from pages of other sites are refused."}, 403)
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response


def _is_foreign(request: Request) -> bool:
    """Whether a browser says that a page of another site asks; programs say nothing."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


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


def _add_page(app: FastAPI, settings: ServiceSettings) -> None:
    folder = package_files("densityclip.deliver").joinpath("web")
    page = _page(folder.joinpath("page.html.j2").read_text(encoding="utf-8"), settings)
    files = {name: folder.joinpath(name).read_bytes() for name in _WEB}

    @app.get("/", include_in_schema=False)
    def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/favicon.ico", include_in_schema=False, status_code=204)
    def no_icon() -> None:
        """Browsers ask for one."""

    @app.get("/web/{name}", include_in_schema=False)
    def web_file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "There is no such file.")
        return Response(files[name], media_type=_WEB[name])


def _page(template: str, settings: ServiceSettings) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        notice=NOTICE,
        version=__version__,
        model=settings.model,
        needs_key=bool(settings.keys),
        max_mb=settings.upload.upload_bytes >> 20,
        max_files=settings.upload.files,
    )


def _add_jobs(app: FastAPI, uploads: Uploads, settings: ServiceSettings, owner: Any) -> None:
    receiving = asyncio.Semaphore(settings.receiving)

    @app.get("/api/health", tags=["service"], responses={400: _PROBLEMS[400]})
    def health() -> Health:
        """Say whether jobs can be taken; asks for no key."""
        room = uploads.limits.has_room(uploads.folder, 0)
        return Health(status="ok" if room else "full", waiting=uploads.waiting())

    @app.get("/api/version", tags=["service"], responses={400: _PROBLEMS[400]})
    def version() -> Version:
        """Say what answers, and what may be sent; asks for no key."""
        return Version(
            densityclip=__version__,
            notice=NOTICE,
            model=settings.model,
            needs_key=bool(settings.keys),
            max_upload_mb=settings.upload.upload_bytes >> 20,
            max_files=settings.upload.files,
        )

    @app.get("/api/schema", tags=["service"], responses={400: _PROBLEMS[400]})
    def schema() -> dict[str, Any]:
        """Give the JSON Schema of an exam's answer; asks for no key."""
        return answer_schema()

    @app.post("/api/jobs", tags=["jobs"], status_code=202, responses=_UPLOAD_PROBLEMS, openapi_extra=_UPLOAD_BODY)
    async def upload(request: Request, response: Response, who: Annotated[str, owner]) -> JobView:
        """Upload the files of one or more exams; the answer names the job to ask for."""
        _check_before_reading(request, uploads, settings, receiving)
        async with receiving:
            name = await _take(request, uploads, settings, who)
        response.headers["Location"] = f"/api/jobs/{name}"
        return _view(uploads, await asyncio.to_thread(uploads.status, name, who))

    @app.get("/api/jobs/{job}", tags=["jobs"], responses=_MISSING)
    def show(job: JobId, who: Annotated[str, owner]) -> JobView:
        """Say how far a job is, and what there is of it."""
        return _view(uploads, _status(uploads, job, who))

    @app.delete("/api/jobs/{job}", tags=["jobs"], status_code=204, responses=_MISSING)
    def remove(job: JobId, who: Annotated[str, owner]) -> None:
        """Remove a job now, with all that was uploaded and answered."""
        _status(uploads, job, who)
        uploads.remove(job)
        audit("removed", job=job, who=who)


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


async def _take(request: Request, uploads: Uploads, settings: ServiceSettings, who: str) -> str:
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
    audit("accepted", job=name, who=who, files=upload.files, bytes=upload.bytes)
    return name


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


def _view(uploads: Uploads, status: JobStatus) -> JobView:
    said = uploads.progress(status.id) if status.state is JobState.WORKING else {}
    reason = reason_of(status.reason) if status.reason else None
    exams = _exams(uploads, status.id) if status.state is JobState.DONE else []
    return JobView(
        id=status.id,
        state=status.state.value,
        files=status.files,
        before=status.before,
        progress=Progress(**said) if said else None,
        reason=reason.value if reason else None,
        meaning=reason.sentence if reason else None,
        remedy=reason.remedy if reason else None,
        detail=status.detail,
        expires_at=status.expires_at,
        exams=exams,
    )


def _exams(uploads: Uploads, job: str) -> list[ExamFiles]:
    found = read_json(uploads.result(job, RESULT), "the service")
    return [ExamFiles.model_validate(exam) for exam in found["exams"]]


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
        return _MISSING | {200: {"description": what, "content": {media_type: {}}}}

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
