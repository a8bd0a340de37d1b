"""A DICOMweb server that gives what it was given, or lies as it is told."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PART = b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'


class WadoServer:
    """Answers any study with `objects`; a function in `lie` answers instead."""

    def __init__(self, *objects: bytes, lie=None) -> None:
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Accept")))
                with contextlib.suppress(OSError):
                    (lie or honest)(self)

            def log_message(self, *_) -> None:
                pass

        def honest(handler) -> None:
            start(handler, 200, MULTIPART)
            handler.wfile.write(b"".join(PART + one for one in objects) + b"\r\n--b--\r\n")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serving(*objects: bytes, lie=None) -> Iterator[WadoServer]:
    server = WadoServer(*objects, lie=lie)
    try:
        yield server
    finally:
        server.stop()


def start(handler, status: int, kind: str, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def endless_part(handler) -> None:
    start(handler, 200, MULTIPART)
    handler.wfile.write(PART + bytes(128) + b"DICM")
    while True:
        handler.wfile.write(bytes(1 << 16))


def endless_header(handler) -> None:
    start(handler, 200, MULTIPART)
    handler.wfile.write(b"--b\r\nContent-Type: ")
    while True:
        handler.wfile.write(b"a" * (1 << 16))


def many_parts(handler) -> None:
    start(handler, 200, MULTIPART)
    while True:
        handler.wfile.write(PART + bytes(128) + b"DICM")


def cut_off(handler) -> None:
    start(handler, 200, MULTIPART)
    handler.wfile.write(PART + bytes(128) + b"DICM" + bytes(1000))


def breaks_off(handler) -> None:
    start(handler, 200, MULTIPART, **{"Content-Length": "100000"})
    handler.wfile.write(PART + bytes(128) + b"DICM" + bytes(1000))


def says_html(handler) -> None:
    start(handler, 200, "text/html")
    handler.wfile.write(b"<html>Doe^Jane</html>")


def sends_a_page_as_a_part(handler) -> None:
    start(handler, 200, MULTIPART)
    handler.wfile.write(PART + b"<html>Doe^Jane</html>\r\n--b--\r\n")


def sends_a_picture_as_a_part(handler) -> None:
    start(handler, 200, MULTIPART)
    handler.wfile.write(PART + b"\x89PNG\r\n\x1a\n" + bytes(200) + b"\r\n--b--\r\n")


def sends_nothing(handler) -> None:
    start(handler, 200, MULTIPART)
    handler.wfile.write(b"--b\r\nContent-Type: text/plain\r\n\r\nno\r\n--b--\r\n")


def says(status: int):
    def answer(handler) -> None:
        start(handler, status, "text/plain", **{"Content-Length": "8"})
        handler.wfile.write(b"Doe^Jane")

    return answer


def redirects_to(url: str):
    def answer(handler) -> None:
        start(handler, 302, "text/plain", Location=url)

    return answer
