"""A web server on this machine whose answers a test decides, and which notes what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """What a handler answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Asked], Reply]


@dataclass
class LocalWeb:
    """A running server."""

    port: int
    asked: list[Asked]

    @property
    def host(self) -> str:
        """Return host and port as an administrator allows them."""
        return f"localhost:{self.port}"

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"http://{self.host}{path}"


@contextmanager
def local_web(answer: Answer) -> Iterator[LocalWeb]:
    """Serve `answer` on a free port."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            names = {name.lower(): value for name, value in self.headers.items()}
            request = Asked(self.command, self.path, names, body)
            asked.append(request)
            reply = answer(request)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.close_connection |= reply.headers.get("Connection") == "close"
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815 - as the base asks

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield LocalWeb(server.server_address[1], asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
