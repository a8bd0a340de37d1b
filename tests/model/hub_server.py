"""A server on loopback that answers like the model hub: enough of it for the hub's own client, faults included."""

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".bin", ".safetensors")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """Repositories by name and commit, and the faults that are asked for.

    Attributes:
        repos: Repository -> commit -> file name -> content.
        heads: (repository, branch) -> commit.
        answers: File name -> (status, error code) that is answered in its place.
        altered: File names whose content comes with one byte changed, under the hash of the true one.
        sizes: File name -> the size that the hub states, where it is not the true one.
        cut: File name -> the connection ends after so many bytes, once.
        stall: File name -> the server sends so many bytes and no more, once; `stalled` is set then.
    """

    repos: dict[str, dict[str, dict[str, bytes]]]
    heads: dict[tuple[str, str], str] = field(default_factory=dict)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    altered: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    seen: list[Request] = field(default_factory=list)

    def __enter__(self) -> "Hub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloads(self) -> list[str]:
        """Names of the files whose content was asked for, one for each request."""
        return [request.path.rsplit("/", 1)[-1] for request in self.seen if request.method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.seen.append(Request(self.command, self.path, self.headers.get("Range")))
        if self.path.startswith("/cdn/"):
            _, _, owner, name, commit, file = self.path.split("/", 5)
            self._send_content(file, self.hub.repos[f"{owner}/{name}"][commit][file])
            return
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        if repo not in self.hub.repos:
            # So the hub answers those who are not logged in: the repository may be private.
            self._refuse(401, "RepoNotFound")
            return
        commits = self.hub.repos[repo]
        commit = self.hub.heads.get((repo, revision), revision)
        if commit not in commits:
            self._refuse(404, "RevisionNotFound")
        elif file in self.hub.answers:
            self._refuse(*self.hub.answers[file])
        elif file not in commits[commit]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._resolve(repo, commit, file, commits[commit][file])

    def _resolve(self, repo: str, commit: str, file: str, content: bytes) -> None:
        if not file.endswith(LARGE):
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._send_content(file, content, {"X-Repo-Commit": commit, "ETag": f'"{git}"'})
            return
        self._send_headers(
            302,
            {
                # By another name of this machine, as the hub's store of large files has another host.
                "Location": f"http://localhost:{self.server.server_port}/cdn/{repo}/{commit}/{file}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(self.hub.sizes.get(file, len(content))),
                "Content-Length": "0",
            },
        )

    def _send_content(self, file: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        if file in self.hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        headers = (headers or {}) | {"Content-Length": str(len(content) - start), "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send_headers(206 if asked else 200, headers)
        if self.command == "HEAD":
            return
        if file in self.hub.cut:
            self.wfile.write(content[start : self.hub.cut.pop(file)])
            self.close_connection = True
        elif file in self.hub.stall:
            self.wfile.write(content[start : self.hub.stall.pop(file)])
            self.hub.stalled.set()
            # Until the other side goes away.
            with contextlib.suppress(ConnectionError):
                self.rfile.read(1)
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send_headers(status, (headers or {}) | {"X-Error-Code": code, "Content-Length": "0"})

    def _send_headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
