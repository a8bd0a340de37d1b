"""What stands around every request of the web service: errors in one sentence, headers, the page and its files."""

from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files as package_files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from densityclip.deliver.receive import RequestRefused

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


def say_problems_in_one_sentence(app: FastAPI) -> None:
    """Let every error be one sentence, in `detail`, that repeats nothing of what was sent."""

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


def guard_requests(app: FastAPI, hosts: Collection[str]) -> None:
    """Refuse other names than ours, and pages of other sites; add the headers that every answer has.

    Args:
        app: The application.
        hosts: Names by which it may be called; empty for any.
    """

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response: Response
        if hosts and (request.url.hostname or "") not in hosts:
            response = JSONResponse({"detail": "The service is not known by this name; start it with --name."}, 400)
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


def add_page(app: FastAPI, facts: dict[str, Any]) -> None:
    """Add the page, filled with facts, and its files."""
    folder = package_files("densityclip.deliver").joinpath("web")
    page = _page(folder.joinpath("page.html.j2").read_text(encoding="utf-8"), facts)
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


def _page(template: str, facts: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(facts)
